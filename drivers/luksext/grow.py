# SPDX-License-Identifier: LGPL-2.1-only
"""Grows what lies on a disk that grew: container, physical volume, volume, filesystem, all in use.

From the disk upwards, so that each part finds the room it grows into. A part that has its size is
left alone: what a kill interrupted, the next call completes, and in between nothing is different
for who uses the SR (dm-crypt takes the whole disk at each open anyway).
"""
from typing import List, NamedTuple

from luksext import cryptsetup, devices, ext4, lvm
from luksext.container import LuksContainer
from luksext.errors import DiskShrank, NotPlugged
from luksext.keyslots import Way
from luksext.run import require


class Sizes(NamedTuple):
    """What each part offers to the next, in bytes."""

    disk: int
    container: int
    volume: int
    filesystem: int


class Growth(NamedTuple):
    """The sizes before and after."""

    before: Sizes
    after: Sizes


def grow(container: LuksContainer, way: Way, group: str, volume: str) -> Growth:
    """Gives all of its disk to `container`, and what `group` has then to `volume` and its ext4.

    Called once for each disk of the SR; a striped volume grows when the last of them has grown.
    way: into the container; LUKS2 asks for a key to change the size of an open mapping.

    Raises ReencryptionUnfinished, NotPlugged, DiskShrank before anything is changed; ToolMissing,
    CommandFailed.
    """
    require("cryptsetup", "pvresize", "lvextend", "resize2fs", "dumpe2fs")
    container.refreshed().check_steady()
    devices.rescan(container.device)
    before = sizes(container, group, volume)
    _check(container, group, volume, before)
    _grow_container(container, way)
    _grow_volume(group, volume)
    return Growth(before, sizes(container, group, volume))


def sizes(container: LuksContainer, group: str, volume: str) -> Sizes:
    """The sizes as they are now. Raises NotPlugged where the container is closed."""
    mapping = container.mapping
    if mapping is None:
        raise NotPlugged(container.device, "its container is closed")
    found = lvm.volume(group, volume)
    return Sizes(devices.size_of(container.device), devices.size_of(mapping.kernel_name),
                 found.size, ext4.size_of(found.path))


def _check(container: LuksContainer, group: str, volume: str, now: Sizes) -> None:
    if devices.mount_of(lvm.volume(group, volume).number) is None:
        raise NotPlugged(container.device, "its filesystem is not mounted")
    if now.container > _available(container):
        raise DiskShrank(container.device, now.container, _available(container))


def _available(container: LuksContainer) -> int:
    whole = devices.size_of(container.device) - container.header.payload_offset
    return whole - whole % devices.SECTOR


def _grow_container(container: LuksContainer, way: Way) -> None:
    mapping = container.mapping
    assert mapping is not None
    if devices.size_of(mapping.kernel_name) < _available(container):
        cryptsetup.resize(mapping.name, way.key)
    lvm.resize_physical_volume(mapping.path)


def _grow_volume(group: str, name: str) -> None:
    found = lvm.volume(group, name)
    extents = _extents_to_add(lvm.physical_volumes(group), found.stripes)
    if extents:
        lvm.extend(found.path, extents)
    ext4.grow(found.path)


def _extents_to_add(disks: List[lvm.PhysicalVolume], stripes: int) -> int:
    """All that is free; of a striped volume as much as is free on each of its disks."""
    if stripes == 1:
        return sum(disk.free for disk in disks)
    return stripes * min(disk.free for disk in disks)
