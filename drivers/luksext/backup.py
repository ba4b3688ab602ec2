# SPDX-License-Identifier: LGPL-2.1-only
"""Backups of headers: kept on this host after each change, exported, and restored.

A backup has the whole area in front of the data. That is more than `cryptsetup luksHeaderBackup`
saves of LUKS1, where luksmeta, which has the bindings, lies behind the keyslots.

Whoever has a backup and a key that was valid then can read the disk, even after that key was
revoked. So each has a serial number, and a revocation makes those before it too old.
"""
import contextlib
import hashlib
import os
import re
import time
from typing import Any, Dict, List, NamedTuple, Tuple

from luksext import begun, contents, devices, header, rawdisk, rollback, state, times, trust
from luksext.backupfile import TRAILER_LIMIT, Backup, manifest, pack, unpack
from luksext.container import LuksContainer
from luksext.errors import (BackupDamaged, BackupMissing, BackupOfAnother, Busy,
                            ContainerReplaced, HeaderDamaged, HeaderMissing, LuksError, OldHeader,
                            Unsupported)
from luksext.header import Header
from luksext.run import log
from luksext.state import Store

# How many are kept of a container.
KEPT = 3

# Why a header was backed up that a restoration overwrites. It may be what is wrong with the disk,
# so it is in the place of no other backup.
BEFORE = "before a restoration"

_NOTE = "headers"
_FOLDER = "headers"
_FILE = re.compile(r"([0-9]{1,18})\.header\Z")

# More than LUKS2 can have: two copies of 4 MiB, and 128 MiB of keyslots.
_AREA_LIMIT = 256 * 1024 * 1024

# Bytes of the largest file of a backup.
LARGEST_FILE = _AREA_LIMIT + TRAILER_LIMIT

_TRIES = 3


class Restored(NamedTuple):
    """What was restored. revived: keyslots whose keys the header before had no longer."""

    luks_uuid: str
    serial: int
    revived: List[int]


def create(container: LuksContainer, reason: str) -> Backup:
    """Backs up the header of `container` on this host, and removes what is too old or too many.

    Where nothing changed, the newest backup is returned. Raises Unsupported for a container in
    re-encryption: its header is out of date at once. Raises ContainerReplaced for another container
    than the one that was backed up before: what brings that back is not to be replaced.
    """
    with _locked(container.uuid):
        return _create(container, reason)


def list_of(luks_uuid: str) -> List[Backup]:
    """The backups of a container that are on this host, oldest first."""
    found = []
    for serial in _serials(luks_uuid):
        try:
            with open(_path(luks_uuid, serial), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TRAILER_LIMIT))
                backup, _ = manifest(file.read())
        except (OSError, BackupDamaged) as error:
            log.error("the header backup %d of %s cannot be read: %s", serial, luks_uuid, error)
            continue
        if backup.luks_uuid == luks_uuid and backup.serial == serial:
            found.append(backup)
    return found


def of_disk(device: str) -> List[str]:
    """The LUKS UUIDs of the containers that were on the disk `device` when this host backed them
    up, by the name that the disk's maker gave it; none for a disk without one."""
    name = devices.world_wide_name(device)
    return [uuid for uuid in state.known()
            if name and any(backup.disk == name and backup.reason != BEFORE
                            for backup in list_of(uuid))]


def is_fresh(container: LuksContainer) -> bool:
    """Whether the newest backup on this host is what is on the disk now."""
    backups = list_of(container.uuid)
    if not backups or backups[-1].reason == BEFORE \
            or backups[-1].serial < _minimum(container.uuid, backups):
        return False
    try:
        _, area = _area(container.device)
    except LuksError:
        return False
    return _is_same(backups[-1], container.device, area)


def export(backup: Backup) -> bytes:
    """The file of `backup`, to be kept off this host. Raises BackupMissing, BackupDamaged."""
    try:
        with open(_path(backup.luks_uuid, backup.serial), "rb") as file:
            content = file.read()
    except OSError:
        raise BackupMissing(backup.luks_uuid) from None
    unpack(content)
    return content


def restore(device: str, content: bytes, luks_uuid: str = "", force: bool = False,
            volume_key: str = "", named: bool = False) -> Restored:
    """Writes the backup in `content` over the header area of `device`, and proves it by reading.

    The header that is there, if it is whole, is backed up before. A restoration that is cut short
    leaves a header that may not open, and can be repeated.

    luks_uuid, volume_key: of the container that was recorded for the device, "" where nothing is.
    force: restore although keys come back that were revoked, the disk is another one or grew, or it
    carries something else.
    named: somebody typed luks_uuid. With `force`, a header with another UUID is overwritten then.

    Raises BackupDamaged, BackupOfAnother, HeaderOutdated, OldHeader, DeviceInUse, Unsupported.
    """
    devices.check_exists(device)
    backup, area, wanted = unpack(content)
    current = header.find(device)
    if current is not None and current.uuid != (luks_uuid or backup.luks_uuid):
        _check_overwritable(device, backup, wanted, current, force and named)
    _check_container(device, backup, wanted, current, luks_uuid,
                     _last_volume_key(backup.luks_uuid, volume_key)
                     or ("" if force else _volume_key_of(current, backup.luks_uuid)))
    known = _known_marks(backup.luks_uuid, current)
    revived = [int(slot) for slot, mark in sorted(backup.marks.items())
               if known and known.get(slot) != mark]
    if not force:
        _check_disk(device, backup, current)
        if backup.serial < _minimum(backup.luks_uuid, list_of(backup.luks_uuid)):
            raise OldHeader(device, backup.created, revived)
    if current is not None:
        _keep_before(device, current)
    with _locked(backup.luks_uuid):
        rawdisk.overwrite(device, area)
        if rawdisk.differs(device, area) or header.read(device) != wanted:
            raise HeaderDamaged(device, "what was written to it does not read back")
        rollback.forgive(wanted.uuid, wanted.marks.values())
        _take_over(wanted)
        _create(LuksContainer(device, wanted), "restored")
    return Restored(backup.luks_uuid, backup.serial, revived)


def follow(container: LuksContainer) -> bool:
    """Takes over the volume key of a container that was plugged, and whether it is another than
    this host noted: it was encrypted anew on another host then, and what is kept here of the time
    before would destroy the data. It must not be in re-encryption now."""
    taken = _take_over(container.header)
    if taken:
        revoked(container)
    return taken


def is_outdated(luks_uuid: str) -> bool:
    """Whether this host still has a backup that holds a key which was destroyed since: whoever
    destroyed that was cut short, or had no room for another."""
    minimum = _minimum(luks_uuid, list_of(luks_uuid))
    return any(serial < minimum for serial in _serials(luks_uuid))


def outdate(container: LuksContainer) -> None:
    """Makes all backups so far too old. To be called before a key is destroyed: killed after that,
    no backup brings the key back; killed before, there is only a backup to be made."""
    with _locked(container.uuid):
        backups = list_of(container.uuid)
        _note(container.uuid, minimum=_next_serial(container.uuid, backups))


def revoked(container: LuksContainer) -> None:
    """After a key was destroyed: destroys the backups on this host, which hold it, and makes one
    without it."""
    outdate(container)
    create(container, "a key was revoked")


def _create(container: LuksContainer, reason: str) -> Backup:
    uuid, device = container.uuid, container.device
    found, area = _area(device)
    note = Store(uuid).load(_NOTE)
    before = note.get("volume_key")
    if before and before != found.volume_key \
            and not begun.has_ended(uuid, before, found.volume_key):
        raise ContainerReplaced(device)
    made = _keep(uuid, device, found, area, reason)
    if (before, note.get("device_size")) != (made.volume_key, made.device_size):
        _note(uuid, volume_key=made.volume_key, device_size=made.device_size)
    return made


def _keep_before(device: str, current: Header) -> None:
    """Backs up the header that a restoration overwrites, whosever it is; one that is not whole
    cannot be."""
    try:
        with _locked(current.uuid):
            found, area = _area(device)
            _keep(found.uuid, device, found, area, BEFORE)
    except (HeaderDamaged, HeaderMissing, Unsupported) as error:
        log.error("the header that was on %s is not backed up: %s", device, error)


def _keep(uuid: str, device: str, found: Header, area: bytes, reason: str) -> Backup:
    backups = list_of(uuid)
    minimum = _minimum(uuid, backups)
    if backups and backups[-1].serial >= minimum and _is_same(backups[-1], device, area) \
            and (backups[-1].reason != BEFORE or reason == BEFORE):
        _prune(uuid, minimum)
        return backups[-1]
    serial = max(_next_serial(uuid, backups), minimum)
    backup = Backup(
        luks_uuid=uuid, version=found.version, serial=serial, minimum=minimum,
        created=times.now(), reason=reason,
        device_size=devices.size_of(device), disk=devices.world_wide_name(device),
        payload_offset=found.payload_offset, volume_key=found.volume_key,
        marks=_texts(found.marks), sha256=hashlib.sha256(area).hexdigest())
    Store(uuid).make(_FOLDER)
    state.write(_path(uuid, serial), pack(backup, area))
    _prune(uuid, minimum)
    return backup


def _area(device: str) -> Tuple[Header, bytes]:
    """The header of `device` and the whole area in front of the data, read while nobody wrote."""
    for _ in range(_TRIES):
        found = header.read(device)
        _refuse_reencryption(device, found)
        if not 0 < found.payload_offset <= _AREA_LIMIT:
            raise Unsupported(
                "The header area of {} cannot be backed up: it has {} bytes.".format(
                    device, found.payload_offset),
                "Use cryptsetup luksHeaderBackup {} --header-backup-file FILE".format(device))
        area = rawdisk.read(device, found.payload_offset)
        if header.parse(device, area) == header.read(device) == found:
            return found, area
    raise Busy(device, "", "")


def _refuse_reencryption(device: str, found: Header) -> None:
    if found.reencryption is not None:
        raise Unsupported(
            "The header of {} cannot be backed up or replaced while the disk is being "
            "re-encrypted.".format(device),
            "Let that end first: luksext reencrypt-status, luksext reencrypt-resume")


def _is_same(backup: Backup, device: str, area: bytes) -> bool:
    return (backup.device_size == devices.size_of(device)
            and backup.sha256 == hashlib.sha256(area).hexdigest())


def _check_container(device: str, backup: Backup, wanted: Header, current: Any,
                     luks_uuid: str, volume_key: str) -> None:
    """Raises where the backup is of another container, or of another time of its data: no force
    makes that right."""
    if luks_uuid not in ("", backup.luks_uuid):
        raise BackupOfAnother(device, "the LUKS UUID " + backup.luks_uuid, luks_uuid)
    if current is not None:
        _refuse_reencryption(device, current)
    trust.check_current(device, wanted)
    if volume_key and wanted.volume_key != volume_key:
        raise BackupOfAnother(device, "a volume key that was replaced since", "the present one")
    if devices.size_of(device) < backup.device_size:
        raise BackupOfAnother(device, "a disk of {} bytes".format(backup.device_size),
                              "one of {}".format(devices.size_of(device)))


def _last_volume_key(luks_uuid: str, recorded: str) -> str:
    """The volume key that the container had last, as far as is known: the recorded one, unless this
    host knows of a re-encryption since; else the one that this host noted."""
    noted = str(Store(luks_uuid).load(_NOTE).get("volume_key") or "")
    if noted and (not recorded or begun.has_ended(luks_uuid, recorded, noted)):
        return noted
    return recorded


def _take_over(proven: Header) -> bool:
    """Lets the volume key of a header that is `proven` follow the one that this host noted."""
    noted = Store(proven.uuid).load(_NOTE).get("volume_key")
    if noted in (None, proven.volume_key):
        return False
    begun.end(proven.uuid, proven.volume_key)
    return True


def _volume_key_of(current: Any, luks_uuid: str) -> str:
    """That of the container which is whole on the disk: another one would not read the data. Only
    who says by force that it was forged knows better."""
    return current.volume_key if current is not None and current.uuid == luks_uuid else ""


def _check_overwritable(device: str, backup: Backup, wanted: Header, current: Header,
                        insisted: bool) -> None:
    """Raises for a header with another UUID, unless somebody insists, and it is the wanted one with
    a damaged UUID, or may have been made by mistake on the disk that the backup is of."""
    found = "the one on the disk, " + current.uuid
    if insisted and current.volume_key == wanted.volume_key:
        return
    if current.uuid in state.known() and any(
            one.reason != BEFORE for one in list_of(current.uuid)):
        insisted, found = False, found + ", of which this host keeps backups,"
    if not insisted:
        raise BackupOfAnother(device, "the LUKS UUID " + backup.luks_uuid, found)
    name = devices.world_wide_name(device)
    if backup.disk and name and backup.disk != name:
        raise BackupOfAnother(device, "the disk " + backup.disk, "the disk " + name)


def _check_disk(device: str, backup: Backup, current: Any) -> None:
    """Raises where the disk may be another one."""
    name = devices.world_wide_name(device)
    if backup.disk and name and backup.disk != name:
        raise BackupOfAnother(device, "the disk " + backup.disk, "the disk {} (or "
                              "--force=true, if it is a copy)".format(name))
    size = devices.size_of(device)
    noted = Store(backup.luks_uuid).load(_NOTE).get("device_size")
    if size not in (backup.device_size, noted):
        raise BackupOfAnother(device, "a disk of {} bytes".format(backup.device_size),
                              "one of {} (or --force=true, if it grew)".format(size))
    others = [kind for kind in contents.kinds(device) if kind != "crypto_LUKS"]
    if current is None and others:
        raise BackupOfAnother(device, "an encrypted disk", "one that carries {} (or --force=true, "
                              "to overwrite that)".format(", ".join(others)))


def _known_marks(luks_uuid: str, current: Any) -> Dict[str, str]:
    """The keys of the header that is on the disk, or was when it was last backed up."""
    if current is not None and current.uuid == luks_uuid:
        return _texts(current.marks)
    backups = list_of(luks_uuid)
    return backups[-1].marks if backups else {}


@contextlib.contextmanager
def _locked(luks_uuid: str) -> Any:
    with state.locked("headers-" + luks_uuid):
        yield


def _path(luks_uuid: str, serial: int) -> str:
    return os.path.join(Store(luks_uuid).folder, _FOLDER, "{}.header".format(serial))


def _serials(luks_uuid: str) -> List[int]:
    try:
        names = os.listdir(os.path.join(Store(luks_uuid).folder, _FOLDER))
    except FileNotFoundError:
        return []
    return sorted(int(match.group(1)) for match in map(_FILE.match, names) if match)


def _next_serial(luks_uuid: str, backups: List[Backup]) -> int:
    last = max([0, *_serials(luks_uuid), _minimum(luks_uuid, backups)])
    return max(last + 1, int(time.time()))


def _minimum(luks_uuid: str, backups: List[Backup]) -> int:
    """The least serial that holds no revoked key; each backup repeats it, should the note get
    lost."""
    noted = Store(luks_uuid).load(_NOTE).get("minimum")
    return max([noted if isinstance(noted, int) else 0, 0,
                *(backup.minimum for backup in backups)])


def _note(luks_uuid: str, **values: Any) -> None:
    store = Store(luks_uuid)
    store.save(_NOTE, dict(store.load(_NOTE), **values))


def _prune(luks_uuid: str, minimum: int) -> None:
    """Destroys what holds revoked keys or is older than the newest that are kept, and what a
    writer that was killed left behind."""
    intact = [backup for backup in list_of(luks_uuid) if backup.serial >= minimum]
    counted = [backup for backup in intact if backup.reason != BEFORE] or intact
    # While there are few, what a restoration overwrote may have its only copy here.
    oldest = counted[-KEPT].serial if len(counted) >= KEPT else minimum
    for serial in _serials(luks_uuid):
        if serial < oldest:
            state.destroy(_path(luks_uuid, serial))
    state.clear_temporary(os.path.join(Store(luks_uuid).folder, _FOLDER))


def _texts(marks: Dict[int, str]) -> Dict[str, str]:
    return {str(slot): mark for slot, mark in marks.items()}
