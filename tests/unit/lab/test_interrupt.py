# SPDX-License-Identifier: LGPL-2.1-only
"""A driver that is killed at one of the programs that it runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.xapi import interrupt

CALL = "<methodCall><methodName>sr_attach</methodName></methodCall>"

# Three ways to start a program, and a process of its own that is none of the driver's.
DRIVER = """
import os, subprocess
subprocess.run(["/bin/echo", "one"], stdout=subprocess.DEVNULL)
child = os.fork()
if child == 0:
    subprocess.call(["/bin/false"])
    os._exit(0)
os.waitpid(child, 0)
process = subprocess.Popen(["true", "/not/a/verb"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
process.communicate(b"")
process.wait()
os.popen("exit 3").close()
subprocess.call("true")
print("survived")
"""
STEPS = ["before 0 echo one", "after 0 echo one", "before 0 true", "after 0 true", "before 0 exit",
         "after 0 exit", "before 1 true", "after 1 true"]


def run(folder: Path, order: dict[str, object] | None,
        call: str = CALL) -> tuple[int, str, list[str]]:
    """How the driver ends, what it says, and the steps that it took."""
    files = {"ORDER": folder / "order", "STEPS": folder / "steps"}
    if order is not None:
        files["ORDER"].write_text(json.dumps(order))
    source = [f"import sys; sys.path.insert(0, {str(Path(interrupt.__file__).parent)!r})",
              "import interrupt"]
    source += [f"interrupt.{name} = {str(path)!r}" for name, path in files.items()]
    source += [f"interrupt.obey(['/LUKSEXTSR', {call!r}])", DRIVER]
    done = subprocess.run([sys.executable, "-c", "\n".join(source)], capture_output=True, text=True)
    steps = files["STEPS"].read_text().splitlines() if files["STEPS"].exists() else []
    return done.returncode, done.stdout.strip(), steps


def test_the_steps_are_told(tmp_path: Path) -> None:
    assert run(tmp_path, {"command": "sr_attach", "step": None}) == (0, "survived", STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_it_is_killed_at_a_step(tmp_path: Path, step: str) -> None:
    ended = run(tmp_path, {"command": "sr_attach", "step": step})
    assert ended == (-signal.SIGKILL, "", STEPS[:STEPS.index(step) + 1])


def test_a_step_that_is_never_taken_kills_nobody(tmp_path: Path) -> None:
    assert run(tmp_path, {"command": "sr_attach", "step": "before 2 true"})[:2] == (0, "survived")


def test_other_commands_and_programs_are_left_alone(tmp_path: Path) -> None:
    order: dict[str, object] = {"command": "sr_attach", "step": STEPS[0]}
    assert run(tmp_path, order, CALL.replace("attach", "detach")) == (0, "survived", [])
    assert run(tmp_path, order, "argument") == (0, "survived", [])
    assert run(tmp_path / "nowhere", None) == (0, "survived", [])
