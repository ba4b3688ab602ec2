# SPDX-License-Identifier: LGPL-2.1-only
"""Who claims a device that is to be formatted, and how to have it alone meanwhile.

The kernel grants one exclusive use of a block device, to a mount, swap, device-mapper, md or a
program that asks for it (open(2), O_EXCL). It does not count programs that just open it, as tapdisk
does for a VM to which the disk is passed, nor a second path to the same disk.
"""
import contextlib
import errno
import fcntl
import os
from typing import Iterator, List

from luksext import devices
from luksext.errors import DeviceInUse, DeviceMissing, OptionInvalid
from luksext.run import log

_PROC = "/proc"

# The partitions that the installer of XCP-ng makes for dom0 and for its backup, which is mounted
# nowhere (lvutil.py of SM, createVG, leaves the same alone).
_SYSTEM_PARTITIONS = ("1", "2")

# The types of partitions of a GPT that a host starts from: its EFI system partition, and on a BIOS
# that of GRUB, which has no filesystem and looks empty (UEFI 2.10, 5.3.3; GRUB manual, "BIOS
# installation"). Their numbers differ from one installation to the other.
_BOOT_TYPES = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "21686148-6449-6e6f-744e-656564454649")
_UDEV = "/run/udev/data"

# include/uapi/linux/fs.h
_BLKRRPART = 0x125f


def check(device: str) -> None:
    """Raises DeviceInUse where anybody has `device`, a part of it, or another path to it in use."""
    with held(device):
        users = [*loops(device), *writers(device)]
    if users:
        raise DeviceInUse(device, users)
    for path in other_paths(device):
        with held(path):
            pass


@contextlib.contextmanager
def held(device: str) -> Iterator[int]:
    """Within, nobody can mount or map `device`, which is open. Raises DeviceInUse, DeviceMissing.
    """
    with _opened(device, os.O_EXCL) as handle:
        yield handle


@contextlib.contextmanager
def named(device: str) -> Iterator[None]:
    """Within, the name of `device` leads to no other disk, should it be pulled: the kernel gives
    that of a disk away when nobody has it open any more. Raises DeviceMissing."""
    with _opened(device, 0):
        yield


@contextlib.contextmanager
def _opened(device: str, flags: int) -> Iterator[int]:
    try:
        handle = os.open(device, os.O_RDONLY | flags)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise DeviceMissing(
                "{} cannot be opened: {}.".format(device, error.strerror),
                "Check the disk with `dmesg | tail`.") from error
        users = devices.holders(device) or devices.holders(devices.whole(device))
        raise DeviceInUse(device, users) from error
    try:
        yield handle
    finally:
        os.close(handle)


def forget_partitions(handle: int) -> None:
    """Has the kernel look for partitions again on the disk that is open and held as `handle`: those
    of a table that was overwritten would stay, and look like empty disks. A partition has none."""
    try:
        fcntl.ioctl(handle, _BLKRRPART)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            log.warning("the kernel keeps the partitions that were overwritten: %s", error)


def check_not_system(device: str, system: str) -> None:
    """Raises DeviceInUse where `device` is the disk `system`, on which dom0 is installed, or one of
    its partitions that belong to dom0. Others on it are as good as any."""
    disk, number = devices.partition_of(device)
    if disk == devices.kernel_name(system) and (
            number in ("", *_SYSTEM_PARTITIONS) or _is_for_boot(device)):
        raise DeviceInUse(device, ["dom0, which is installed on " + system])


def _is_for_boot(partition: str) -> bool:
    """As udev read it from the partition table; without a note of udev's, no."""
    try:
        with open(os.path.join(_UDEV, "b" + devices.number_of(partition)),
                  encoding="utf-8", errors="replace") as note:
            lines = note.read().splitlines()
    except OSError:
        return False
    return any("E:ID_PART_ENTRY_TYPE=" + kind in lines for kind in _BOOT_TYPES)


def check_distinct(paths: List[str]) -> None:
    """Raises OptionInvalid where two of `paths` lead to one disk, to a disk and a part of it, or
    are two paths to one disk."""
    names = [devices.kernel_name(path) for path in paths]
    disks = [devices.partition_of(path)[0] for path in paths]
    twice = len(set(names)) != len(names) or any(
        name != disk and disk in names for name, disk in zip(names, disks))
    if twice or any(other in disks for path in paths
                    for other in map(devices.kernel_name, other_paths(path))):
        raise OptionInvalid("device", ",".join(paths), "disks or partitions, each once")


def other_paths(device: str) -> List[str]:
    """Nodes of the whole disks that are the same as that of `device`, as the same world-wide name
    and size tell: a disk has more than one where it is reached by more than one controller."""
    disk, _ = devices.partition_of(device)
    this = (devices.world_wide_name("/dev/" + disk), devices.size_of("/dev/" + disk))
    return [path for path in devices.whole_disks() if this[0]
            and devices.kernel_name(path) != disk
            and (devices.world_wide_name(path), devices.size_of(path)) == this]


def loops(device: str) -> List[str]:
    """Nodes of the loop devices on `device` or a part of it: an SR of the type largeblock has one.
    """
    return [loop for loop, below in devices.loops()
            if devices.partition_of(below)[0] == devices.partition_of(device)[0]]


def writers(device: str) -> List[str]:
    """The programs, other than this, that have `device`, a part of it, or the disk that it is a
    part of, open to write to it."""
    numbers = [*devices.numbers_of(device), devices.disk_number(device)]
    found = set()
    for process in filter(str.isdigit, os.listdir(_PROC)):
        if int(process) != os.getpid() and _writes(process, numbers):
            found.add("the program {} (process {})".format(_name_of(process), process))
    return sorted(found)


def _writes(process: str, numbers: List[str]) -> bool:
    folder = os.path.join(_PROC, process, "fd")
    # Processes and their files come and go meanwhile.
    with contextlib.suppress(OSError):
        for handle in os.listdir(folder):
            if _is_one_of(os.path.join(folder, handle), numbers) and _is_for_writing(
                    os.path.join(_PROC, process, "fdinfo", handle)):
                return True
    return False


def _is_one_of(handle: str, numbers: List[str]) -> bool:
    with contextlib.suppress(OSError):
        # Only devices are asked what they are: a file on a server may never answer.
        if os.readlink(handle).startswith("/dev/"):
            number = os.stat(handle).st_rdev
            return "{}:{}".format(os.major(number), os.minor(number)) in numbers
    return False


def _is_for_writing(info: str) -> bool:
    """What `flags` in fdinfo says (proc(5)): the modes of open(2), in octal."""
    with contextlib.suppress(OSError):
        with open(info, encoding="ascii") as file:
            for line in file:
                if line.startswith("flags:"):
                    return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def _name_of(process: str) -> str:
    with contextlib.suppress(OSError):
        with open(os.path.join(_PROC, process, "comm"), encoding="utf-8",
                  errors="replace") as file:
            return file.read().strip()
    return "?"
