# SPDX-License-Identifier: LGPL-2.1-only
"""A reader and writer of VHD images, chains included: the lab's tapdisk.

The guest has no blktap, and QEMU does not follow the parents of a VHD. Format: "Virtual Hard
Disk Image Format Specification", Microsoft, 2006. All numbers are big-endian; a sector has 512
bytes.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

SECTOR = 512
UNALLOCATED = 0xFFFFFFFF
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4


class VhdError(Exception):
    """A file that is no VHD, or one whose parent is missing."""


class Vhd:
    """An open image: `size` bytes that can be read and, if opened so, written."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Open an image and its parents. Raises VhdError."""
        self._path = path
        self._file: BinaryIO = path.open("r+b" if writable else "rb")
        self._parent: Vhd | None = None
        try:
            self._read_metadata()
        except (struct.error, OSError) as problem:
            self._file.close()
            raise VhdError(f"{path} is no readable VHD: {problem}") from problem

    def __enter__(self) -> Vhd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Bring what was written to disk, close image and parents."""
        if self._file.writable():
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if self._parent is not None:
            self._parent.close()

    def _read_metadata(self) -> None:
        footer = self._at(self._file.seek(0, os.SEEK_END) - SECTOR, SECTOR)
        if footer[:8] != b"conectix":
            raise VhdError(f"{self._path} is no VHD")
        self._footer = footer
        self._header, self.size = struct.unpack_from(">Q24xQ", footer, 16)
        (self._kind,) = struct.unpack_from(">I", footer, 60)
        if self._kind == FIXED:
            return
        header = self._at(self._header, 1024)
        self._table, blocks, self._block_size = struct.unpack_from(">Q4xII", header, 16)
        self._blocks = list(struct.unpack(f">{blocks}I", self._at(self._table, 4 * blocks)))
        self._bitmap_size = -(-self._block_size // SECTOR // 8 // SECTOR) * SECTOR
        if self._kind == DIFFERENCING:
            self._parent = Vhd(self._path.parent / _parent_name(header))

    def _at(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the disk; what nobody wrote is zero. Offset and length in whole sectors."""
        length = max(0, min(length, self.size - offset))
        if self._kind == FIXED:
            return self._at(offset, length)
        parts: list[bytes] = []
        while length:
            step = min(length, self._block_size - offset % self._block_size)
            parts.append(self._read_in_block(offset, step))
            offset, length = offset + step, length - step
        return b"".join(parts)

    def _read_in_block(self, offset: int, length: int) -> bytes:
        start = self._blocks[offset // self._block_size]
        if start == UNALLOCATED:
            return self._below(offset, length)
        bitmap = self._at(start * SECTOR, self._bitmap_size)
        within = offset % self._block_size
        data = bytearray(self._at(start * SECTOR + self._bitmap_size + within, length))
        for sector in range(within // SECTOR, -(-(within + length) // SECTOR)):
            if not bitmap[sector // 8] & (0x80 >> sector % 8):
                place = sector * SECTOR - within
                size = min(SECTOR, length - place)
                data[place : place + size] = self._below(offset + place, size)
        return bytes(data)

    def _below(self, offset: int, length: int) -> bytes:
        """What the parent has there; a resized child may be longer than its parent."""
        data = self._parent.read(offset, length) if self._parent is not None else b""
        return data.ljust(length, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Write whole sectors. Raises VhdError past the end."""
        if offset + len(data) > self.size:
            raise VhdError(f"{self._path}: {offset + len(data)} is past its end at {self.size}")
        if self._kind == FIXED:
            self._put(offset, data)
            return
        while data:
            step = min(len(data), self._block_size - offset % self._block_size)
            self._write_in_block(offset, data[:step])
            offset, data = offset + step, data[step:]

    def _write_in_block(self, offset: int, data: bytes) -> None:
        index, within = divmod(offset, self._block_size)
        if self._blocks[index] == UNALLOCATED:
            if not any(data) and self._parent is None:
                return
            self._allocate(index)
        start = self._blocks[index] * SECTOR
        self._put(start + self._bitmap_size + within, data)
        bitmap = bytearray(self._at(start, self._bitmap_size))
        for sector in range(within // SECTOR, -(-(within + len(data)) // SECTOR)):
            bitmap[sector // 8] |= 0x80 >> sector % 8
        self._put(start, bytes(bitmap))

    def _allocate(self, index: int) -> None:
        """Put an empty block where the footer is, and the footer behind it."""
        start = self._file.seek(0, os.SEEK_END) - SECTOR
        # Data begins on 4 KiB, as in images that vhd-util makes.
        start += -(start + self._bitmap_size) % 4096
        end = start + self._bitmap_size + self._block_size
        self._file.truncate(end)
        self._put(start, bytes(self._bitmap_size))
        self._put(end, self._footer)
        self._blocks[index] = start // SECTOR
        self._put(self._table + 4 * index, struct.pack(">I", self._blocks[index]))

    def _put(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        self._file.write(data)


def _parent_name(header: bytes) -> str:
    """The file name of the parent: SM keeps a chain in one folder."""
    name = header[64:576].decode("utf-16-be").partition("\0")[0]
    return name.replace("\\", "/").rpartition("/")[2]
