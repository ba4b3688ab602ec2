# SPDX-License-Identifier: LGPL-2.1-only
"""Reads and writes the start of a disk as it is."""
import contextlib
import errno
import os
from typing import BinaryIO, Iterable, Iterator, Tuple

from luksext import devices
from luksext.errors import DeviceInUse, DiskFails, HeaderDamaged

_CHUNK = 1024 * 1024


@contextlib.contextmanager
def opened(device: str) -> Iterator[BinaryIO]:
    """`device` for reading; what fails within raises DiskFails."""
    try:
        with open(device, "rb") as disk:
            yield disk
    except OSError as error:
        raise DiskFails(device, "it cannot be read ({})".format(error.strerror)) from error


def read(device: str, size: int) -> bytes:
    """The first `size` bytes of `device`. Raises HeaderDamaged, DiskFails."""
    with opened(device) as disk:
        area = disk.read(size)
    if len(area) < size:
        raise HeaderDamaged(device, "the disk ends before its data start")
    return area


def pieces(device: str, places: Iterable[int], size: int) -> Iterator[Tuple[int, bytes]]:
    """Each of `places` with the `size` bytes there, or fewer at the end of `device`, as far as they
    can be read. Raises DiskFails at the end where some cannot: nobody must take what is in a bad
    sector for what is not there."""
    failure = None
    with opened(device) as disk:
        for place in places:
            try:
                disk.seek(place)
                content = disk.read(size)
            except OSError as error:
                failure = error
                continue
            yield place, content
        if failure is not None:
            raise failure


def overwrite(device: str, area: bytes) -> None:
    """Writes `area` over the start of `device`, which nobody else may use meanwhile.

    The first MiB, where LUKS has its headers, comes last, after the keyslots are on the disk.
    Raises DeviceInUse, DiskFails.
    """
    try:
        # O_EXCL on a block device: the kernel refuses while it is mounted or mapped (open(2)).
        disk = os.open(device, os.O_WRONLY | os.O_EXCL)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DeviceInUse(device, devices.holders(device)) from error
        raise _not_written(device, error) from error
    try:
        for start in reversed(range(0, len(area), _CHUNK)):
            if start == 0:
                os.fsync(disk)
            _write(disk, area[start:start + _CHUNK], start)
        os.fsync(disk)
    except OSError as error:
        raise _not_written(device, error) from error
    finally:
        os.close(disk)


def differs(device: str, area: bytes) -> bool:
    """Whether the disk itself, and not only the kernel's cache of it, differs from `area`. Raises
    DiskFails."""
    with opened(device) as disk:
        os.posix_fadvise(disk.fileno(), 0, len(area), os.POSIX_FADV_DONTNEED)
        return disk.read(len(area)) != area


def _write(disk: int, chunk: bytes, start: int) -> None:
    done = 0
    while done < len(chunk):
        done += os.pwrite(disk, chunk[done:], start + done)


def _not_written(device: str, error: OSError) -> DiskFails:
    return DiskFails(device, "it cannot be written ({})".format(error.strerror))
