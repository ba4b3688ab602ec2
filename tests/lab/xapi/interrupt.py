# SPDX-License-Identifier: LGPL-2.1-only
"""Kills a driver before or after one of the programs that it runs, or only tells which those are.

The file `ORDER` asks for it, a JSON object: `command`, one of XAPI's such as sr_attach, and `step`,
what the driver is killed at, or null. Each step becomes a line in the file `STEPS`: `before` or
`after`, the start of a program or its end once the driver has seen that; how often there was the
same in this call already; and the program.

Programs are found where Python starts them, whoever asks for it: the driver, the storage manager or
the standard library.
"""

import json
import os
import re
import signal
import subprocess
from collections import Counter

ORDER = "/run/lab/interrupt.json"
STEPS = "/run/lab/interrupt-steps"


def obey(argv: list[str]) -> None:
    """Have this process killed, if the order is for what it is about to run."""
    try:
        with open(ORDER, encoding="utf-8") as file:
            order = json.load(file)
    except FileNotFoundError:
        return
    if f"<methodName>{order['command']}</methodName>" in "".join(argv[1:]):
        _install(order["step"])


def _install(fatal: str | None) -> None:
    driver = os.getpid()
    seen: Counter[str] = Counter()

    def step(when: str, program: str) -> None:
        if os.getpid() != driver:
            return
        line = f"{when} {seen[f'{when} {program}']} {program}"
        seen[f"{when} {program}"] += 1
        with open(STEPS, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        if line == fatal:
            os.kill(driver, signal.SIGKILL)

    class Popen(subprocess.Popen):
        """As ever, and each start and end is a step."""

        def __init__(self, args, *positional, **named):
            self._shown = _shown(args)
            self._seen = False
            step("before", self._shown)
            super().__init__(args, *positional, **named)

        def poll(self):
            return self._ended(super().poll())

        def wait(self, timeout=None):
            return self._ended(super().wait(timeout))

        def _ended(self, status):
            if status is not None and not self._seen:
                self._seen = True
                step("after", self._shown)
            return status

    subprocess.Popen = Popen  # type: ignore[misc]


def _shown(args) -> str:
    """A program's name, and the word that tells what it does, if that is the first."""
    words = args.split() if isinstance(args, str) else [str(word) for word in args]
    name = os.path.basename(words[0])
    verb = words[1] if len(words) > 1 and re.fullmatch("[a-zA-Z]+|-a[yn]", words[1]) else ""
    return f"{name} {verb}".strip()
