# SPDX-License-Identifier: LGPL-2.1-only
"""Re-encryption: all data of an open container get a new volume key, while they are in use.

A volume key that leaked with an old header opens the disk for ever; only this ends it. cryptsetup
does the work, in a process of its own (see `reencrypt_process`): `start` prepares the header and
lets it run, `resume` lets it go on after an unplug or a power cut, `settle` ends it.

A container that was encrypted in place (see `inplace`) is one whose first key has to be given to
all data still: what goes on is the same.

Every keyslot has to get the new volume key, which takes its own key. Those of bindings are
unsealed, and stay sealed as they were; recovery keys have to be typed. So all that opened the
container before does so at each moment and afterwards, under other slot numbers.
"""
import contextlib
from typing import List, NamedTuple, Optional, Sequence, Tuple

from luksext import (backup, begun, bindings, clevis, cryptsetup, keys, keyslots,
                     reencrypt_process, state, times, trust)
from luksext.begun import Begun
from luksext.container import LuksContainer
from luksext.devices import Mapping
from luksext.errors import (Busy, NotPlugged, ReencryptionForeign, ReencryptionKeys,
                            ReencryptionStuck, ToolMissing, UnlockRefused,
                            Unsupported)
from luksext.generation import recovery_note
from luksext.keyslots import Way


class Progress(NamedTuple):
    """How far a re-encryption is.

    state: "none", "running", "interrupted" or "stuck". done, total: bytes. since: when it began,
    ISO 8601 in UTC. message: what cryptsetup said last, when it is interrupted.
    """

    state: str
    done: int
    total: int
    since: str
    message: str


def start(container: LuksContainer, recovery_keys: Sequence[bytes] = ()) -> Progress:
    """Begins to encrypt the open `container` anew, and returns while that goes on.

    recovery_keys: every one that the container has, of `keys.to_passphrase`.
    Raises Unsupported, NotPlugged, ReencryptionUnfinished, ReencryptionKeys with nothing changed.
    """
    _check_supported(container)
    with _alone(container):
        container, mapping, found = _ready(container, recovery_keys)
        header = container.header
        begun.save(container.uuid, Begun(times.now(), header.volume_key, "", header.unbound))
        try:
            cryptsetup.reencrypt_init(container.device, mapping.name, found,
                                      _are_random(container, found))
        finally:
            _settle(container)
    return resume(container, found[0])


def check(container: LuksContainer, recovery_keys: Sequence[bytes] = ()) -> None:
    """Raises what keeps `start` from beginning: of all disks, before the first one is begun."""
    _check_supported(container)
    with _alone(container):
        _ready(container, recovery_keys)


def _ready(container: LuksContainer,
           recovery_keys: Sequence[bytes]) -> Tuple[LuksContainer, Mapping, List[bytes]]:
    _settle(container)
    container = container.refreshed()
    container.check_steady()
    return container, _open_mapping(container), _keys(container, recovery_keys)


def progress(container: LuksContainer) -> Progress:
    """How far the re-encryption of `container` is."""
    container = container.refreshed()
    total = container.payload_size
    if container.header.reencryption is None:
        return Progress("none", 0, total, "", "")
    # In this order: a process that ends in between has left its header at the end.
    status = reencrypt_process.state_of(container.mapping)
    found = container.refreshed().header.reencryption
    if found is None:
        return Progress("none", 0, total, "", "")
    note = begun.load(container.uuid)
    message = reencrypt_process.message(container.uuid) if status == "interrupted" else ""
    done = total if found.done is None else found.done
    return Progress(status, done, total, note.since if note else "", message)


def resume(container: LuksContainer, key: Optional[bytes] = None) -> Progress:
    """Lets an interrupted re-encryption of the open `container` go on; no error where none is.

    key: one that opens it; else that of a binding is unsealed.
    Raises NotPlugged, ReencryptionForeign, ReencryptionStuck; WrongRecoveryKey, NoBinding,
    ToolMissing, UnlockRefused's children.
    """
    with _alone(container):
        _settle(container, key)
        container = container.refreshed()
        if container.header.reencryption is None:
            return progress(container)
        mapping = _open_mapping(container)
        status = reencrypt_process.state_of(mapping)
        if status == "stuck":
            raise ReencryptionStuck(container.device)
        if not begun.is_ours(container.header):
            raise ReencryptionForeign(container.device)
        if status != "running":
            key = keyslots.way_in(container, key).key
            reencrypt_process.launch(container.header, container.device, mapping, key)
        return progress(container)


def accept(container: LuksContainer, key: bytes) -> None:
    """Takes a re-encryption for ours that was begun elsewhere, and may be at its end; the owner of
    the container says so, by a `key`, which no other container has.

    cryptsetup goes on only where the header proves that it was written by who has both volume keys.
    Raises WrongRecoveryKey.
    """
    with _alone(container):
        container = container.refreshed()
        keyslots.way_in(container, key)
        header = container.header
        if header.reencryption is None:
            begun.end(container.uuid, header.volume_key)
        else:
            begun.save(container.uuid, Begun(times.now(), header.volume_key,
                                             header.reencryption.volume_key, []))


def settle(container: LuksContainer) -> bool:
    """Brings what was begun to its end, where cryptsetup did; whether that was to be done. Backups
    of the header, which hold the old volume key and would destroy the data, are replaced.

    It changes keyslots: callers see to it that one change at a time is made. Cheap where nothing
    was begun.
    """
    if begun.load(container.uuid) is not None:
        with contextlib.suppress(Busy), state.locked(_lock(container), 0):
            return _settle(container)
    return False


def _settle(container: LuksContainer, key: Optional[bytes] = None) -> bool:
    note = begun.load(container.uuid)
    if note is None:
        return False
    container = container.refreshed()
    header = container.header
    if header.reencryption is not None:
        if note.after == "" and begun.is_ours(header):
            begun.save(container.uuid, note._replace(after=header.reencryption.volume_key))
        return False
    trust.check_current(container.device, header)
    for slot in header.unbound:
        if slot not in note.unbound:
            cryptsetup.kill_slot(container.device, slot)
    if note.jwe:
        _take_places(container, note.jwe, key or clevis.unseal(note.jwe))
    if header.volume_key != note.before:
        begun.end(container.uuid, header.volume_key)
        backup.revoked(container.refreshed())
    begun.forget(container.uuid)
    return True


def _take_places(container: LuksContainer, jwe: str, key: bytes) -> None:
    """After an encryption in place: its only `key` is a recovery key, so it gets its note; and a
    binding with a key of its own, to the same pin, whose TPM or server may have changed since."""
    slot = keyslots.test(container, key)
    if slot.role != "recovery":
        container.generation.write_note(container.device, container.header,
                                        recovery_note(slot.number, "recovery"))
    if not container.generation.bindings(container.device, container.header):
        bindings.add(container, Way(slot.number, key), clevis.to_seal_again(clevis.describe(jwe)))


def _alone(container: LuksContainer) -> "contextlib.AbstractContextManager[None]":
    return state.locked(_lock(container))


def _lock(container: LuksContainer) -> str:
    return "reencrypt-" + container.uuid


def _check_supported(container: LuksContainer) -> None:
    way = "Move its VDIs to another SR (`xe vdi-copy`, or migrate them), destroy it, and create it "
    if container.header.version == 1:
        raise Unsupported(
            "{} is a LUKS1 container, which cannot be encrypted anew while it is in use.".format(
                container.device), way + "again.")
    if cryptsetup.version() < cryptsetup.REENCRYPTION_SINCE:
        raise Unsupported(
            "Encrypting {} anew needs cryptsetup {}, this host has {}.".format(
                container.device, *map(cryptsetup.dotted, (cryptsetup.REENCRYPTION_SINCE,
                                                           cryptsetup.version()))),
            way + "again; or attach it to a host that has it.")


def _open_mapping(container: LuksContainer) -> Mapping:
    mapping = container.mapping
    if mapping is None:
        raise NotPlugged(container.device, "it is locked")
    return mapping


def _keys(container: LuksContainer, recovery_keys: Sequence[bytes]) -> List[bytes]:
    """The key of each keyslot, in their order. Raises ReencryptionKeys that names all others."""
    found, missing = [], []
    for slot in keyslots.slots(container):
        key = _key_of(container, slot, recovery_keys)
        # cryptsetup reads the keys as lines.
        if key is None or b"\n" in key:
            missing.append("keyslot {} ({})".format(
                slot.number, " ".join(filter(None, [slot.role, slot.name]))))
        else:
            found.append(key)
    if missing:
        raise ReencryptionKeys(container.device, missing)
    return found


def _key_of(container: LuksContainer, slot: keyslots.Slot,
            recovery_keys: Sequence[bytes]) -> Optional[bytes]:
    if slot.pin is not None:
        with contextlib.suppress(UnlockRefused, ToolMissing):
            return keyslots.key_of(container, slot.number)
    for key in recovery_keys:
        if container.opened_by(slot.number, key):
            return key
    return None


def _are_random(container: LuksContainer, found: Sequence[bytes]) -> bool:
    """Whether no person chose any of the keys `found`, one for each keyslot."""
    return all(slot.pin is not None or keys.is_generated(key)
               for slot, key in zip(keyslots.slots(container), found))
