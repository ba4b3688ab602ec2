# SPDX-License-Identifier: LGPL-2.1-only
"""Python scripts forked from a prepared process: to them it is as if they had been started."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.xapi.scripts import Scripts

ENVIRONMENT = {"PATH": "/usr/bin", "ORIGINATOR": "SM"}


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    scripts = Scripts()
    yield scripts
    scripts.close()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """An executable by a link, as drivers are; its file is to be written."""
    (tmp_path / "driver").symlink_to("driver.py")
    return tmp_path / "driver"


def write(script: Path, body: str) -> list[str]:
    """The command that runs a script with this body and one argument."""
    script.resolve().write_text("#!/usr/bin/python3\n" + body)
    script.resolve().chmod(0o755)
    return [str(script), "argument"]


def test_a_script_is_a_program_of_its_own_while_that_is_asked_for(
        scripts: Scripts, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "as-programs"
    monkeypatch.setattr("tests.lab.xapi.scripts.AS_PROGRAMS", marker)
    argv = write(script, "import os; print(os.getppid())")
    assert int(scripts.run(argv, ENVIRONMENT).out) != os.getpid()
    marker.touch()
    assert int(scripts.run(argv, ENVIRONMENT).out) == os.getpid()


def test_a_script_finds_what_it_would_find_as_a_program(scripts: Scripts, script: Path) -> None:
    (script.parent / "beside.py").write_text("HERE = True\n")
    outcome = scripts.run(
        write(
            script,
            """\
import json, os, sys, beside, __main__
names = {"name": __name__, "main": __main__.here is not None} if (here := __file__) else {}
print(json.dumps({**names, "file": __file__, "argv": sys.argv, "environ": dict(os.environ),
                  "cwd": os.getcwd(), "leads": os.getsid(0) == os.getpid(),
                  "files": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1]}))
""",
        ),
        ENVIRONMENT,
    )
    assert outcome.trouble == "", outcome.err
    assert json.loads(outcome.out) == {
        "name": "__main__", "main": True, "file": str(script), "argv": [str(script), "argument"],
        "environ": ENVIRONMENT, "cwd": "/", "leads": True, "files": [0, 1, 2],
    }  # fmt: skip


def test_nothing_of_one_script_is_left_for_the_next(scripts: Scripts, script: Path) -> None:
    scripts.run(
        write(script, "import sys, os\nsys.modules['left'] = os.environ['left'] = 'x'\n"),
        ENVIRONMENT,
    )
    outcome = scripts.run(
        write(script, "import sys, os\nprint('left' in sys.modules or 'left' in os.environ)\n"),
        ENVIRONMENT,
    )
    assert outcome.out == b"False\n"


@pytest.mark.parametrize(
    ("body", "trouble", "said"),
    [
        ("import sys\nsys.exit(3)\n", "non-zero exit", ""),
        ("raise KeyError('gone')\n", "non-zero exit", "KeyError: 'gone'"),
        ("import os\nos.kill(os.getpid(), 9)\n", f"received signal: {signal.SIGKILL.name}", ""),
        ("import atexit, sys\natexit.register(sys.stderr.write, 'bye')\n", "", "bye"),
    ],
)
def test_how_it_ended(scripts: Scripts, script: Path, body: str, trouble: str, said: str) -> None:
    outcome = scripts.run(write(script, body), ENVIRONMENT)
    assert outcome.trouble == trouble
    assert said in outcome.err


def test_what_it_leaves_in_the_background_keeps_nobody_waiting(
    scripts: Scripts, script: Path
) -> None:
    outcome = scripts.run(
        write(script, "import subprocess\nprint(subprocess.Popen(['sleep', '60']).pid)\n"),
        ENVIRONMENT,
    )
    pid = int(outcome.out)
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0060\x00"
    os.kill(pid, signal.SIGKILL)


def test_another_program_is_started_as_ever(scripts: Scripts, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho $ORIGINATOR $1\n")
    program.chmod(0o755)
    assert scripts.run([str(program), "one"], ENVIRONMENT).out == b"SM one\n"
