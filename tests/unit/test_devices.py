# SPDX-License-Identifier: LGPL-2.1-only
"""devices: what a block device is, what it carries and who holds it, as sysfs tells."""

import pytest

from luksext import devices
from luksext.devices import Mapping
from luksext.errors import DeviceMissing, DeviceUnsuitable

LUKS_UUID = "11111111-2222-4333-8444-555555555555"
DM_UUID = "CRYPT-LUKS2-11111111222243338444555555555555-"


def test_a_link_leads_to_the_kernel_name(sysfs, tmp_path):
    node = sysfs.disk("sdb")
    link = tmp_path / "by-id"
    link.symlink_to(node)
    assert devices.kernel_name(str(link)) == devices.kernel_name(node) == "sdb"


def test_a_disk_exists(sysfs):
    devices.check_exists(sysfs.disk("sdb"))


def test_a_path_to_nothing_is_missing_and_the_error_says_how_to_list_disks(sysfs):
    with pytest.raises(DeviceMissing, match=r"/dev/nope does not exist.*lsblk.*by-id"):
        devices.check_exists("/dev/nope")


def test_a_plain_file_is_no_block_device(sysfs, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DeviceUnsuitable, match="is not a block device"):
        devices.check_exists(str(file))


def test_a_large_disk_with_512_byte_blocks_is_suitable(sysfs):
    devices.check_suitable(sysfs.disk("sdb"))


def test_a_partition_is_as_suitable_as_its_disk(sysfs):
    sysfs.disk("sdb")
    devices.check_suitable(sysfs.partition("sdb", "sdb1"))
    sysfs.disk("sdc", logical=4096)
    with pytest.raises(DeviceUnsuitable):
        devices.check_suitable(sysfs.partition("sdc", "sdc1"))


@pytest.mark.parametrize("properties, text", [
    ({"ro": 1}, "is read-only"),
    ({"size": devices.MINIMUM_SIZE - 512}, "too small: it has 127 MiB, 128 MiB are needed"),
    ({"size": 0}, "too small: it has 0 MiB"),
    ({"logical": 4096}, "logical blocks of 4096 bytes; VHD images need blocks of 512 bytes"),
])
def test_an_unsuitable_disk_is_refused_with_its_reason(sysfs, properties, text):
    node = sysfs.disk("sdb", **properties)
    with pytest.raises(DeviceUnsuitable, match=text) as refusal:
        devices.check_suitable(node)
    assert node in str(refusal.value)


def test_the_smallest_disk_is_suitable(sysfs):
    devices.check_suitable(sysfs.disk("sdb", size=devices.MINIMUM_SIZE))


def test_size_and_number_come_from_sysfs(sysfs):
    node = sysfs.disk("sdb", size=512 * 12345, number="8:16")
    assert devices.size_of(node) == 512 * 12345
    assert devices.number_of(node) == "8:16"


def test_what_a_device_lies_on_is_told_down_to_what_is_known(sysfs):
    for name in ("sdb", "sdc"):
        sysfs.disk(name)
    sysfs.mapping("dm-1", "c", DM_UUID + "c", below=["sdb"])
    sysfs.mapping("dm-2", "vg-lv_part", "LVM-x", below=["dm-1", "sdc"])
    sysfs.mapping("dm-3", "vg-lv", "LVM-y", below=["dm-2"])
    assert devices.below("dm-3", set()) == {"sdb", "sdc"}
    assert devices.below("dm-3", {"dm-1"}) == {"dm-1", "sdc"}
    assert devices.below("dm-1", {"dm-1"}) == {"dm-1"}
    assert devices.below(None, {"dm-1"}) == set()


def test_the_disk_of_a_partition_is_told(sysfs):
    disk, part = sysfs.disk("sdb"), sysfs.partition("sdb", "sdb1")
    assert devices.whole(part) == "/dev/sdb"
    assert devices.whole(disk) == disk


def test_a_block_size_that_the_kernel_does_not_tell_is_512(sysfs):
    assert devices.logical_block_size("/dev/nope") == 512


def test_holders_of_the_disk_and_of_its_partitions_are_told(sysfs):
    node = sysfs.disk("sdb")
    sysfs.partition("sdb", "sdb1")
    sysfs.mapping("dm-0", "whole", "LVM-x", below=["sdb"])
    sysfs.mapping("dm-1", "part", "LVM-y", below=["sdb1"])
    (sysfs.block / "sdb1" / "holders" / "md0").symlink_to(sysfs.block / "sdb")
    assert sorted(devices.holders(node)) == ["/dev/mapper/md0", "/dev/mapper/part",
                                             "/dev/mapper/whole"]


def test_mounts_are_holders_too(sysfs):
    with open("/proc/self/mountinfo") as table:
        number, place = [line.split()[2:5:2] for line in table][-1]
    node = sysfs.disk("sdb", number=number)
    assert "the mount " + place in devices.holders(node)


def test_a_device_that_nobody_holds_has_no_holders(sysfs):
    assert devices.holders(sysfs.disk("sdb", number="0:999999")) == []
    assert devices.holders("/dev/nope") == []


def test_the_open_container_on_a_disk_is_found_under_any_name(sysfs):
    node = sysfs.disk("sdb")
    sysfs.mapping("dm-0", "other", "LVM-x", below=["sdb"])
    assert devices.crypt_mapping_on(node) is None
    sysfs.mapping("dm-1", "my-name", DM_UUID + "my-name", below=["sdb"])
    assert devices.crypt_mapping_on(node) == Mapping("my-name", "dm-1")
    assert devices.crypt_mapping_on(node).path == "/dev/mapper/my-name"


def test_an_open_container_is_found_by_its_uuid_even_without_its_disk(sysfs):
    sysfs.disk("sdb")
    sysfs.mapping("dm-0", "vg-lv", "LVM-x")
    assert devices.crypt_mapping_of(LUKS_UUID) is None
    sysfs.mapping("dm-1", "c", DM_UUID + "c")
    assert devices.crypt_mapping_of(LUKS_UUID) == Mapping("c", "dm-1")
    assert devices.crypt_mapping_of("99999999" + LUKS_UUID[8:]) is None
    assert devices.disk_of(Mapping("c", "dm-1")) is None


def test_a_device_that_only_has_the_uuid_in_its_name_is_not_the_container(sysfs):
    sysfs.mapping("dm-1", "x", "LVM-" + DM_UUID)
    assert devices.crypt_mapping_of(LUKS_UUID) is None


def test_the_disk_under_a_mapping_is_found(sysfs):
    sysfs.disk("sdb")
    sysfs.mapping("dm-1", "c", DM_UUID + "c", below=["sdb"])
    assert devices.disk_of(Mapping("c", "dm-1")) == "/dev/sdb"


def test_helpers_of_a_reencryption_are_looked_through(sysfs):
    node = sysfs.disk("sdb")
    helper = "CRYPT-SUBDEV-11111111222243338444555555555555-c"
    sysfs.mapping("dm-1", "c-hotzone-forward", helper + "-hotzone-forward", below=["sdb"])
    sysfs.mapping("dm-2", "c-overlay", helper + "-overlay", below=["sdb", "dm-1"])
    assert devices.crypt_mapping_on(node) is None
    sysfs.mapping("dm-3", "c", DM_UUID + "c", below=["dm-2"])
    top = Mapping("c", "dm-3")
    assert devices.crypt_mapping_on(node) == devices.crypt_mapping_of(LUKS_UUID) == top
    assert devices.disk_of(top) == "/dev/sdb"


def test_a_name_is_mapped_while_device_mapper_has_it(sysfs):
    sysfs.disk("sdb")
    sysfs.mapping("dm-0", "XSLocalEXT--a-b", "LVM-x")
    assert devices.is_mapped("XSLocalEXT--a-b")
    assert not devices.is_mapped("XSLocalEXT--a")


def test_disks_and_partitions_are_candidates_in_order(sysfs):
    for name in ("sdb", "sda", "nvme0n1"):
        sysfs.disk(name)
    sysfs.partition("sda", "sda1")
    assert list(devices.candidates()) == ["/dev/nvme0n1", "/dev/sda", "/dev/sda1", "/dev/sdb"]


@pytest.mark.parametrize("name", ["loop0", "ram0", "zram0", "sr0", "fd0", "nbd0", "tda"])
def test_devices_without_content_of_their_own_are_no_candidates(sysfs, name):
    sysfs.disk(name)
    assert list(devices.candidates()) == []


def test_empty_drives_are_no_candidates(sysfs):
    sysfs.disk("sdc", size=0)
    assert list(devices.candidates()) == []


def test_of_device_mapper_only_multipath_is_a_candidate(sysfs):
    sysfs.disk("sdb")
    sysfs.mapping("dm-0", "lv", "LVM-x", below=["sdb"])
    sysfs.mapping("dm-1", "mpatha", "mpath-3600")
    sysfs.mapping("dm-2", "mpatha1", "part1-mpath-3600")
    assert list(devices.candidates()) == ["/dev/dm-1", "/dev/dm-2", "/dev/sdb"]


def test_a_multipath_map_stands_for_its_members(sysfs):
    for name in ("sdb", "sdc", "sdd"):
        sysfs.disk(name)
    sysfs.mapping("dm-1", "mpatha", "mpath-3600", below=["sdb", "sdc"])
    assert list(devices.candidates()) == ["/dev/dm-1", "/dev/sdd"]


def test_a_disk_that_was_just_pulled_is_no_candidate(sysfs):
    sysfs.disk("sdb")
    (sysfs.block / "sdc").symlink_to(sysfs.block / "gone")
    assert list(devices.candidates()) == ["/dev/sdb"]


def test_the_real_sysfs_is_understood():
    for path in devices.candidates():
        assert devices.size_of(path) > 0
        assert ":" in devices.number_of(path)
        devices.holders(path)


def test_a_disk_has_the_name_that_its_maker_gave_it_and_so_has_its_partition(sysfs):
    disk, other, nvme = sysfs.disk("sdb"), sysfs.disk("sdc"), sysfs.disk("nvme0n1")
    part = sysfs.partition("sdb", "sdb1")
    (sysfs.block / "sdb" / "device").mkdir()
    (sysfs.block / "sdb" / "device" / "wwid").write_text("t10.ATA     DISK   123 \n")
    (sysfs.block / "nvme0n1" / "wwid").write_text("eui.0025\n")
    assert devices.world_wide_name(disk) == "t10.ATA DISK 123"
    assert devices.world_wide_name(part) == "t10.ATA DISK 123"
    assert devices.world_wide_name(nvme) == "eui.0025"
    assert devices.world_wide_name(other) == ""


@pytest.mark.parametrize("names, lasting", [
    (["lvm-pv-uuid-a", "scsi-1"], "scsi-1"), (["dm-uuid-a", "md-uuid-a"], None), ([], None)])
def test_a_lasting_name_is_the_disks_own_and_not_one_of_its_content(tmp_path, monkeypatch, names,
                                                                     lasting):
    folder = tmp_path / "by-id"
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to("/dev/sdq")
    monkeypatch.setattr(devices, "_BY_ID", str(folder))
    assert devices.lasting_name("/dev/sdq") == (
        str(folder / lasting) if lasting else "/dev/sdq")
