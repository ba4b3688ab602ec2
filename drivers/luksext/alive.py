# SPDX-License-Identifier: LGPL-2.1-only
"""Does a disk answer?

Whoever reads a disk that hangs waits in the kernel until that gives it up: minutes with most
controllers, for ever with some. XAPI would wait as long, with a lock that every other SR of the
host needs. So another process reads the header first, and is left behind where it does not end.
With other hardware it is the same.
"""
import contextlib
import os
import signal
import time
from typing import Callable, Optional, Set

from luksext import header
from luksext.errors import DiskFails
from luksext.run import log, time_for

# Seconds. A disk that was put to sleep needs ten to start.
DEADLINE = 20

_LONGEST_PAUSE = 0.1

# This process, which is there for one command, does not wait for the same disk twice.
_silent: Set[str] = set()


def check(device: str) -> None:
    """Raises DiskFails where `device`, which exists, does not answer. Raises TimeOver."""
    if not answers(device):
        raise DiskFails(device, "it does not answer within {:g} seconds".format(DEADLINE))


def answers(device: str) -> bool:
    """Whether the header of `device`, or what is in its place, was read in time. Raises TimeOver.

    Afterwards it is in the kernel's cache only while something holds the disk open; what is left to
    chance is a disk that begins to hang at this moment.
    """
    name = os.path.realpath(device)
    if name in _silent:
        return False
    if _ended(_start_reader(device), time_for("reading " + device, DEADLINE)) is not None:
        return True
    log.error("%s does not answer", device)
    _silent.add(name)
    return False


def does(action: Callable[[], None], seconds: float) -> bool:
    """Whether `action`, which another process does, raised nothing and was done in time."""
    return _ended(_start(action), seconds) == 0


def _start_reader(device: str) -> int:
    return _start(lambda: header.find(device))


def _start(action: Callable[[], object]) -> int:
    process = os.fork()
    if process == 0:
        status = 1
        try:
            _let_go_of_files()
            action()
            status = 0
        finally:
            os._exit(status)
    return process


def _let_go_of_files() -> None:
    """A process that is left behind must keep no lock and no pipe of ours."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    # Not all numbers up to the limit: systemd may allow a billion files.
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2:
            with contextlib.suppress(OSError):
                os.close(number)


def _ended(process: int, seconds: float) -> Optional[int]:
    """How it ended, 0 for well; None where it did not in time, and is left behind."""
    end = time.monotonic() + seconds
    pause = 0.001
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            return None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
