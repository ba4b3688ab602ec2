# SPDX-License-Identifier: LGPL-2.1-only
"""The host's end of guestd.py: commands and files in a running guest."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import queue
import shlex
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import CommandFailed, CommandTimeout, LabError

# What the host waits longer than the guest for an answer, for a guest that is starved.
_GRACE = 60.0


@dataclass(frozen=True)
class Result:
    """How a command ended.

    `out` and `err` are decoded as UTF-8; other bytes survive as surrogates, so that
    `out.encode(errors="surrogateescape")` gives back exactly what was printed.
    """

    rc: int
    out: str
    err: str
    seconds: float


class Guest:
    """A connection to guestd. All methods may be called from several threads at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._write_lock = threading.Lock()
        self._ids = itertools.count(1)
        self._replies: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._gone = False
        self._hello = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the guest has booted; return whether it has."""
        return self._hello.wait(timeout) and not self._gone

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        check: bool = True,
    ) -> Result:
        """Run a program (a list) or a shell command (a string) and return how it ended.

        Raises CommandTimeout when it took longer than `timeout` seconds (it is killed with its
        process group), CommandFailed when `check` is set and its exit code is not 0, LabError when
        the guest went away or the program cannot be started.
        """
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        data = input.encode() if isinstance(input, str) else input or b""
        reply = self._ask(
            timeout, op="run", argv=argv, stdin=_encode(data), env=dict(env or {}), timeout=timeout
        )
        result = Result(reply["rc"], _text(reply["out"]), _text(reply["err"]), reply["seconds"])
        shown = command if isinstance(command, str) else shlex.join(command)
        if reply["timed_out"]:
            raise CommandTimeout(f"'{shown}' did not end in {timeout} s.\n{_printed(result)}")
        if check and result.rc:
            raise CommandFailed(f"'{shown}' ended with exit code {result.rc}.\n{_printed(result)}")
        return result

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file in the guest, with the folders that lead to it."""
        self._ask(60, op="put", path=path, data=_encode(data), mode=mode)

    def get(self, path: str) -> bytes:
        """Return a file of the guest. Raises LabError when it cannot be read."""
        return base64.b64decode(self._ask(60, op="get", path=path)["data"])

    def terminal(self, argv: Sequence[str], rows: int, columns: int) -> Terminal:
        """Start a program on a terminal of its own."""
        number, replies = self._request(
            op="terminal", argv=list(argv), env={"TERM": os.environ.get("TERM", "linux")},
            rows=rows, columns=columns,
        )  # fmt: skip
        return Terminal(self, number, replies)

    def close(self) -> None:
        """Give up the connection; whoever waits for an answer is told that the guest is gone."""
        # shutdown() wakes the reading thread, which close() alone would not.
        # It fails when the guest has closed its end before.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _ask(self, seconds: float, **request: Any) -> dict[str, Any]:
        """Send a request and return its only reply, waiting somewhat longer than `seconds`."""
        number, replies = self._request(**request)
        try:
            return _checked(replies.get(timeout=seconds + _GRACE))
        except queue.Empty:
            raise LabError(f"The guest has not answered for {seconds + _GRACE:.0f} s.") from None
        finally:
            self._replies.pop(number, None)

    def _request(self, **request: Any) -> tuple[int, queue.SimpleQueue[dict[str, Any] | None]]:
        number = next(self._ids)
        replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._replies[number] = replies
        line = json.dumps({"id": number, **request}).encode() + b"\n"
        if self._gone:
            raise LabError("The guest is not running.")
        try:
            with self._write_lock:
                self._connection.sendall(line)
        except OSError as error:
            raise LabError(f"The guest went away: {error}.") from error
        return number, replies

    def _read(self) -> None:
        """Hand every reply to the one who waits for it, until the guest goes away."""
        try:
            with self._connection, self._connection.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "hello" in message:
                        self._hello.set()
                    elif waiting := self._replies.get(message["id"]):
                        waiting.put(message)
        except (OSError, ValueError):
            pass  # a power cut: the connection broke, perhaps amid a line
        self._gone = True
        self._hello.set()
        for waiting in list(self._replies.values()):
            waiting.put(None)


class Terminal:
    """A program on a terminal in the guest."""

    def __init__(
        self, guest: Guest, number: int, replies: queue.SimpleQueue[dict[str, Any] | None]
    ) -> None:
        self._guest = guest
        self._number = number
        self._replies = replies
        self.rc = 0

    def output(self) -> Iterator[bytes]:
        """Yield what the program prints until it ends; its exit code is in `rc` then."""
        while "rc" not in (reply := _checked(self._replies.get())):
            yield base64.b64decode(reply["data"])
        self.rc = reply["rc"]

    def type(self, data: bytes) -> None:
        """Type on the terminal."""
        self._guest._ask(10, op="type", terminal=self._number, data=_encode(data))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the program that its window has another size."""
        self._guest._ask(10, op="resize", terminal=self._number, rows=rows, columns=columns)


def _checked(reply: dict[str, Any] | None) -> dict[str, Any]:
    if reply is None:
        raise LabError("The guest went away before it answered.")
    if "error" in reply:
        raise LabError(f"The guest says: {reply['error']}")
    return reply


def _printed(result: Result) -> str:
    return f"{result.out[-4000:]}{result.err[-4000:]}".rstrip()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="surrogateescape")
