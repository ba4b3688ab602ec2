# SPDX-License-Identifier: LGPL-2.1-only
"""Kill what changes an SR, as a power cut or an impatient administrator does, at a chosen step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.storage.pool import Host

REAL = "/run/real"

# The real program keeps its name: LVM's programs are one, which goes by it.
_WRAPPER = """#!/bin/sh
case "$*" in {pattern})
    {real}/{name} "$@"
    kill -{signal} $PPID
    exit;;
esac
exec {real}/{name} "$@"
"""


@contextmanager
def killed_after(
    host: Host, program: str, pattern: str = "*", signal: str = "KILL"
) -> Iterator[None]:
    """Within, whoever runs `program` with arguments like `pattern` (sh) is killed after it ended,
    by `signal`.

    Killed before a program is killed after the one before it.
    """
    path = host.sh(f"command -v {program}").strip()
    host.sh(f"mkdir -p {REAL}; mv {path} {path}.away; ln -sf {path}.away {REAL}/{program}")
    wrapper = _WRAPPER.format(pattern=pattern, real=REAL, name=program, signal=signal)
    host.machine.put(path, wrapper.encode(), 0o755)
    try:
        yield
    finally:
        host.sh(f"mv {path}.away {path}; rm {REAL}/{program}")
