# SPDX-License-Identifier: LGPL-2.1-only
"""Starting programs that must not outlive this process, however it ends."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The kernel's death signal comes when the *thread* that started a program ends, not its process
# (prctl(2), PR_SET_PDEATHSIG). So one thread that lives as long as this process starts them all.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-starter")


def spawn(argv: Sequence[str], log: Path, keep_open: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a program that is killed when this process ends.

    Its output is added to the file `log`; it inherits the file descriptors `keep_open`. It is in a
    session of its own, so that a Ctrl-C in a terminal reaches only this process, which then ends
    it in order.
    """
    return _starter.submit(_spawn, argv, log, keep_open).result()


def _spawn(argv: Sequence[str], log: Path, keep_open: Sequence[int]) -> subprocess.Popen[bytes]:
    with open(log, "ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=keep_open,
            start_new_session=True,
        )
