# SPDX-License-Identifier: LGPL-2.1-only
"""Kill the driver at a chosen program of a call, and see what is left on the host."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.lab.xapi.interrupt import ORDER, STEPS
from tests.storage.pool import Host, XeError

# What a call may leave behind, and the command that lists it. Locks are files that stay, by design
# of the storage manager and of ours; who holds one is a process, and those are listed.
_TRACES = {
    "mappings": "dmsetup ls | grep -v '^No devices' || true",
    "mounts": "grep sr-mount /proc/mounts || true",
    "folders of mounts": "ls /run/sr-mount 2>/dev/null || true",
    "notes": "ls -A /var/lib/luksext 2>/dev/null || true",
    "temporary files": "ls -A /run/luksext 2>/dev/null | grep -v ^lock- || true",
    "volume groups": "vgs --noheadings -o vg_name 2>/dev/null",
    "processes": "ps -eo args | grep -E '[L]UKSEXTSR|[c]ryptsetup|[c]levis|[j]ose |[m]kfs' || true",
}


class Step(NamedTuple):
    """The start (`before`) or the end (`after`) of a program during a command of XAPI.

    number: how often there was the same before in this call.
    """

    command: str
    when: str
    number: int
    program: str

    def __str__(self) -> str:
        return f"{self.when} {self.number} {self.program}"


class Driver:
    """The driver of a host, which can be killed at each program that it runs."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def steps(self, command: str, call: Callable[[], object]) -> list[Step]:
        """What the driver runs for `command` of XAPI while `call` is made."""
        with self._ordered(command, None):
            call()
            return self._taken(command)

    def kill(self, step: Step, call: Callable[[], object]) -> bool:
        """Make `call`, of which the driver is killed at `step`; False where it succeeds without
        that step. Raises XeError when it fails otherwise."""
        with self._ordered(step.command, str(step)):
            try:
                call()
            except XeError as error:
                if "SIGKILL" not in error.text or self._taken(step.command)[-1:] != [step]:
                    raise
                return True
            return False

    def _taken(self, command: str) -> list[Step]:
        lines = self.host.machine.get(STEPS).decode().splitlines()
        words = [line.split(maxsplit=2) for line in lines]
        return [Step(command, when, int(number), program) for when, number, program in words]

    @contextmanager
    def _ordered(self, command: str, step: str | None) -> Iterator[None]:
        order = json.dumps({"command": command, "step": step})
        self.host.machine.put(ORDER, order.encode())
        self.host.machine.put(STEPS, b"")
        try:
            yield
        finally:
            self.host.sh(f"rm {ORDER} {STEPS}")


def traces(host: Host) -> dict[str, set[str]]:
    """All that calls left on the host and in XAPI."""
    script = "; echo ==; ".join(_TRACES.values())
    parts = host.sh(script).split("==\n")
    found = {name: set(filter(None, map(str.strip, part.splitlines())))
             for name, part in zip(_TRACES, parts, strict=True)}
    found["SRs"] = _uuids(host, "sr-list")
    found["secrets"] = _uuids(host, "secret-list")
    return found


def _uuids(host: Host, command: str) -> set[str]:
    return set(host.xe(command, params="uuid", minimal=True).split(","))
