# SPDX-License-Identifier: LGPL-2.1-only
"""Fixtures of the storage tests: a host of the lab, disks, SRs.

Many tests share one host, which boots once a module; each takes fresh disks. The same tests run on
the real storage manager when the environment names one: SM=<checkout>.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lxml import etree

from tests.lab.disks import Disk
from tests.lab.machine import Firmware, Machine
from tests.storage.pool import Host, Sr
from tests.storage.tang import Tang

_serial = itertools.count(1)


def real_sm() -> Path | None:
    """The checkout of the storage manager to test on, None for the stand-in."""
    checkout = os.environ.get("SM")
    return Path(checkout).resolve() if checkout else None


def pytest_report_header() -> str:
    return f"storage manager: {real_sm() or 'the stand-in of the lab'}"


@pytest.fixture(scope="module")
def firmware() -> Firmware:
    """The firmware of the machine; a module may want another."""
    return "bios"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, firmware: Firmware) -> Iterator[Machine]:
    """A running machine with a TPM and no disks."""
    folder = tmp_path_factory.mktemp("xcp")
    answers = folder / "state/var/log/xapi-answers"
    answers.mkdir(parents=True)
    with Machine("xcp", folder, sm=real_sm(), cpus=1, firmware=firmware) as machine:
        machine.start()
        yield machine
    check_answers(answers)


def check_answers(folder: Path) -> None:
    """Every answer that a driver gave to XAPI is of the form that XAPI reads."""
    schema = etree.RelaxNG(etree.parse(Path(__file__).parent / "answers.rng"))
    # Of a driver that was killed, nothing is kept but the name.
    answers = [answer for answer in folder.iterdir() if answer.stat().st_size]
    assert answers, "no answer was kept"
    for answer in answers:
        schema.assertValid(etree.parse(answer))


@pytest.fixture(scope="module")
def host(machine: Machine) -> Host:
    return Host(machine)


@pytest.fixture
def new_disk(machine: Machine) -> Iterator[Callable[..., Disk]]:
    """Adds fresh disks, and takes them out after the test."""
    added: list[Disk] = []

    def add(size: str = "256M", **blocks: int) -> Disk:
        disk = machine.add_disk(f"disk{next(_serial)}", size, **blocks)
        added.append(disk)
        return disk

    yield add
    for disk in added:
        if disk.name in machine.disks:
            machine.remove_disk(disk.name)
        disk.path.unlink()


@pytest.fixture
def disk(new_disk: Callable[..., Disk]) -> Disk:
    return new_disk()


@pytest.fixture
def tang(machine: Machine) -> Iterator[Tang]:
    tang = Tang(machine)
    tang.start()
    yield tang
    tang.remove()


@pytest.fixture(params=["1", "2"], ids=["luks1", "luks2"], scope="module")
def luks_version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def locked_disk(machine: Machine) -> Disk:
    return machine.add_disk("unlock", "256M")


@pytest.fixture(scope="module")
def locked_sr(host: Host, locked_disk: Disk, luks_version: str) -> Iterator[Sr]:
    """An SR whose disk is for its module's tests to change, while it is locked."""
    sr = host.create_unbound_sr(locked_disk, luks_version=luks_version)
    sr.unplug()
    yield sr
    sr.plug()
    sr.destroy()


@pytest.fixture
def restored(locked_sr: Sr, locked_disk: Disk) -> Iterator[Disk]:
    """The disk of `locked_sr`; its header area is put back after the test."""
    locked_sr.host.sh(f"dd if={locked_disk.by_id} of=/tmp/header bs=1M count=16 status=none")
    yield locked_disk
    locked_sr.host.sh(f"dd if=/tmp/header of={locked_disk.by_id} bs=1M conv=fsync status=none")
