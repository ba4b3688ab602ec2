# SPDX-License-Identifier: LGPL-2.1-only
"""What sr-create refuses, with what words, and that it then changed nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.lab.disks import Disk
from tests.storage.conftest import real_sm
from tests.storage.pool import NOTHING, Host, XeError

# Each makes something on a disk that sr-create must not overwrite unasked.
CONTENTS = {
    "ext4": "mkfs.ext4 -q {0}",
    "lvm2_member": "pvcreate -q {0}",
    # udev would assemble the array again as soon as it is stopped.
    "linux_raid_member": "echo AUTO -all > /etc/mdadm/mdadm.conf; "
                         "mdadm --create /dev/md7 --run --level=1 --raid-devices=2 {0} missing && "
                         "udevadm settle && mdadm --stop /dev/md7",
    "gpt": "echo 'size=64M' | sfdisk -q --label gpt {0}",
    "dos": "echo 'size=64M' | sfdisk -q --label dos {0}",
    "crypto_LUKS": "echo -n some-passphrase | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 "
                   "--pbkdf-force-iterations 1000 --key-file - {0}",
    "swap": "mkswap -q {0}",
    # What an old wipefs does not know, or takes for damaged.
    "linux_raid_member-at the end":
        "echo AUTO -all > /etc/mdadm/mdadm.conf; "
        "mdadm --create /dev/md8 --run --level=1 --metadata=1.0 --raid-devices=2 {0} missing && "
        "udevadm settle && mdadm --stop /dev/md8",
    "zfs_member": "printf '\\0\\0\\0\\011pool_guid' | dd of={0} bs=1 seek=20000",
    "zfs_member-last label": "printf '\\0\\0\\0\\011pool_guid' | dd of={0} bs=1 seek=268193312",
    "xfs": "printf XFSB | dd of={0} bs=1",
    "btrfs": "printf _BHRfS_M | dd of={0} bs=1 seek=65600",
    "drbd": "printf '\\203\\164\\002\\153' | dd of={0} bs=1 seek=268431420",
    "gpt-backup": "echo 'size=64M' | sfdisk -q --label gpt {0} && "
                  "dd if=/dev/zero of={0} bs=1M count=1 conv=notrunc status=none",
}


def refuse(host: Host, *disks: Disk, **options: str) -> XeError:
    """The error of sr-create, after a check that it left nothing behind."""
    before = [host.fingerprint(disk) for disk in disks]
    with pytest.raises(XeError) as caught:
        host.create_sr(*disks, **options)
    assert [host.fingerprint(disk) for disk in disks] == before, "a refused disk was changed"
    assert host.left_open() == NOTHING
    assert host.xe("sr-list", type="luksext", minimal=True) == ""
    return caught.value


def test_missing_device_is_answered_exactly_as_ext_does(host: Host) -> None:
    for sr_type in ("luksext", "ext"):
        with pytest.raises(XeError) as caught:
            host.xe("sr-create", type=sr_type, name_label="x", host_uuid=host.uuid)
        assert caught.value.text.strip() == (
            "Error code: SR_BACKEND_FAILURE_90\n"
            "Error parameters: , The request is missing the device parameter,")


# Of these, the unit tests of contents.py and the fault campaign are enough for `make test`.
RARE = ("zfs_member-last label", "xfs", "btrfs", "drbd")


@pytest.mark.parametrize("content", [
    pytest.param(content, marks=[pytest.mark.slow] * (content in RARE)) for content in CONTENTS])
def test_a_device_that_carries_something(host: Host, disk: Disk, content: str) -> None:
    host.sh(CONTENTS[content].format(disk.by_id))
    error = refuse(host, disk)
    assert error.code == 6213
    assert content.split("-")[0].lower() in error.text.lower(), error.text
    assert disk.by_id in error.text
    assert "force=true" in error.text


def test_force_overwrites_what_is_there(host: Host, disk: Disk) -> None:
    host.sh(f"mkfs.ext4 -q {disk.by_id}")
    sr = host.create_unbound_sr(disk, force="true")
    assert sr.attached
    sr.destroy()


def test_an_encrypted_sr_is_refused_even_by_force(host: Host, disk: Disk,
                                                  luks_version: str) -> None:
    sr = host.create_unbound_sr(disk, luks_version=luks_version)
    with pytest.raises(XeError) as caught:
        host.create_sr(disk, force="true")
    assert caught.value.code == 6212
    assert sr.attached
    sr.forget()
    error = refuse(host, disk, force="true")
    assert error.code == 6214
    assert sr.uuid in error.text
    assert "sr-introduce" in error.text


@pytest.mark.slow
def test_a_luks1_disk_of_an_sr_is_known_without_luksmeta(host: Host, disk: Disk) -> None:
    sr = host.create_unbound_sr(disk, luks_version="1")
    sr.forget()
    path = host.sh("command -v luksmeta").strip()
    host.sh(f"mv {path} /run/luksmeta")
    try:
        error = refuse(host, disk, force="true")
    finally:
        host.sh(f"mv /run/luksmeta {path}")
    assert error.code == 6214
    assert sr.uuid in error.text


@pytest.mark.slow
def test_partitions_that_were_overwritten_are_gone(host: Host, disk: Disk) -> None:
    partitions = f"ls -d /sys/class/block/$(basename $(readlink -f {disk.by_id}))/*/partition"
    host.sh(f"echo 'size=64M' | sfdisk -q --label gpt {disk.by_id} && udevadm settle && "
            f"{partitions}")
    sr = host.create_unbound_sr(disk, force="true")
    assert host.sh(f"{partitions} 2>/dev/null || true") == ""
    sr.destroy()


def test_a_mounted_device_is_refused_even_by_force(host: Host, disk: Disk) -> None:
    host.sh(f"mkfs.ext4 -q {disk.by_id} && mount {disk.by_id} /mnt")
    with pytest.raises(XeError) as caught:
        host.create_sr(disk, force="true")
    host.sh("umount /mnt")
    assert caught.value.code == 6212
    assert "/mnt" in caught.value.text


# A multipath map with one path to a disk, as multipathd makes it.
MULTIPATH = ("modprobe -a dm-multipath dm-round-robin && echo 0 $(blockdev --getsz {0}) multipath "
             "0 0 1 1 round-robin 0 1 1 {0} 1000 | dmsetup create mpatha --uuid mpath-lab")

# Each has a disk in use for as long as a test; what ends that; and what the error names.
USES = {
    "swap": ("mkswap -q {0} && swapon {0}", "swapoff {0}", "in use"),
    "dm": ("echo 0 2048 linear {0} 0 | dmsetup create holder", "dmsetup remove holder",
           "/dev/mapper/holder"),
    "multipath": (MULTIPATH, "dmsetup remove --retry mpatha", "/dev/mapper/mpatha"),
    "loop": ("losetup /dev/loop7 {0}", "losetup -d /dev/loop7", "/dev/loop7"),
    "program": ("sleep 600 9<>{0} >/dev/null 2>&1 & echo $! >/tmp/user", "kill $(cat /tmp/user)",
                "the program sleep"),
    "dom0": ("cp -a /etc/xensource-inventory /tmp; "
             "sed -i \"s|^PRIMARY_DISK=.*|PRIMARY_DISK='{0}'|\" /etc/xensource-inventory",
             "cp -a /tmp/xensource-inventory /etc", "dom0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_a_disk_in_use_is_refused_even_by_force(host: Host, disk: Disk, use: str) -> None:
    begin, end, named = USES[use]
    host.sh(begin.format(disk.by_id))
    before = host.fingerprint(disk)
    try:
        with pytest.raises(XeError) as caught:
            host.create_sr(disk, force="true")
    finally:
        host.sh(end.format(disk.by_id))
    assert caught.value.code == 6212
    assert named in caught.value.text
    assert host.fingerprint(disk) == before
    assert host.left_open() == NOTHING


@pytest.mark.slow
def test_the_name_of_a_disk_that_is_open_goes_to_no_other(
        host: Host, new_disk: Callable[..., Disk]) -> None:
    """On which claims.named relies, while a disk is formatted."""
    def name_of(disk: Disk) -> str:
        return host.sh(f"readlink -f {disk.by_id}")

    disk = new_disk()
    name = name_of(disk)
    host.sh(f"sleep 600 <{disk.by_id} >/dev/null 2>&1 & echo $! >/tmp/user")
    host.machine.remove_disk(disk.name)
    assert name_of(new_disk()) != name
    host.sh("kill $(cat /tmp/user)")


@pytest.mark.slow
def test_a_multipath_map_stands_for_its_disk(host: Host, disk: Disk, luks_version: str) -> None:
    host.sh(MULTIPATH.format(disk.by_id))
    # A key as we make them, which takes no time to be stretched.
    sr = host.create_sr_with_passphrase("/dev/mapper/mpatha", "F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW",
                                        pin="null", luks_version=luks_version)
    sr.unplug()
    [left] = host.left_open()["mappings"].splitlines()
    assert left.startswith("mpatha")
    sr.plug()
    sr.destroy()
    host.sh("dmsetup remove --retry mpatha")


def test_a_read_only_disk(host: Host, disk: Disk) -> None:
    host.sh(f"blockdev --setro {disk.by_id}")
    error = refuse(host, disk, force="true")
    host.sh(f"blockdev --setrw {disk.by_id}")
    assert error.code == 6211
    assert "read-only" in error.text


@pytest.mark.slow
@pytest.mark.parametrize("content", ["gpt", "linux_raid_member-at the end"])
def test_force_leaves_nothing_that_others_could_take_for_theirs(
        host: Host, disk: Disk, content: str) -> None:
    host.sh(CONTENTS[content].format(disk.by_id))
    sr = host.create_unbound_sr(disk, force="true")
    sr.unplug()
    kinds = host.sh(f"wipefs -p {disk.by_id} | grep -v '^#' | cut -d, -f4 | sort -u")
    assert kinds.split() == ["crypto_LUKS"]
    sr.plug()
    sr.destroy()


@pytest.mark.slow
@pytest.mark.parametrize("sr_type", ["ext", "lvm"])
def test_the_stock_drivers_leave_a_disk_of_ours_alone(
        host: Host, disk: Disk, luks_version: str, sr_type: str) -> None:
    """Plugged, locked, and forgotten by XAPI."""
    if real_sm() is None and sr_type != "ext":
        pytest.skip("the stand-in has the ext driver only")
    sr = host.create_unbound_sr(disk, luks_version=luks_version)
    with pytest.raises(XeError):
        host.create_sr(disk, type=sr_type)
    assert sr.attached
    sr.unplug()
    before = host.fingerprint(disk)
    with pytest.raises(XeError):
        host.create_sr(disk, type=sr_type)
    host.xe("sr-forget", uuid=sr.uuid)
    with pytest.raises(XeError) as caught:
        host.create_sr(disk, type=sr_type)
    assert host.fingerprint(disk) == before
    assert caught.value.code == 6214
    assert sr.uuid in caught.value.text
    again = host.introduce(sr, disk.by_id)
    again.plug()
    again.destroy()


def test_a_disk_with_blocks_of_4096_bytes(host: Host, new_disk: Callable[..., Disk]) -> None:
    disk = new_disk(logical=4096, physical=4096)
    error = refuse(host, disk)
    assert error.code == 6211
    assert "4096" in error.text


def test_a_disk_with_physical_blocks_of_4096_bytes_is_fine(
        host: Host, new_disk: Callable[..., Disk]) -> None:
    """LUKS2, which would take such sectors by itself; LUKS1 knows only those of 512 bytes."""
    disk = new_disk(logical=512, physical=4096)
    sr = host.create_unbound_sr(disk, luks_version="2")
    mapping = f"luks-{sr.containers()[0]}"
    assert host.sh(f"blockdev --getss /dev/mapper/{mapping}").strip() == "512"
    vdi = sr.create_vdi()
    host.xe("vdi-destroy", uuid=vdi)
    sr.destroy()


def test_a_disk_that_is_too_small(host: Host, new_disk: Callable[..., Disk]) -> None:
    error = refuse(host, new_disk("64M"))
    assert error.code == 6211
    assert "64 MiB" in error.text


def test_a_device_that_does_not_exist(host: Host) -> None:
    with pytest.raises(XeError) as caught:
        host.xe("sr-create", type="luksext", name_label="x", host_uuid=host.uuid,
                device_config={"device": "/dev/nowhere"})
    assert caught.value.code == 6210
    assert "/dev/nowhere" in caught.value.text
    assert "lsblk" in caught.value.text


def test_one_bad_disk_leaves_the_good_one_alone(host: Host, new_disk: Callable[..., Disk]) -> None:
    good, bad = new_disk(), new_disk()
    host.sh(f"mkfs.ext4 -q {bad.by_id}")
    assert refuse(host, good, bad).code == 6213


@pytest.mark.parametrize(("option", "value"), [
    ("cipher", "cipher_null-ecb"),
    ("cipher", "aes-cbc-plain"),
    ("key-size", "128"),
    ("luks-version", "3"),
    ("sector-size", "4096"),
    ("discard", "yes"),
    ("force", "1"),
    ("pin", "../../bin/sh"),
    ("pin-config", "{"),
    ("pin-config", '{"pcr_ids":"24"}'),
    ("pin-config", '{"pcr_ids":"7","pcr_bank":"md5"}'),
])
def test_a_bad_option_is_named_before_anything_is_touched(
        host: Host, disk: Disk, option: str, value: str) -> None:
    error = refuse(host, disk, **{option: value})
    assert error.code == 6201
    assert f"{option}={value}" in error.text
    assert "Allowed:" in error.text


def test_tang_needs_a_thumbprint(host: Host, disk: Disk) -> None:
    config = json.dumps({"url": "http://127.0.0.1:7500"})
    error = refuse(host, disk, pin="tang", **{"pin-config": config})
    assert error.code == 6201
    assert "thp" in error.text


def test_an_unknown_pin_names_those_that_are_installed(host: Host, disk: Disk) -> None:
    error = refuse(host, disk, pin="nosuchpin")
    assert error.code == 6201
    assert "pin=nosuchpin" in error.text
    assert "tpm2" in error.text
