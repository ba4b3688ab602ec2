# SPDX-License-Identifier: LGPL-2.1-only
"""The only place that runs a program.

Every program gets a list of arguments (no shell), secrets on stdin or through a pipe, a deadline,
the C locale, and no terminal that it could prompt on. It ends as a `Result` or as a `LuksError`.
"""
import contextlib
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, TypeVar

from luksext import packages
from luksext.errors import (CommandFailed, CommandTimeout, NotWritten, TimeOver, ToolMissing,
                            Unsupported)
from luksext.untrusted import shown

Answer = TypeVar("Answer")

log = logging.getLogger("luksext")

# XAPI starts drivers with this PATH; clevis searches it for its own parts.
PATH = "/sbin:/usr/sbin:/bin:/usr/bin"

# Seconds. Long for a program that only talks to the kernel, short for an administrator.
DEADLINE = 30

# A killed program in uninterruptible sleep (failing disk) cannot be waited for.
_REAP_SECONDS = 2

# Bytes that every pipe holds at least (pipe(7), PIPE_BUF): writing them waits for no reader.
_PIPE_HOLDS = 4096

# clevis keeps wrapped keys in temporary files, cryptsetup a header in its working directory: they
# stay in memory, and with us. What such a program leaves when it is killed goes with a folder of
# its own, and that of a process that was killed itself when the next one is made.
PRIVATE_DIR = "/run/luksext"
_OWN_FOLDER = re.compile(r"own-([0-9]{1,10})-[0-9a-f]{16}\Z")

# Characters of a command that are logged.
_LOGGED = 500

# Seconds, all in all, for cleaning up what ran out of its time.
OVERTIME = 30

# Python complains of a process that is forgotten while it runs.
_left_alone: List["subprocess.Popen[bytes]"] = []


class Result(NamedTuple):
    """How a program ended: its status and what it printed, as bytes (stdout may be a secret)."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def message(self) -> str:
        """What it printed on stderr, in one line of at most 300 characters."""
        return " ".join(self.stderr.decode("utf-8", "replace").split())[-300:]


class _Limit(NamedTuple):
    """Until when all that runs has to be over (time.monotonic()), and how long that was."""

    end: float
    seconds: float


class _Thread(threading.local):
    """What holds in this thread."""

    limit: Optional[_Limit] = None


_here = _Thread()

# Calls of `at_once` that run at the same time: a dom0 has few CPUs and little memory, a TPM serves
# one request after the other.
_AT_ONCE = 8


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Bounds the time of a whole: within, each program gets at most what is left of `seconds`.

    Programs have deadlines of their own, but nobody waits for the sum of all. The shorter of two
    that are nested counts.
    """
    end = time.monotonic() + seconds
    limit = _here.limit
    with _limited(_Limit(end, seconds) if limit is None or end < limit.end else limit):
        yield


@contextlib.contextmanager
def overtime() -> Iterator[None]:
    """For cleaning up after a failure, which may have been that the time is over: within, there is
    some more, once for all that is bounded by the same `within`."""
    limit = _here.limit
    with _limited(limit and limit._replace(end=limit.end + OVERTIME)):
        yield


@contextlib.contextmanager
def _limited(limit: Optional[_Limit]) -> Iterator[None]:
    before, _here.limit = _here.limit, limit
    try:
        yield
    finally:
        _here.limit = before


def time_for(what: str, seconds: float) -> float:
    """How many of `seconds` there are for `what`. Raises TimeOver where none are."""
    limit = _here.limit
    if limit is None:
        return seconds
    left = limit.end - time.monotonic()
    if left <= 0:
        raise TimeOver(what, limit.seconds)
    return min(seconds, left)


def at_once(calls: Sequence[Callable[[], Answer]], in_turn: bool = False) -> List[Answer]:
    """What `calls` return, in their order; several run at the same time, within the time that the
    caller has. in_turn: one after the other.

    Raises the error of the first that fails, once all that were begun have ended.
    """
    if in_turn or len(calls) == 1:
        return [call() for call in calls]
    # Loaded here, since nearly all SRs have one disk.
    from concurrent.futures import ThreadPoolExecutor
    limit = _here.limit

    def limited(call: Callable[[], Answer]) -> Answer:
        with _limited(limit):
            return call()

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(limited, calls))


class SecretPipe(NamedTuple):
    """A secret that a program reads like a file: `path` for its argv, `fd` to hand over."""

    path: str
    fd: int


@contextlib.contextmanager
def secret_pipe(secret: bytes) -> Iterator[SecretPipe]:
    """Offers `secret` as /dev/fd/N. Raises Unsupported for more than a pipe holds: 4 KiB."""
    if len(secret) > _PIPE_HOLDS:
        raise Unsupported(
            "A key of {} bytes cannot be handed to a program of this host.".format(len(secret)),
            "Give one of at most {} bytes.".format(_PIPE_HOLDS))
    reader, writer = os.pipe()
    try:
        try:
            os.write(writer, secret)
        finally:
            os.close(writer)
        yield SecretPipe("/dev/fd/{}".format(reader), reader)
    finally:
        os.close(reader)


def require(*programs: str) -> None:
    """Raises ToolMissing for the first of `programs` that is not installed."""
    for program in programs:
        if shutil.which(program, path=PATH) is None:
            raise ToolMissing(program, packages.of(program))


def run(argv: Sequence[str], stdin: bytes = b"", deadline: float = DEADLINE,
        accept: Sequence[int] = (0,), pipes: Sequence[SecretPipe] = (),
        own_folder: bool = False) -> Result:
    """Runs `argv` and waits for its end.

    stdin: what the program reads; empty means end of file at once, never a prompt.
    deadline: seconds; then, or when the time of `within` is over, its process group is killed.
    accept: the exit statuses that are an answer and not a failure.
    pipes: secrets that argv names by their path.
    own_folder: for what makes temporary files; nothing of them is left afterwards.

    Raises ToolMissing, CommandTimeout, TimeOver, CommandFailed (which quote argv and stderr, never
    stdout or stdin).
    """
    if not own_folder:
        return _run(argv, stdin, deadline, accept, pipes, PRIVATE_DIR)
    with _own_folder() as folder:
        return _run(argv, stdin, deadline, accept, pipes, folder)


def _run(argv: Sequence[str], stdin: bytes, deadline: float, accept: Sequence[int],
         pipes: Sequence[SecretPipe], folder: str) -> Result:
    keep_out_of_core_dumps()
    deadline = time_for("`{}`".format(" ".join(argv)), deadline)
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=folder, env=_environment(folder), start_new_session=True,
            pass_fds=[pipe.fd for pipe in pipes])
    except FileNotFoundError:
        raise ToolMissing(argv[0], packages.of(argv[0])) from None
    except (OSError, ValueError) as error:
        # ValueError: arguments cannot hold a zero byte, which a header may have anywhere.
        raise CommandFailed(" ".join(argv), 126, str(error)) from error
    try:
        stdout, stderr = process.communicate(stdin, timeout=deadline)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise CommandTimeout(" ".join(argv), deadline) from None
    except BaseException:
        _kill(process)
        raise
    result = Result(process.returncode, stdout, stderr)
    log.info("%s: status %d after %.1f s", _logged(argv), result.status,
             time.monotonic() - started)
    if result.status not in accept:
        raise CommandFailed(" ".join(argv), result.status, result.message)
    return result


def spawn(argv: Sequence[str], stdin: bytes, messages: str) -> int:
    """Starts `argv` and leaves it alone: it outlives us, and nobody waits for its end.

    stdin: what it reads, at most 4 KiB, so that a pipe holds it. messages: the file, for this user
    alone, that gets its stderr. Returns its number as a process. Raises ToolMissing, NotWritten.
    """
    require(argv[0])
    keep_out_of_core_dumps()
    with open(open_private(messages, os.O_WRONLY | os.O_TRUNC), "wb") as log_file:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log_file,
            cwd=PRIVATE_DIR, env=_environment(PRIVATE_DIR), start_new_session=True)
    _left_alone.append(process)
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # type: ignore[union-attr]
        pipe.write(stdin)
    log.info("%s: started as process %d", _logged(argv), process.pid)
    return process.pid


def make_private(folder: str) -> None:
    """Makes `folder`, for this user alone. Raises Unsupported where it is there and is not so,
    NotWritten."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        status = os.lstat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & 0o170077 != 0o040000:
            raise Unsupported(
                "{} is not a directory that belongs to this user alone.".format(folder),
                "Somebody tampered with it. Find out who, then remove it.") from None
    except OSError as error:
        raise NotWritten(folder, os.strerror(error.errno or 0)) from error


def open_private(path: str, flags: int) -> int:
    """The descriptor of the file `path`, for this user alone, made where it is not there.

    flags: of open(2). Raises NotWritten.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise NotWritten(path, os.strerror(error.errno or 0)) from error


def keep_out_of_core_dumps() -> None:
    """Leaves no memory of this process, and of the programs that it starts from now on, on a disk.

    A core file is for root alone, but it stays. The limit of one byte also ends dumps that go to a
    program, for which the kernel ignores every other limit, zero included (fs/coredump.c).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def _logged(argv: Sequence[str]) -> str:
    return shown(" ".join(argv), _LOGGED)


def _environment(folder: str) -> dict:
    make_private(PRIVATE_DIR)
    return {"PATH": PATH, "LC_ALL": "C", "TMPDIR": folder}


@contextlib.contextmanager
def _own_folder() -> Iterator[str]:
    make_private(PRIVATE_DIR)
    for name in os.listdir(PRIVATE_DIR):
        owner = _OWN_FOLDER.match(name)
        if owner and not os.path.exists("/proc/" + owner.group(1)):
            shutil.rmtree(os.path.join(PRIVATE_DIR, name), ignore_errors=True)
    folder = os.path.join(PRIVATE_DIR, "own-{}-{}".format(os.getpid(), os.urandom(8).hex()))
    make_private(folder)
    try:
        yield folder
    finally:
        try:
            os.rmdir(folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    streams: List = [process.stdin, process.stdout, process.stderr]
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_SECONDS)
