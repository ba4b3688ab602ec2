# SPDX-License-Identifier: LGPL-2.1-only
"""Serve a disk over the NBD protocol, to clients of a Unix socket or to the kernel.

Source: the protocol's specification (doc/proto.md of the nbd project) for the numbers and the
order on the wire, linux/nbd.h for the ioctls. Only what qemu and the kernel need is there: the
fixed newstyle handshake with NBD_OPT_EXPORT_NAME, and read, write, flush, disconnect.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

GREETING = struct.Struct(">8s8sH")
OPTION = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")

FIXED_NEWSTYLE = 1
NO_ZEROES = 2
OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPTION_REPLY_MAGIC = 0x3E889045565A9
REP_ACK = 1
REP_ERR_UNSUP = 0x80000001
HAS_FLAGS = 1
READ_ONLY = 2
SEND_FLUSH = 4
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698
READ, WRITE, DISCONNECT, FLUSH = range(4)

SET_SOCK = 0xAB00
SET_BLOCK_SIZE = 0xAB01
DO_IT = 0xAB03
CLEAR_SOCK = 0xAB04
SET_SIZE_BLOCKS = 0xAB07
KERNEL_DISCONNECT = 0xAB08
SET_FLAGS = 0xAB0A
BLOCK_SIZE = 512


class Disk(Protocol):
    """What is served; read and write raise OSError."""

    size: int
    readonly: bool

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...


def listen(path: Path, disk: Disk) -> Callable[[], None]:
    """Serve ``disk`` to all who connect to a socket at ``path``; returns how to stop listening."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=_serve_client, args=(client, disk), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()

    def stop() -> None:
        path.unlink(missing_ok=True)
        server.shutdown(socket.SHUT_RDWR)
        server.close()

    return stop


def attach_to_kernel(device: Path, disk: Disk) -> Callable[[], None]:
    """Make ``device``, a node of the kernel's nbd, show the disk; returns how to take it away."""
    ours, kernels = socket.socketpair()
    descriptor = os.open(device, os.O_RDWR)
    fcntl.ioctl(descriptor, SET_BLOCK_SIZE, BLOCK_SIZE)
    fcntl.ioctl(descriptor, SET_SIZE_BLOCKS, disk.size // BLOCK_SIZE)
    fcntl.ioctl(descriptor, SET_SOCK, kernels.fileno())
    fcntl.ioctl(descriptor, SET_FLAGS, _flags(disk))
    threads = [threading.Thread(target=serve, args=(ours, disk), daemon=True),
               threading.Thread(target=_do_it, args=(descriptor, kernels), daemon=True)]
    for thread in threads:
        thread.start()

    def detach() -> None:
        fcntl.ioctl(descriptor, KERNEL_DISCONNECT)
        for thread in threads:
            thread.join()
        fcntl.ioctl(descriptor, CLEAR_SOCK)
        os.close(descriptor)

    return detach


def _do_it(descriptor: int, kernels: socket.socket) -> None:
    """Lend the kernel this thread until the device is disconnected."""
    try:
        fcntl.ioctl(descriptor, DO_IT)
    finally:
        kernels.close()


def _serve_client(client: socket.socket, disk: Disk) -> None:
    with client:
        try:
            if _shake_hands(client, disk):
                serve(client, disk)
        except (OSError, EOFError):
            # The client went away.
            return


def _shake_hands(client: socket.socket, disk: Disk) -> bool:
    """Negotiate; False when the client wants no more."""
    client.sendall(GREETING.pack(b"NBDMAGIC", b"IHAVEOPT", FIXED_NEWSTYLE | NO_ZEROES))
    (client_flags,) = struct.unpack(">I", _receive(client, 4))
    while True:
        _, option, length = OPTION.unpack(_receive(client, OPTION.size))
        _receive(client, length)
        if option == OPT_EXPORT_NAME:
            padding = b"" if client_flags & NO_ZEROES else bytes(124)
            client.sendall(struct.pack(">QH", disk.size, _flags(disk)) + padding)
            return True
        answer = REP_ACK if option == OPT_ABORT else REP_ERR_UNSUP
        client.sendall(OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, answer, 0))
        if option == OPT_ABORT:
            return False


def serve(peer: socket.socket, disk: Disk) -> None:
    """Answer requests until the peer disconnects. Raises EOFError when it just goes away."""
    while True:
        magic, _, kind, handle, offset, length = REQUEST.unpack(_receive(peer, REQUEST.size))
        if magic != REQUEST_MAGIC or kind == DISCONNECT:
            return
        data = _receive(peer, length) if kind == WRITE else b""
        code, answer = _perform(disk, kind, offset, length, data)
        peer.sendall(REPLY.pack(REPLY_MAGIC, code, handle) + answer)


def _perform(disk: Disk, kind: int, offset: int, length: int, data: bytes) -> tuple[int, bytes]:
    try:
        if kind == READ:
            return 0, disk.read(offset, length)
        if kind == WRITE:
            disk.write(offset, data)
    except OSError as error:
        return error.errno or errno.EIO, b""
    return (0 if kind in (WRITE, FLUSH) else errno.EINVAL), b""


def _flags(disk: Disk) -> int:
    return HAS_FLAGS | SEND_FLUSH | (READ_ONLY if disk.readonly else 0)


def _receive(peer: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = peer.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
