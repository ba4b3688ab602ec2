# SPDX-License-Identifier: LGPL-2.1-only
"""TPM 2.0 chips in software. A chip is a folder; it is powered by a swtpm process per boot."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .process import spawn


class Chip:
    """A chip that is powered on. for_qemu: the connection that QEMU controls it by.

    It loses power when QEMU's end of that is closed, without an orderly TPM2_Shutdown unless the
    guest did one: so a power cut of the guest is one of its chip, too.
    """

    def __init__(self, folder: Path) -> None:
        """An empty or missing folder is a chip fresh from the factory."""
        folder.mkdir(parents=True, exist_ok=True)
        control, for_swtpm = socket.socketpair()
        with for_swtpm:
            self._process = spawn(command(folder, for_swtpm.fileno()), folder / "swtpm.log",
                                  [for_swtpm.fileno()])
        ours, self.for_qemu = socket.socketpair()
        self._answers = threading.Event()
        self._answers.set()
        self._seconds = 0.0
        _in_background(self._pass_control, ours, control)
        _in_background(_pass, control, ours)

    def wait(self, seconds: float) -> None:
        """Wait until it has written its state and is off."""
        self._process.wait(seconds)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Within, it answers no request; afterwards, what it was asked too.

        Control still works: QEMU as a whole would wait for it.
        """
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Within, each request takes so much longer."""
        self._seconds = seconds
        try:
            yield
        finally:
            self._seconds = 0.0

    def _wait(self) -> None:
        """Until the next request may be passed on."""
        time.sleep(self._seconds)
        self._answers.wait()

    def _pass_control(self, qemu: socket.socket, swtpm: socket.socket) -> None:
        """Pass on control messages; the connection for requests comes with one (CMD_SET_DATAFD in
        swtpm_ioctls(3))."""
        while True:
            data, handles, _, _ = socket.recv_fds(qemu, _LONGEST, 1, socket.MSG_CMSG_CLOEXEC)
            if not data:
                break
            for_swtpm = [self._requests(socket.socket(fileno=handle)) for handle in handles]
            socket.send_fds(swtpm, [data], [end.fileno() for end in for_swtpm])
            for end in for_swtpm:
                end.close()
        _end(swtpm)

    def _requests(self, qemu: socket.socket) -> socket.socket:
        """The end for swtpm of a connection whose requests it gets while it is not hanging."""
        ours, for_swtpm = socket.socketpair()
        _in_background(_pass, qemu, ours, self._wait)
        _in_background(_pass, ours, qemu)
        return for_swtpm


_LONGEST = 65536


def _in_background(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, name="lab-tpm", daemon=True).start()


def _pass(source: socket.socket, target: socket.socket,
          wait: Callable[[], object] = lambda: None) -> None:
    with suppress(OSError):
        while data := source.recv(_LONGEST):
            wait()
            target.sendall(data)
    _end(target)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def command(chip: Path, control: int) -> list[str]:
    """Return the command line of a swtpm that keeps its state in `chip`, for a connected socket.

    The flags stand for the firmware, which would start the chip up (TPM2_Startup, state "clear").
    """
    return [
        "swtpm", "socket", "--tpm2",
        "--tpmstate", f"dir={chip}",
        "--ctrl", f"type=unixio,clientfd={control}",
        "--flags", "not-need-init,startup-clear",
        "--terminate",
    ]  # fmt: skip
