# SPDX-License-Identifier: LGPL-2.1-only
"""claims: whoever uses a device that is to be formatted is named, however it is used."""
import errno
import os
import subprocess
import sys

import pytest

from luksext import claims, devices
from luksext.errors import DeviceInUse, DeviceMissing, OptionInvalid


@pytest.fixture(autouse=True)
def nodes(sysfs, monkeypatch):
    """The nodes of all disks lie in a folder of the test."""
    real = devices.whole_disks
    monkeypatch.setattr(devices, "whole_disks", lambda: [
        path.replace("/dev", str(sysfs.nodes)) for path in real()])


def whole(sysfs, name, wwid="", **properties):
    """A disk with a controller, and the name that its maker gave it."""
    node = sysfs.disk(name, **properties)
    (sysfs.block / name / "device").mkdir()
    (sysfs.block / name / "device" / "wwid").write_text(wwid)
    return node


def failing_open(number):
    def fail(path, flags):
        assert flags == os.O_RDONLY | os.O_EXCL
        raise OSError(number, os.strerror(number), path)
    return fail


# Exclusive use


def test_a_device_that_opens_exclusively_is_free(sysfs):
    claims.check(sysfs.disk("sdb"))


def test_a_busy_device_is_in_use_by_its_holders(sysfs, monkeypatch):
    node = sysfs.disk("sdb")
    sysfs.mapping("dm-0", "vg-lv", "LVM-x", below=["sdb"])
    monkeypatch.setattr(claims.os, "open", failing_open(errno.EBUSY))
    with pytest.raises(DeviceInUse, match="in use by /dev/mapper/vg-lv"):
        claims.check(node)


def test_a_device_that_cannot_be_opened_says_why(sysfs, monkeypatch):
    node = sysfs.disk("sdb")
    monkeypatch.setattr(claims.os, "open", failing_open(errno.EIO))
    with pytest.raises(DeviceMissing, match=r"cannot be opened: Input/output error.*dmesg"):
        claims.check(node)


# Programs


@pytest.fixture
def opened(sysfs, monkeypatch):
    """Starts a program that has /dev/null open in a mode; "sdb" is of that device's number."""
    number = os.stat("/dev/null").st_rdev
    node = sysfs.disk("sdb", number="{}:{}".format(os.major(number), os.minor(number)))
    started = []

    def start(mode):
        code = "import sys; file = open('/dev/null', '{}'); print(); sys.stdin.read()".format(mode)
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        started.append(process)
        return node, process.pid

    yield start
    for process in started:
        process.communicate()


def test_a_program_that_writes_to_it_is_named(opened):
    node, process = opened("wb")
    mine = [user for user in claims.writers(node) if "(process {})".format(process) in user]
    assert len(mine) == 1
    assert mine[0].startswith("the program python")
    with pytest.raises(DeviceInUse, match="process {}".format(process)):
        claims.check(node)


def test_a_program_that_only_reads_it_is_none(opened):
    node, process = opened("rb")
    assert not [user for user in claims.writers(node) if "(process {})".format(process) in user]


def test_this_process_is_none(opened):
    node, _ = opened("rb")
    with open("/dev/null", "wb"):
        assert not [user for user in claims.writers(node)
                    if "(process {})".format(os.getpid()) in user]


def test_who_writes_to_a_partition_has_the_disk_in_use(sysfs, opened):
    opened("wb")
    number = os.stat("/dev/null").st_rdev
    disk = sysfs.disk("sdc", number="8:32")
    sysfs.partition("sdc", "sdc1", number="{}:{}".format(os.major(number), os.minor(number)))
    assert claims.writers(disk)


def test_who_writes_to_the_disk_has_its_partitions_in_use(sysfs, opened):
    _, process = opened("wb")
    part = sysfs.partition("sdb", "sdb1", number="8:33")
    other = sysfs.disk("sdc", number="8:32")
    # Others on this machine may write to /dev/null, too.
    assert any("(process {})".format(process) in user for user in claims.writers(part))
    assert claims.writers(other) == []


def test_who_holds_the_disk_holds_its_partitions(sysfs, monkeypatch):
    sysfs.disk("sdb")
    part = sysfs.partition("sdb", "sdb1")
    sysfs.mapping("dm-0", "whole", "CRYPT-LUKS2-x", below=["sdb"])
    monkeypatch.setattr(claims.os, "open", failing_open(errno.EBUSY))
    with pytest.raises(DeviceInUse, match="in use by /dev/mapper/whole"):
        claims.check(part)


def test_that_the_kernel_keeps_partitions_fails_nothing(monkeypatch):
    for number in (errno.EBUSY, errno.EINVAL, errno.ENOTTY):
        def fail(handle, request, number=number):
            raise OSError(number, os.strerror(number))
        monkeypatch.setattr(claims.fcntl, "ioctl", fail)
        claims.forget_partitions(0)


def test_a_loop_device_on_it_or_on_a_part_of_it_is_named(sysfs):
    disk, other = sysfs.disk("sdb"), sysfs.disk("sdc")
    part = sysfs.partition("sdb", "sdb1")
    sysfs.disk("loop3")
    (sysfs.block / "loop3" / "loop").mkdir()
    for below in (disk, part):
        (sysfs.block / "loop3" / "loop" / "backing_file").write_text(below + "\n")
        with pytest.raises(DeviceInUse, match="in use by /dev/loop3"):
            claims.check(disk)
    claims.check(other)


# Paths


def test_a_disk_with_two_paths_is_free_when_both_are(sysfs, monkeypatch):
    first, second = whole(sysfs, "sdb", "naa.5"), whole(sysfs, "sdc", "naa.5")
    whole(sysfs, "sdd", "naa.6")
    whole(sysfs, "sde", "naa.5", size=1 << 20)
    assert claims.other_paths(first) == [second]
    claims.check(first)
    busy = failing_open(errno.EBUSY)
    real = os.open
    monkeypatch.setattr(claims.os, "open", lambda path, flags: (
        busy if path == second else real)(path, flags))
    with pytest.raises(DeviceInUse, match=second):
        claims.check(first)


def test_disks_without_a_name_are_not_taken_for_one(sysfs):
    first, _ = whole(sysfs, "sdb"), whole(sysfs, "sdc")
    assert claims.other_paths(first) == []


def test_a_path_that_the_kernel_hides_is_none(sysfs):
    first, _ = whole(sysfs, "nvme0n1", "nvme.1"), whole(sysfs, "nvme0c0n1", "nvme.1")
    (sysfs.block / "nvme0c0n1" / "hidden").write_text("1\n")
    assert claims.other_paths(first) == []


@pytest.mark.parametrize("names", [
    ("sdb", "sdb"), ("sdb", "sdb1"), ("sdb1", "sdb"), ("sdb", "sdc"), ("sdb1", "sdc")])
def test_one_disk_named_twice_is_refused(sysfs, names):
    nodes = {"sdb": whole(sysfs, "sdb", "naa.5"), "sdc": whole(sysfs, "sdc", "naa.5"),
             "sdb1": sysfs.partition("sdb", "sdb1")}
    with pytest.raises(OptionInvalid, match="each once"):
        claims.check_distinct([nodes[name] for name in names])


def test_different_disks_and_partitions_are_distinct(sysfs):
    nodes = [whole(sysfs, "sdb", "naa.5"), whole(sysfs, "sdc", "naa.6")]
    claims.check_distinct(nodes)
    parts = [sysfs.partition("sdb", "sdb1"), sysfs.partition("sdb", "sdb2")]
    claims.check_distinct([*parts, nodes[1]])


# dom0


def test_the_disk_of_dom0_and_its_partitions_are_in_use_by_it(sysfs):
    disk = sysfs.disk("sda")
    parts = []
    for number in "123":
        parts.append(sysfs.partition("sda", "sda" + number))
        (sysfs.block / "sda" / ("sda" + number) / "partition").write_text(number + "\n")
    for device in (disk, *parts[:2]):
        with pytest.raises(DeviceInUse, match="in use by dom0, which is installed on " + disk):
            claims.check_not_system(device, disk)
    claims.check_not_system(parts[2], disk)
    claims.check_not_system(sysfs.disk("sdb"), disk)


@pytest.mark.parametrize("kind", claims._BOOT_TYPES)
def test_so_is_a_partition_that_dom0_starts_from(sysfs, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(claims, "_UDEV", str(tmp_path))
    disk, part = sysfs.disk("sda"), sysfs.partition("sda", "sda4")
    (sysfs.block / "sda" / "sda4" / "partition").write_text("4\n")
    claims.check_not_system(part, disk)
    note = tmp_path / ("b" + devices.number_of(part))
    note.write_text("I:1\nE:ID_PART_ENTRY_NUMBER=4\nE:ID_PART_ENTRY_TYPE={}\n".format(kind))
    with pytest.raises(DeviceInUse, match="in use by dom0"):
        claims.check_not_system(part, disk)
