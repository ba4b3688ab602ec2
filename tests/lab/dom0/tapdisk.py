# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for blktap's tapdisk: a process that has one image open and serves it as a disk.

It listens for tap-ctl on ``CONTROL/ctlPID`` (a JSON object a line, and one in reply) and serves
the disk by NBD on ``CONTROL/nbdPID.MINOR``; where dom0's kernel devices are imitated, also as the
block device of its minor number.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbd
import vhd

CONTROL = Path("/run/blktap-control")
DEVICES = Path("/dev/xen/blktap-2")

#: Bits of the state that SM reads.
PAUSED = 0x20


class Image:
    """An open image: ``vhd:PATH``, or ``aio:PATH`` for raw data. Waits while it is paused."""

    def __init__(self, argument: str, *, readonly: bool) -> None:
        self.argument = argument
        self.readonly = readonly
        self._kind, _, path = argument.partition(":")
        self._path = Path(path)
        if self._kind not in ("vhd", "aio"):
            raise OSError(errno.EINVAL, f"images of type {self._kind} are not supported")
        self._running = threading.Condition()
        self._descriptor: int | None = None
        self.unpause()
        self.size = self._measure()

    def _measure(self) -> int:
        if self._kind == "aio":
            with self._path.open("rb") as file:
                return file.seek(0, os.SEEK_END)
        with vhd.open_vhd(self._path, backup_footer=True) as image:
            return image.footer.size

    @property
    def paused(self) -> bool:
        return self._descriptor is None

    def pause(self) -> None:
        """Close the file; whoever reads or writes has to wait."""
        with self._running:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def unpause(self) -> None:
        """Open the file, so that its filesystem is busy, and let all who wait go on."""
        with self._running:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            self._running.notify_all()

    def read(self, offset: int, length: int) -> bytes:
        with self._running:
            self._running.wait_for(lambda: not self.paused)
            if self._kind == "vhd":
                return vhd.read(self._path, offset, length)
            with self._path.open("rb") as file:
                file.seek(offset)
                return file.read(length)

    def write(self, offset: int, data: bytes) -> None:
        if self.readonly:
            raise OSError(errno.EROFS, "the disk is read-only")
        with self._running:
            self._running.wait_for(lambda: not self.paused)
            if self._kind == "vhd":
                vhd.write(self._path, offset, data)
                return
            with self._path.open("r+b") as file:
                file.seek(offset)
                file.write(data)


class Tapdisk:
    """The state of this process; each public method is one of tap-ctl's commands."""

    def __init__(self) -> None:
        self.minor = -1
        self.image: Image | None = None
        self._stop_serving: list[Callable[[], None]] = []
        self.ended = False

    def list(self) -> dict[str, Any]:
        state = PAUSED if self.image and self.image.paused else 0
        return {"pid": os.getpid(), "minor": self.minor, "state": state,
                "args": self.image.argument if self.image else ""}

    def attach(self, minor: int) -> None:
        self.minor = minor

    def open(self, argument: str, readonly: bool) -> None:
        image = Image(argument, readonly=readonly)
        socket_path = CONTROL / f"nbd{os.getpid()}.{self.minor}"
        self._stop_serving = [nbd.listen(socket_path, image)]
        device = DEVICES / f"tapdev{self.minor}"
        if device.exists():
            self._stop_serving.append(nbd.attach_to_kernel(device, image))
        self.image = image

    def pause(self) -> None:
        self._open_image().pause()

    def unpause(self, argument: str | None) -> None:
        image = self._open_image()
        if argument and argument != image.argument:
            raise OSError(errno.EINVAL, "another image is not supported")
        image.unpause()

    def close(self) -> None:
        for stop in reversed(self._stop_serving):
            stop()
        self._stop_serving = []
        if self.image:
            self.image.pause()
        self.image = None

    def detach(self) -> None:
        """A tapdisk without a minor number has nothing left to do."""
        self.minor = -1
        self.ended = True

    def stats(self) -> dict[str, Any]:
        return {"name": self.image.argument if self.image else "", "images": []}

    def _open_image(self) -> Image:
        if self.image is None:
            raise OSError(errno.ENOENT, "no image is open")
        return self.image


def main() -> None:
    """Serve tap-ctl until the tapdisk has ended."""
    CONTROL.mkdir(parents=True, exist_ok=True)
    path = CONTROL / f"ctl{os.getpid()}"
    tapdisk = Tapdisk()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        # Whoever started us waits for this line.
        print("ready", flush=True)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process's life
        while not tapdisk.ended:
            client, _ = server.accept()
            with client, client.makefile("rw") as stream:
                stream.write(json.dumps(_answer(tapdisk, json.loads(stream.readline()))) + "\n")
    path.unlink()


def _answer(tapdisk: Tapdisk, request: dict[str, Any]) -> dict[str, Any]:
    command = request.pop("command")
    try:
        return {"errno": 0, "value": getattr(tapdisk, command)(**request)}
    except OSError as error:
        return {"errno": error.errno or errno.EIO, "value": str(error)}


if __name__ == "__main__":
    main()
