# SPDX-License-Identifier: LGPL-2.1-only
"""Block devices: what they are, and who holds them.

Facts come from sysfs (Documentation/ABI/testing/sysfs-block), so that asking costs no program and
waits for no udev.
"""
import contextlib
import os
from typing import Iterator, List, NamedTuple, Optional, Set, Tuple

from luksext.errors import DeviceMissing, DeviceUnsuitable

# Bytes. VHD writes in such units, and LUKS1 knows no others.
SECTOR = 512

# EXTSR needs an LVM physical volume with 10 MiB of metadata and an ext4 in it, above 16 MiB of
# LUKS header: anything smaller could not hold one VDI.
MINIMUM_SIZE = 128 * 1024 * 1024

_SYSFS = "/sys/class/block"
_BY_ID = "/dev/disk/by-id"

# As udev's rules make them (60-persistent-storage-dm, 64-md-raid-arrays, 69-dm-lvm).
_NAMED_BY_CONTENT = ("lvm-pv-uuid-", "dm-", "md-")


class Mapping(NamedTuple):
    """An open dm-crypt mapping: its name, and its kernel name (`dm-3`)."""

    name: str
    kernel_name: str

    @property
    def path(self) -> str:
        """The node that it is used by."""
        return "/dev/mapper/" + self.name


def kernel_name(device: str) -> str:
    """`sdb` for any path that leads to /dev/sdb."""
    return os.path.basename(os.path.realpath(device))


def check_exists(device: str) -> None:
    """Raises DeviceMissing or DeviceUnsuitable unless `device` is a block device."""
    if not os.path.exists(device):
        raise DeviceMissing(
            "The device {} does not exist on this host.".format(device),
            "List the disks with `lsblk -o NAME,SIZE,FSTYPE,SERIAL` and name one by "
            "device-config:device, best by its /dev/disk/by-id path.")
    if not os.path.isdir(os.path.join(_SYSFS, kernel_name(device))):
        raise DeviceUnsuitable(
            "{} is not a block device.".format(device),
            "Name a disk or partition: `lsblk` lists them.")


def check_suitable(device: str) -> None:
    """Raises DeviceUnsuitable where `device` cannot carry an SR, whatever is on it."""
    if _attribute(device, "ro") == "1":
        raise DeviceUnsuitable(
            "{} is read-only.".format(device), "Unlock its write protection, or use another.")
    size = size_of(device)
    if size < MINIMUM_SIZE:
        raise DeviceUnsuitable(
            "{} is too small: it has {} MiB, {} MiB are needed.".format(
                device, size >> 20, MINIMUM_SIZE >> 20),
            "Name a larger disk or partition.")
    logical = logical_block_size(device)
    if logical != SECTOR:
        raise DeviceUnsuitable(
            "{} has logical blocks of {} bytes; VHD images need blocks of {} bytes.".format(
                device, logical, SECTOR),
            "Many disks can be reformatted to 512-byte blocks (`nvme format`, `sg_format`); "
            "else use another disk.")


def disk_number(device: str) -> str:
    """`major:minor` of the disk that `device` is, or is a partition of."""
    name = kernel_name(device)
    return _read(os.path.join(_SYSFS, _parent(name), "dev")) or number_of(device)


def size_of(device: str) -> int:
    """Size of `device` in bytes, 0 when it is gone. sysfs counts in units of 512 bytes."""
    return 512 * int(_attribute(device, "size") or 0)


def logical_block_size(device: str) -> int:
    """The smallest unit of I/O of `device` in bytes."""
    name = kernel_name(device)
    for directory in (name, _parent(name)):
        value = _read(os.path.join(_SYSFS, directory, "queue/logical_block_size"))
        if value:
            return int(value)
    return SECTOR


def number_of(device: str) -> str:
    """`major:minor` of `device`, as device-mapper tables name it."""
    return _attribute(device, "dev")


def numbers_of(device: str) -> List[str]:
    """`major:minor` of `device` and of its partitions."""
    name = kernel_name(device)
    return [number_of(part) for part in [name, *_partitions(name)]]


def partitions(device: str) -> List[str]:
    """Paths of the partitions of `device`."""
    return ["/dev/" + name for name in _partitions(kernel_name(device))]


def partition_of(device: str) -> Tuple[str, str]:
    """The kernel name of the disk that `device` is on, and the number of the partition that it is;
    for a whole disk, itself and ""."""
    name = kernel_name(device)
    number = _read(os.path.join(_SYSFS, name, "partition"))
    return (_parent(name), number) if number else (name, "")


def whole(device: str) -> str:
    """The path of the disk that `device` is a partition of; for a whole disk, itself."""
    disk, partition = partition_of(device)
    return "/dev/" + disk if partition else device


def world_wide_name(device: str) -> str:
    """What the maker of the disk calls it, or of the disk that a partition is on; "" if unknown."""
    name = kernel_name(device)
    for disk in (name, _parent(name)):
        for attribute in ("wwid", "device/wwid"):
            value = _read(os.path.join(_SYSFS, disk, attribute))
            if value:
                return " ".join(value.split())
    return ""


def holders(device: str) -> List[str]:
    """Who holds `device` or a partition of it, in words for an administrator."""
    name = kernel_name(device)
    found = []
    for part in [name, *_partitions(name)]:
        found += ["/dev/mapper/" + (_read(os.path.join(_SYSFS, holder, "dm/name")) or holder)
                  for holder in _listdir(os.path.join(_SYSFS, part, "holders"))]
        found += ["the mount " + place for place in _mounts(number_of(part))]
    return found


def crypt_mapping_on(device: str) -> Optional[Mapping]:
    """The open LUKS mapping whose disk is `device`, under whatever name it was opened.

    While cryptsetup encrypts anew, it has devices of its own in between (see `is_helper`).
    """
    for holder in _listdir(os.path.join(_SYSFS, kernel_name(device), "holders")):
        if _dm_uuid(holder).startswith("CRYPT-LUKS"):
            return Mapping(_read(os.path.join(_SYSFS, holder, "dm/name")), holder)
        above = crypt_mapping_on(holder) if is_helper(holder) else None
        if above is not None:
            return above
    return None


def crypt_mapping_at(path: str) -> Optional[Mapping]:
    """The open LUKS mapping that `path` leads to; None where it is something else."""
    name = kernel_name(path)
    if _read(os.path.join(_SYSFS, name, "dm/uuid")).startswith("CRYPT-LUKS"):
        return Mapping(_read(os.path.join(_SYSFS, name, "dm/name")), name)
    return None


def crypt_mapping_of(luks_uuid: str) -> Optional[Mapping]:
    """The open mapping of the container `luks_uuid`, even when its disk is gone.

    cryptsetup names it CRYPT-LUKS<version>-<UUID without dashes>-<name> (lib/libdevmapper.c).
    """
    wanted = "-{}-".format(luks_uuid.replace("-", ""))
    for name in _mapped():
        uuid = _dm_uuid(name)
        if uuid.startswith("CRYPT-LUKS") and wanted in uuid:
            return Mapping(_read(os.path.join(_SYSFS, name, "dm/name")), name)
    return None


def disk_of(mapping: Mapping) -> Optional[str]:
    """The device under `mapping`, None when it was pulled."""
    for slave in _listdir(os.path.join(_SYSFS, mapping.kernel_name, "slaves")):
        disk = disk_of(Mapping("", slave)) if is_helper(slave) else "/dev/" + slave
        if disk is not None:
            return disk
    return None


def is_helper(name: str) -> bool:
    """Whether the device of kernel name `name` is one that cryptsetup puts below a mapping while
    it encrypts anew (lib/luks2/luks2_reencrypt.c)."""
    return _dm_uuid(name).startswith("CRYPT-SUBDEV-")


def named(name: str) -> Optional[str]:
    """The kernel name of the device that device-mapper has active under `name`."""
    for entry in _mapped():
        if _read(os.path.join(_SYSFS, entry, "dm/name")) == name:
            return entry
    return None


def below(name: Optional[str], known: Set[str]) -> Set[str]:
    """The kernel names of all that the device `name` lies on, down to disks or to those that are
    `known`; empty where there is no such device."""
    if name is None or name in known:
        return {name} if name else set()
    slaves = _listdir(os.path.join(_SYSFS, name, "slaves"))
    return set().union(*(below(slave, known) for slave in slaves)) if slaves else {name}


def mount_of(number: str) -> Optional[str]:
    """Where the device `major:minor` itself is mounted, None where it is not."""
    return next(iter(_mounts(number)), None)


def rescan(device: str) -> None:
    """Has the kernel ask a SCSI disk for its size again, which it else does at a reboot.

    Other kinds of disks, and partitions, have no such switch (scsi_sysfs.c) and need none.
    """
    with contextlib.suppress(OSError):
        with open(os.path.join(_SYSFS, kernel_name(device), "device/rescan"), "w",
                  encoding="ascii") as switch:
            switch.write("1")


def lasting_name(device: str) -> str:
    """The /dev/disk/by-id name of `device`, which stays when disks are renumbered; else itself.

    A name that comes from what is on the disk goes with it, so it is none.
    """
    links = [os.path.join(_BY_ID, link) for link in sorted(_listdir(_BY_ID))
             if not link.startswith(_NAMED_BY_CONTENT)]
    return next((link for link in links if kernel_name(link) == kernel_name(device)), device)


def lasts(name: str) -> bool:
    """Whether `name`, of `lasting_name`, stays."""
    return name.startswith(_BY_ID + "/")


def whole_disks() -> Iterator[str]:
    """Paths of all disks: no partitions, nothing that the kernel makes of other devices, and not
    the paths to one NVMe disk that the kernel hides behind it."""
    for name in sorted(_listdir(_SYSFS)):
        if os.path.exists(os.path.join(_SYSFS, name, "device")) \
                and _read(os.path.join(_SYSFS, name, "hidden")) != "1":
            yield "/dev/" + name


def loops() -> Iterator[Tuple[str, str]]:
    """The active loop devices: the path of each, and of what it is on."""
    for name in sorted(_listdir(_SYSFS)):
        below = _read(os.path.join(_SYSFS, name, "loop/backing_file"))
        if below:
            yield "/dev/" + name, below


def is_mapped(name: str) -> bool:
    """Whether device-mapper has an active device of that name."""
    return named(name) is not None


def candidates() -> Iterator[str]:
    """Paths of all devices that may carry a container: disks, partitions, multipath maps.

    Left out: devices without content of their own (loop, ram, optical …), device-mapper devices
    other than multipath, and the members of a multipath map, for which the map stands.
    """
    for name in sorted(_listdir(_SYSFS)):
        if name.startswith(("loop", "ram", "zram", "sr", "fd", "nbd", "td")):
            continue
        if name.startswith("dm-"):
            if _is_multipath(name):
                yield "/dev/" + name
        elif size_of(name) and not any(map(_is_multipath, _listdir(
                os.path.join(_SYSFS, name, "holders")))):
            yield "/dev/" + name


def _mapped() -> List[str]:
    """The kernel names of all devices of device-mapper (drivers/md/dm.c)."""
    return [name for name in _listdir(_SYSFS) if name.startswith("dm-")]


def _dm_uuid(name: str) -> str:
    return _read(os.path.join(_SYSFS, name, "dm/uuid"))


def _is_multipath(name: str) -> bool:
    uuid = _dm_uuid(name)
    return uuid.startswith("mpath-") or "-mpath-" in uuid


def _attribute(device: str, name: str) -> str:
    return _read(os.path.join(_SYSFS, kernel_name(device), name))


def _parent(name: str) -> str:
    return os.path.basename(os.path.dirname(os.path.realpath(os.path.join(_SYSFS, name))))


def _partitions(name: str) -> List[str]:
    return [entry for entry in _listdir(os.path.join(_SYSFS, name))
            if os.path.exists(os.path.join(_SYSFS, name, entry, "partition"))]


def _mounts(number: str) -> List[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        fields = [line.split() for line in table]
    return [field[4] for field in fields if field[2] == number]


def _listdir(path: str) -> List[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(path)
    return []


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        with open(path, encoding="utf-8", errors="replace") as attribute:
            return attribute.read().strip()
    return ""
