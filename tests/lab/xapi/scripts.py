# SPDX-License-Identifier: LGPL-2.1-only
"""Runs Python scripts without starting a Python for each.

In an emulated guest, a Python takes most of a second until it has imported what a driver uses of
the standard library, and a test runs dozens of drivers. So one process does that once, and each
script is run in a fork of it (nursery.py).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import process
from .process import Outcome

_SHEBANG = b"#!/usr/bin/python3\n"
_CREATE = "<methodName>sr_create<"

#: While this file is there, each script is a program of its own: for who measures what that costs.
AS_PROGRAMS = Path("/run/lab/scripts-as-programs")


class Scripts:
    """The process that scripts are forked from."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        with theirs:
            # It ends when our end of the socket closes, however this process ends.
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("nursery.py")), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": process.PATH},
            )

    def run(self, argv: list[str], environment: Mapping[str, str]) -> Outcome:
        """As process.run. A program that is no Python script is started as any other, and so is a
        driver of the storage manager that makes an SR: there, luksext.pth has work to do when a
        Python starts."""
        stock_create = _CREATE in argv[-1] and not argv[0].endswith("/LUKSEXTSR")
        with open(argv[0], "rb") as program:
            if program.readline() != _SHEBANG or stock_create or AS_PROGRAMS.exists():
                return process.run(argv, environment)
        request = json.dumps({"argv": argv, "env": dict(environment)}).encode()
        reader, writer = os.pipe()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with open(reader, "rb") as report:
                descriptors = [out.fileno(), err.fileno(), writer]
                socket.send_fds(self._control, [request], descriptors)
                os.close(writer)
                # Nothing is reported when all its processes were killed.
                code = int(report.read() or -signal.SIGKILL)
            return process.outcome(out, err, code)

    def close(self) -> None:
        """End it; scripts that run go on."""
        self._control.close()
        self._process.wait()
