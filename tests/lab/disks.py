# SPDX-License-Identifier: LGPL-2.1-only
"""Virtual disks: a sparse file each, seen by a guest as a SCSI disk with a name of its own."""

from __future__ import annotations

import errno
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import LabError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass
class Disk:
    """One disk.

    `serial` and `wwn` stay the disk's own when it moves to another machine. `logical` and
    `physical` are its block sizes in bytes. `folder` is where its file is. `bad` has the sectors of
    512 bytes that cannot be read, or written, as pairs of "read" or "write" and a number.
    """

    name: str
    serial: str
    wwn: int
    logical: int
    physical: int
    folder: Path
    bad: list[tuple[str, int]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The disk's content on the host, raw; do not write to it while a guest runs with it."""
        return self.folder / f"{self.name}.img"

    @property
    def by_id(self) -> str:
        """The disk's lasting name in the guest; udev makes it from the SCSI unit's NAA number."""
        return f"/dev/disk/by-id/scsi-3{self.wwn:016x}"

    @property
    def device_id(self) -> str:
        """What QEMU calls the device."""
        return f"disk-{self.name}"

    def blockdev(self) -> dict[str, Any]:
        """Return the arguments of QMP's blockdev-add (and of -blockdev) for the disk's content.

        A write is done once it is in the host's page cache, as on a disk with a volatile cache.
        """
        file: dict[str, Any] = {"driver": "file", "filename": str(self.path), "discard": "unmap"}
        if self.bad:
            file = {"driver": "blkdebug", "image": file, "inject-error": [
                {"event": "none", "iotype": way, "sector": sector, "errno": errno.EIO,
                 "once": False} for way, sector in self.bad]}
        return {"driver": "raw", "node-name": self.device_id, "discard": "unmap", "file": file}

    def device(self, target: int) -> dict[str, Any]:
        """Return the arguments of QMP's device_add (and of -device) for SCSI target `target`."""
        return {
            "driver": "scsi-hd",
            "id": self.device_id,
            "drive": self.device_id,
            "bus": "scsi.0",
            "channel": 0,
            "scsi-id": target,
            "lun": 0,
            "serial": self.serial,
            "wwn": self.wwn,
            "logical_block_size": self.logical,
            "physical_block_size": self.physical,
        }


def create(folder: Path, owner: str, name: str, size: str, logical: int, physical: int) -> Disk:
    """Make a new, empty disk in `folder`.

    Its serial and WWN follow from `name` and its first owner's name, so they are the same in every
    run. Raises LabError when a disk of that name is there.
    """
    digest = hashlib.sha256(f"{owner}/{name}".encode()).hexdigest()
    # The first hexadecimal digit 5 says "NAA IEEE Registered", the common form for disks (SPC-4).
    disk = Disk(
        name, f"LAB{digest[:12].upper()}", int("5" + digest[:15], 16), logical, physical, folder
    )
    if disk.path.exists():
        raise LabError(f"There is a disk '{name}' already: {disk.path}.")
    folder.mkdir(parents=True, exist_ok=True)
    with open(disk.path, "xb") as file:
        file.truncate(parse_size(size))
    return disk


def parse_size(text: str) -> int:
    """Return the bytes in a size like "1G", "512M" or "1048576" (units are powers of 1024)."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise LabError(f"'{text}' is no size: give a number and one of K, M, G, T, as in 1G.")
    return int(match[1]) * _UNITS[match[2]]
