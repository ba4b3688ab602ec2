# SPDX-License-Identifier: LGPL-2.1-only
"""alive: a disk that hangs is given up; here, a pipe that nobody writes to stands for one."""
import contextlib
import fcntl
import os
import time

import pytest

import headers
from conftest import wait_until_gone
from luksext import alive, run, state
from luksext.errors import Busy, DiskFails, TimeOver


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """A path whose reader waits for ever."""
    monkeypatch.setattr(alive, "DEADLINE", 0.3)
    path = tmp_path / "sdb"
    os.mkfifo(str(path))
    yield str(path)
    with contextlib.suppress(OSError):
        os.close(os.open(str(path), os.O_WRONLY | os.O_NONBLOCK))


@pytest.fixture
def readers(monkeypatch):
    """The processes that were started to read."""
    started, start = [], alive._start_reader
    monkeypatch.setattr(alive, "_start_reader",
                        lambda device: started.append(start(device)) or started[-1])
    return started


@pytest.mark.parametrize("content", [b"", bytes(4096), headers.luks2()])
def test_a_disk_answers_whatever_is_on_it(tmp_path, content):
    disk = tmp_path / "sdb"
    disk.write_bytes(content)
    alive.check(str(disk))


def test_a_disk_with_errors_answers(tmp_path):
    alive.check(str(tmp_path))


def test_a_disk_that_hangs_is_named_and_its_reader_does_not_stay(hanging, readers):
    began = time.monotonic()
    with pytest.raises(DiskFails, match=r"sdb fails: it does not answer within 0\.3 seconds"):
        alive.check(hanging)
    assert time.monotonic() - began < 5
    assert wait_until_gone(readers[0])


def test_it_is_not_waited_for_again_under_whatever_name(hanging, readers, tmp_path):
    (tmp_path / "by-id").symlink_to(hanging)
    assert not alive.answers(hanging)
    assert not alive.answers(str(tmp_path / "by-id"))
    assert len(readers) == 1


def test_a_reader_that_is_left_behind_keeps_no_lock(hanging, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PRIVATE_DIR", str(tmp_path / "private"))
    monkeypatch.setattr(alive.os, "kill", lambda *words: None)
    with state.locked("x"):
        assert not alive.answers(hanging)
    try:
        with state.locked("x", 0):
            pass
    except Busy:
        pytest.fail("the reader has the lock")


def test_it_keeps_no_pipe_that_somebody_waits_for(hanging, monkeypatch):
    monkeypatch.setattr(alive.os, "kill", lambda *words: None)
    reader, writer = os.pipe()
    assert not alive.answers(hanging)
    os.close(writer)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_no_more_time_is_taken_than_there_is(hanging, monkeypatch):
    monkeypatch.setattr(alive, "DEADLINE", 60)
    began = time.monotonic()
    with run.within(0.3):
        assert not alive.answers(hanging)
    assert time.monotonic() - began < 5
    with run.within(-1):
        with pytest.raises(TimeOver, match="reading"):
            alive.answers(hanging + "-other")
