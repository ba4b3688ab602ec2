# SPDX-License-Identifier: LGPL-2.1-only
"""The contents of an activated VDI: a block device, a raw file, or an export of tapdisk by NBD.

The protocol is described in doc/proto.md of the nbd project. Of it, this is what a client needs
that reads and writes one export: the fixed newstyle handshake with NBD_OPT_EXPORT_NAME, read,
write, flush and disconnect.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from .driver import AttachResult
from .errors import ApiError

_URI = re.compile(r"nbd:unix:(?P<socket>[^:]+):exportname=(?P<export>.+)")

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">I8sII")
_EXPORT = struct.Struct(">QH")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

_FIXED_NEWSTYLE_NO_ZEROES = 3
_OPT_EXPORT_NAME = 1
_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)


class Disk(Protocol):
    """Something with bytes at offsets."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset."""

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset."""


@contextmanager
def opened(answer: AttachResult, *, writable: bool) -> Iterator[Disk]:
    """The disk that vdi_attach named; what was written is on it afterwards.

    A path comes first, as with xapi; then the NBD export. Raises INTERNAL_ERROR without both.
    """
    path = Path(answer.params or "")
    uri = _URI.fullmatch(answer.params_nbd)
    if answer.params and (path.is_block_device() or path.is_file()):
        with open(path, "r+b" if writable else "rb", buffering=0) as file:
            yield FileDisk(file)
            if writable:
                os.fsync(file.fileno())
    elif uri is not None:
        with NbdDisk(Path(uri["socket"]), uri["export"]).connected() as disk:
            yield disk
    else:
        raise ApiError(
            "INTERNAL_ERROR",
            f"the driver gave no disk: params {answer.params!r} is neither block device nor "
            f"file, params_nbd {answer.params_nbd!r} no export",
        )


class FileDisk:
    """A block device or a raw file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset."""
        self._file.seek(offset)
        return self._file.read(min(length, self.size - offset))

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset."""
        self._file.seek(offset)
        self._file.write(data)


class NbdDisk:
    """An export of an NBD server. Raises OSError when the server answers with an error."""

    def __init__(self, path: Path, export: str) -> None:
        """Neither connects nor checks anything yet."""
        self._path = path
        self._export = export
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.size = 0

    @contextmanager
    def connected(self) -> Iterator[NbdDisk]:
        """Connect; flush and disconnect at the end."""
        with self._socket:
            self._socket.connect(str(self._path))
            self._shake_hands()
            yield self
            self._request(_FLUSH, 0, 0)
            self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))

    def _shake_hands(self) -> None:
        _GREETING.unpack(self._receive(_GREETING.size))
        name = self._export.encode()
        self._socket.sendall(
            _OPTION.pack(_FIXED_NEWSTYLE_NO_ZEROES, b"IHAVEOPT", _OPT_EXPORT_NAME, len(name)) + name
        )
        self.size, _ = _EXPORT.unpack(self._receive(_EXPORT.size))

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset."""
        length = min(length, self.size - offset)
        self._request(_READ, offset, length)
        return self._receive(length)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset."""
        self._request(_WRITE, offset, len(data), data)

    def _request(self, kind: int, offset: int, length: int, data: bytes = b"") -> None:
        self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, kind, 0, offset, length) + data)
        magic, error, _ = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != _REPLY_MAGIC:
            raise OSError(f"{self._path} does not speak NBD")
        if error:
            raise OSError(error, f"{os.strerror(error)} at {offset} of {self._export}")

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                raise OSError(f"{self._path} ended the connection")
            data += part
        return bytes(data)
