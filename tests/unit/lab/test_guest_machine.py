# SPDX-License-Identifier: LGPL-2.1-only
"""Machines that are off: their disks, their records, their command lines."""

import io
import json
import re
import stat
from pathlib import Path

import pytest

from tests.lab import disks, host, qemu, swtpm
from tests.lab.errors import LabError
from tests.lab.image import Image
from tests.lab.lan import Lan
from tests.lab.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine("host-a", tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "size"), [("1G", 2**30), ("512M", 2**29), ("4096", 4096), ("3K", 3072), ("1T", 2**40)]
)
def test_sizes(text: str, size: int) -> None:
    assert disks.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1GB", "1.5G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(LabError, match="is no size"):
        disks.parse_size(text)


def test_a_new_disk_is_empty_and_takes_no_room(machine: Machine) -> None:
    disk = machine.add_disk("one", "8G")
    status = disk.path.stat()
    assert status.st_size == 8 * 2**30
    assert status.st_blocks == 0
    assert stat.S_ISREG(status.st_mode)


def test_a_disk_has_a_lasting_name_of_its_own(machine: Machine, tmp_path: Path) -> None:
    one, two = machine.add_disk("one"), machine.add_disk("two")
    elsewhere = Machine("host-a", tmp_path / "elsewhere").add_disk("one")
    of_another_host = Machine("host-b", tmp_path / "b").add_disk("one")
    assert re.fullmatch(r"/dev/disk/by-id/scsi-35[0-9a-f]{15}", one.by_id)
    assert one.by_id == elsewhere.by_id
    assert len({one.by_id, two.by_id, of_another_host.by_id}) == 3
    assert len(one.serial) <= 20  # what a SCSI serial number may have at most in QEMU


def test_a_disk_with_bad_sectors_stays_so_until_it_is_spoilt_with_none(machine: Machine) -> None:
    disk = machine.add_disk("one")
    sound = disk.blockdev()
    machine.spoil_disk("one", ("write", 2048))
    assert disk.blockdev()["file"]["inject-error"][0]["sector"] == 2048
    [kept] = Machine("host-a", machine.folder).disks.values()
    assert kept.blockdev() == json.loads(json.dumps(disk.blockdev()))
    machine.spoil_disk("one")
    assert disk.blockdev() == sound


def test_a_disk_keeps_its_name_and_content_when_it_moves(machine: Machine, tmp_path: Path) -> None:
    other = Machine("host-b", tmp_path / "b")
    disk = machine.add_disk("one", "4096")
    disk.path.write_bytes(b"content")
    before = disk.by_id
    moved = machine.move_disk("one", other)
    assert moved.by_id == before
    assert moved.path.read_bytes() == b"content"
    assert list(machine.disks) == []
    assert list(other.disks) == ["one"]


def test_a_disk_can_be_enlarged_only(machine: Machine) -> None:
    disk = machine.add_disk("one", "4096")
    disk.path.write_bytes(b"content".ljust(4096))
    assert machine.grow_disk("one", "8192").path.stat().st_size == 8192
    assert disk.path.read_bytes()[:7] == b"content"
    with pytest.raises(LabError, match="larger than 4096 already"):
        machine.grow_disk("one", "4096")


def test_a_removed_disk_can_be_put_back(machine: Machine) -> None:
    disk = machine.add_disk("one")
    assert machine.remove_disk("one") is disk
    assert disk.path.exists()
    machine.insert_disk(disk)
    assert list(machine.disks) == ["one"]


def test_disks_can_be_ordered_anew(machine: Machine) -> None:
    for name in ("one", "two", "three"):
        machine.add_disk(name)
    machine.order_disks(["three", "one", "two"])
    assert list(machine.disks) == ["three", "one", "two"]
    with pytest.raises(LabError, match="each disk"):
        machine.order_disks(["one", "two"])


def test_a_machine_goes_on_from_its_folder(machine: Machine) -> None:
    machine.add_disk("one", physical=4096)
    machine.add_disk("two")
    machine.order_disks(["two", "one"])
    again = Machine("host-a", machine.folder)
    assert list(again.disks) == ["two", "one"]
    assert again.disks["one"] == machine.disks["one"]


def test_names_of_disks_are_taken_once(machine: Machine) -> None:
    machine.add_disk("one")
    with pytest.raises(LabError, match="already"):
        machine.add_disk("one")
    with pytest.raises(LabError, match="no disk 'two', only: one"):
        machine.remove_disk("two")


def test_a_machine_that_is_off_runs_nothing(machine: Machine) -> None:
    assert not machine.running
    with pytest.raises(LabError, match="start it first"):
        machine.run("true")
    machine.power_cut()  # nothing to do, and no error


def command(tmp_path: Path, **changes: object) -> list[str]:
    """Return a guest's command line, with some of its arguments changed."""
    disk = disks.create(tmp_path / "disks", "host-a", "one", "1G", 512, 4096)
    arguments = {
        "hostname": "host-a",
        "accelerator": "tcg",
        "memory_mib": 768,
        "cpus": 1,
        "disks": [disk],
        "http_port": 4711,
        "console_log": tmp_path / "console,log",
    }
    return qemu.command(
        Image(tmp_path / "image", io.BytesIO()),
        qemu.Sources(tmp_path / "stage.ext4", tmp_path / "checkout", tmp_path / "state"),
        qemu.Sockets(qmp=7, guestd=8, tpm=changes.pop("tpm", 9)),  # type: ignore[arg-type]
        **arguments | changes,  # type: ignore[arg-type]
    )


def test_the_command_line_says_what_was_asked_for(tmp_path: Path) -> None:
    argv = command(tmp_path)
    line = " ".join(argv)
    assert argv[argv.index("-m") + 1] == "768M"
    assert argv[argv.index("-smp") + 1] == "1"
    assert "lab.hostname=host-a lab.disks=1" in line
    assert "restrict=on,hostfwd=tcp:127.0.0.1:4711-:80" in line
    assert "console,,log" in line
    assert "-tpmdev emulator,id=tpm0,chardev=tpm" in line


def test_the_command_line_describes_disks(tmp_path: Path) -> None:
    argv = command(tmp_path)
    devices = [json.loads(word) for word in argv if word.startswith('{"driver": "scsi-hd"')]
    assert [device["scsi-id"] for device in devices] == [0]
    assert devices[0]["physical_block_size"] == 4096
    assert devices[0]["logical_block_size"] == 512


def test_only_the_state_can_be_written_by_the_guest(tmp_path: Path) -> None:
    argv = command(tmp_path)
    shares = [word for word in argv if word.startswith("local,")]
    assert [share.split(",")[1] for share in shares if not share.endswith("readonly=on")] == [
        "id=state"
    ]
    layers = [json.loads(word) for word in argv if '"node-name": "root"' in word]
    assert all(layer["read-only"] for layer in layers)


def test_machines_on_one_network_have_addresses_of_their_own(tmp_path: Path) -> None:
    lan = Lan()
    one, two = lan.nic(), lan.nic()
    assert one.address != two.address
    assert one.port == two.port
    line = " ".join(command(tmp_path / "two", nic=two))
    assert f"lab.address={two.address}" in line
    assert "mac=52:54:00:4c:41:02" in line
    assert "mcast" not in " ".join(command(tmp_path / "alone"))


def test_a_machine_without_a_tpm(tmp_path: Path) -> None:
    assert "-tpmdev" not in command(tmp_path, tpm=None)


def test_the_tpm_starts_as_firmware_would_start_it(tmp_path: Path) -> None:
    argv = swtpm.command(tmp_path, 5)
    assert argv[argv.index("--flags") + 1] == "not-need-init,startup-clear"
    assert argv[argv.index("--ctrl") + 1] == "type=unixio,clientfd=5"


def test_missing_programs_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == "swtpm" else "/bin/x")
    with pytest.raises(LabError, match=r"apt-get install swtpm$"):
        host.check()
    assert "qemu-system-x86" in host.requirements()


def test_a_counted_machine_goes_by_its_instructions(tmp_path: Path) -> None:
    argv = command(tmp_path, accelerator="counted")
    assert argv[argv.index("-icount") + 1] == "shift=1"
