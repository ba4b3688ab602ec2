# SPDX-License-Identifier: LGPL-2.1-only
"""SR and PBD: what the API does, step by step (xapi_sr.ml, xapi_pbd.ml, message_forwarding.ml)."""

from __future__ import annotations

import uuid as uuids
from typing import Any

from .core import Context, Core
from .errors import ApiError
from .schema import NULL
from .smapi import Smapi

Pairs = dict[str, str]

#: xapi_sr.ml: the first scan and ten more.
SCAN_ATTEMPTS = 11


class Storage:
    """Methods of SR and PBD that are more than a field."""

    def __init__(self, core: Core, smapi: Smapi) -> None:
        self._core = core
        self._smapi = smapi

    # SR --------------------------------------------------------------------------------------

    def sr_create(
        self,
        _context: Context,
        host: str,
        device_config: Pairs,
        physical_size: str,
        name_label: str,
        name_description: str,
        sr_type: str,
        content_type: str,
        shared: bool,
        sm_config: Pairs | None = None,
    ) -> str:
        """SR.create: rows first, then the driver, then the first plug, whose failure is ignored."""
        core, sm_config = self._core, sm_config or {}
        core.db.record("host", host)
        device_config = core.secrets.move_passwords(device_config)
        core.log.info("message_forwarding", f"SR.create: name label = '{name_label}'")
        core.log.debug(
            "xapi_sr", f"SR.create name_label={name_label} sm_config=[ {_joined(sm_config)} ]"
        )
        sr = self._introduce(
            "", name_label, name_description, sr_type, content_type, shared, sm_config
        )
        pbd = self._pbd_row(host, sr, device_config)
        try:
            before = self._smapi.create(sr, name_label, name_description, int(physical_size))
        except Exception:
            # No sr_delete, no sr_detach; secrets of the rows stay behind. As xapi does.
            core.db.destroy("SR", sr)
            core.db.destroy("PBD", pbd)
            raise
        # What the driver wrote to the PBD meanwhile is lost here.
        core.db.set("PBD", pbd, "device_config", before)
        try:
            self.pbd_plug(_context, pbd)
        except ApiError as failure:
            core.log.error("xapi_sr", f"Async.PBD.plug failed, ignored by SR.create: {failure}")
        return sr

    def _introduce(
        self,
        uuid: str,
        name_label: str,
        name_description: str,
        sr_type: str,
        content_type: str,
        shared: bool,
        sm_config: Pairs,
    ) -> str:
        uuid = uuid or str(uuids.uuid4())
        row = {
            "uuid": uuid,
            "name_label": name_label,
            "name_description": name_description,
            "type": sr_type.lower(),
            "content_type": content_type,
            "shared": shared,
            "sm_config": sm_config,
            "physical_utilisation": "-1",
            "physical_size": "-1",
        }
        try:
            return self._core.db.create("SR", row)
        except ApiError as failure:
            if failure.code != "DB_UNIQUENESS_CONSTRAINT_VIOLATION":
                raise
            raise ApiError("SR_UUID_EXISTS", uuid) from None

    def sr_introduce(
        self,
        _context: Context,
        uuid: str,
        name_label: str,
        name_description: str,
        sr_type: str,
        content_type: str,
        shared: bool,
        sm_config: Pairs | None = None,
    ) -> str:
        """SR.introduce: a row, nothing else."""
        self._core.log.info(
            "message_forwarding", f"SR.introduce: uuid = '{uuid}'; name label = '{name_label}'"
        )
        return self._introduce(
            uuid, name_label, name_description, sr_type, content_type, shared, sm_config or {}
        )

    def sr_destroy(self, _context: Context, sr: str) -> None:
        """SR.destroy: attach, delete while attached, detach if that fails; then the rows go."""
        core = self._core
        core.log.info("message_forwarding", f"SR.destroy: SR = '{self._sr_uuid(sr)}'")
        with core.operations.marked(sr, "destroy"):
            self._assert_destructible(sr)
            self._delete_on_disk(sr)
            core.secrets.clean_out(core.db.get("SR", sr, "sm_config"))
            self._really_forget(sr)

    def _assert_destructible(self, sr: str) -> None:
        if self._core.db.get("SR", sr, "other_config").get("indestructible") == "true":
            raise ApiError("SR_INDESTRUCTIBLE", sr)
        host = self._smapi.host_of(sr)
        if self._core.db.get("host", host, "local_cache_sr") == sr:
            raise ApiError("SR_IS_CACHE_SR", host)

    def _delete_on_disk(self, sr: str) -> None:
        db, pbd = self._core.db, self._smapi.my_pbd(sr)
        self._smapi.driver_of(sr)
        self._smapi.attach(sr)
        db.set("PBD", pbd, "currently_attached", True)
        try:
            self._smapi.delete(sr)
        except Exception:
            self._smapi.detach(sr)
            raise
        finally:
            db.set("PBD", pbd, "currently_attached", False)

    def sr_forget(self, _context: Context, sr: str) -> None:
        """SR.forget: the rows go, the driver is not asked."""
        self._core.log.info("message_forwarding", f"SR.forget: SR = '{self._sr_uuid(sr)}'")
        with self._core.operations.marked(sr, "forget"):
            self._really_forget(sr)

    def _really_forget(self, sr: str) -> None:
        record = self._core.db.record("SR", sr)
        for pbd in record["PBDs"]:
            self._destroy_pbd_row(pbd)
        for vdi in record["VDIs"]:
            self._core.db.destroy("VDI", vdi)
        self._core.db.destroy("SR", sr)

    def sr_scan(self, _context: Context, sr: str) -> None:
        """SR.scan: sr_scan and sr_update, again while the set of VDIs changes meanwhile."""
        db = self._core.db
        self._core.log.info("message_forwarding", f"SR.scan: SR = '{self._sr_uuid(sr)}'")
        with self._core.operations.marked(sr, "scan"):
            self._smapi.attached_pbd(sr)
            for _ in range(SCAN_ATTEMPTS):
                before = set(db.get("SR", sr, "VDIs"))
                self._smapi.scan(sr)
                if before == set(db.get("SR", sr, "VDIs")):
                    break
            else:
                raise ApiError("INTERNAL_ERROR", "SR.scan retry limit exceeded")
            sizes = [int(db.get("VDI", vdi, "virtual_size")) for vdi in before]
            db.set("SR", sr, "virtual_allocation", sum(sizes))
            db.remove_from_map("SR", sr, "other_config", "dirty")

    def sr_update(self, _context: Context, sr: str) -> None:
        """SR.update: sr_update."""
        self._core.log.info("message_forwarding", f"SR.update: SR = '{self._sr_uuid(sr)}'")
        self._smapi.attached_pbd(sr)
        self._smapi.stat(sr)

    def sr_probe(
        self,
        _context: Context,
        host: str,
        device_config: Pairs,
        sr_type: str,
        sm_config: Pairs | None = None,
    ) -> str:
        """SR.probe: the driver's text. A password's secret is made, and stays for ever."""
        core, sm_config = self._core, sm_config or {}
        device_config = core.secrets.move_passwords(device_config)
        host_uuid = core.db.get("host", host, "uuid")
        core.log.info("message_forwarding", f"SR.probe: host = '{host_uuid}'")
        core.log.debug("xapi_sr", f"SR.probe sm_config=[ {_joined(sm_config)} ]")
        return self._smapi.probe(host, sr_type.lower(), device_config, sm_config)

    def sr_get_supported_types(self, _context: Context) -> list[str]:
        """SR.get_supported_types: what has a driver on this host."""
        return self._core.registry.types(self._core.host)

    # PBD -------------------------------------------------------------------------------------

    def pbd_create(self, _context: Context, record: dict[str, Any]) -> str:
        """PBD.create: a row; its secrets are copies. One PBD per SR and host."""
        core, sr, host = self._core, record["SR"], record["host"]
        device_config = core.secrets.move_passwords(record.get("device_config") or {})
        host_uuid = core.db.get("host", host, "uuid")
        core.log.info(
            "message_forwarding", f"PBD.create: SR = '{self._sr_uuid(sr)}'; host '{host_uuid}'"
        )
        with core.operations.marked(sr, "pbd_create"):
            return self._pbd_row(host, sr, device_config)

    def _pbd_row(self, host: str, sr: str, device_config: Pairs) -> str:
        core = self._core
        for pbd in core.db.get("SR", sr, "PBDs"):
            if core.db.get("PBD", pbd, "host") == host:
                raise ApiError("PBD_EXISTS", sr, host, pbd)
        _assert_no_srmaster(device_config)
        copied = core.secrets.duplicate_passwords(device_config)
        return core.db.create("PBD", {"host": host, "SR": sr, "device_config": copied})

    def pbd_destroy(self, _context: Context, pbd: str) -> None:
        """PBD.destroy: the row and the secrets that it names."""
        record = self._core.db.record("PBD", pbd)
        self._core.log.info("message_forwarding", f"PBD.destroy: PBD '{record['uuid']}'")
        with self._core.operations.marked(record["SR"], "pbd_destroy"):
            self._destroy_pbd_row(pbd)

    def _destroy_pbd_row(self, pbd: str) -> None:
        record = self._core.db.record("PBD", pbd)
        if record["currently_attached"]:
            raise ApiError("OPERATION_NOT_ALLOWED", "PBD is currently attached")
        self._core.db.destroy("PBD", pbd)
        self._core.secrets.clean_out(record["device_config"])

    def pbd_set_device_config(self, context: Context, pbd: str, value: Pairs) -> None:
        """PBD.set_device_config: for the driver of that SR only."""
        core, record = self._core, self._core.db.record("PBD", pbd)
        value = core.secrets.move_passwords(value)
        shown = [
            f"{key}={'undisclosed' if key.endswith('transformed') else text}"
            for key, text in value.items()
        ]
        core.log.info(
            "message_forwarding",
            f"PBD.set_device_config: PBD = '{record['uuid']}'; "
            f"device_config = [ {'; '.join(shown)} ]",
        )
        core.sessions.assert_driver_of(context.session, record["SR"])
        _assert_no_srmaster(value)
        core.db.set("PBD", pbd, "device_config", value)

    def pbd_plug(self, _context: Context, pbd: str) -> None:
        """PBD.plug: attach, then sr_update twice: health check, and the master's first update."""
        record = self._core.db.record("PBD", pbd)
        self._core.log.info("message_forwarding", f"PBD.plug: PBD = '{record['uuid']}'")
        with self._core.operations.marked(record["SR"], "plug"):
            self.plug(pbd)
        self._smapi.stat(record["SR"])

    def plug(self, pbd: str) -> None:
        """The plug itself, as xapi does it at its start too (Xapi_pbd.plug)."""
        db, record = self._core.db, self._core.db.record("PBD", pbd)
        sr = record["SR"]
        self._smapi.driver_of(sr)
        if record["currently_attached"]:
            return
        self._smapi.attach(sr)
        db.set("PBD", pbd, "currently_attached", True)
        # Outside of any handler: when this fails the plug fails, and the PBD stays attached.
        self._smapi.stat(sr)

    def pbd_unplug(self, _context: Context, pbd: str) -> None:
        """PBD.unplug: refused while a VDI is in use, else sr_detach."""
        record = self._core.db.record("PBD", pbd)
        self._core.log.info("message_forwarding", f"PBD.unplug: PBD = '{record['uuid']}'")
        with self._core.operations.marked(record["SR"], "unplug"):
            self.unplug(pbd)

    def unplug(self, pbd: str) -> None:
        """The unplug itself, as the host's shutdown does it too (Xapi_pbd.unplug)."""
        record = self._core.db.record("PBD", pbd)
        if not record["currently_attached"]:
            return
        in_use = self._vdis_in_use(record["SR"])
        if in_use:
            raise ApiError("VDI_IN_USE", *in_use)
        self._smapi.detach(record["SR"])
        self._core.db.set("PBD", pbd, "currently_attached", False)

    def _vdis_in_use(self, sr: str) -> list[str]:
        vbds = self._core.db.records("VBD").values()
        used = [vbd["VDI"] for vbd in vbds if vbd["currently_attached"] and vbd["VDI"] != NULL]
        return [vdi for vdi in used if self._core.db.get("VDI", vdi, "SR") == sr]

    def _sr_uuid(self, sr: str) -> str:
        return str(self._core.db.get("SR", sr, "uuid"))


def _assert_no_srmaster(device_config: Pairs) -> None:
    if "SRmaster" in device_config:
        reason = "This key is for internal use only"
        raise ApiError("VALUE_NOT_SUPPORTED", "SRmaster", device_config["SRmaster"], reason)


def _joined(pairs: Pairs) -> str:
    return "; ".join(f"{key} = {value}" for key, value in pairs.items())
