# SPDX-License-Identifier: LGPL-2.1-only
"""The VHD image format (dynamic and differencing disks), as dom0's libvhd uses it.

Source of the layout: Microsoft's "Virtual Hard Disk Image Format Specification"; the ``hidden``
byte after the footer's saved-state byte is Xen's. All numbers are big-endian.

As libvhd does, images are opened with O_DIRECT and read and written in units of 512 bytes: on a
device with larger logical sectors every operation fails with EINVAL, which is the point of having
it here.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECTOR = 512
MIB = 1 << 20
BLOCK_SIZE = 2 * MIB

DYNAMIC = 3
DIFFERENCING = 4

UNUSED = 0xFFFFFFFF
NO_OFFSET = 0xFFFFFFFFFFFFFFFF
FORMAT_VERSION = 0x00010000
#: Creator "tap" makes readers take the size field, not the rounded CHS geometry; its versions
#: up to 0.1 have no batmap.
CREATOR = b"tap\0"
CREATOR_VERSION = 1

#: Seconds from the Unix epoch to the VHD epoch, 2000-01-01.
VHD_EPOCH = 946684800

LOCATOR_MACX = 0x4D616358
LOCATOR_W2RU = 0x57327275
#: Bytes reserved for each parent locator.
LOCATOR_SPACE = 1024

FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sBB426x")
HEADER = struct.Struct(">8sQQIIII16sII512s192s256x")
LOCATOR = struct.Struct(">IIIIQ")
HEADER_OFFSET = SECTOR
BAT_OFFSET = HEADER_OFFSET + HEADER.size


class VhdError(OSError):
    """An image is broken or an operation impossible; carries an errno and a sentence."""


class DirectFile:
    """A file read and written by direct I/O in whole sectors."""

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self._writable = flags & os.O_ACCMODE != os.O_RDONLY
        try:
            self._descriptor = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            # The file system (tmpfs) knows no direct I/O at all; libvhd goes on without it too.
            if error.errno != errno.EINVAL:
                raise
            self._descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``. Raises VhdError (EIO) past the end."""
        with mmap.mmap(-1, length) as buffer:
            if os.preadv(self._descriptor, [buffer], offset) != length:
                raise VhdError(errno.EIO, f"short read at {offset}", str(self.path))
            return buffer[:]

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data``, whole sectors, at ``offset``."""
        with mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            if os.pwritev(self._descriptor, [buffer], offset) != len(data):
                raise VhdError(errno.EIO, f"short write at {offset}", str(self.path))

    @property
    def size(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Close; what was written is on the disk then."""
        if self._writable:
            os.fsync(self._descriptor)
        os.close(self._descriptor)


class Footer:
    """What identifies the disk: kept at the end of the file, with a copy at its start."""

    def __init__(self, size: int, disk_type: int) -> None:
        self.size = size
        self.disk_type = disk_type
        self.hidden = False
        self.data_offset = HEADER_OFFSET
        self.timestamp = int(time.time()) - VHD_EPOCH
        self.identity = os.urandom(16)

    def pack(self) -> bytes:
        cylinders, heads, sectors = geometry(self.size)
        fields = [b"conectix", 2, FORMAT_VERSION, self.data_offset, self.timestamp, CREATOR,
                  CREATOR_VERSION, b"\0\0\0\0", self.size, self.size, cylinders, heads, sectors,
                  self.disk_type, 0, self.identity, 0, self.hidden]
        fields[14] = checksum(FOOTER.pack(*fields))
        return FOOTER.pack(*fields)

    @classmethod
    def unpack(cls, data: bytes) -> Footer:
        """Raises VhdError (EINVAL) unless ``data`` is a footer of a sparse disk."""
        fields = FOOTER.unpack(data)
        if fields[0] != b"conectix" or checksum(data, 64) != fields[14]:
            raise VhdError(errno.EINVAL, "invalid footer")
        if fields[13] not in (DYNAMIC, DIFFERENCING):
            raise VhdError(errno.ENOTSUP, f"disk type {fields[13]} is not supported")
        footer = cls(size=fields[9], disk_type=fields[13])
        footer.hidden = bool(fields[17])
        footer.data_offset, footer.timestamp, footer.identity = fields[3], fields[4], fields[15]
        return footer


class Header:
    """Where the block table is, and who the parent is."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.table_offset = BAT_OFFSET
        self.block_size = BLOCK_SIZE
        self.parent_identity = bytes(16)
        self.parent_timestamp = 0
        self.parent_name = ""
        # Of each parent locator: platform code, bytes reserved, bytes used, offset in the file.
        self.locators: list[tuple[int, int, int, int]] = []

    def pack(self) -> bytes:
        name = self.parent_name.encode("utf-16-be")[:512]
        locators = b"".join(LOCATOR.pack(code, space, length, 0, offset)
                            for code, space, length, offset in self.locators)
        fields = [b"cxsparse", NO_OFFSET, self.table_offset, FORMAT_VERSION, self.entries,
                  self.block_size, 0, self.parent_identity, self.parent_timestamp, 0, name,
                  locators]
        fields[6] = checksum(HEADER.pack(*fields))
        return HEADER.pack(*fields)

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Raises VhdError (EINVAL) unless ``data`` is a sparse disk's header."""
        fields = HEADER.unpack(data)
        if fields[0] != b"cxsparse" or checksum(data, 36) != fields[6]:
            raise VhdError(errno.EINVAL, "invalid header")
        found = [LOCATOR.unpack_from(fields[11], at) for at in range(0, 192, LOCATOR.size)]
        header = cls(entries=fields[4])
        header.table_offset, header.block_size = fields[2], fields[5]
        header.parent_identity, header.parent_timestamp = fields[7], fields[8]
        header.parent_name = fields[10].decode("utf-16-be", "replace").rstrip("\0")
        header.locators = [(code, space, length, offset)
                           for code, space, length, _, offset in found if code]
        return header


class Vhd:
    """An open image. Its metadata are in memory; ``save`` writes them."""

    def __init__(self, file: DirectFile, footer: Footer, header: Header, table: list[int]) -> None:
        self.file = file
        self.footer = footer
        self.header = header
        self.table = table

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def sectors_per_block(self) -> int:
        return self.header.block_size // SECTOR

    @property
    def bitmap_size(self) -> int:
        return _round_up(self.sectors_per_block // 8)

    # ---- the metadata

    def save(self) -> None:
        """Write the table, the header and both footers; the last footer ends the file."""
        end = self.end_of_data()
        self.file.write(self.header.table_offset, _pack_table(self.table))
        self.file.write(HEADER_OFFSET, self.header.pack())
        self.file.write(0, self.footer.pack())
        self.file.write(end, self.footer.pack())
        self.file.truncate(end + SECTOR)

    def end_of_data(self) -> int:
        """The offset behind the last structure, where the footer belongs."""
        ends = [self.header.table_offset + _round_up(4 * self.header.entries)]
        ends += [offset + space for _, space, _, offset in self.header.locators]
        ends += [at * SECTOR + self.bitmap_size + self.header.block_size
                 for at in self.table if at != UNUSED]
        return max(ends)

    def allocated(self) -> list[int]:
        """The numbers of the blocks that have data."""
        return [number for number, at in enumerate(self.table) if at != UNUSED]

    # ---- the parent

    def parent_path(self) -> Path | None:
        """The parent's path, None when there is none; it need not exist."""
        if self.footer.disk_type != DIFFERENCING:
            return None
        for code, _, length, offset in self.header.locators:
            text = self.file.read(offset, _round_up(length))[:length]
            if code == LOCATOR_MACX:
                name = text.decode().removeprefix("file://")
            elif code == LOCATOR_W2RU:
                name = text.decode("utf-16-le").replace("\\", "/")
            else:
                continue
            return Path(os.path.realpath(self.path.parent / name))
        return Path(os.path.realpath(self.path.parent / self.header.parent_name))

    def set_parent(self, parent: Path, identity: bytes, timestamp: int) -> None:
        """Make ``parent`` the parent; its path is kept relative to this image's folder."""
        relative = os.path.relpath(os.path.realpath(parent), os.path.realpath(self.path.parent))
        texts = {LOCATOR_MACX: f"file://./{relative}".encode(),
                 LOCATOR_W2RU: (".\\" + relative.replace("/", "\\")).encode("utf-16-le")}
        if max(map(len, texts.values())) > LOCATOR_SPACE:
            raise VhdError(errno.ENAMETOOLONG, "the path of the parent is too long", str(parent))
        if not self.header.locators:
            start = self.end_of_data()
            self.header.locators = [(code, LOCATOR_SPACE, 0, start + number * LOCATOR_SPACE)
                                    for number, code in enumerate(texts)]
        self.header.locators = [(code, space, len(texts[code]), offset)
                                for code, space, _, offset in self.header.locators]
        for code, space, _, offset in self.header.locators:
            self.file.write(offset, texts[code].ljust(space, b"\0"))
        self.footer.disk_type = DIFFERENCING
        self.header.parent_name = Path(parent).name
        self.header.parent_identity = identity
        self.header.parent_timestamp = timestamp

    # ---- the data

    def read_own(self, number: int, first: int, end: int) -> tuple[list[int], bytes]:
        """Of an allocated block, which of the sectors from `first` to before `end` are present, and
        the data of them all."""
        start = self.table[number] * SECTOR
        bitmap = self.file.read(start, self.bitmap_size)
        data = self.file.read(start + self.bitmap_size + first * SECTOR, (end - first) * SECTOR)
        present = [sector for sector in range(first, end)
                   if bitmap[sector // 8] & (0x80 >> sector % 8)]
        return present, data

    def write_sectors(self, number: int, sectors: list[int], block: bytes) -> None:
        """Write the given sectors of a block, found in ``block`` at their place in it."""
        if self.table[number] == UNUSED:
            self._allocate(number)
        start = self.table[number] * SECTOR
        bitmap = bytearray(self.file.read(start, self.bitmap_size))
        for first, end in runs(sectors):
            data = block[first * SECTOR:end * SECTOR]
            self.file.write(start + self.bitmap_size + first * SECTOR, data)
        for sector in sectors:
            bitmap[sector // 8] |= 0x80 >> sector % 8
        self.file.write(start, bytes(bitmap))

    def _allocate(self, number: int) -> None:
        """Append a block. Its data start at a page, as libvhd places them."""
        end = self.end_of_data()
        data_start = _round_up(end + self.bitmap_size, 4096)
        # Whatever was there (the footer) must not show through: holes read as zeros.
        self.file.truncate(end)
        self.table[number] = (data_start - self.bitmap_size) // SECTOR
        self.save()

    def resize(self, size: int) -> None:
        """Grow to ``size`` bytes; the table moves to the end when it no longer fits."""
        if size < self.footer.size:
            raise VhdError(errno.EINVAL, "shrinking is not supported", str(self.path))
        entries = -(-size // self.header.block_size)
        if entries > self.header.entries:
            if _round_up(4 * entries) > _round_up(4 * self.header.entries):
                self.header.table_offset = self.end_of_data()
            self.header.entries = entries
            self.table += [UNUSED] * (entries - len(self.table))
        self.footer.size = size
        self.save()

    def kill_data(self) -> None:
        """Forget all data of this image."""
        self.table = [UNUSED] * self.header.entries
        self.save()


def create(path: Path, size: int) -> None:
    """Make an empty dynamic disk of ``size`` bytes, replacing what is at ``path``."""
    entries = -(-size // BLOCK_SIZE)
    file = DirectFile(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        Vhd(file, Footer(size, DYNAMIC), Header(entries), [UNUSED] * entries).save()
    finally:
        file.close()


@contextmanager
def open_vhd(path: Path, *, writable: bool = False, backup_footer: bool = False) -> Iterator[Vhd]:
    """Open an image; the footer is read from the file's end or, if asked, from its start.

    Raises VhdError (EINVAL) when the file is no sparse VHD, OSError when it cannot be read.
    """
    file = DirectFile(Path(path), os.O_RDWR if writable else os.O_RDONLY)
    try:
        footer = Footer.unpack(file.read(0 if backup_footer else file.size - SECTOR, SECTOR))
        header = Header.unpack(file.read(footer.data_offset, HEADER.size))
        table = file.read(header.table_offset, _round_up(4 * header.entries))
        yield Vhd(file, footer, header, list(struct.unpack_from(f">{header.entries}I", table)))
    finally:
        file.close()


def repair(path: Path) -> None:
    """Write the footer at the file's end anew from its copy at the start."""
    with open_vhd(path, writable=True, backup_footer=True) as image:
        image.save()


def read(path: Path, offset: int, length: int) -> bytes:
    """What a guest would read, whole sectors: own data over the parents' data over zeros."""
    data = bytearray()
    with open_vhd(path) as image:
        block_size = image.header.block_size
        while length > 0:
            number, start = divmod(offset, block_size)
            count = min(length, block_size - start)
            data += _read_block(image, number, start, count)
            offset, length = offset + count, length - count
    return bytes(data)


def write(path: Path, offset: int, data: bytes) -> None:
    """What a guest would write; offset and length are whole sectors."""
    with open_vhd(path, writable=True) as image:
        size = image.header.block_size
        while data:
            number, start = divmod(offset, size)
            part = data[:size - start]
            sectors = list(range(start // SECTOR, (start + len(part)) // SECTOR))
            image.write_sectors(number, sectors, bytes(start) + part)
            offset, data = offset + len(part), data[len(part):]


def _read_block(image: Vhd, number: int, start: int, count: int) -> bytes:
    """`count` bytes from `start` in a block, whole sectors."""
    first, end = start // SECTOR, (start + count) // SECTOR
    present, own = ([], b"") if image.table[number] == UNUSED else image.read_own(
        number, first, end)
    if len(present) == end - first:
        return own
    parent = image.parent_path()
    at = number * image.header.block_size + start
    data = bytearray(read(parent, at, count) if parent else bytes(count))
    for sector in present:
        place = slice((sector - first) * SECTOR, (sector - first + 1) * SECTOR)
        data[place] = own[place]
    return bytes(data)


def geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors per track for a size in bytes, by the specification."""
    total = min(size // SECTOR, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    sectors, cylinders_heads = 17, total // 17
    heads = max(4, (cylinders_heads + 1023) // 1024)
    for next_sectors in (31, 63):
        if cylinders_heads < heads * 1024 and heads <= 16:
            break
        sectors, heads = next_sectors, 16
        cylinders_heads = total // sectors
    return cylinders_heads // heads, heads, sectors


def runs(sectors: list[int]) -> Iterator[tuple[int, int]]:
    """The runs of consecutive numbers in an ascending list, as first and behind-the-last."""
    first = 0
    for at in range(1, len(sectors) + 1):
        if at == len(sectors) or sectors[at] != sectors[at - 1] + 1:
            yield sectors[first], sectors[at - 1] + 1
            first = at


def checksum(data: bytes, at: int | None = None) -> int:
    """One's complement of the sum of all bytes, those of the checksum at ``at`` left out."""
    total = sum(data) - (sum(data[at:at + 4]) if at is not None else 0)
    return ~total & 0xFFFFFFFF


def _pack_table(table: list[int]) -> bytes:
    packed = struct.pack(f">{len(table)}I", *table)
    return packed.ljust(_round_up(len(packed)), b"\xff")


def _round_up(size: int, unit: int = SECTOR) -> int:
    return -(-size // unit) * unit
