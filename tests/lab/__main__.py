# SPDX-License-Identifier: LGPL-2.1-only
"""The lab by hand: python -m tests.lab build | shell | run -- COMMAND | requirements."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import host, image
from .errors import LabError
from .guest import Terminal
from .machine import Machine

_DISKS = ("one", "two", "three")


def main() -> int:
    """Do what the command line says; return the exit code."""
    arguments = _parse()
    try:
        if arguments.action == "requirements":
            print(" ".join(host.requirements()))
            return 0
        host.check()
        if arguments.action == "build":
            print(image.obtain().folder)
            return 0
        with _machine(arguments) as machine:
            machine.start()
            print(f"lab: {machine.name} is up after {machine.boot_seconds:.1f} s", file=sys.stderr)
            return _shell(machine) if arguments.action == "shell" else _run(machine, arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("requirements", help="print the Debian packages that the host needs")
    actions.add_parser("build", help="fetch and build what guests boot from, if it is not cached")
    shell = actions.add_parser("shell", help="boot a machine and open a root shell in it")
    run = actions.add_parser("run", help="boot a machine, run a command, pass on its exit code")
    run.add_argument("command", nargs="+", metavar="COMMAND", help="after --, with its arguments")
    run.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    for action in (shell, run):
        action.add_argument("--sm", type=Path, help="a checkout of SM (default: the lab's own)")
        action.add_argument("--name", default="lab", help="the machine's hostname")
        action.add_argument("--keep", type=Path, metavar="FOLDER", help="keep disks and TPM there")
        action.add_argument("--memory", type=int, default=1024, metavar="MIB")
        action.add_argument("--cpus", type=int, default=2)
    return parser.parse_args()


@contextmanager
def _machine(arguments: argparse.Namespace) -> Iterator[Machine]:
    """Provide a machine with three disks, in a folder that is removed unless it is to be kept."""
    # A terminal that closes, or a supervisor, ends the lab as a Ctrl-C does.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="luksext-lab-"))
    try:
        with Machine(
            arguments.name,
            folder,
            sm=arguments.sm,
            memory_mib=arguments.memory,
            cpus=arguments.cpus,
        ) as machine:
            for name in _DISKS:
                if name not in machine.disks:
                    machine.add_disk(name)
            yield machine
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _run(machine: Machine, arguments: argparse.Namespace) -> int:
    result = machine.run(arguments.command, timeout=arguments.timeout, check=False)
    sys.stdout.write(result.out)
    sys.stderr.write(result.err)
    return result.rc


def _shell(machine: Machine) -> int:
    """Connect this terminal to a shell in the guest; its end (Ctrl-D) powers the machine off."""
    columns, rows = shutil.get_terminal_size()
    terminal = machine.terminal(["bash", "--login"], rows, columns)
    threading.Thread(target=_type, args=[terminal], daemon=True).start()
    signal.signal(
        signal.SIGWINCH, lambda *_: threading.Thread(target=_resize, args=[terminal]).start()
    )
    with _raw_input():
        for data in terminal.output():
            os.write(sys.stdout.fileno(), data)
    machine.shutdown()
    return terminal.rc


def _type(terminal: Terminal) -> None:
    while data := os.read(sys.stdin.fileno(), 4096):
        terminal.type(data)
    terminal.type(b"\x04")


def _resize(terminal: Terminal) -> None:
    columns, rows = shutil.get_terminal_size()
    terminal.resize(rows, columns)


@contextmanager
def _raw_input() -> Iterator[None]:
    """Pass on keys as they are typed: it is the guest's terminal that echoes and interrupts."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


if __name__ == "__main__":
    sys.exit(main())
