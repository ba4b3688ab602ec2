# SPDX-License-Identifier: LGPL-2.1-only
"""VBDs, their data path in dom0, and the import and export of raw contents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from . import disk
from .core import Context, Core
from .driver import AttachResult
from .errors import ApiError
from .smapi import Smapi

CHUNK = 1 << 20


class Datapath:
    """VBDs of dom0 and what goes through them."""

    def __init__(self, core: Core, smapi: Smapi) -> None:
        self._core = core
        self._smapi = smapi

    # VBD -------------------------------------------------------------------------------------

    def vbd_create(self, _context: Context, record: dict[str, Any]) -> str:
        """VBD.create: a row. One VBD for each place in the VM (xapi_vbd.ml)."""
        vdi = self._core.db.record("VDI", record["VDI"])
        given = {"type": "Disk", "mode": "RW", "userdevice": "autodetect", **record}
        if given["mode"] == "RW" and vdi["read_only"]:
            raise ApiError("VDI_READONLY", record["VDI"])
        given["userdevice"] = self._place(record["VM"], given["userdevice"])
        return self._core.db.create("VBD", given)

    def _place(self, vm: str, wanted: str) -> str:
        vbds = self._core.db.get("VM", vm, "VBDs")
        taken = {self._core.db.get("VBD", vbd, "userdevice") for vbd in vbds}
        if wanted == "autodetect":
            return next(place for place in map(str, itertools.count()) if place not in taken)
        if wanted in taken:
            raise ApiError("DEVICE_ALREADY_EXISTS", wanted)
        return wanted

    def vbd_plug(self, _context: Context, vbd: str) -> None:
        """VBD.plug in dom0: vdi_attach and vdi_activate; `device` becomes what they gave."""
        self._plug(vbd)

    def _plug(self, vbd: str) -> AttachResult:
        record = self._core.db.record("VBD", vbd)
        if record["currently_attached"]:
            raise ApiError("DEVICE_ALREADY_ATTACHED", vbd)
        power_state = self._core.db.get("VM", record["VM"], "power_state")
        if power_state != "Running":
            raise ApiError("VM_BAD_POWER_STATE", record["VM"], "Running", power_state)
        self._smapi.attached_pbd(self._core.db.get("VDI", record["VDI"], "SR"))
        try:
            answer = self._smapi.open(record["VDI"], record["mode"] == "RW")
        except Exception:
            # xenopsd destroys the data path of a VBD that did not come up.
            self._smapi.close(record["VDI"])
            raise
        self._core.db.set("VBD", vbd, "device", answer.params or answer.params_nbd)
        self._core.db.set("VBD", vbd, "currently_attached", True)
        return answer

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
        with self._opened(context, vdi, "RW") as target:
            if length > target.size:
                raise ApiError("VDI_TOO_SMALL", vdi, str(target.size), str(length))
            offset = 0
            while offset < length:
                data = source.read(min(CHUNK, length - offset))
                if not data:
                    raise ApiError("VDI_IO_ERROR", "the client ended before its data did")
                target.write(offset, data)
                offset += len(data)

    def export_raw(self, context: Context, vdi: str) -> Iterator[bytes]:
        """The contents of the VDI, in pieces."""
        with self._opened(context, vdi, "RO") as source:
            for offset in range(0, source.size, CHUNK):
                yield source.read(offset, CHUNK)

    @contextmanager
    def _opened(self, context: Context, vdi: str, mode: str) -> Iterator[disk.Disk]:
        host = self._smapi.host_of(self._core.db.get("VDI", vdi, "SR"))
        if host != self._core.host:
            raise ApiError("INTERNAL_ERROR", "the lab moves data on the pool's master only")
        dom0 = self._core.db.get("host", host, "control_domain")
        vbd = self.vbd_create(context, {"VM": dom0, "VDI": vdi, "mode": mode})
        try:
            answer = self._plug(vbd)
            try:
                with disk.opened(answer, writable=mode == "RW") as opened:
                    yield opened
            finally:
                self.vbd_unplug(context, vbd)
        finally:
            self._core.db.destroy("VBD", vbd)
