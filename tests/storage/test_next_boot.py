# SPDX-License-Identifier: LGPL-2.1-only
"""A binding that the next boot will break is told before; the reboot proves who was right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.lab import uefi
from tests.lab.machine import Firmware, Machine
from tests.storage.pool import Host, Sr

pytestmark = pytest.mark.slow

# The hash of a program that is not there: it forbids nothing.
HASHES = uefi.signature_list([b"\x5a" * 32])

_PACKAGE = "import sys; sys.path.insert(0, '/opt/xensource/sm')"

_PREDICT = f"""{_PACKAGE}
import json
from luksext import clevis, header, pcrs, predict
from luksext.generation import GENERATIONS

def fits(pin):
    if pin.name == "sss":
        return sum(map(fits, clevis.shares(pin))) >= pin.config["t"]
    policy = pcrs.policy_of(pin)
    return policy is None or policy.digest == pcrs.policy_digest(
        policy, pcrs.read(policy.bank, policy.numbers))

for name in sys.argv[1:]:
    if name.startswith("/dev/"):
        found = header.read(name)
        [(_, name)] = GENERATIONS[found.version].bindings(name, found)
    pin = clevis.describe(name)
    print(json.dumps([*predict.predict(pin), fits(pin)]))
"""

_NOTE = f"{_PACKAGE}; from luksext import started; started.note()"


class Foreseen(NamedTuple):
    """What is said of a sealed key: at the next boot, why, and whether it fits now."""

    state: str
    reason: str
    fits_now: bool


def foresee(machine: Machine, *keys: str) -> list[Foreseen]:
    """What is said of each key: a sealed one, or the only binding of a device."""
    printed = machine.run(["python3", "-c", _PREDICT, *keys]).out
    return [Foreseen(*json.loads(line)) for line in printed.splitlines()]


def seal(machine: Machine, pin: str, config: object) -> str:
    """A key that clevis seals now."""
    argv = ["clevis", "encrypt", pin, json.dumps(config)]
    return machine.run(argv, input="secret").out.strip()


@pytest.fixture(scope="module")
def firmware() -> Firmware:
    return "uefi"


@pytest.fixture(scope="module")
def bound(host: Host, machine: Machine) -> Iterator[list[Sr]]:
    """An SR of each generation, bound to the firmware's PCRs."""
    srs = [host.create_sr(machine.add_disk("luks" + version, "256M"), luks_version=version,
                          pin_config=json.dumps({"pcr_ids": pcrs}))
           for version, pcrs in (("1", "7"), ("2", "0,1,2,3,7"))]
    yield srs
    for sr in srs:
        sr.destroy()


def test_a_changed_variable_is_told_before_the_reboot(machine: Machine, bound: list[Sr]) -> None:
    devices = [sr.device for sr in bound]
    for foreseen in foresee(machine, *devices):
        assert (foreseen.state, foreseen.fits_now) == ("ok", True), foreseen.reason

    machine.set_secure_boot_variable("dbx", HASHES)
    for foreseen in foresee(machine, *devices):
        assert (foreseen.state, foreseen.fits_now) == ("breaks", True), foreseen.reason
        assert "variable dbx was changed" in foreseen.reason
    machine.reboot()
    for sr, foreseen in zip(bound, foresee(machine, *devices), strict=True):
        assert not sr.attached
        assert sr.refused().code == 6234
        assert (foreseen.state, foreseen.fits_now) == ("breaks", False), foreseen.reason

    machine.set_secure_boot_variable("dbx", b"")
    for foreseen in foresee(machine, *devices):
        assert (foreseen.state, foreseen.fits_now) == ("ok", False), foreseen.reason
    machine.reboot()
    assert all(sr.attached for sr in bound)


def test_what_is_not_known_is_not_called_ok(machine: Machine) -> None:
    sha256 = {"pcr_bank": "sha256"}
    of_kernel = seal(machine, "tpm2", {"pcr_ids": "9", **sha256})
    extended = seal(machine, "tpm2", {"pcr_ids": "7,16", **sha256})
    either = seal(machine, "sss", {"t": 1, "pins": {"tpm2": [{"pcr_ids": "9", **sha256}, {}]}})
    both = seal(machine, "sss", {"t": 2, "pins": {"tpm2": [{"pcr_ids": "7", **sha256}, {}]}})
    machine.extend_pcr(16)
    machine.set_secure_boot_variable("db", HASHES)
    found = foresee(machine, of_kernel, extended, either, both)
    machine.set_secure_boot_variable("db", b"")
    assert [(foreseen.state, foreseen.fits_now) for foreseen in found] == [
        ("unpredictable", True), ("unpredictable", False), ("ok", True), ("breaks", True)]
    assert "PCR 9 depends on what is on the disks" in found[0].reason
    assert "variable db was changed" in found[3].reason


def test_a_host_that_shows_too_little_is_unpredictable(machine: Machine) -> None:
    key = seal(machine, "tpm2", {"pcr_ids": "7", "pcr_bank": "sha256"})
    for kind, folder in (("securityfs", "/sys/kernel/security"),
                         ("efivarfs", "/sys/firmware/efi/efivars")):
        machine.run(["umount", folder])
        [foreseen] = foresee(machine, key)
        machine.run(["mount", "-t", kind, kind, folder])
        assert (foreseen.state, foreseen.fits_now) == ("unpredictable", True), folder
    [foreseen] = foresee(machine, key)
    assert foreseen.state == "ok", foreseen.reason


def test_without_a_log_a_changed_variable_is_told(machine: Machine) -> None:
    """As on XCP-ng 8.3, whose dom0 shows none. That the reboot breaks it, is shown above."""
    key = seal(machine, "tpm2", {"pcr_ids": "7", "pcr_bank": "sha256"})
    machine.run(["python3", "-c", _NOTE])
    machine.run(["umount", "/sys/kernel/security"])
    machine.set_secure_boot_variable("dbx", HASHES)
    [foreseen] = foresee(machine, key)
    machine.set_secure_boot_variable("dbx", b"")
    [afterwards] = foresee(machine, key)
    machine.run(["mount", "-t", "securityfs", "securityfs", "/sys/kernel/security"])
    assert (foreseen.state, foreseen.fits_now) == ("breaks", True), foreseen.reason
    assert (afterwards.state, afterwards.fits_now) == ("unpredictable", True), afterwards.reason


def test_a_visit_to_the_setup_that_is_due_is_unpredictable(machine: Machine) -> None:
    key = seal(machine, "tpm2", {"pcr_ids": "7", "pcr_bank": "sha256"})
    file = f"/sys/firmware/efi/efivars/OsIndications-{uefi.GLOBAL}"
    # Attributes, then the wish to boot into the firmware's setup (UEFI 2.10, 8.5.4).
    machine.run(["dd", f"of={file}"], input=b"\7\0\0\0\1" + bytes(7))
    [foreseen] = foresee(machine, key)
    machine.run(["sh", "-c", f"chattr -i {file}; rm {file}"])
    assert foreseen.state == "unpredictable"
    assert "asked to update itself or to open its setup" in foreseen.reason
