# SPDX-License-Identifier: LGPL-2.1-only
"""The mission, step by step, on real parts: `python -m tests.lab.demo`, or `make demo`.

Each step is timed and checked; the first that is not as it should be ends the demo with status 1.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.machine import Machine
from tests.storage.pool import NOTHING, Host, XeError

TEXT = "the salaries of everybody in the company"
DATA = f"{TEXT}\n".encode() * 20_000

# luksext ends with 3 when all is done and something needs attention, such as a new key.
ATTENTION = "|| [ $? = 3 ]"


class Demo:
    """Prints steps as they pass, with their seconds."""

    def __init__(self) -> None:
        self._number = 0

    def step(self, title: str, action: Callable[[], str]) -> None:
        """Run `action`, which checks for itself and returns what to show of it."""
        self._number += 1
        print(f"\n{self._number}. {title}", flush=True)
        begin = time.monotonic()
        shown = action()
        seconds = time.monotonic() - begin
        print(textwrap.indent(shown.strip(), "   | "))
        print(f"   ok, {seconds:.1f} s", flush=True)


def check(condition: bool, what: str) -> None:
    """Raises AssertionError with a sentence where the demo is not as it should be."""
    if not condition:
        raise AssertionError(what)


def main() -> int:
    begin = time.monotonic()
    sm = os.environ.get("SM")
    with tempfile.TemporaryDirectory(prefix="luksext-demo-") as folder:
        machine = Machine("host-one", Path(folder) / "one", sm=Path(sm) if sm else None)
        other = Machine("host-two", Path(folder) / "two", sm=Path(sm) if sm else None)
        with machine, other:
            try:
                _Story(Demo(), machine, other).tell()
            except (AssertionError, LabError, XeError) as error:
                print(f"\nNOT as it should be: {error}", file=sys.stderr)
                return 1
    print(f"\nAll steps passed, {time.monotonic() - begin:.0f} s.")
    return 0


class _Story:
    def __init__(self, demo: Demo, machine: Machine, other: Machine) -> None:
        self.demo = demo
        self.host = Host(machine)
        self.other = Host(other)
        self.disk = machine.add_disk("data", "512M")

    def tell(self) -> None:
        step = self.demo.step
        step("A host with a TPM 2.0 and an empty disk boots", self.boot)
        step("One command makes an encrypted SR", self.create)
        step("A recovery key is made, and typed back", self.make_key)
        step("A VDI is written", self.write)
        step("pbd-unplug leaves nothing open", self.unplug)
        step("After a cold boot the SR is plugged by itself, the data are intact", self.cold_boot)
        step("On the raw disk there is no plaintext", self.no_plaintext)
        step("Stolen: in a host with another TPM, the disk stays closed", self.stolen)
        step("The recovery key opens it there", self.recover)
        step("sr-destroy erases every key", self.destroy)

    def boot(self) -> str:
        self.host.machine.start()
        return self.host.sh("lsblk --nodeps -o NAME,SIZE,FSTYPE,SERIAL; ls /dev/tpm*")

    def create(self) -> str:
        self.sr = self.host.create_sr(self.disk)
        check(self.sr.attached, "the new SR is not plugged")
        return (f"xe sr-create type=luksext name-label=test content-type=user \\\n"
                f"  host-uuid={self.host.uuid} \\\n"
                f"  device-config:device={self.disk.by_id}\n{self.sr.uuid}\n"
                + self.host.sh(f"lsblk -o NAME,TYPE,FSTYPE {self.sr.device}"))

    def make_key(self) -> str:
        told = self.host.sh(f"luksext recovery-add --name=safe --json {ATTENTION}")
        self.key = json.loads(told)["recovery_key"]
        told = self.host.sh(f"luksext recovery-confirm --key-stdin --json {ATTENTION}",
                            input=self.key)
        check(json.loads(told)["confirmed"], "the recovery key is not confirmed")
        return (f"luksext recovery-add --name=safe\nrecovery key: {self.key}\n"
                "luksext recovery-confirm\nconfirmed: true")

    def write(self) -> str:
        self.vdi = self.sr.create_vdi()
        self.host.write_vdi(self.vdi, DATA)
        return self.host.sh(f"ls -l {self.sr.mount}/*.vhd")

    def unplug(self) -> str:
        self.sr.unplug()
        check(self.host.left_open() == NOTHING, f"left open: {self.host.left_open()}")
        return self.host.sh(f"lsblk -o NAME,TYPE,FSTYPE {self.sr.device}")

    def cold_boot(self) -> str:
        self.sr.plug()
        self.host.machine.reboot()
        check(self.sr.attached, "the SR was not plugged at boot")
        self._check_data(self.host)
        return self.host.sh(
            f"findmnt --noheadings --raw --output TARGET,FSTYPE,OPTIONS {self.sr.mount}")

    def no_plaintext(self) -> str:
        self.host.sh("sync")
        raw = self.disk.path.read_bytes()
        check(TEXT.encode() not in raw, "plaintext was found on the disk")
        return f'{len(raw) >> 20} MiB of the disk searched for "{TEXT}": not found'

    def stolen(self) -> str:
        self.sr.unplug()
        self.host.xe("sr-forget", uuid=self.sr.uuid)
        self.host.machine.move_disk(self.disk.name, self.other.machine)
        self.host.machine.power_cut()
        self.other.machine.start()
        self.moved = self.other.introduce(self.sr, self.disk.by_id)
        try:
            self.moved.plug()
        except XeError as error:
            check(error.code == 6234, f"an unexpected error: {error}")
            return error.text
        raise AssertionError("another TPM opened the disk")

    def recover(self) -> str:
        self._unlock()
        self.moved.plug()
        check(self.moved.attached, "the SR is not plugged")
        self._check_data(self.other)
        return f"luksext unlock --key-stdin\nxe pbd-plug uuid={self.moved.pbd}"

    def destroy(self) -> str:
        self.other.xe("vdi-destroy", uuid=self.vdi)
        self.moved.unplug()
        uuid = self.moved.uuid
        # The TPM of this host cannot unlock it, so it is opened for XAPI, which attaches first.
        self._unlock()
        self.other.xe("sr-destroy", uuid=uuid)
        check(self.other.left_open() == NOTHING, f"left open: {self.other.left_open()}")
        tried = self.other.machine.run(f"cryptsetup open {self.disk.by_id} x", input=self.key,
                                       check=False)
        check(tried.rc != 0, "the recovery key still opens the disk")
        check(not any(self.disk.path.read_bytes()[:16 << 20]), "there is still a header")
        return f"xe sr-destroy uuid={uuid}\n{tried.err}"

    def _unlock(self) -> None:
        """On the other host, by the key on stdin: it is on no command line."""
        self.other.sh(f"luksext unlock --key-stdin {ATTENTION}", input=self.key)

    def _check_data(self, host: Host) -> None:
        check(host.read_vdi(self.vdi).startswith(DATA), "the data are not intact")


if __name__ == "__main__":
    sys.exit(main())
