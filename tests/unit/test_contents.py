# SPDX-License-Identifier: LGPL-2.1-only
"""contents: what a device carries is seen at its start and its end, whatever wipefs knows."""
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luksext import contents
from luksext.contents import MAGICS
from luksext.errors import DeviceNotEmpty, DeviceUnsuitable

MIB = 1 << 20
SIZE = 256 * MIB


@pytest.fixture
def device(tmp_path, programs):
    """A sparse disk of zeros on a host whose wipefs finds nothing."""
    programs.add("wipefs", "echo '# offset,uuid,label,type'")
    path = tmp_path / "sdb"
    with open(str(path), "wb") as disk:
        disk.truncate(SIZE)
    return str(path)


def write(device, offset, value):
    with open(device, "r+b") as disk:
        disk.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        disk.write(value)


def test_a_disk_without_signatures_is_empty(device, programs):
    contents.check_empty(device)
    assert programs.calls("wipefs") == [["wipefs", "-p", device]]


def test_what_wipefs_finds_is_named_once(device, programs):
    programs.add("wipefs", "printf '%s\\n' '# offset,uuid,label,type' '0x1fe,,,dos' "
                           "'0x438,u-u-i-d,a,b\\x2cc,ext4' '0x200,,,gpt' '0x1000,,,gpt'")
    with pytest.raises(DeviceNotEmpty, match=r"it carries dos, ext4, gpt. Nothing was changed"):
        contents.check_empty(device)


@pytest.mark.parametrize("magic", MAGICS, ids=lambda magic: "{}@{}".format(*magic[:2]))
def test_every_magic_is_seen_where_it_belongs(device, magic):
    write(device, magic.offset, magic.value)
    with pytest.raises(DeviceNotEmpty, match=magic.kind):
        contents.check_empty(device)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("size", [SIZE, SIZE + 512, SIZE + 65536 - 512, SIZE + 12345 * 512])
def test_raid_metadata_at_the_end_are_seen_on_disks_of_any_size(device, order, size):
    os.truncate(device, size)
    magic = 0xa92b4efc.to_bytes(4, order)
    # As mdadm computes it: MD_NEW_SIZE_SECTORS of md_p.h, and super1.c.
    old = (size // 512 & ~127) - 128
    new = (size // 512 - 16) & ~7
    for sector in (old, new):
        write(device, 512 * sector, magic)
        assert contents.kinds(device) == ["linux_raid_member"]
        write(device, 512 * sector, bytes(4))
    assert contents.kinds(device) == []


@pytest.mark.parametrize("size", [SIZE, SIZE + 512, SIZE + 262144 - 512])
@pytest.mark.parametrize("label", range(4))
def test_each_label_of_a_zfs_pool_is_seen(device, size, label):
    os.truncate(device, size)
    place = 262144 * label if label < 2 else size // 262144 * 262144 - 262144 * (4 - label)
    write(device, place + 16384 + 100, b"\0\0\0\x09pool_guid")
    assert contents.kinds(device) == ["zfs_member"]


def test_the_end_is_that_of_a_disk_smaller_than_what_is_looked_at(device):
    os.truncate(device, 8192)
    write(device, 8192 - 512, b"EFI PART")
    assert contents.kinds(device) == ["gpt"]


@given(size=st.integers(0, 3000))
def test_a_device_without_room_for_anything_is_empty(tmp_path_factory, size):
    path = tmp_path_factory.getbasetemp() / "tiny"
    path.write_bytes(bytes(size))
    assert list(contents._by_own_look(str(path))) == []


def test_a_device_that_cannot_be_read_is_not_empty(device):
    os.unlink(device)
    with pytest.raises(DeviceUnsuitable, match="cannot be read: No such file"):
        contents.check_empty(device)
