# SPDX-License-Identifier: LGPL-2.1-only
"""Encrypts the disks of an unplugged ext SR where they are, with the data on them.

A header takes the first 16 MiB of each disk; what was there moves to its end, where room is made
before (see `shrink`). From then on the disk is a container whose data are in clear still: the SR
can be plugged, and cryptsetup encrypts part by part, which a power cut only interrupts (see
`reencrypt`).

The header takes no binding until the end. So its only key is a recovery key, and the sealed copy of
that waits in the notes of this host.
"""
import contextlib
import json
import os
import uuid as uuids
from typing import Any, Dict, Iterable, List, NamedTuple, Optional

from luksext import (audit, begun, clevis, contents, cryptsetup, devices, header, keys, keyslots,
                     lvm, notes, rawdisk, shrink, state, times)
from luksext.begun import Begun
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.cryptsetup import PAYLOAD_SECTORS, Format
from luksext.errors import (CommandFailed, DeviceNotEmpty, HeaderDamaged, HeaderMissing,
                            InPlaceBegun, InPlaceDoubt, InPlaceImpossible, LuksError)
from luksext.generation import SUBSYSTEM, Identity
from luksext.options import Options, flags_as_given
from luksext.run import require

_NOTE = notes.IN_PLACE
# What was noted as given before only what is no default was.
_DEFAULT = "discard=false"

_START_BYTES = PAYLOAD_SECTORS * devices.SECTOR
_SLOT = 0


class _Disk(NamedTuple):
    """One disk, the file that keeps its start while a container is made of it, and which."""

    path: str
    kept: str
    wanted: Format

    @property
    def made(self) -> Optional[header.Header]:
        """The header of the container, once it is there.

        What cannot be read is not taken for what is not there: raises DiskFails, and HeaderDamaged
        unless a start is kept to make it from again.
        """
        try:
            found = header.read(self.path)
        except HeaderMissing:
            return None
        except HeaderDamaged:
            if not self.is_kept:
                raise
            return None
        return found if found.uuid == self.wanted.uuid else None

    @property
    def is_container(self) -> bool:
        return self.made is not None

    @property
    def has_begun(self) -> bool:
        """Whether something may be encrypted already: what was kept is of no use any more."""
        found = self.made
        return found is not None and (found.reencryption is None or found.reencryption.done != 0)

    @property
    def is_kept(self) -> bool:
        """Whether the file is there; then it is whole."""
        return os.path.exists(self.kept)

    @property
    def is_begun(self) -> bool:
        return self.is_kept or self.is_container

    def is_opened_by(self, key: bytes) -> bool:
        """Whether it is a container that is whole: a power cut may leave a header that reads well,
        and a keyslot of which a part is missing."""
        return self.is_container and cryptsetup.opens(self.path, None, key)


def check(sr_uuid: str, paths: List[str], pin: Pin) -> None:
    """Raises InPlaceImpossible, ToolMissing, UnlockRefused's children unless this host can encrypt
    the SR's disks where they are, and unlock them by `pin`."""
    if cryptsetup.version() < cryptsetup.REENCRYPTION_SINCE:
        raise InPlaceImpossible(sr_uuid, "that needs cryptsetup {}, this host has {}".format(
            *map(cryptsetup.dotted, (cryptsetup.REENCRYPTION_SINCE, cryptsetup.version()))))
    require("clevis", "losetup", "dmsetup", "e2fsck", "resize2fs", "dumpe2fs", "lvreduce")
    for path in paths:
        if devices.logical_block_size(path) != devices.SECTOR:
            raise InPlaceImpossible(
                sr_uuid, "{} has blocks of {} bytes, VHD images need 512".format(
                    path, devices.logical_block_size(path)))
    clevis.check_tools(pin)
    clevis.unseal(clevis.seal(pin, clevis.new_key()))


def begin(sr_uuid: str, paths: List[str], options: Options) -> None:
    """Makes containers of all disks of the unplugged SR, whose data are in clear still; the same
    recovery key opens all of them.

    paths: all disks of the SR, by names that last. Called again after an interruption, it goes on;
    once the first disk is at work, only with the same `options`.
    Raises InPlaceImpossible, NoRoom, UnlockRefused's children with no data changed; InPlaceBegun,
    InPlaceDoubt, DeviceNotEmpty, HeaderDamaged, DiskFails.
    """
    store = state.Store(sr_uuid)
    note = store.load(_NOTE)
    disks = _disks(sr_uuid, note)
    if not any(disk.is_begun for disk in disks):
        group = lvm.GROUP_PREFIX + sr_uuid
        _check_all(sr_uuid, group, paths)
        note = _note(sr_uuid, paths, options)
        store.save(_NOTE, note)
        disks = _disks(sr_uuid, note)
        shrink.shrink(group, sr_uuid, 2 * _START_BYTES)
        lvm.deactivate_all(group)
    elif set(note["given"]) - {_DEFAULT} != set(_given(options)):
        raise InPlaceBegun(sr_uuid, note["given"])
    key = clevis.unseal(note["jwe"])
    for disk in disks:
        if _make_container(sr_uuid, disk, key, note["jwe"]):
            audit.record("encrypt-disk", sr_uuid, audit.DRIVER, "ok", device=disk.path)


def recovery_key(sr_uuid: str) -> str:
    """That of an SR whose disks are containers. Raises UnlockRefused's children."""
    return clevis.unseal(state.Store(sr_uuid).load(_NOTE)["jwe"]).decode("ascii")


def end(sr_uuid: str, disks: Iterable[LuksContainer]) -> None:
    """Forgets what `begin` noted, once the encryption of all `disks` of the SR is at its end.

    Before, no other recovery key can be made: whoever lost the answer that told this one has to be
    told again. Afterwards nobody must have it by unsealing it, whatever the SR is bound to then.
    """
    if all(map(_is_at_its_end, disks)):
        state.forget(sr_uuid)


def _is_at_its_end(disk: LuksContainer) -> bool:
    return disk.header.reencryption is None and begun.load(disk.uuid) is None and any(
        slot.role == "recovery" for slot in keyslots.slots(disk))


def is_begun(sr_uuid: str) -> bool:
    """Whether `begin` was called for the SR, and nothing has ended it yet."""
    return bool(state.Store(sr_uuid).load(_NOTE))


def _note(sr_uuid: str, paths: List[str], options: Options) -> Dict[str, Any]:
    """Sealed, and unsealed for trial, before anything is touched."""
    key = keys.to_passphrase(keys.generate())
    jwe = clevis.seal(options.pin, key)
    if clevis.unseal(jwe) != key:
        raise InPlaceImpossible(sr_uuid, "what clevis unseals is not what it sealed")
    return {"jwe": jwe, "paths": paths, "uuids": [str(uuids.uuid4()) for _ in paths],
            "cipher": options.cipher, "key_bits": options.key_bits, "given": _given(options)}


def _given(options: Options) -> List[str]:
    """The options as they are typed."""
    return ["pin=" + options.pin.name,
            "pin-config=" + json.dumps(options.pin.config, sort_keys=True),
            "cipher=" + options.cipher, "key-size={}".format(options.key_bits),
            *("{}={}".format(*given) for given in flags_as_given(options.flags).items())]


def _disks(sr_uuid: str, note: Dict[str, Any]) -> List[_Disk]:
    """Those of the SR as noted; empty without note."""
    folder = state.Store(sr_uuid).folder
    paths = note.get("paths", [])
    return [_Disk(path, os.path.join(folder, "start-{}".format(index)),
                  Format(2, uuid, note["cipher"], note["key_bits"],
                         str(Identity(sr_uuid, index, len(paths))), SUBSYSTEM))
            for index, (path, uuid) in enumerate(zip(paths, note.get("uuids", [])))]


def _check_all(sr_uuid: str, group: str, paths: List[str]) -> None:
    """Raises InPlaceImpossible unless `paths` are the disks of the SR, all of them.

    The ext driver goes by the group: it never looks where its device-config leads.
    """
    inside = {devices.kernel_name(each.path) for each in lvm.physical_volumes(group)}
    named = {devices.kernel_name(path) for path in paths}
    if inside != named:
        raise InPlaceImpossible(sr_uuid, "its device-config names {}, its data are on {}".format(
            *(" and ".join(sorted(names)) for names in (named, inside))))


def _make_container(sr_uuid: str, disk: _Disk, key: bytes, jwe: str) -> bool:
    """The start of the disk is kept on this host until the key opens the container: the only moment
    in which a power cut could lose something. Whether something was to be done."""
    spent = disk.kept + "-spent"
    wanted = disk.is_kept or not disk.is_container
    if wanted:
        if not disk.is_opened_by(key):
            if disk.is_kept:
                _put_back(sr_uuid, disk)
            else:
                _keep(sr_uuid, disk)
            begun.save(disk.wanted.uuid, Begun(times.now(), "", "", [], jwe))
            _write_header(sr_uuid, disk, key)
            if not disk.is_opened_by(key):
                raise CommandFailed("cryptsetup reencrypt --encrypt --init-only " + disk.path, 0,
                                    "the key does not open what it made")
        # What has its name is whole: a kill while it is overwritten leaves it under another.
        os.rename(disk.kept, spent)
    with contextlib.suppress(FileNotFoundError):
        state.destroy(spent)
    return wanted


def _keep(sr_uuid: str, disk: _Disk) -> None:
    """Keeps the start of the disk. Raises InPlaceDoubt where it is no disk of the SR."""
    if lvm.sr_group_on(disk.path) != lvm.GROUP_PREFIX + sr_uuid:
        raise InPlaceDoubt(
            sr_uuid, disk.path, "is no disk of it", "Compare `pvs -o pv_name,vg_name` with the "
            "SR's device-config, and run the command again when the disk is back.")
    state.write(disk.kept, rawdisk.read(disk.path, _START_BYTES))


def _write_header(sr_uuid: str, disk: _Disk, key: bytes) -> None:
    """Has cryptsetup make the container. Where that fails before there is one, the disk is as it
    was and no start is kept: until the next call the SR may be used."""
    try:
        cryptsetup.encrypt_init(disk.path, disk.wanted, _SLOT, key)
    except LuksError:
        if disk.made is None:
            _put_back(sr_uuid, disk)
            state.destroy(disk.kept)
        raise


def _put_back(sr_uuid: str, disk: _Disk) -> None:
    """Undoes what a cryptsetup did that was cut short, and nothing else."""
    with open(disk.kept, "rb") as file:
        start = file.read()
    if rawdisk.read(disk.path, len(start)) == start:
        return
    kinds = set(contents.kinds(disk.path))
    ours = any(found.uuid == disk.wanted.uuid for found in header.remains(disk.path))
    foreign = kinds - ({"LVM2_member", "crypto_LUKS"} if ours else {"LVM2_member"})
    if foreign:
        raise DeviceNotEmpty(disk.path, sorted(foreign))
    if disk.has_begun:
        raise HeaderDamaged(disk.path, "no keyslot opens, and some of its data are encrypted")
    if kinds and not ours:
        raise InPlaceDoubt(
            sr_uuid, disk.path, "is neither as it was before, nor as an interruption leaves it",
            "If the SR was plugged since the interruption, its data are there: rm {0} ; then run "
            "the command again. If it was not, keep {0}: it has the first 16 MiB of the "
            "disk.".format(disk.kept))
    rawdisk.overwrite(disk.path, start)
