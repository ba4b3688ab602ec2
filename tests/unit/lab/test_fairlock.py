# SPDX-License-Identifier: LGPL-2.1-only
"""The stand-in fairlock server: one holder at a time, the others in their order."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).resolve().parents[2] / "lab" / "dom0" / "fairlock.py"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The socket of a running server."""
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, str(SERVER), str(path)]) as server:
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield str(path)
        server.terminate()


def join(address: str) -> socket.socket:
    """Enter the queue; a server that has its socket may not listen yet."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deadline = time.monotonic() + 10
    while client.connect_ex(address) and time.monotonic() < deadline:
        time.sleep(0.01)
    client.settimeout(5)
    return client


def is_greeted(client: socket.socket) -> bool:
    """Whether the lock is ours, without waiting long."""
    client.settimeout(0.2)
    try:
        return client.recv(10) != b""
    except TimeoutError:
        return False


def test_lock_goes_to_one_after_the_other_in_their_order(address: str) -> None:
    first, second, third = join(address), join(address), join(address)
    assert first.recv(10) == b"LOCK\0"
    assert not is_greeted(second)
    first.send(b"123 - 4.5")
    first.close()
    assert second.recv(10) == b"LOCK\0"
    assert not is_greeted(third)
    second.close()
    assert third.recv(10) == b"LOCK\0"


def test_waiter_that_went_away_does_not_block_the_next(address: str) -> None:
    first, second, third = join(address), join(address), join(address)
    assert first.recv(10) == b"LOCK\0"
    second.close()
    first.close()
    assert third.recv(10) == b"LOCK\0"
