# SPDX-License-Identifier: LGPL-2.1-only
"""The power of the host is cut at random moments of the life of an SR, and the host boots again.

Then the operation was done, or it was not and can be made; what a VDI had confirmed is there.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.faults.campaign import Campaign, DataLost
from tests.faults.interrupt import traces
from tests.lab.disks import Disk
from tests.lab.errors import LabError
from tests.storage.pool import Host, Sr, XeError

CONFIRMED = b"".join(b"line %7d, confirmed\n" % number for number in range(30000))
IN_FLIGHT = bytes(reversed(CONFIRMED))


class Power:
    """The power of a host, which is cut while something is done, and comes back."""

    # Seconds that an operation takes, until it was seen to take another time.
    GUESS = 8.0

    def __init__(self, host: Host, campaign: Campaign, luks: str, chance: random.Random) -> None:
        self._host = host
        self._campaign = campaign
        self._luks = luks
        self._chance = chance
        self._took: dict[str, float] = {}
        #: What the TPM counted towards its lockout at the last cut.
        self.attacks = 0

    def uncut(self, name: str, operation: Callable[[], object]) -> None:
        """Do something, to learn how long it takes."""
        begin = time.monotonic()
        operation()
        self._took[name] = time.monotonic() - begin

    def cut(self, name: str, operation: Callable[[], object], then: Callable[[], str]) -> None:
        """A trial: the power is cut while something is done; `then` looks at the host that has
        booted again, and tells how it was found.

        The TPM is left as if the power had not been cut: to a chip that was in use, the next start
        is an attack, and after a few it refuses.
        """
        seconds = self._chance.uniform(0, self._took.get(name, self.GUESS))
        with self._campaign.trial(f"power cut during {name}", self._luks) as trial:
            worker = threading.Thread(target=_attempt, args=(operation,))
            worker.start()
            time.sleep(seconds)
            self._host.machine.power_cut()
            worker.join()
            try:
                self._host.machine.start()
                self.attacks = attacks(self._host)
                self._host.machine.clear_lockout()
                trial.outcome = then()
            except Exception as error:
                error.add_note(f"after {seconds:.1f} s")
                raise


def _attempt(operation: Callable[[], object]) -> None:
    with contextlib.suppress(XeError, LabError, OSError):
        operation()


@pytest.fixture
def power(host: Host, campaign: Campaign, luks_version: str, chance: random.Random) -> Power:
    return Power(host, campaign, luks_version, chance)


@pytest.fixture
def create(host: Host, luks_version: str) -> Callable[[Disk], Sr]:
    return lambda disk: host.create_sr(disk, luks_version=luks_version)


@pytest.fixture
def sr(disk: Disk, create: Callable[[Disk], Sr]) -> Iterator[Sr]:
    """A plugged SR."""
    made = create(disk)
    yield made
    made.destroy()


class Vdi:
    """A VDI to which CONFIRMED was written and flushed, and nothing is written any more."""

    def __init__(self, sr: Sr) -> None:
        self._sr = sr
        self.uuid = sr.create_vdi()
        write_confirmed(sr.host, self.uuid)
        self._checksum = self._checksummed()

    def check(self) -> None:
        """Raise DataLost unless each byte of its file is what it was; that takes much less time
        than to read it as a VM does."""
        if self._checksummed() != self._checksum:
            raise DataLost(f"the VDI {self.uuid} is not as it was confirmed")

    def _checksummed(self) -> str:
        return self._sr.host.sh(f"sha256sum <{self._sr.mount}/{self.uuid}.vhd")


@pytest.fixture
def vdi(sr: Sr) -> Iterator[Vdi]:
    made = Vdi(sr)
    yield made
    if not sr.host.read_vdi(made.uuid).startswith(CONFIRMED):
        raise DataLost(f"the VDI {made.uuid} does not read as it was confirmed")
    sr.host.xe("vdi-destroy", uuid=made.uuid)


def write_confirmed(host: Host, vdi: str) -> None:
    """Write CONFIRMED, and flush it as a VM would: the lab's tapdisk leaves that to `sync`."""
    host.write_vdi(vdi, CONFIRMED)
    host.sh("sync")


def check_sectors(host: Host, vdi: str) -> None:
    """Raise DataLost unless each sector of a VDI is as it was confirmed, or as it was to be."""
    found = host.read_vdi(vdi)
    for at in range(0, len(CONFIRMED), 512):
        sector = found[at:at + 512][:len(CONFIRMED) - at]
        if sector not in (CONFIRMED[at:at + 512], IN_FLIGHT[at:at + 512]):
            raise DataLost(f"sector {at // 512} of the VDI {vdi} is neither old nor new")


def attacks(host: Host) -> int:
    """The failures that the TPM counts towards its lockout."""
    told = host.sh("tpm2_getcap properties-variable")
    counter = re.search(r"TPM2_PT_LOCKOUT_COUNTER: *(0x[0-9A-Fa-f]+)", told)
    assert counter
    return int(counter[1], 16)


def sr_of(host: Host, disk: Disk) -> Sr | None:
    """The SR that XAPI knows on a disk."""
    pbds = host.xe("pbd-list", params="sr-uuid,device-config")
    for record in pbds.split("\n\n"):
        if disk.by_id in record:
            return Sr(host, record.split(":", 1)[1].split()[0], disk.by_id)
    return None


def remove_half_created(host: Host, sr: Sr) -> None:
    """Remove an SR of which XAPI made its record before it called the driver; it can be destroyed
    once there was something of it on the disk."""
    try:
        host.xe("sr-destroy", uuid=sr.uuid)
    except XeError as error:
        assert error.code == 6220, error.text
        host.xe("sr-forget", uuid=sr.uuid)


def test_create(power: Power, host: Host, create: Callable[[Disk], Sr],
                new_disk: Callable[..., Disk], trials: int) -> None:
    clean = traces(host)
    for _ in range(trials):
        disk = new_disk()
        made = partial(create, disk)

        def destroyed(disk: Disk = disk, made: Callable[[], Sr] = made) -> str:
            sr = sr_of(host, disk)
            done = sr is not None and sr.attached
            if sr is not None and not done:
                remove_half_created(host, sr)
            if not done:
                power.uncut("sr-create", made)
                sr = sr_of(host, disk)
            assert sr is not None and sr.attached
            sr.destroy()
            assert traces(host) == clean
            return "done; the boot plugs it" if done else "not done; the same call does it then"

        power.cut("sr-create", made, destroyed)


def test_plug(power: Power, sr: Sr, vdi: Vdi, trials: int) -> None:
    def plugged() -> str:
        assert sr.attached
        vdi.check()
        sr.unplug()
        power.uncut("pbd-plug", sr.plug)
        sr.unplug()
        return "the boot plugs it; the VDI is whole"

    sr.unplug()
    for _ in range(trials):
        power.cut("pbd-plug", sr.plug, plugged)
    sr.plug()


def test_unplug(power: Power, sr: Sr, vdi: Vdi, trials: int) -> None:
    def plugged() -> str:
        assert sr.attached
        vdi.check()
        power.uncut("pbd-unplug", sr.unplug)
        sr.plug()
        return "the boot plugs it; the VDI is whole"

    for _ in range(trials):
        power.cut("pbd-unplug", sr.unplug, plugged)


def test_write(power: Power, sr: Sr, vdi: Vdi, trials: int) -> None:
    host, other = sr.host, sr.create_vdi()
    write = partial(host.write_vdi, other, IN_FLIGHT)

    def whole() -> str:
        assert sr.attached
        vdi.check()
        check_sectors(host, other)
        power.uncut("write to a VDI", write)
        return "each sector is the old or the new one; the other VDI is whole"

    for _ in range(trials):
        write_confirmed(host, other)
        power.cut("write to a VDI", write, whole)
    host.xe("vdi-destroy", uuid=other)


def test_destroy(power: Power, host: Host, create: Callable[[Disk], Sr],
                 new_disk: Callable[..., Disk], trials: int) -> None:
    clean = traces(host)
    for _ in range(trials):
        disk = new_disk()
        sr = create(disk)
        sr.unplug()
        destroy = partial(host.xe, "sr-destroy", uuid=sr.uuid)

        def destroyed(disk: Disk = disk, destroy: Callable[[], object] = destroy) -> str:
            left = sr_of(host, disk)
            if left is not None:
                if left.attached:
                    left.unplug()
                power.uncut("sr-destroy", destroy)
            assert traces(host) == clean
            return "not done; the same call does it then" if left else "done"

        power.cut("sr-destroy", destroy, destroyed)


def test_idle(power: Power, sr: Sr, vdi: Vdi, trials: int) -> None:
    """A chip that served a key and was not told that power may go counts an attack at its next
    start, and refuses after a few: what the driver asked of it must not count."""
    def nothing() -> None:
        time.sleep(power.GUESS)

    def counted() -> str:
        assert sr.attached
        vdi.check()
        assert power.attacks == 0, "the TPM counts an attack"
        return "the boot plugs it; the TPM counts no attack; the VDI is whole"

    for _ in range(trials):
        power.cut("idle time of a plugged SR", nothing, counted)
