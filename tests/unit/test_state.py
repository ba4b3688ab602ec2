# SPDX-License-Identifier: LGPL-2.1-only
"""state: notes survive a power cut, and one process at a time works on an SR."""
import os
import stat
import subprocess
import sys

import pytest

import headers
from luksext import notes, run, state
from luksext.errors import Busy, NotWritten, Unsupported
from luksext.state import Store


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the notes and locks of the test are."""
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    monkeypatch.setattr(run, "PRIVATE_DIR", str(tmp_path / "private"))
    return tmp_path / "notes"


def mode(path):
    return stat.S_IMODE(os.stat(str(path)).st_mode)


# Notes


def test_what_was_saved_is_loaded(folder):
    Store(headers.UUID).save("proofs", {"a": [1, "\u00e4"]})
    assert Store(headers.UUID).load("proofs") == {"a": [1, "\u00e4"]}
    Store(headers.UUID).save("proofs", {"b": 2})
    assert Store(headers.UUID).load("proofs") == {"b": 2}
    assert os.listdir(str(folder / headers.UUID)) == ["proofs.json"]


def test_notes_are_for_root_alone(folder):
    Store(headers.UUID).save("proofs", {})
    assert mode(folder) == mode(folder / headers.UUID) == 0o700
    assert mode(folder / headers.UUID / "proofs.json") == 0o600


def test_what_was_not_saved_is_empty():
    assert Store(headers.UUID).load("proofs") == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"7", b"[" * 100000])
def test_a_damaged_note_is_empty_and_can_be_saved_again(folder, content):
    store = Store(headers.UUID)
    store.save("proofs", {"a": 1})
    (folder / headers.UUID / "proofs.json").write_bytes(content)
    assert store.load("proofs") == {}
    store.save("proofs", {"a": 2})
    assert store.load("proofs") == {"a": 2}


def test_a_save_that_fails_leaves_the_old_note_and_no_other_file(folder, monkeypatch):
    store = Store(headers.UUID)
    store.save("proofs", {"a": 1})

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.os, "fsync", fail)
    with pytest.raises(NotWritten, match=r"proofs\.json cannot be written on this host: No space"):
        store.save("proofs", {"a": 2})
    assert store.load("proofs") == {"a": 1}
    assert os.listdir(str(folder / headers.UUID)) == ["proofs.json"]


def test_a_note_is_on_the_disk_before_it_takes_the_place_of_the_old_one(monkeypatch):
    done = []

    def note(name, call):
        monkeypatch.setattr(state.os, name, lambda *words: (done.append(name), call(*words))[1])

    note("fsync", os.fsync)
    note("rename", os.rename)
    Store(headers.UUID).save("proofs", {})
    assert done == ["fsync", "rename", "fsync"]


def without_room(*_, **__):
    """What any call says of a filesystem that is full, or that the kernel made read-only."""
    raise OSError(28, "No space left on device")


def test_a_folder_that_cannot_be_made_is_told(monkeypatch):
    monkeypatch.setattr(run.os, "mkdir", without_room)
    with pytest.raises(NotWritten, match=r"notes .*No space left"):
        Store(headers.UUID).save("proofs", {})


def test_a_lock_that_cannot_be_made_is_told(monkeypatch):
    monkeypatch.setattr(run.os, "open", without_room)
    with pytest.raises(NotWritten, match=r"lock-x .*No space left"):
        with state.locked("x"):
            pass


def test_a_lock_is_held_though_nobody_can_be_told_by_whom(monkeypatch):
    monkeypatch.setattr(state.time, "strftime", without_room)
    with state.locked("x"):
        with pytest.raises(Busy, match="unknown"):
            with state.locked("x", 0):
                pass


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "x" * 65, ".x"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(Unsupported, match="is no LUKS UUID"):
        Store(name)
    with pytest.raises(Unsupported, match="is no LUKS UUID"):
        Store(headers.UUID).load(name)
    with pytest.raises(Unsupported, match="is no LUKS UUID"), state.locked(name):
        pass


def test_a_folder_that_others_prepared_is_refused(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    with pytest.raises(Unsupported, match="belongs to this user alone"):
        Store(headers.UUID).save("proofs", {})
    assert os.listdir(str(elsewhere)) == []


def test_a_note_is_removed_and_may_be_gone_already():
    store = Store(headers.UUID)
    store.save("proofs", {"a": 1})
    store.save("other", {"b": 1})
    store.remove("proofs")
    store.remove("proofs")
    Store("another").remove("proofs")
    assert (store.load("proofs"), store.load("other")) == ({}, {"b": 1})


def test_no_power_cut_brings_a_removed_note_back(folder, monkeypatch):
    store = Store(headers.UUID)
    store.save("proofs", {"a": 1})
    synced = []
    monkeypatch.setattr(state, "_sync_folder", lambda path: synced.append(os.listdir(path)))
    store.remove("proofs")
    assert synced == [[]]


def test_where_nothing_can_be_removed_what_is_not_there_is_gone_and_another_is_told(monkeypatch):
    store = Store(headers.UUID)
    store.save("proofs", {"a": 1})

    def refuse(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "unlink", refuse)
    store.remove("other")
    with pytest.raises(NotWritten, match="Read-only"):
        store.remove("proofs")


def test_what_is_known_are_the_folders(folder):
    assert state.known() == []
    Store(headers.UUID).save("proofs", {})
    (folder / ".hidden").mkdir()
    assert state.known() == [headers.UUID]


def test_forgetting_removes_the_notes_of_one_container(folder):
    other = Store("another")
    other.save("proofs", {"a": 1})
    store = Store(headers.UUID)
    store.save("proofs", {"a": 1})
    store.make("headers")
    state.forget(headers.UUID)
    state.forget(headers.UUID)
    assert os.listdir(str(folder)) == ["another"]
    assert other.load("proofs") == {"a": 1}


def test_what_is_destroyed_is_overwritten_first(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"secret")
    os.link(str(path), str(tmp_path / "other-name"))
    state.destroy(str(path))
    assert not path.exists()
    assert (tmp_path / "other-name").read_bytes() == bytes(6)


# Locks


HOLD = """
import sys
from luksext import notes, run, state
run.PRIVATE_DIR = sys.argv[1]
with state.locked("sr"):
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere():
    """Another process that holds the lock "sr" until its stdin ends."""
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(run.__file__)))
    process = subprocess.Popen([sys.executable, "-c", HOLD, run.PRIVATE_DIR], env=environment,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"taken\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_that_another_process_holds_is_busy_and_names_it(elsewhere):
    with pytest.raises(Busy, match="on sr: the process {} of".format(elsewhere.pid)), \
            state.locked("sr", seconds=0.2):
        pass


def test_another_lock_is_free(elsewhere):
    with state.locked("another", seconds=0):
        pass


def test_a_lock_is_waited_for(elsewhere):
    elsewhere.stdin.close()
    with state.locked("sr", seconds=30):
        assert elsewhere.wait(30) == 0
    elsewhere.stdin = None


def test_a_lock_ends_with_the_process_that_held_it(elsewhere):
    elsewhere.kill()
    elsewhere.wait(30)
    with state.locked("sr", seconds=1):
        pass


def test_a_lock_is_free_after_its_block_and_after_a_failure():
    with pytest.raises(KeyError), state.locked("sr"):
        raise KeyError
    with state.locked("sr", seconds=0), pytest.raises(Busy), state.locked("sr", seconds=0):
        pass


def test_a_lock_is_a_file_that_only_we_can_open():
    with state.locked("sr"):
        assert mode(run.PRIVATE_DIR) == 0o700
        assert mode(os.path.join(run.PRIVATE_DIR, "lock-sr")) == 0o600
