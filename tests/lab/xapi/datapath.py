# SPDX-License-Identifier: LGPL-2.1-only
"""The data path of a VDI in dom0: VBDs, and the import and export of raw contents.

xapi attaches a VDI to dom0 by a VBD and reads or writes the block device that blktap gives. Where
that device does not exist (no kernel blktap in the guest), the image file itself is used; the log
says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from .core import Context, Core
from .errors import ApiError
from .smapi import Smapi
from .vhd import Vhd

CHUNK = 1 << 20


class Disk(Protocol):
    """Something with bytes at offsets."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset."""

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset."""


class RawDisk:
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


class Datapath:
    """VBDs of dom0 and what goes through them."""

    def __init__(self, core: Core, smapi: Smapi) -> None:
        self._core = core
        self._smapi = smapi

    # VBD -------------------------------------------------------------------------------------

    def vbd_create(self, _context: Context, record: dict[str, Any]) -> str:
        """VBD.create: a row."""
        self._core.db.record("VDI", record["VDI"])
        return self._core.db.create("VBD", {"type": "Disk", "mode": "RW", **record})

    def vbd_plug(self, _context: Context, vbd: str) -> None:
        """VBD.plug in dom0: vdi_attach and vdi_activate; `device` becomes what they gave."""
        record = self._core.db.record("VBD", vbd)
        if record["currently_attached"]:
            raise ApiError("DEVICE_ALREADY_ATTACHED", vbd)
        self._smapi.attached_pbd(self._core.db.get("VDI", record["VDI"], "SR"))
        try:
            answer = self._smapi.open(record["VDI"], record["mode"] == "RW")
        except Exception:
            # xenopsd destroys the data path of a VBD that did not come up.
            self._smapi.close(record["VDI"])
            raise
        self._core.db.set("VBD", vbd, "device", answer.params or answer.params_nbd)
        self._core.db.set("VBD", vbd, "currently_attached", True)

    def vbd_unplug(self, _context: Context, vbd: str) -> None:
        """VBD.unplug in dom0: vdi_deactivate and vdi_detach."""
        record = self._core.db.record("VBD", vbd)
        if not record["currently_attached"]:
            raise ApiError("DEVICE_ALREADY_DETACHED", vbd)
        self._smapi.close(record["VDI"])
        self._core.db.set("VBD", vbd, "currently_attached", False)

    def vbd_destroy(self, _context: Context, vbd: str) -> None:
        """VBD.destroy: the row goes, unless it is plugged."""
        if self._core.db.get("VBD", vbd, "currently_attached"):
            raise ApiError("OPERATION_NOT_ALLOWED", f"VBD '{vbd}' still attached to dom0")
        self._core.db.destroy("VBD", vbd)

    # Import and export -----------------------------------------------------------------------

    def import_raw(self, context: Context, vdi: str, source: BinaryIO, length: int) -> None:
        """Write length bytes from source to the start of the VDI."""
        with self._opened(context, vdi, "RW") as disk:
            if length > disk.size:
                raise ApiError("VDI_TOO_SMALL", vdi, str(disk.size), str(length))
            offset = 0
            while offset < length:
                data = source.read(min(CHUNK, length - offset))
                if not data:
                    raise ApiError("VDI_IO_ERROR", "the client ended before its data did")
                disk.write(offset, data)
                offset += len(data)

    def export_raw(self, context: Context, vdi: str) -> Iterator[bytes]:
        """The contents of the VDI, in pieces."""
        with self._opened(context, vdi, "RO") as disk:
            for offset in range(0, disk.size, CHUNK):
                yield disk.read(offset, CHUNK)

    @contextmanager
    def _opened(self, context: Context, vdi: str, mode: str) -> Iterator[Disk]:
        dom0 = self._core.db.get("host", self._core.host, "control_domain")
        vbd = self.vbd_create(context, {"VM": dom0, "VDI": vdi, "mode": mode})
        try:
            self.vbd_plug(context, vbd)
            try:
                device = Path(self._core.db.get("VBD", vbd, "device"))
                with self._disk(vdi, device, mode == "RW") as disk:
                    yield disk
            finally:
                self.vbd_unplug(context, vbd)
        finally:
            self._core.db.destroy("VBD", vbd)

    @contextmanager
    def _disk(self, vdi: str, device: Path, writable: bool) -> Iterator[Disk]:
        if _is_block_device(device):
            with open(device, "r+b" if writable else "rb", buffering=0) as file:
                yield RawDisk(file)
                if writable:
                    os.fsync(file.fileno())
            return
        image = self._image(vdi)
        self._core.log.info(
            "datapath", f"{device} is no block device: lab tapdisk on {image} (no kernel blktap)"
        )
        if image.suffix == ".vhd":
            with Vhd(image, writable=writable) as vhd:
                yield vhd
        else:
            with open(image, "r+b" if writable else "rb") as file:
                yield RawDisk(file)

    def _image(self, vdi: str) -> Path:
        """The file of a VDI in a file-based SR. Raises VDI_MISSING."""
        record = self._core.db.record("VDI", vdi)
        folder = self._core.config.sr_mount / str(self._core.db.get("SR", record["SR"], "uuid"))
        for suffix in (".vhd", ".raw"):
            image = folder / f"{record['uuid']}{suffix}"
            if image.exists():
                return image
        raise ApiError("VDI_MISSING", record["SR"], vdi)


def _is_block_device(path: Path) -> bool:
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False
