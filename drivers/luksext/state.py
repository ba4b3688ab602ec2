# SPDX-License-Identifier: LGPL-2.1-only
"""What this host remembers of a container, and who works on it now.

Notes are JSON objects below `notes.FOLDER`, a folder for each LUKS UUID. They are no keys, but what
is noted of proofs and backups is for root alone. A note that is lost or damaged is an empty one:
whoever reads one must be able to do without.
"""
import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from typing import Any, Dict, Iterator, List

from luksext import notes, run, times
from luksext.errors import Busy, NotWritten, Unsupported

# Names come from headers, which anybody may have written: none may lead out of a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

_TEMPORARY = ".new-"

_RETRY_SECONDS = 0.1

_MIB = 1 << 20


class Store:
    """The notes of one container."""

    def __init__(self, luks_uuid: str) -> None:
        self.folder = os.path.join(notes.FOLDER, _checked(luks_uuid))

    def load(self, name: str) -> Dict[str, Any]:
        """The note `name`; empty where there is none or it cannot be read."""
        path = self._path(name)
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self, name: str, note: Dict[str, Any]) -> None:
        """Writes the note `name`: after a power cut it is the old one or the new one, whole."""
        self.make()
        write(self._path(name), json.dumps(note, indent=1, sort_keys=True).encode("utf-8"))

    def remove(self, name: str) -> None:
        """Removes the note `name`, if it is there, so that no power cut brings it back. Raises
        NotWritten."""
        path = self._path(name)
        # A filesystem that became read-only refuses to remove also what is not there.
        if not os.path.lexists(path):
            return
        try:
            os.unlink(path)
            _sync_folder(os.path.dirname(path))
        except OSError as error:
            raise NotWritten(path, error.strerror or str(error)) from error

    def make(self, *folders: str) -> str:
        """Makes the folder of the container, and `folders` in it; returns the path of the last."""
        path = self.folder
        run.make_private(notes.FOLDER)
        run.make_private(path)
        for folder in folders:
            path = os.path.join(path, folder)
            run.make_private(path)
        return path

    def _path(self, name: str) -> str:
        return notes.path(self.folder, _checked(name))


def known() -> List[str]:
    """The LUKS UUIDs, and other names, that something is noted of."""
    try:
        return sorted(name for name in os.listdir(notes.FOLDER) if _NAME.match(name))
    except FileNotFoundError:
        return []


def forget(luks_uuid: str) -> None:
    """Removes all notes and header backups of a container that was erased."""
    folder = Store(luks_uuid).folder
    for path, _, names in os.walk(folder):
        for name in names:
            destroy(os.path.join(path, name))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def destroy(path: str) -> None:
    """Overwrites the file `path`, then removes it. A disk that remaps its blocks, such as an SSD,
    may go on holding what was in it."""
    with open(path, "r+b") as file:
        for left in range(os.fstat(file.fileno()).st_size, 0, -_MIB):
            file.write(bytes(min(left, _MIB)))
        file.flush()
        os.fsync(file.fileno())
    os.unlink(path)


def write(path: str, content: bytes) -> None:
    """Replaces the file `path`, root only: a power cut leaves the old content or the new one.

    Raises NotWritten.
    """
    folder = os.path.dirname(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        try:
            with open(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync_folder(folder)
    except OSError as error:
        raise NotWritten(path, error.strerror or str(error)) from error


def clear_temporary(folder: str) -> None:
    """Removes what a writer that was killed left in `folder`. Only where nobody writes now."""
    for name in os.listdir(folder):
        if name.startswith(_TEMPORARY):
            destroy(os.path.join(folder, name))


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(name: str, seconds: float = 30) -> Iterator[None]:
    """Within, no other process of this host is in a block of that `name`.

    Not to be nested under one name. The lock is the kernel's, so it ends with whoever holds it.
    Raises Busy after `seconds`, TimeOver, NotWritten.
    """
    run.make_private(run.PRIVATE_DIR)
    path = os.path.join(run.PRIVATE_DIR, "lock-" + _checked(name))
    with open(run.open_private(path, os.O_RDWR), "rb+", buffering=0) as lock:
        _take(lock, name, seconds)
        # Without room for that, the holder is not known, and the lock is held all the same.
        with contextlib.suppress(OSError):
            lock.truncate(0)
            lock.write("{} {}".format(os.getpid(), times.now()).encode("ascii"))
        yield


def _take(lock: Any, name: str, seconds: float) -> None:
    end = time.monotonic() + run.time_for("the lock " + name, seconds)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                holder, _, since = lock.read(64).decode("ascii", "replace").partition(" ")
                raise Busy(name, holder, since) from None
        time.sleep(_RETRY_SECONDS)


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise Unsupported(
            "A container of this host is called {!r}: that is no LUKS UUID.".format(name),
            "Give it one with `cryptsetup luksUUID --uuid UUID DEVICE` (`uuidgen` makes one).")
    return name
