# SPDX-License-Identifier: LGPL-2.1-only
"""LVM of an ext SR: which volume group lies on a device, how large its parts are, and growing them.

The ext driver makes one group `XSLocalEXT-<SR UUID>` with one volume `<SR UUID>`, striped where the
SR has several disks.
"""
import re
from typing import List, NamedTuple, Optional, Sequence

from luksext import devices
from luksext.devices import Mapping
from luksext.errors import CommandFailed, ToolBroken
from luksext.run import log, run

GROUP_PREFIX = "XSLocalEXT-"

_SR_GROUP = re.compile(
    GROUP_PREFIX + r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")

# SM's lvm.conf may say that only the SR's master writes metadata (lvutil.py); this host has the SR.
_WRITABLE = ["--config", "global{metadata_read_only=0}"]

_DEADLINE = 120

# The status for a group that is not there, and for what cannot be removed, which then keeps its
# disks in use (lvm(8), EXIT STATUS; as LVM's own scripts ask).
_ABSENT = 5

_NUMBER = re.compile(r"[0-9]{1,18}\Z")


class Volume(NamedTuple):
    """A logical volume: its device and the number of that as `major:minor`, -1:-1 while it is not
    active; its size in bytes, and over how many disks it is striped."""

    path: str
    number: str
    size: int
    stripes: int


class PhysicalVolume(NamedTuple):
    """A disk of a group: its device, its size and what is free of it, in extents; the bytes of an
    extent, and those from the disk's start that the group has."""

    path: str
    extents: int
    free: int
    extent: int
    size: int


def sr_group_on(device: str) -> Optional[str]:
    """The group of an ext SR that `device` belongs to; None for anything else."""
    try:
        output = run(["pvs", "--noheadings", "-o", "vg_name", device]).stdout
    except CommandFailed:
        return None
    name = output.decode("utf-8", "replace").strip()
    return name if sr_of(name) else None


def sr_of(group: str) -> Optional[str]:
    """The UUID of the SR whose group that is, None where it is not an SR's."""
    match = _SR_GROUP.match(group)
    return match.group(1) if match else None


def physical_volumes(group: str) -> List[PhysicalVolume]:
    """The disks of `group`; one that is missing has the path `[unknown]`. Raises ToolBroken."""
    lines = _report("vgs", "pv_name,pv_pe_count,pv_pe_alloc_count,pe_start,vg_extent_size", group)
    return [_physical_volume(path, *map(_number, numbers)) for path, *numbers in lines]


def _physical_volume(path: str, count: int, allocated: int, start: int,
                     extent: int) -> PhysicalVolume:
    return PhysicalVolume(path, count, count - allocated, extent, start + count * extent)


def volume(group: str, name: str) -> Volume:
    """The logical volume `name` of `group`. One that was extended has several segments.
    Raises ToolBroken."""
    lines = _report("lvs", "lv_path,lv_kernel_major,lv_kernel_minor,lv_size,stripes",
                    "{}/{}".format(group, name), "--segments")
    path, major, minor, size = lines[0][:4]
    return Volume(path, "{}:{}".format(major, minor), _number(size),
                  max(_number(line[4]) for line in lines))


def resize_physical_volume(device: str) -> None:
    """Lets the group use all of `device`. A device that did not grow is left as it is."""
    run(["pvresize", *_WRITABLE, device], deadline=_DEADLINE)


def extend(path: str, extents: int) -> None:
    """Adds `extents` to the volume `path`, which stays in use."""
    run(["lvextend", *_WRITABLE, "-l", "+{}".format(extents), path], deadline=_DEADLINE)


def has(group: str, name: str) -> bool:
    """Whether `group` has a volume of that name."""
    return [name] in _report("lvs", "lv_name", group)


def activate(group: str, name: str) -> Volume:
    """Makes the volume `name` of `group` accessible."""
    run(["lvchange", *_WRITABLE, "-ay", "{}/{}".format(group, name)], deadline=_DEADLINE)
    run(["udevadm", "settle", "--timeout=10"], accept=(0, 1))
    return volume(group, name)


def deactivate(group: str, name: str) -> None:
    """Takes the device of the volume `name` of `group` away."""
    run(["lvchange", *_WRITABLE, "-an", "{}/{}".format(group, name)], deadline=_DEADLINE)


def rename(group: str, name: str, new: str) -> None:
    """Gives the volume `name` of `group` another name, in one step."""
    run(["lvrename", *_WRITABLE, group, name, new], deadline=_DEADLINE)


def reduce(group: str, name: str, size: int) -> None:
    """Takes what is behind `size` bytes from the volume `name` of `group`; the data there are lost.

    A volume that has that size already is left as it is.
    """
    if volume(group, name).size > size:
        run(["lvreduce", *_WRITABLE, "--force", "--yes", "--size", "{}b".format(size),
             "{}/{}".format(group, name)], deadline=_DEADLINE)


def shrink_physical_volume(device: str, size: int) -> None:
    """Lets the group use only the first `size` bytes of `device`; lvm refuses to give up what is
    taken."""
    run(["pvresize", *_WRITABLE, "--yes", "--setphysicalvolumesize", "{}b".format(size), device],
        deadline=_DEADLINE)


def deactivate_all(group: str) -> None:
    """Takes the devices of all volumes of `group` away, so that its disks are free."""
    run(["vgchange", *_WRITABLE, "-an", group], deadline=_DEADLINE)


def remove_group(group: str, mappings: Sequence[Mapping]) -> None:
    """Removes `group` with its volumes, where all its disks are `mappings`: a copy of one that was
    made elsewhere has the same name. Where there is none, nothing happens."""
    try:
        disks = {devices.kernel_name(disk.path) for disk in physical_volumes(group)}
    except CommandFailed as error:
        if error.status != _ABSENT:
            raise
        return
    foreign = disks - {mapping.kernel_name for mapping in mappings}
    if foreign:
        log.warning("%s is not removed, since it lies on %s", group, ", ".join(sorted(foreign)))
        return
    run(["vgremove", *_WRITABLE, "--force", group], deadline=_DEADLINE, accept=(0, _ABSENT))


def drop(name: str) -> None:
    """Takes the volume that device-mapper calls `name` out of the kernel, without LVM. Whatever
    has it open keeps it there: raises CommandFailed."""
    run(["dmsetup", "remove", name])


def _number(text: str) -> int:
    if not _NUMBER.match(text):
        raise ToolBroken("lvm", text)
    return int(text)


def _report(command: str, fields: str, subject: str, *options: str) -> List[List[str]]:
    output = run([command, "--noheadings", "--nosuffix", "--units", "b", "--separator", "|",
                  "-o", fields, *options, subject]).stdout.decode("utf-8", "replace")
    lines = [line.strip().split("|") for line in output.splitlines() if line.strip()]
    if not lines or any(len(line) != fields.count(",") + 1 for line in lines):
        raise ToolBroken("{} {}".format(command, subject), output)
    return lines
