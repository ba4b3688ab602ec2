# SPDX-License-Identifier: LGPL-2.1-only
"""Takes space from an unplugged ext SR, at the end of each of its disks.

resize2fs(8) moves blocks and tables in place, so a power cut in between costs the filesystem. Here
it works on a snapshot, whose changes lie in a file of dom0 (kernel, admin-guide/device-mapper/
snapshot.rst). Only when the whole is there, and was checked, it is merged into the volume; merging
goes on after a power cut. Until its end the volume has another name: nothing finds it to mount it.
"""
import contextlib
import os
import re
import time
from typing import Iterator

from luksext import devices, ext4, lvm, state
from luksext.errors import CommandFailed, LuksError, NoRoom
from luksext.run import log, run

_HIDDEN = "-shrinking"
_CHANGES = "changes"
_MAPPING = "luksext-"
_MIB = 1 << 20

# What resize2fs changes: as much as is taken away, and the table of block groups with its copies,
# 10 MiB for each TiB. Where that is too little, it fails, and nothing was changed.
_CHANGES_LEAST = 256 * _MIB
_CHANGES_SHARE = 50000

# Seconds. What is merged is what was moved and tables: a slow disk needs minutes.
_MERGE_DEADLINE = 3600
_POLL = 0.2


def shrink(group: str, sr_uuid: str, size: int) -> None:
    """Leaves `size` bytes free at the end of each disk of `group`, whose volume is not in use.

    size: a multiple of the group's extents. Called again after an interruption, it goes on.
    Raises NoRoom where the filesystem is too full, with nothing changed.
    """
    with state.locked("shrink-" + sr_uuid):
        if lvm.has(group, sr_uuid + _HIDDEN) or any(
                _behind(disk) + disk.free * disk.extent < size
                for disk in lvm.physical_volumes(group)):
            _shrink_volume(group, sr_uuid, size)
        for disk in lvm.physical_volumes(group):
            if _behind(disk) < size:
                lvm.shrink_physical_volume(disk.path, devices.size_of(disk.path) - size)


def _behind(disk: lvm.PhysicalVolume) -> int:
    """Bytes of the disk behind what the group has of it."""
    return devices.size_of(disk.path) - disk.size


def _shrink_volume(group: str, sr_uuid: str, size: int) -> None:
    hidden = sr_uuid + _HIDDEN
    changes = os.path.join(state.Store(sr_uuid).make(), _CHANGES)
    if lvm.has(group, sr_uuid):
        found = lvm.volume(group, sr_uuid)
        wanted = found.size - size * len(lvm.physical_volumes(group))
        try:
            _make_changes(group, sr_uuid, changes, wanted)
        except BaseException:
            _take_back(group, sr_uuid, changes)
            raise
        lvm.rename(group, sr_uuid, hidden)
    _merge(group, hidden, changes)
    lvm.reduce(group, hidden, ext4.size_of(lvm.activate(group, hidden).path))
    lvm.rename(group, hidden, sr_uuid)
    state.destroy(changes)


def _make_changes(group: str, name: str, changes: str, wanted: int) -> None:
    """Writes to the file `changes` what makes the filesystem `wanted` bytes large."""
    volume = lvm.activate(group, name)
    _unmap_stale(name)
    _allocate(changes, volume.size)
    with _looped(changes) as loop, _mapped(name, volume, "snapshot", loop) as snapshot:
        ext4.check(snapshot)
        missing = ext4.least_size(snapshot) - wanted
        if missing > 0:
            raise NoRoom(volume.path, missing // _MIB + 1)
        ext4.shrink(snapshot, wanted)
        ext4.check(snapshot)
        run(["blockdev", "--flushbufs", snapshot])
    lvm.deactivate(group, name)


def _take_back(group: str, name: str, changes: str) -> None:
    """After a failure, which is the error that counts."""
    for step in (lambda: lvm.deactivate(group, name), lambda: state.destroy(changes)):
        try:
            step()
        except (LuksError, OSError) as error:
            log.error("cannot clean up: %s", error)


def _allocate(path: str, size: int) -> None:
    wanted = _CHANGES_LEAST + size // _CHANGES_SHARE
    # One that was left behind has data of VMs in it.
    with contextlib.suppress(FileNotFoundError):
        state.destroy(path)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, wanted)
        except OSError as error:
            raise NoRoom("/", wanted // _MIB) from error
        os.fsync(file.fileno())


def _merge(group: str, name: str, changes: str) -> None:
    """Writes the changes to the volume. Those that were written are no longer in the file."""
    volume = lvm.activate(group, name)
    _unmap_stale(name)
    with _looped(changes) as loop, _mapped(name, volume, "snapshot-merge", loop) as merging:
        end = time.monotonic() + _MERGE_DEADLINE
        while not _is_merged(merging):
            if time.monotonic() > end:
                raise CommandFailed("dmsetup status " + merging, 0, "the merge does not end")
            time.sleep(_POLL)


def _is_merged(mapping: str) -> bool:
    """Status: sectors that are in use, of all, and those in use by tables: equal at the end."""
    status = run(["dmsetup", "status", mapping]).stdout.decode("ascii", "replace")
    numbers = re.search(r" snapshot-merge (\d+)/\d+ (\d+)$", status.strip())
    if numbers is None:
        raise CommandFailed("dmsetup status " + mapping, 0, status.strip())
    return numbers.group(1) == numbers.group(2)


@contextlib.contextmanager
def _looped(path: str) -> Iterator[str]:
    stale = run(["losetup", "--noheadings", "--output", "NAME", "--associated", path]).stdout
    for loop in stale.decode("ascii").split():
        run(["losetup", "--detach", loop])
    loop = run(["losetup", "--find", "--show", path]).stdout.decode("ascii").strip()
    try:
        yield loop
    finally:
        run(["losetup", "--detach", loop])


@contextlib.contextmanager
def _mapped(name: str, origin: lvm.Volume, target: str, changes: str) -> Iterator[str]:
    """Within, the path of `origin` with `changes`, which are persistent, in chunks of 4 KiB."""
    mapping = _MAPPING + name
    table = "0 {} {} {} {} P 8".format(origin.size // 512, target, origin.path, changes)
    run(["dmsetup", "create", mapping, "--table", table])
    try:
        yield "/dev/mapper/" + mapping
    finally:
        _unmap(mapping)


def _unmap_stale(name: str) -> None:
    """What a program that was killed left."""
    if devices.is_mapped(_MAPPING + name):
        _unmap(_MAPPING + name)


def _unmap(mapping: str) -> None:
    run(["udevadm", "settle", "--timeout=5"], accept=(0, 1))
    run(["dmsetup", "remove", "--retry", mapping])
