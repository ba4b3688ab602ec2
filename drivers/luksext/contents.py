# SPDX-License-Identifier: LGPL-2.1-only
"""What a device carries: by wipefs, and by a look of our own at its start and its end.

The wipefs of an old host does not know what came later, and some kinds it takes for damaged where
another program would still find data. Nothing here writes, and nothing is believed to be empty
because one of the two does not know it.
"""
import os
from typing import Iterator, List, NamedTuple, Tuple

from luksext.errors import DeviceNotEmpty, DeviceUnsuitable
from luksext.run import run

_MIB = 1 << 20


class Magic(NamedTuple):
    """What tells a kind of content: `value` at `offset` bytes from the start, or, where that is
    negative, from the end."""

    kind: str
    offset: int
    value: bytes


# Names as wipefs has them. Layouts: LUKS and LUKS2 On-Disk Format Specifications; UEFI 2.10, 5.3.2;
# md(4) and include/uapi/linux/raid/md_p.h; LVM2's lib/format_text/layout.h; SNIA DDF 2.0; and the
# magic numbers that util-linux keeps in libblkid/src/superblocks.
MAGICS = (
    Magic("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    *(Magic("crypto_LUKS", 0x4000 << n, b"SKUL\xba\xbe") for n in range(9)),
    Magic("dos", 510, b"\x55\xaa"),
    Magic("gpt", 512, b"EFI PART"),
    Magic("gpt", 4096, b"EFI PART"),
    Magic("gpt", -512, b"EFI PART"),
    Magic("gpt", -4096, b"EFI PART"),
    *(Magic("LVM2_member", 512 * n, b"LABELONE") for n in range(4)),
    Magic("linux_raid_member", 0, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    Magic("linux_raid_member", 4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    Magic("ddf_raid_member", -512, b"\xde\x11\xde\x11"),
    Magic("isw_raid_member", -1024, b"Intel Raid ISM Cfg. Sig."),
    Magic("drbd", -4096 + 60, b"\x83\x74\x02\x6b"),
    Magic("drbd", -4096 + 60, b"\x83\x74\x02\x6d"),
    Magic("ext4", 1024 + 56, b"\x53\xef"),
    Magic("xfs", 0, b"XFSB"),
    Magic("btrfs", 0x10000 + 64, b"_BHRfS_M"),
    Magic("bcache", 4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    Magic("bcachefs", 4096 + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    Magic("swap", 4096 - 10, b"SWAPSPACE2"),
    Magic("swap", 4096 - 10, b"SWAP-SPACE"),
    Magic("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    Magic("ReFS", 3, b"ReFS\0\0\0\0"),
    Magic("BitLocker", 3, b"-FVE-FS-"),
    Magic("apfs", 32, b"NXSB"),
    Magic("hfsplus", 1024, b"H+"),
    Magic("iso9660", 0x8001, b"CD001"),
    Magic("jfs", 0x8000, b"JFS1"),
    Magic("ocfs2", 8192, b"OCFSV2"),
    Magic("gfs2", 0x10000, b"\x01\x16\x19\x70"),
    Magic("vdo", 0, b"dmvdo001"),
    Magic("stratis", 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    Magic("VMFS_volume_member", _MIB, b"\x0d\xd0\x01\xc0"),
    Magic("ceph_bluestore", 0, b"bluestore block device"),
    Magic("VHD image", 0, b"conectix"),
    Magic("VHD image", -512, b"conectix"),
    Magic("QCOW2 image", 0, b"QFI\xfb"),
)

# How much of the start and of the end is looked at.
_START = 8 * _MIB
_END = _MIB

# A pool of ZFS has four copies of its label, of 256 KiB each: two at the start and two at the end
# of as much of the device as is a multiple of that (ZFS On-Disk Specification, section 1.2). A list
# of names and values in it tells of the pool.
_ZFS_LABEL = 256 * 1024
_ZFS_NAME = b"pool_guid"


def check_empty(device: str) -> None:
    """Raises DeviceNotEmpty where `device` carries anything that is known, DeviceUnsuitable where
    it cannot be read."""
    found = kinds(device)
    if found:
        raise DeviceNotEmpty(device, found)


def kinds(device: str) -> List[str]:
    """What is on `device`, such as ext4, LVM2_member, gpt."""
    return sorted({*_by_wipefs(device), *_by_own_look(device)})


def _by_wipefs(device: str) -> Iterator[str]:
    # `wipefs -p` prints offset,uuid,label,type; a line that starts with # is its heading.
    output = run(["wipefs", "-p", device]).stdout.decode("utf-8", "replace")
    for line in output.splitlines():
        if line and not line.startswith("#"):
            yield line.rsplit(",", 1)[-1]


def _by_own_look(device: str) -> Iterator[str]:
    size, start, end = _ends_of(device)
    for magic in MAGICS:
        place = magic.offset if magic.offset >= 0 else len(end) + magic.offset
        area = start if magic.offset >= 0 else end
        if place >= 0 and area[place:place + len(magic.value)] == magic.value:
            yield magic.kind
    if any(_is_raid(end, len(end) - size + place) for place in _raid_places(size)):
        yield "linux_raid_member"
    if any(_ZFS_NAME in label for label in _zfs_labels(start, end, size)):
        yield "zfs_member"


def _ends_of(device: str) -> Tuple[int, bytes, bytes]:
    """The size of `device` in bytes, its start and its end."""
    try:
        with open(device, "rb") as disk:
            size = disk.seek(0, os.SEEK_END)
            disk.seek(0)
            start = disk.read(_START)
            disk.seek(max(0, size - _END))
            return size, start, disk.read(_END)
    except OSError as error:
        raise DeviceUnsuitable(
            "{} cannot be read: {}.".format(device, error.strerror),
            "Look at the disk with `dmesg | tail`, or use another.") from error


def _raid_places(size: int) -> List[int]:
    """Where an md superblock at the end would be: of version 0.90, which has the byte order of its
    host, and of 1.0 (md_p.h, MD_NEW_SIZE_SECTORS; md.c, super_1_load)."""
    return [size // 65536 * 65536 - 65536, (size // 512 - 16) // 8 * 8 * 512]


def _is_raid(end: bytes, place: int) -> bool:
    return place >= 0 and end[place:place + 4] in (b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc")


def _zfs_labels(start: bytes, end: bytes, size: int) -> List[bytes]:
    last = len(end) - size % _ZFS_LABEL
    return [start[:2 * _ZFS_LABEL], end[max(0, last - 2 * _ZFS_LABEL):last]]
