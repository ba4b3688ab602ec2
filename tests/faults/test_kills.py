# SPDX-License-Identifier: LGPL-2.1-only
"""The driver is killed before and after each program that it runs.

After each kill the same call succeeds; when the SR is destroyed, the host is as it was before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.faults.campaign import Campaign, DataLost
from tests.faults.interrupt import Driver, Step, traces
from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.pool import Host, Sr

# One of ours, which is not stretched: an emulated guest takes long for that.
PASSPHRASE = "F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW"
DATA = b"".join(b"block %7d of what a VM wrote\n" % number for number in range(20000))


WELL = "the same call succeeds then, and nothing is left"


@dataclass
class Kills:
    """Kills of the driver of one host, at `most` random steps of each call, or at all."""

    driver: Driver
    campaign: Campaign
    luks: str
    chance: random.Random
    most: int

    def steps(self, command: str, call: Callable[[], object]) -> list[Step]:
        """The steps to try of a `command` of XAPI that is run by `call`, which is made once."""
        steps = self.driver.steps(command, call)
        if not steps:
            with self.campaign.trial(f"{command}: driver killed", self.luks) as trial:
                trial.outcome = "it runs no program"
        chosen = set(self.chance.sample(steps, min(self.most, len(steps))))
        return [step for step in steps if step in chosen]

    def each(self, steps: list[Step], prepare: Callable[[], object], call: Callable[[], object],
             then: Callable[[], object], clean: dict[str, set[str]]) -> None:
        """Trials: `call` is made again and again, and killed each time a step later.

        So each call goes on from where the one before was killed. It may not run again what was
        done before, or by what XAPI calls after a failure: then it succeeds, and is killed there
        when it begins anew, which `prepare` makes it do. The last one is not killed: that is
        `then`, and after it the host must be `clean`.
        """
        killed: list[str] = []
        prepare()
        for step in steps:
            fault = f"{step.command}: driver killed {step.when} a program"
            with self.campaign.trial(fault, self.luks) as trial:
                try:
                    if not self.driver.kill(step, call):
                        prepare()
                        assert self.driver.kill(step, call), "it is never there"
                    killed.append(f"{step.when} {step.program}")
                    if step == steps[-1]:
                        then()
                        assert traces(self.driver.host) == clean
                except Exception as error:
                    error.add_note(f"to be killed {step}; killed before {killed[-1:]}")
                    raise
                trial.outcome = WELL
            if trial.failed:
                break


@pytest.fixture
def kills(host: Host, campaign: Campaign, luks_version: str, chance: random.Random,
          trials: int) -> Kills:
    return Kills(Driver(host), campaign, luks_version, chance, trials)


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["one-disk", "two-disks"])
def new_device(request: pytest.FixtureRequest, machine: Machine,
               new_disk: Callable[..., Disk]) -> Callable[[], str]:
    """Makes new disks for an SR, and returns them as its device-config names them; takes out those
    that it made before, of an SR that is destroyed."""
    disks: list[Disk] = []

    def make() -> str:
        for disk in disks:
            machine.remove_disk(disk.name)
        disks[:] = [new_disk() for _ in range(request.param)]
        return ",".join(disk.by_id for disk in disks)

    return make


@pytest.fixture
def create(host: Host, luks_version: str) -> Callable[[str], Sr]:
    """Makes an SR on a device."""
    return lambda device: host.create_sr_with_passphrase(device, PASSPHRASE, pin="null",
                                                         luks_version=luks_version)


@pytest.fixture
def locked(host: Host, new_device: Callable[[], str], create: Callable[[str], Sr]) -> Iterator[Sr]:
    """An SR with a VDI that holds DATA, unplugged."""
    sr = create(new_device())
    vdi = sr.create_vdi()
    host.write_vdi(vdi, DATA)
    sr.unplug()
    yield sr
    sr.plug()
    host.xe("vdi-destroy", uuid=vdi)
    sr.destroy()


def check_data(sr: Sr) -> None:
    """Raise DataLost unless the VDI of the SR holds DATA."""
    vdi = sr.host.xe("vdi-list", sr_uuid=sr.uuid, params="uuid", minimal=True)
    if not vdi or not sr.host.read_vdi(vdi).startswith(DATA):
        raise DataLost(f"the VDI of the SR {sr.uuid} does not read as it was written")


def test_create(kills: Kills, host: Host, create: Callable[[str], Sr],
                new_device: Callable[[], str]) -> None:
    """Each on disks of its own: what undoes a creation that was killed runs programs, too."""
    steps = kills.steps("sr_create", lambda: create(new_device()).destroy())
    clean = traces(host)
    devices: list[str] = []
    for step in steps:
        kills.each([step], lambda: devices.append(new_device()), lambda: create(devices[-1]),
                   lambda: create(devices[-1]).destroy(), clean)


def test_delete(kills: Kills, host: Host, create: Callable[[str], Sr],
                new_device: Callable[[], str]) -> None:
    steps = kills.steps("sr_delete", create(new_device()).destroy)
    clean = traces(host)
    made: list[Sr] = []

    def prepare() -> None:
        made.append(create(new_device()))
        made[-1].unplug()

    def destroy() -> None:
        host.xe("sr-destroy", uuid=made[-1].uuid)

    kills.each(steps, prepare, destroy, destroy, clean)


@pytest.mark.short
def test_attach(kills: Kills, locked: Sr) -> None:
    clean = traces(locked.host)
    steps = kills.steps("sr_attach", locked.plug)

    def plugged_again() -> None:
        locked.plug()
        check_data(locked)
        locked.unplug()

    kills.each(steps, locked.unplug, locked.plug, plugged_again, clean)


def test_detach(kills: Kills, locked: Sr) -> None:
    clean = traces(locked.host)
    locked.plug()
    steps = kills.steps("sr_detach", locked.unplug)

    def unplugged_again() -> None:
        locked.unplug()
        locked.plug()
        check_data(locked)
        locked.unplug()

    kills.each(steps, locked.plug, locked.unplug, unplugged_again, clean)


def test_probe(kills: Kills, locked: Sr) -> None:
    def probe() -> str:
        return locked.host.xe("sr-probe", type="luksext", host_uuid=locked.host.uuid,
                              device_config={"device": locked.device})

    found = probe()
    clean = traces(locked.host)

    def probed_again() -> None:
        assert probe() == found

    kills.each(kills.steps("sr_probe", probe), probe, probe, probed_again, clean)
