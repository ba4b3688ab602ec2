# SPDX-License-Identifier: LGPL-2.1-only
"""The two ends of the line into a guest, on a socket in place of the virtio port."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.errors import CommandFailed, CommandTimeout, LabError
from tests.lab.guest import Guest


CHECKOUT = Path(__file__).parents[3]
SERVE = "import sys; import guestd; guestd.HOME = '/'; guestd.Daemon(int(sys.argv[1])).serve()"


@pytest.fixture
def guest() -> Iterator[Guest]:
    ours, theirs = socket.socketpair()
    with theirs:
        daemon = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=CHECKOUT / "tests/lab",
        )
    guest = Guest(ours)
    try:
        assert guest.wait(10)
        yield guest
    finally:
        guest.close()
        daemon.kill()
        daemon.wait()


def test_runs_shell_commands_and_programs(guest: Guest) -> None:
    result = guest.run("echo out; echo err >&2")
    assert (result.rc, result.out, result.err) == (0, "out\n", "err\n")
    assert guest.run(["printf", "%s", "a b"]).out == "a b"


def test_passes_input_and_environment(guest: Guest) -> None:
    assert guest.run("cat; echo $WORD", input=b"in\n", env={"WORD": "x"}).out == "in\nx\n"


def test_keeps_bytes_that_are_no_text(guest: Guest) -> None:
    out = guest.run(r"printf '\377\000'").out
    assert out.encode(errors="surrogateescape") == b"\xff\x00"


def test_a_failure_is_an_error_unless_it_is_allowed_for(guest: Guest) -> None:
    assert guest.run("exit 3", check=False).rc == 3
    with pytest.raises(CommandFailed, match=r"exit code 3\.\nwhy"):
        guest.run("echo why >&2; exit 3")


def test_a_program_that_is_not_there(guest: Guest) -> None:
    with pytest.raises(LabError, match="FileNotFoundError"):
        guest.run(["/nowhere"])


def test_kills_what_takes_too_long_with_all_its_children(guest: Guest, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(CommandTimeout, match=r"did not end in 0\.5 s"):
        guest.run(f"(sleep 1.5; touch {mark}) & sleep 30", timeout=0.5)
    time.sleep(1.5)
    assert not mark.exists()


def test_does_not_wait_for_what_stays_in_the_background(guest: Guest) -> None:
    begin = time.monotonic()
    guest.run("sleep 5 &")
    assert time.monotonic() - begin < 4


def test_runs_several_commands_at_once(guest: Guest) -> None:
    begin = time.monotonic()
    threads = [threading.Thread(target=guest.run, args=["sleep 1"]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin < 4


def test_puts_and_gets_files(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    data = bytes(range(256)) * 1000
    guest.put(str(path), data, mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    assert guest.get(str(path)) == data
    with pytest.raises(LabError, match="FileNotFoundError"):
        guest.get(str(tmp_path / "nothing"))


def test_a_terminal(guest: Guest) -> None:
    terminal = guest.terminal(["sh", "-c", "stty size; read word; echo got $word; exit 4"], 24, 80)
    output = b""
    for data in terminal.output():
        output += data
        if output.endswith(b"24 80\r\n"):
            terminal.type(b"hello\n")
    assert b"got hello" in output
    assert terminal.rc == 4


def test_whoever_waits_is_told_that_the_guest_is_gone(guest: Guest) -> None:
    threading.Timer(0.3, guest.close).start()
    with pytest.raises(LabError, match="went away"):
        guest.run("sleep 10")
    with pytest.raises(LabError, match=r"not running|went away"):
        guest.run("true")
