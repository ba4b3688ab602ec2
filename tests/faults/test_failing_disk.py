# SPDX-License-Identifier: LGPL-2.1-only
"""Disks that fail: pulled, with I/O errors, slow, hanging, with parts of their header damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.faults.campaign import Campaign
from tests.faults.survivor import RECOVERED, Survivor, throttled, within
from tests.lab.disks import Disk
from tests.storage.pool import Host, XeError, luksext

# Bytes a second: plugging reads a few MiB.
SLOW = 1 << 20
HANGING = 1

MIB = 1 << 20


@pytest.fixture(autouse=True)
def plugged(subject: Survivor) -> None:
    if subject.disk.name not in subject.host.machine.disks:
        subject.host.machine.insert_disk(subject.disk)
    subject.sr.plug()


@contextmanager
def offline(subject: Survivor) -> Iterator[None]:
    """Within, every request to the disk fails at once, as with a dead controller."""
    name = subject.host.sh(f"basename $(readlink -f {subject.sr.device})").strip()
    state = f"/sys/block/{name}/device/state"
    subject.host.sh(f"echo offline > {state}")
    try:
        yield
    finally:
        subject.host.sh(f"echo running > {state}")


@contextmanager
def damaged(subject: Survivor, *places: tuple[int, int]) -> Iterator[None]:
    """Within, parts of the header, (offset, length) in bytes, are overwritten with noise."""
    device = subject.disk.by_id
    subject.host.sh(f"dd if={device} of=/tmp/header bs=1M count=16 status=none")
    try:
        for offset, length in places:
            subject.host.sh(f"dd if=/dev/urandom of={device} bs=512 seek={offset // 512} "
                            f"count={length // 512} conv=fsync status=none")
        yield
    finally:
        subject.host.sh(f"dd if=/tmp/header of={device} bs=1M conv=fsync status=none; "
                        "rm /tmp/header")


def test_a_disk_pulled_while_plugged(
        campaign: Campaign, subject: Survivor, luks_version: str) -> None:
    machine = subject.host.machine
    with campaign.trial("disk pulled while plugged", luks_version) as trial:
        disk = machine.remove_disk(subject.disk.name)
        try:
            subject.unplug()
            error = subject.refused()
        finally:
            machine.insert_disk(disk)
        assert error.code == 6210
        assert subject.sr.containers()[0] in error.text
        subject.check()
        trial.outcome = f"unplug ends, plug says 6210, {RECOVERED}"


def test_a_disk_pulled_and_put_back_while_plugged(
        campaign: Campaign, subject: Survivor, luks_version: str) -> None:
    machine = subject.host.machine
    with campaign.trial("disk pulled and put back while plugged", luks_version) as trial:
        machine.insert_disk(machine.remove_disk(subject.disk.name))
        subject.unplug()
        subject.check()
        trial.outcome = f"unplug ends, {RECOVERED}"


def test_io_errors_while_plugged(
        campaign: Campaign, subject: Survivor, luks_version: str) -> None:
    with campaign.trial("I/O errors while plugged", luks_version) as trial:
        with offline(subject):
            subject.host.sh("echo 3 > /proc/sys/vm/drop_caches")
            with pytest.raises(XeError):
                subject.sr.create_vdi()
                subject.host.sh(f"dd if=/dev/zero of={subject.sr.mount}/x bs=1M count=4 conv=fsync")
            subject.unplug()
        subject.check()
        trial.outcome = f"unplug ends, {RECOVERED}"


@pytest.mark.short
def test_io_errors_at_a_plug(
        campaign: Campaign, subject: Survivor, luks_version: str) -> None:
    with campaign.trial("I/O errors at a plug", luks_version) as trial:
        subject.unplug()
        with offline(subject):
            error = subject.refused()
        assert error.code == 6292
        assert "cannot be read" in error.text
        subject.check()
        trial.outcome = f"plug says 6292, {RECOVERED}"


def test_a_slow_disk(campaign: Campaign, subject: Survivor, luks_version: str) -> None:
    with campaign.trial("disk of 1 MiB a second", luks_version) as trial:
        subject.unplug()
        with throttled(subject.host, subject.disk, SLOW):
            subject.check()
            subject.unplug()
        subject.check()
        trial.outcome = "works"


def test_a_hanging_disk(campaign: Campaign, subject: Survivor, luks_version: str) -> None:
    with campaign.trial("disk that hangs at a plug", luks_version) as trial:
        subject.unplug()
        with throttled(subject.host, subject.disk, HANGING), within(90):
            error = subject.refused()
        assert error.code == 6292
        assert subject.disk.by_id in error.text
        subject.check()
        trial.outcome = f"plug says 6292, {RECOVERED}"


def test_a_hanging_disk_of_somebody_else(
        campaign: Campaign, subject: Survivor, luks_version: str,
        new_disk: Callable[..., Disk]) -> None:
    """It is among the disks that are searched for the one of an SR."""
    with campaign.trial("another disk hangs while ours is searched for", luks_version) as trial:
        with throttled(subject.host, new_disk(), HANGING), within(90):
            status = luksext(subject.sr, "status")
        assert subject.sr.containers()[0] in status
        trial.outcome = "is passed over"


@contextmanager
def bad(subject: Survivor, way: str, sector: int) -> Iterator[None]:
    """Within, a sector of the disk cannot be read, or written; it is unplugged before and after."""
    machine = subject.host.machine
    machine.spoil_disk(subject.disk.name, (way, sector))
    try:
        yield
    finally:
        machine.spoil_disk(subject.disk.name)


@pytest.mark.parametrize(("part", "sector"), [
    ("the header", 0), ("the keyslots", {"1": 8, "2": 64}), ("LVM's label", 32769)])
def test_a_sector_that_cannot_be_read(
        campaign: Campaign, subject: Survivor, luks_version: str, part: str,
        sector: int | dict[str, int]) -> None:
    number = sector if isinstance(sector, int) else sector[luks_version]
    with campaign.trial(f"a sector of {part} cannot be read", luks_version) as trial:
        subject.unplug()
        with bad(subject, "read", number):
            error = subject.refused()
            trial.outcome = f"plug says {error.code}, {RECOVERED}"
        subject.check()


@pytest.mark.parametrize(("part", "sector"), [
    ("the header", 0), ("the keyslots", {"1": 8, "2": 64}), ("LVM's label", 32769),
    ("the filesystem", 100 * 2048)])
def test_a_sector_that_cannot_be_written_at_a_create(
        campaign: Campaign, host: Host, luks_version: str, part: str,
        sector: int | dict[str, int], new_disk: Callable[..., Disk]) -> None:
    number = sector if isinstance(sector, int) else sector[luks_version]
    disk = new_disk()
    with campaign.trial(f"a sector of {part} cannot be written at a create",
                        luks_version) as trial:
        host.machine.spoil_disk(disk.name, ("write", number))
        before = host.left_open()
        try:
            host.create_unbound_sr(disk, luks_version=luks_version).destroy()
            trial.outcome = "works, nothing was written there"
        except XeError as error:
            trial.outcome = f"create says {error.code}, {RECOVERED}"
        assert host.left_open() == before
        host.machine.spoil_disk(disk.name)
        host.create_unbound_sr(disk, luks_version=luks_version).destroy()


def test_a_sector_that_cannot_be_written_at_a_new_key(
        campaign: Campaign, subject: Survivor, luks_version: str) -> None:
    with campaign.trial("a sector of the keyslots cannot be written at a new key",
                        luks_version) as trial:
        subject.unplug()
        # That of the second keyslot: behind the first one's 4000 stripes of a key of 64 bytes.
        with bad(subject, "write", {"1": 512, "2": 64 + 504}[luks_version]):
            answer = luksext(subject.sr, "recovery-add", "--name=doomed")
            assert "error 62" in answer, answer
            subject.check()
            subject.unplug()
        subject.check()
        trial.outcome = f"is refused, the SR goes on, {RECOVERED}"


@pytest.mark.parametrize("name, luks1, luks2", [
    ("header, second copy", None, [(0x4000, 0x4000)]),
    ("header, both copies", [(0, 4096)], [(0, 0x8000)]),
    ("keyslots", [(4096, MIB)], [(0x8000, MIB)]),
    ("luksmeta", [(MIB, 2 * MIB)], None),
], ids=["second", "both", "keyslots", "luksmeta"])
def test_a_damaged_header(campaign: Campaign, subject: Survivor, luks_version: str, name: str,
                          luks1: list[tuple[int, int]], luks2: list[tuple[int, int]]) -> None:
    places = luks1 if luks_version == "1" else luks2
    if places is None:
        pytest.skip("this generation has no such part")
    with campaign.trial(f"noise over the {name}", luks_version) as trial:
        subject.unplug()
        with damaged(subject, *places):
            if name == "header, second copy":
                subject.check()
                subject.unplug()
                trial.outcome = "works"
            else:
                error = subject.refused()
                assert subject.sr.uuid in error.text
                trial.outcome = f"plug says {error.code}, {RECOVERED}"
                assert error.code in (6220, 6221, 6222, 6230, 6238, 6239), error.text
        subject.check()
