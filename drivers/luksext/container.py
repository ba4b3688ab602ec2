# SPDX-License-Identifier: LGPL-2.1-only
"""The life of one LUKS container: format, open, close, erase.

A container is known by its LUKS UUID, never by the name of its disk. Before it is opened, its
header is compared with what was recorded when it was made; after, the kernel's table with what was
asked for.
"""
import contextlib
import os
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from luksext import (alive, begun, claims, clevis, contents, cryptsetup, devices, header, keys,
                     mappings, state, tables, trust)
from luksext.cryptsetup import Flags, Format
from luksext.errors import (Ambiguous, CommandFailed, CommandTimeout, DeviceIsOurs,
                            DeviceMissing, DeviceNotEmpty, HeaderMismatch, LuksError,
                            MappingMismatch, NoBinding, NotOurs, PinRefuses, ReencryptionUnfinished,
                            TimeOver, ToolMissing, Unsupported, UnlockRefused, open_by_hand)
from luksext.generation import (GENERATIONS, SUBSYSTEM, Binding, Identity, identity_of,
                                recovery_note, traces)
from luksext.header import Header
from luksext.options import Options
from luksext.record import Record
from luksext.run import log, overtime, require, run

# Keyslots of a new container. The binding comes first: `cryptsetup open` without a slot, as clevis
# runs it, tries slot 0 first, and a stretched passphrase costs seconds and memory to try.
BINDING_SLOT = 0
RECOVERY_SLOT = 1

_ERASED_MIB = 16
# In sectors.
_ERASED_END = 2048


class LuksContainer:
    """One device with a LUKS header on it."""

    def __init__(self, device: str, luks_header: Header) -> None:
        self.device = device
        self.header = luks_header
        self.generation = GENERATIONS[luks_header.version]

    def refreshed(self) -> "LuksContainer":
        """The same container with its header read again. Raises HeaderMissing, HeaderDamaged,
        HeaderMismatch where another disk has the name of the device by now."""
        found = header.read(self.device)
        if found.uuid != self.uuid:
            raise HeaderMismatch(self.device, "LUKS UUID " + found.uuid, self.uuid)
        return LuksContainer(self.device, found)

    @property
    def uuid(self) -> str:
        """The LUKS UUID."""
        return self.header.uuid

    @property
    def record(self) -> Record:
        """What to note of this container."""
        return trust.record_of(self.header)

    @property
    def mapping(self) -> Optional[devices.Mapping]:
        """The open mapping, under whatever name; None while the container is closed."""
        return devices.crypt_mapping_on(self.device)

    @property
    def identity(self) -> Optional[Identity]:
        """Whose disk this is, None for a container that is not ours."""
        return self.generation.identity(self.device, self.header)

    def check_steady(self) -> None:
        """Raises ReencryptionUnfinished while data are encrypted anew: the process that does so
        writes the header as it knows it, so a change of keys or size meanwhile would be lost."""
        if self.header.reencryption is not None:
            raise ReencryptionUnfinished(self.device)

    @property
    def bindings(self) -> List[Binding]:
        """The bindings in the header; before there is any, the one that waits for its place."""
        found = self.generation.bindings(self.device, self.header)
        waiting = "" if found else begun.waiting(self.header)
        return [Binding(slot, waiting) for slot in self.header.keyslots] if waiting else found

    @property
    def takes_memory(self) -> bool:
        """Whether it does so to open this by a binding: not with keys of ours, which are random and
        so not stretched, but with what clevis and cryptsetup choose by themselves."""
        costly = self.header.argon2
        # In re-encryption, cryptsetup tries one keyslot after the other.
        return bool(costly) and (self.header.reencryption is not None or any(
            binding.slot in costly for binding in self.bindings))

    @property
    def payload_size(self) -> int:
        """Bytes that the open container offers."""
        return header.payload_size(self.device, self.header)

    def open(self, expected: Optional[Record], flags: Flags) -> bool:
        """Makes the data readable through `mapping`; whether that was not the case before.

        expected: what was recorded; None where nothing is, then the header must be one of the kind
        that we make.

        Raises what `trust.check` does before anything is opened; UnlockRefused's children,
        MappingMismatch.
        """
        return self._open(expected, flags.discard, lambda: self._unlock(flags))

    def open_by(self, slot: int, key: bytes, expected: Optional[Record], flags: Flags) -> bool:
        """As `open`, by a `key` that is known to open `slot` in the place of a binding."""
        return self._open(expected, flags.discard, lambda: self._open_device(slot, key, flags))

    def _open(self, expected: Optional[Record], discard: bool, unlock: Callable[[], None]) -> bool:
        trust.check(self.device, expected, discard)
        if self.mapping is not None:
            self._check_mapping()
            return False
        require(*self.generation.programs)
        try:
            unlock()
        except CommandFailed:
            # Another process opened it a moment ago.
            if self.mapping is None:
                raise
            self._check_mapping()
            return False
        except CommandTimeout:
            # cryptsetup makes the mapping, then waits for udev.
            self._close_after_failure()
            raise
        try:
            self._check_mapping()
        except LuksError:
            self._close_after_failure()
            raise
        return True

    def _close_after_failure(self) -> None:
        with overtime(), first_error_counts():
            self.close()

    def close(self) -> None:
        """Takes the mapping away, if there is one. Raises DeviceInUse while something uses it."""
        mapping = self.mapping
        if mapping is not None:
            mappings.close(mapping)

    def erase(self) -> None:
        """Destroys all keyslots, then the header: nothing opens or recognises it any more. Raises
        HeaderMismatch, HeaderMissing where another disk is in its place by now."""
        self.refreshed()
        cryptsetup.erase(self.device)
        erase_start(self.device)

    def by_binding(self, use: Callable[[int, bytes], None]) -> Tuple[int, bytes]:
        """Hands the slots and keys of the bindings to `use`, until it takes one; which that was.

        use: raises KeyRefused. Raises KeyCost, NoBinding, ToolMissing, TimeOver, UnlockRefused's
        children.
        """
        trust.check_cost(self.device, self.header)
        bindings = self.bindings
        if not bindings:
            raise NoBinding(self.device, self.uuid)
        refusals: List[LuksError] = []
        for binding in bindings:
            try:
                key = clevis.unseal(binding.jwe)
                use(binding.slot, key)
                return binding.slot, key
            except (UnlockRefused, ToolMissing, TimeOver) as refusal:
                refusals.append(refusal)
        raise self._explained(refusals)

    def _unlock(self, flags: Flags) -> None:
        self.by_binding(lambda slot, key: self._open_device(slot, key, flags))

    def _open_device(self, slot: int, key: bytes, flags: Flags) -> None:
        cryptsetup.open_device(self.device, "luks-" + self.uuid, self._named(slot), key, flags)

    def opened_by(self, slot: int, key: bytes) -> bool:
        """Whether `key` opens `slot`, without opening the volume. In re-encryption, which needs two
        keyslots, whether it opens any. Raises KeyCost."""
        trust.check_cost(self.device, self.header)
        return cryptsetup.opens(self.device, self._named(slot), key)

    def _named(self, slot: int) -> Optional[int]:
        return slot if self.header.reencryption is None else None

    def _explained(self, refusals: List[LuksError]) -> LuksError:
        """One refusal that names this device and the way in that is left."""
        refusal = refusals[0]
        if len(refusals) > 1:
            refusal = PinRefuses("of every binding", " ".join(r.sentence for r in refusals))
        refusal.sentence = "{} was not unlocked. {}".format(self.device, refusal.sentence)
        refusal.remedy = "{} {}".format(refusal.remedy, open_by_hand(self.device, self.uuid))
        return refusal

    def _check_mapping(self) -> None:
        mapping = self.mapping
        if mapping is None:
            raise MappingMismatch("luks-" + self.uuid, "no mapping", "one on " + self.device)
        tables.check(mapping, self.device, self.header)
        if devices.logical_block_size(mapping.path) != devices.SECTOR:
            raise MappingMismatch(mapping.name, "a sector size other than 512 bytes", "512")


def format_container(device: str, luks_uuid: str, identity: Identity, options: Options,
                     passphrase: Optional[bytes]) -> LuksContainer:
    """Makes a container of `device`, bound to the pin of `options`. Destroys what was there.

    The key is sealed before the device is touched: a host whose TPM or server cannot seal is told
    so with nothing changed. The caller has checked the device and made `options` by `prepare`, and
    proves the binding by `open`. Sealing takes a while, so the device is checked once more, with
    nobody able to mount or map it until its start is overwritten. A link to it may lead to another
    disk by then, so it is followed once; from the check on, its name leads to no other.
    A failure after that erases what was begun.

    luks_uuid: that of the new container. passphrase: becomes a second keyslot, where given.
    """
    device = os.path.realpath(device)
    key = clevis.new_key()
    jwe = clevis.seal(options.pin, key)
    version = options.luks_version or 0
    generation = GENERATIONS[version]
    wanted = Format(version, luks_uuid, options.cipher, options.key_bits,
                    str(identity), SUBSYSTEM)
    with claims.named(device):
        with claims.held(device) as handle:
            check_formattable(device, options.force)
            _clear_start(device)
            if options.force:
                _clear_end(device)
            claims.forget_partitions(handle)
        try:
            cryptsetup.luks_format(device, wanted, BINDING_SLOT, key)
            generation.write_identity(device, identity)
            generation.write_binding(device, Binding(BINDING_SLOT, jwe))
            if passphrase:
                add_recovery_key(device, version, RECOVERY_SLOT, key, passphrase)
                generation.write_note(device, header.read(device),
                                      recovery_note(RECOVERY_SLOT, "passphrase"))
            return LuksContainer(device, header.read(device))
        except BaseException:
            with overtime(), first_error_counts():
                erase_start(device)
            raise


def check_formattable(device: str, force: bool) -> None:
    """Raises DeviceIsOurs where `device`, a partition of it or the disk that it is a partition of
    is a part of an encrypted SR, also where its header is damaged, and unless `force`
    DeviceNotEmpty for whatever else is on it."""
    for path in [device, *devices.partitions(device)]:
        _check_not_ours(path)
    disk = devices.whole(device)
    # The kernel may have partitions of a disk that has none any more. Where it has, what lies
    # behind its start is theirs.
    if disk != device and list(header.remains(disk)):
        _check_not_ours(disk)
        if not force:
            raise DeviceNotEmpty(disk, ["crypto_LUKS"])
    if not force:
        contents.check_empty(device)


def _check_not_ours(device: str) -> None:
    for identity in traces(device):
        raise DeviceIsOurs(device, identity.sr_uuid)
    found = header.find(device)
    if found is not None and found.uuid in state.known():
        raise DeviceIsOurs(device)


def add_recovery_key(device: str, luks_version: int, slot: int, key: bytes,
                     recovery_key: bytes) -> None:
    """Puts `recovery_key` into `slot`; `key` opens already. One of ours is random and needs no
    stretching, a passphrase that a person chose does."""
    if keys.is_generated(recovery_key):
        cryptsetup.add_key(device, slot, key, recovery_key)
    else:
        cryptsetup.add_passphrase(device, luks_version, slot, key, recovery_key)


def prepare(options: Options) -> Options:
    """`options` with the LUKS version chosen, where this host has all that it takes.

    Raises ToolMissing; Unsupported for what this host's cryptsetup or kernel cannot do.
    """
    clevis.check_tools(options.pin)
    require("cryptsetup", "wipefs", "dmsetup", "dd")
    can_bind_luks2 = cryptsetup.version() >= cryptsetup.TOKENS_SINCE
    if options.luks_version == 2 and not can_bind_luks2:
        raise Unsupported(
            "device-config:luks-version=2 needs cryptsetup {}, this host has {}.".format(
                *map(cryptsetup.dotted, (cryptsetup.TOKENS_SINCE, cryptsetup.version()))),
            "Leave luks-version out: this host makes LUKS1 containers, which later hosts open.")
    version = options.luks_version or (2 if can_bind_luks2 else 1)
    require(*GENERATIONS[version].programs)
    why_not = "" if options.flags.workqueues else cryptsetup.why_no_bypass()
    if why_not:
        raise Unsupported("device-config:workqueues=false {}.".format(why_not),
                          "Leave workqueues out: then the kernel's work queues are used.")
    return options._replace(luks_version=version)


def find_recorded(record: Record, hint: str) -> LuksContainer:
    """The container of `record`, on the device `hint` or wherever it is now.

    Raises DeviceMissing, Ambiguous; and for a hint that carries no intact header while no other
    disk is the one, HeaderMissing, HeaderDamaged or DiskFails.
    """
    mapping = devices.crypt_mapping_of(record.uuid)
    disk = devices.disk_of(mapping) if mapping else None
    for device in [disk] if disk else _present([hint]):
        found = find_header(device)
        if found and found.uuid == record.uuid:
            return LuksContainer(device, found)
    matches = [container for container in all_containers() if container.uuid == record.uuid]
    if len(matches) > 1:
        raise Ambiguous(record.uuid, [match.device for match in matches])
    if matches:
        return matches[0]
    raise _why_not_found(record, hint)


def _why_not_found(record: Record, hint: str) -> LuksError:
    for device in _present([hint]):
        try:
            alive.check(device)
            found = header.read(device)
        except LuksError as error:
            return error
        return HeaderMismatch(device, "LUKS UUID " + found.uuid, record.uuid)
    return DeviceMissing(
        "The disk with the LUKS container {} (last known as {}) is not in this host.".format(
            record.uuid, hint),
        "Look for it with `lsblk -o NAME,SIZE,UUID,SERIAL`; plug it in and run `xe pbd-plug` "
        "again.")


def find_identified(sr_uuid: str, hints: List[str]) -> List[LuksContainer]:
    """All containers whose headers say that they belong to `sr_uuid`, in their order.

    hints: where they are expected; all other disks are searched for the rest.
    Raises DeviceMissing, Ambiguous; NotOurs, HeaderMissing, HeaderDamaged, DiskFails for a wrong
    hint.
    """
    found: Dict[int, LuksContainer] = {}
    for container, identity in identified(hints):
        if identity.sr_uuid != sr_uuid:
            continue
        if identity.disk in found:
            raise Ambiguous(container.uuid, [found[identity.disk].device, container.device])
        found[identity.disk] = container
        disks = identity.disks
        if len(found) == disks:
            return [found[disk] for disk in sorted(found)]
    if found:
        raise DeviceMissing(
            "Only {} of the {} disks of the SR {} are in this host.".format(
                len(found), disks, sr_uuid),
            "Look for the others with `lsblk -o NAME,SIZE,LABEL,SERIAL`, then run "
            "`xe pbd-plug` again.")
    raise _why_not_ours(sr_uuid, hints)


def _why_not_ours(sr_uuid: str, hints: List[str]) -> LuksError:
    for device in _present(hints):
        try:
            alive.check(device)
            identity_of(device)
        except LuksError as error:
            return error
        return NotOurs(device, sr_uuid)
    there = ", and {} does not exist".format(", ".join(hints)) if hints else ""
    return DeviceMissing(
        "No disk of the SR {} is in this host{}.".format(sr_uuid, there),
        "`luksext status` lists the encrypted SRs of this host, "
        "`lsblk -o NAME,SIZE,LABEL,SERIAL` its disks.")


def all_containers() -> Iterator[LuksContainer]:
    """Every LUKS container on this host's disks, ours or not, whose header is intact."""
    for device in devices.candidates():
        found = find_header(device)
        if found:
            yield LuksContainer(device, found)


def find_header(device: str) -> Optional[Header]:
    """The header of `device`; None where there is none, it cannot be read, or the disk hangs."""
    return header.find(device) if alive.answers(device) else None


def all_of(sr_uuid: str) -> List[LuksContainer]:
    """The containers of `sr_uuid` that are in this host now, maybe not all."""
    return [container for container, identity in identified([]) if identity.sr_uuid == sr_uuid]


def identified(hints: List[str]) -> Iterator[Tuple[LuksContainer, Identity]]:
    """The containers that are ours: those on `hints`, then those on all other disks.

    A foreign disk that cannot be asked must not keep others from being found, a hint must.
    """
    seen = set()
    for device in _present(hints):
        found = find_header(device)
        if found:
            seen.add(devices.kernel_name(device))
            container = LuksContainer(device, found)
            if container.identity is not None:
                yield container, container.identity
    for container in all_containers():
        if devices.kernel_name(container.device) not in seen:
            identity = None
            with first_error_counts():
                identity = container.identity
            if identity is not None:
                yield container, identity


def _present(paths: List[str]) -> List[str]:
    present = []
    for path in paths:
        try:
            devices.check_exists(path)
        except LuksError:
            continue
        present.append(path)
    return present


@contextlib.contextmanager
def first_error_counts() -> Iterator[None]:
    """For cleaning up after an error, which a second one must not hide."""
    try:
        yield
    except LuksError as error:
        log.error("cannot clean up: %s", error)


def erase_start(device: str) -> None:
    """Overwrites the header area of `device`. Raises DeviceInUse where somebody uses it now,
    whatever was known of it before."""
    with claims.held(device):
        _clear_start(device)


def _clear_end(device: str) -> None:
    # There, others would find a RAID or a partition table, and might take the disk for theirs.
    sectors = devices.size_of(device) // devices.SECTOR
    run(["dd", "if=/dev/zero", "of=" + device, "bs={}".format(devices.SECTOR),
         "count={}".format(_ERASED_END), "seek={}".format(sectors - _ERASED_END),
         "conv=fsync,notrunc"], deadline=120)


def _clear_start(device: str) -> None:
    # All of it: a stale luksmeta area would outlive luksFormat.
    run(["dd", "if=/dev/zero", "of=" + device, "bs=1M", "count={}".format(_ERASED_MIB),
         "conv=fsync,notrunc"], deadline=120)
