#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for blktap's ``tap-ctl``: starts tapdisks and talks to them.

The exit code is an errno value. Minor numbers are files in ``CONTROL/tapdisk``; SM 3.x wants them
to be the kernel's too, see blktap_kernel.
"""

from __future__ import annotations

import argparse
import errno
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import blktap_kernel
from tapdisk import CONTROL

MINORS = CONTROL / "tapdisk"
MOST_MINORS = 16

#: Only SM 3.x has its drivers there; it allocates minors of the kernel's blktap.
FLAT_SM = Path("/opt/xensource/sm/EXTSR.py")


def call(pid: int, command: str, **arguments: Any) -> Any:
    """Have a tapdisk run a command; returns its answer. Raises OSError with its errno."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(CONTROL / f"ctl{pid}"))
        with client.makefile("rw") as stream:
            stream.write(json.dumps({"command": command, **arguments}) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
    if answer["errno"]:
        raise OSError(answer["errno"], answer["value"])
    return answer["value"]


def allocate(options: argparse.Namespace) -> None:
    """Reserve a minor number and print its path."""
    minor = _reserve()
    if FLAT_SM.exists():
        print(blktap_kernel.make_device(minor))
    else:
        print(MINORS / f"tapdisk-{minor}")


def _reserve() -> int:
    MINORS.mkdir(parents=True, exist_ok=True)
    for minor in range(MOST_MINORS):
        try:
            (MINORS / f"tapdisk-{minor}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return minor
    raise OSError(errno.ENOSPC, "all minor numbers are in use")


def free(options: argparse.Namespace) -> None:
    """Give a minor number back."""
    (MINORS / f"tapdisk-{options.minor}").unlink(missing_ok=True)
    blktap_kernel.remove_device(options.minor)


def spawn(options: argparse.Namespace) -> None:
    """Start a tapdisk and print its process id."""
    print(_spawn())


def _spawn() -> int:
    # It must neither be a child of ours nor have our stderr: SM waits until both are gone.
    program = [sys.executable, "-sES", str(Path(__file__).resolve().with_name("tapdisk.py"))]
    with subprocess.Popen(["setsid", "--fork", "sh", "-c", 'echo $$; exec "$@"', "sh", *program],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.stdout.readline()
    return pid


def attach(options: argparse.Namespace) -> None:
    """Give a tapdisk its minor number."""
    call(options.pid, "attach", minor=options.minor)


def open_image(options: argparse.Namespace) -> None:
    """Have a tapdisk open an image; -R for reading only."""
    call(options.pid, "open", argument=options.args, readonly=options.readonly)


def close(options: argparse.Namespace) -> None:
    """Have a tapdisk close its image."""
    call(options.pid, "close")


def detach(options: argparse.Namespace) -> None:
    """Take a tapdisk's minor number away, which ends it."""
    call(options.pid, "detach")


def pause(options: argparse.Namespace) -> None:
    """Have a tapdisk let go of its image for a while."""
    call(options.pid, "pause")


def unpause(options: argparse.Namespace) -> None:
    """Have a tapdisk open its image again."""
    call(options.pid, "unpause", argument=options.args)


def stats(options: argparse.Namespace) -> None:
    """Print a tapdisk's statistics, of which there are none."""
    print(json.dumps(call(options.pid, "stats")))


def list_tapdisks(options: argparse.Namespace) -> None:
    """Print a line for each tapdisk that -p, -m and -f do not rule out."""
    for path in sorted(CONTROL.glob("ctl*")):
        try:
            found = call(int(path.name.removeprefix("ctl")), "list")
        except (ConnectionError, FileNotFoundError):
            # Killed, or ended between the look and the call.
            path.unlink(missing_ok=True)
            continue
        wanted = (options.pid in (None, found["pid"]) and options.minor in (None, found["minor"])
                  and options.file in (None, found["args"].partition(":")[2]))
        if wanted:
            print("pid={pid} minor={minor} state={state:#x} args={args}".format(**found))


def create(options: argparse.Namespace) -> None:
    """Start a tapdisk on an image and print the path of its minor number."""
    minor, pid = _reserve(), _spawn()
    try:
        call(pid, "attach", minor=minor)
        call(pid, "open", argument=options.args, readonly=options.readonly)
    except OSError:
        call(pid, "detach")
        (MINORS / f"tapdisk-{minor}").unlink()
        raise
    print(MINORS / f"tapdisk-{minor}")


def destroy(options: argparse.Namespace) -> None:
    """Close a tapdisk's image and end it."""
    close(options)
    detach(options)
    free(options)


COMMANDS = {
    "allocate": allocate, "free": free, "spawn": spawn, "attach": attach, "detach": detach,
    "open": open_image, "close": close, "pause": pause, "unpause": unpause, "stats": stats,
    "list": list_tapdisks, "create": create, "destroy": destroy,
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line. The options that SM passes but that mean nothing here are accepted."""
    parser = argparse.ArgumentParser(prog="tap-ctl")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("-p", dest="pid", type=int)
    parser.add_argument("-m", dest="minor", type=int)
    parser.add_argument("-a", dest="args")
    parser.add_argument("-R", dest="readonly", action="store_true")
    if arguments[:1] == ["list"]:
        parser.add_argument("-f", dest="file")
        parser.add_argument("-t", dest="type")
    else:
        parser.add_argument("-f", dest="force", action="store_true")
        parser.add_argument("-D", dest="cached", action="store_true")
        parser.add_argument("-t", dest="timeout", type=int)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run one command line; returns 0 or an errno value."""
    options = parse(arguments)
    try:
        COMMANDS[options.command](options)
    except OSError as error:
        print(f"tap-ctl: {error}", file=sys.stderr)
        return error.errno or errno.EIO
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
