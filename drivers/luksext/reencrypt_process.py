# SPDX-License-Identifier: LGPL-2.1-only
"""The process that encrypts an open container anew, for hours; it outlives whoever started it.

It is found by its user, program and arguments, so there is no number that could go stale. SIGTERM
ends it at a point from which another can go on.
"""
import contextlib
import os
import signal
import time
from typing import Iterator, Optional, Set

from luksext import cryptsetup, devices, state, tables
from luksext.devices import Mapping
from luksext.errors import DeviceInUse
from luksext.header import Header
from luksext.run import time_for

_MESSAGES = "reencrypt.log"

# Seconds. The process ends when the part in work is written, which a slow disk does in a few.
_STOP_DEADLINE = 60
_POLL = 0.1

# It shall give way to virtual machines, and be the last to be killed when memory is short: they
# would wait for the part that it has in work until the host is restarted.
_NICENESS = 10
_SPARED = "-1000"


def launch(header: Header, device: str, mapping: Mapping, key: bytes) -> None:
    """Starts the process for the container with `header` on `device`, open as `mapping`."""
    messages = os.path.join(state.Store(header.uuid).make(), _MESSAGES)
    in_clear = header.reencryption is not None and header.reencryption.moved is not None
    go_on = cryptsetup.encrypt if in_clear else cryptsetup.reencrypt
    process = go_on(device, mapping.name, key, messages)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process, _NICENESS)
        with open("/proc/{}/oom_score_adj".format(process), "w", encoding="ascii") as file:
            file.write(_SPARED)


def stop(mapping: Mapping) -> None:
    """Ends the process, if there is one. Raises DeviceInUse where it does not end, TimeOver."""
    end = time.monotonic() + time_for("the end of the re-encryption", _STOP_DEADLINE)
    told: Set[int] = set()
    while _is_running(mapping):
        for process in set(_running(mapping)) - told:
            told.add(process)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        if time.monotonic() > end:
            raise DeviceInUse(mapping.path, ["`cryptsetup reencrypt`, which does not end"])
        time.sleep(_POLL)


def state_of(mapping: Optional[Mapping]) -> str:
    """"running", "interrupted", or "stuck": killed, so that it left its helpers below `mapping`."""
    if mapping is None:
        return "interrupted"
    if _is_running(mapping):
        return "running"
    return "stuck" if devices.is_mapped(mapping.name + tables.OVERLAY) else "interrupted"


def _is_running(mapping: Mapping) -> bool:
    if any(_running(mapping)):
        return True
    # A program has no arguments for a moment while it is started (execve(2)): look twice.
    time.sleep(_POLL)
    return any(_running(mapping))


def message(luks_uuid: str) -> str:
    """The last line that the process said, empty where there is none."""
    path = os.path.join(state.Store(luks_uuid).folder, _MESSAGES)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _running(mapping: Mapping) -> Iterator[int]:
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open("/proc/{}/cmdline".format(entry), "rb") as file:
                words = file.read().split(b"\0")
            if b"reencrypt" in words and mapping.name.encode("utf-8") in words \
                    and _is_ours(entry) and _program_of(entry) == "cryptsetup":
                yield int(entry)


def _is_ours(process: str) -> bool:
    """Arguments alone are what any user of the host may give to anything."""
    with open("/proc/{}/status".format(process), encoding="ascii", errors="replace") as file:
        users = next((line.split()[1:] for line in file if line.startswith("Uid:")), [])
    # The real and the effective one come first.
    return users[:2] == 2 * [str(os.geteuid())]


def _program_of(process: str) -> str:
    # Of a program that was replaced meanwhile, the kernel adds " (deleted)".
    return os.path.basename(os.readlink("/proc/{}/exe".format(process))).split(" ")[0]
