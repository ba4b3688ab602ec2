# SPDX-License-Identifier: LGPL-2.1-only
"""VDI: what the API does, step by step (xapi_vdi.ml, storage_smapiv1.ml)."""

from __future__ import annotations

import uuid as uuids
from typing import Any

from . import clock, driver
from .core import Context, Core
from .db import normal
from .driver import Subject, Unimplemented
from .errors import ApiError
from .schema import CLASSES, EPOCH, NULL
from .smapi import Smapi

#: Fields that a snapshot or clone takes over from its origin.
COPIED = [
    "name_label",
    "name_description",
    "type",
    "sharable",
    "other_config",
    "xenstore_data",
    "on_boot",
    "allow_caching",
    "tags",
]

#: Keys of driver_params that end in the new VDI's sm_config.
PRESERVED_ON_CLONE = ("base_mirror",)


class Vdis:
    """Methods of VDI that are more than a field."""

    def __init__(self, core: Core, smapi: Smapi) -> None:
        self._core = core
        self._smapi = smapi

    def create(self, _context: Context, record: dict[str, Any]) -> str:
        """VDI.create: the driver has introduced the VDI when it answers."""
        sr = record["SR"]
        given = {key: normal(CLASSES["VDI"][key], value) for key, value in record.items()}
        with self._core.operations.marked(sr, "vdi_create"):
            self._smapi.attached_pbd(sr)
            sm_config = given.get("sm_config", {})
            kind = given.get("type", "user")
            arguments = [
                given["virtual_size"],
                given.get("name_label", ""),
                given.get("name_description", ""),
                "",
                "false",
                EPOCH,
                "",
                str(given.get("read_only", False)).lower(),
            ]
            pairs = "; ".join(f"{key}={value}" for key, value in sm_config.items())
            note = f"sr={sr} sm_config=[{pairs}] type=[{kind}] size={arguments[0]}"
            subject = Subject(sr_ref=sr, vdi_type=kind, vdi_sm_config=sm_config)
            answer = self._smapi.run_on(sr, "vdi_create", arguments, subject, note)
            uuid, _ = driver.vdi_location(answer)
            vdi = self._core.db.by_uuid("VDI", uuid)
            for field in (
                "name_label",
                "name_description",
                "other_config",
                "xenstore_data",
                "tags",
            ):
                if field in given:
                    self._core.db.set("VDI", vdi, field, given[field])
            return vdi

    def destroy(self, _context: Context, vdi: str) -> None:
        """VDI.destroy: refused while it is in use; the row goes if the driver left it."""
        sr, db = self._sr_of(vdi), self._core.db
        with self._core.operations.marked(sr, "vdi_destroy"):
            self._smapi.attached_pbd(sr)
            if db.get("VDI", vdi, "VBDs"):
                raise ApiError("VDI_IN_USE", vdi, "destroy")
            self._assert_managed(vdi)
            driver.unit(self._run(vdi, "vdi_delete"))
            if db.exists("VDI", vdi):
                db.destroy("VDI", vdi)

    def snapshot(self, _context: Context, vdi: str, params: dict[str, str] | None = None) -> str:
        """VDI.snapshot: vdi_snapshot, then vdi_update on the new VDI."""
        new = self._copy(vdi, "vdi_snapshot", params or {}, is_a_snapshot=True)
        self._core.db.set("VDI", new, "is_a_snapshot", True)
        self._core.db.set("VDI", new, "snapshot_of", vdi)
        return new

    def clone(self, _context: Context, vdi: str, params: dict[str, str] | None = None) -> str:
        """VDI.clone: vdi_clone, then vdi_update on the new VDI."""
        return self._copy(vdi, "vdi_clone", params or {}, is_a_snapshot=False)

    def _copy(self, vdi: str, command: str, params: dict[str, str], *, is_a_snapshot: bool) -> str:
        db, sr = self._core.db, self._sr_of(vdi)
        with self._core.operations.marked(sr, command):
            self._smapi.attached_pbd(sr)
            self._assert_managed(vdi)
            _, location = driver.vdi_location(self._run(vdi, command, driver_params=params))
            new = self._at(sr, location)
            origin = db.record("VDI", vdi)
            content = origin["other_config"].get("content_id") or str(uuids.uuid4())
            for field, value in (
                ("name_label", origin["name_label"]),
                ("name_description", origin["name_description"]),
                ("snapshot_time", clock.now()),
                ("is_a_snapshot", is_a_snapshot),
                ("other_config", {**db.get("VDI", new, "other_config"), "content_id": content}),
            ):
                db.set("VDI", new, field, value)
            for key in PRESERVED_ON_CLONE:
                if key in params:
                    db.remove_from_map("VDI", new, "sm_config", key)
                    db.add_to_map("VDI", new, "sm_config", key, params[key])
            driver.unit(self._run(new, "vdi_update"))
            for field in COPIED:
                db.set("VDI", new, field, origin[field])
            return new

    def _at(self, sr: str, location: str) -> str:
        for ref, record in self._core.db.records("VDI").items():
            if record["SR"] == sr and record["location"] == location:
                return ref
        raise ApiError("VDI_MISSING", sr, location)

    def resize(self, _context: Context, vdi: str, size: str) -> None:
        """VDI.resize: the driver writes the new size."""
        sr = self._sr_of(vdi)
        with self._core.operations.marked(sr, "vdi_resize"):
            self._smapi.attached_pbd(sr)
            self._assert_managed(vdi)
            driver.vdi_location(self._run(vdi, "vdi_resize", [str(int(size))]))

    def update(self, _context: Context, vdi: str) -> None:
        """VDI.update: vdi_update."""
        self._smapi.attached_pbd(self._sr_of(vdi))
        driver.unit(self._run(vdi, "vdi_update"))

    def forget(self, _context: Context, vdi: str) -> None:
        """VDI.forget: the row goes, the driver is not asked.

        It waits for no operation on the SR (message_forwarding.ml marks the VDI alone): garbage
        collectors forget while they hold the lock that a scan waits for.
        """
        self._core.db.destroy("VDI", vdi)

    def db_introduce(
        self,
        context: Context,
        uuid: str,
        name_label: str,
        name_description: str,
        sr: str,
        vdi_type: str,
        sharable: bool,
        read_only: bool,
        other_config: dict[str, str],
        location: str,
        xenstore_data: dict[str, str],
        sm_config: dict[str, str],
        managed: bool,
        virtual_size: str,
        physical_utilisation: str,
        metadata_of_pool: str = NULL,
        is_a_snapshot: bool = False,
        snapshot_time: Any = EPOCH,
        snapshot_of: str = NULL,
        cbt_enabled: bool = False,
    ) -> str:
        """VDI.db_introduce: a row; for the driver of that SR only. Arguments as SM orders them."""
        self._core.sessions.assert_driver_of(context.session, sr)
        row = {
            "uuid": uuid,
            "name_label": name_label,
            "name_description": name_description,
            "SR": sr,
            "type": vdi_type,
            "sharable": sharable,
            "read_only": read_only,
            "other_config": other_config,
            "location": location,
            "xenstore_data": xenstore_data,
            "sm_config": sm_config,
            "managed": managed,
            "virtual_size": virtual_size,
            "physical_utilisation": physical_utilisation,
            "metadata_of_pool": metadata_of_pool,
            "is_a_snapshot": is_a_snapshot,
            "snapshot_time": snapshot_time,
            "snapshot_of": snapshot_of,
            "cbt_enabled": cbt_enabled,
            "on_boot": "persist",
        }
        return self._core.db.create(
            "VDI", {key: normal(CLASSES["VDI"][key], value) for key, value in row.items()}
        )

    def db_forget(self, context: Context, vdi: str) -> None:
        """VDI.db_forget: the row goes; for the driver of that SR only."""
        self._core.sessions.assert_driver_of(context.session, self._sr_of(vdi))
        self._core.db.destroy("VDI", vdi)

    def _run(
        self,
        vdi: str,
        command: str,
        arguments: list[str] | None = None,
        driver_params: dict[str, str] | None = None,
    ) -> Any:
        try:
            return self._smapi.run_on_vdi(vdi, command, arguments or [], driver_params)
        except Unimplemented:
            raise ApiError("UNIMPLEMENTED_IN_SM_BACKEND", self._sr_of(vdi)) from None

    def _assert_managed(self, vdi: str) -> None:
        if not self._core.db.get("VDI", vdi, "managed"):
            raise ApiError("VDI_NOT_MANAGED", vdi)

    def _sr_of(self, vdi: str) -> str:
        return str(self._core.db.get("VDI", vdi, "SR"))
