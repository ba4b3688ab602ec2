# SPDX-License-Identifier: LGPL-2.1-only
"""Run a program as forkexecd does (xen-api: ocaml/forkexecd)."""

from __future__ import annotations

import resource
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

PATH = "/sbin:/usr/sbin:/bin:/usr/bin"
OPEN_FILES = 1024


@dataclass(frozen=True)
class Outcome:
    """What a program left: both streams, and how it ended if not with 0."""

    out: bytes
    err: str
    #: Empty, `non-zero exit` or `received signal: …`
    trouble: str


def limit_open_files() -> None:
    """Set this process's own limit, which every program it starts inherits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))


def run(argv: list[str], environment: Mapping[str, str]) -> Outcome:
    """Run to the end, however long it takes: xapi has no time limit either.

    The streams are files, not pipes: a child that stays in the background keeps nobody waiting.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd="/",
            env=dict(environment),
            start_new_session=True,
            check=False,
        ).returncode
        return outcome(out, err, code)


def outcome(out: IO[bytes], err: IO[bytes], code: int) -> Outcome:
    """What the files `out` and `err` hold; `code` is as subprocess has it."""
    out.seek(0)
    err.seek(0)
    return Outcome(out.read(), err.read().decode("utf-8", "replace"), _trouble(code))


def _trouble(code: int) -> str:
    if code < 0:
        return f"received signal: {signal.Signals(-code).name}"
    return "non-zero exit" if code else ""
