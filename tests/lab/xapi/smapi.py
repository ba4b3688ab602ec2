# SPDX-License-Identifier: LGPL-2.1-only
"""Commands of drivers on SRs, with xapi's locks and the table of what is attached.

Sources: ocaml/xapi/storage_smapiv1.ml, storage_smapiv1_wrapper.ml, storage_mux.ml, sm.ml.
"""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from . import driver
from .attached import AttachedTable
from .core import Core
from .driver import Subject, Unimplemented
from .errors import ApiError
from .registry import DriverInfo

#: Commands that no two drivers on one host run at the same time (sm.ml).
SERIALISED = frozenset({"sr_attach", "sr_detach", "sr_probe"})


class Smapi:
    """What the layers above see of a driver."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._attach_detach: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._sr_locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    def device_config(self, sr: str) -> dict[str, str]:
        """SRmaster, then the device_config of the SR's PBD. Raises SR_NO_PBDS."""
        # The SRs here are local: whoever has the only PBD of one is its master.
        return {"SRmaster": "true", **self._core.db.get("PBD", self.my_pbd(sr), "device_config")}

    def my_pbd(self, sr: str) -> str:
        """The PBD that connects a host to the SR. Raises SR_NO_PBDS."""
        pbds: list[str] = self._core.db.get("SR", sr, "PBDs")
        if not pbds:
            raise ApiError("SR_NO_PBDS", sr)
        return pbds[0]

    def host_of(self, sr: str) -> str:
        """The host that the SR is connected to, where its driver runs. Raises SR_NO_PBDS."""
        return str(self._core.db.get("PBD", self.my_pbd(sr), "host"))

    def driver_of(self, sr: str) -> DriverInfo:
        """The SR's driver, on its host. Raises SR_NO_PBDS, SR_UNKNOWN_DRIVER."""
        sr_type = self._core.db.get("SR", sr, "type")
        return self._core.registry.driver_of(self.host_of(sr), sr_type)

    def _attached(self, sr: str) -> AttachedTable:
        return self._core.nodes.of(self.host_of(sr)).attached

    def attached_pbd(self, sr: str) -> str:
        """The same, for what needs an attached PBD. Raises SR_NO_PBDS when it is not."""
        pbd = self.my_pbd(sr)
        if not self._core.db.get("PBD", pbd, "currently_attached"):
            raise ApiError("SR_NO_PBDS", sr)
        return pbd

    def run(
        self,
        host: str,
        sr_type: str,
        command: str,
        arguments: Sequence[str],
        device_config: dict[str, str],
        subject: Subject,
        note: str = "",
    ) -> ET.Element:
        """Run one command of a host's driver. note goes to the log, after the command."""
        name = self._core.registry.driver_of(host, sr_type).executable
        lock = self._attach_detach[host] if command in SERIALISED else nullcontext()
        with lock:
            about = note or f"sr={subject.sr_ref}"
            self._core.log.debug("sm", f"SM {sr_type} {command} {about}")
            return self._core.driver.call(
                host, name, command, arguments, device_config, subject
            )

    def run_on(
        self,
        sr: str,
        command: str,
        arguments: Sequence[str] = (),
        subject: Subject | None = None,
        note: str = "",
    ) -> ET.Element:
        """Run one command with the device_config in the database."""
        sr_type = self._core.db.get("SR", sr, "type")
        subject = subject or Subject(sr_ref=sr)
        config = self.device_config(sr)
        return self.run(self.host_of(sr), sr_type, command, arguments, config, subject, note)

    @contextmanager
    def _logged(self, call: str, **parameters: Any) -> Iterator[None]:
        """Dump a failed call with all its parameters, unmasked (storage_utils.ml)."""
        try:
            yield
        except (ApiError, Unimplemented) as failure:
            text = f"-> {call}({_rpc(parameters)})"
            self._core.log.debug(
                "storage_utils",
                f"Got failure: checking for redirect, call was: {text}, "
                f"results.contents: {failure!r}",
            )
            self._core.log.debug("storage_utils", f"Not a redirect: {text}")
            raise

    def create(self, sr: str, name_label: str, name_description: str, size: int) -> dict[str, str]:
        """sr_create. Returns the device_config as it was before the driver ran."""
        db, uuid = self._core.db, self._uuid(sr)
        self.driver_of(sr)
        config: dict[str, str] = db.get("PBD", self.my_pbd(sr), "device_config")
        self._core.log.info(
            "storage_mux",
            f"SR.create dbg:{sr} sr:{uuid} name_label:{name_label} "
            f"name_description:{name_description} device_config:[{_masked(config)}] "
            f"physical_size:{size}",
        )
        with self._logged(
            "SR.create",
            sr=uuid,
            name_label=name_label,
            name_description=name_description,
            device_config=config,
            physical_size=size,
        ):
            with self._sr_locks[uuid], _not_implemented(sr):
                note = f"sr={sr} size={size}"
                driver.unit(self.run_on(sr, "sr_create", [str(size)], note=note))
        return config

    def attach(self, sr: str) -> None:
        """sr_attach, unless the SR is in the table already."""
        uuid = self._uuid(sr)
        config = self._core.db.get("PBD", self.my_pbd(sr), "device_config")
        for module in ("storage_mux", "storage_smapiv1_wrapper"):
            line = f"SR.attach dbg:{sr} sr:{uuid} device_config:[{_masked(config)}]"
            self._core.log.info(module, line)
        with self._logged("SR.attach", sr=uuid, device_config=config), self._sr_locks[uuid]:
            attached = self._attached(sr)
            if uuid not in attached:
                driver.unit(self.run_on(sr, "sr_attach"))
                attached.add(uuid)

    def detach(self, sr: str) -> None:
        """sr_detach, after what is left of data paths. Raises SR_NOT_ATTACHED."""
        self._leave(sr, "SR.detach", "sr_detach")

    def delete(self, sr: str) -> None:
        """sr_delete of an attached SR; the driver leaves nothing open. Raises SR_NOT_ATTACHED."""
        with _not_implemented(sr):
            self._leave(sr, "SR.destroy", "sr_delete")

    def _leave(self, sr: str, call: str, command: str) -> None:
        """The table's entry goes only when the driver succeeded: a retry runs it again."""
        uuid = self._uuid(sr)
        self._core.log.info("storage_smapiv1_wrapper", f"{call} dbg:{sr} sr:{uuid}")
        with self._logged(call, sr=uuid), self._sr_locks[uuid]:
            if uuid not in self._attached(sr):
                raise ApiError("SR_NOT_ATTACHED", uuid)
            self._close_datapaths(sr, uuid)
            driver.unit(self.run_on(sr, command))
            self._attached(sr).remove(uuid)

    def _close_datapaths(self, sr: str, uuid: str) -> None:
        for vdi_uuid in self._attached(sr).vdis(uuid):
            try:
                self.close(self._core.db.by_uuid("VDI", vdi_uuid))
            except ApiError as failure:
                self._core.log.error(
                    "storage_smapiv1_wrapper",
                    f"The following datapaths have leaked: {vdi_uuid} ({failure})",
                )

    def stat(self, sr: str) -> None:
        """sr_update: the driver itself writes the sizes."""
        self._require_attached(sr, "SR.stat", "sr_update")

    def scan(self, sr: str) -> None:
        """sr_scan, then sr_update (scan2)."""
        self._require_attached(sr, "SR.scan2", "sr_scan")
        self.stat(sr)

    def _require_attached(self, sr: str, call: str, command: str) -> None:
        uuid = self._uuid(sr)
        with self._logged(call, sr=uuid), self._sr_locks[uuid], _not_implemented(sr):
            if uuid not in self._attached(sr):
                raise ApiError("SR_NOT_ATTACHED", uuid)
            driver.unit(self.run_on(sr, command))

    def probe(
        self, host: str, sr_type: str, config: dict[str, str], sm_config: dict[str, str]
    ) -> str:
        """sr_probe: no SR, no rights, and the text comes back as the driver wrote it."""
        features = self._core.registry.driver_of(host, sr_type).features
        with self._logged("SR.probe", queue=sr_type, device_config=config, sm_config=sm_config):
            if "SR_PROBE" not in features:
                text = "Operation 'sr_probe' not supported by this SR type"
                raise ApiError("SR_BACKEND_FAILURE", text, "", "")
            pairs = "; ".join(f"{key}={value}" for key, value in sm_config.items())
            full = {"SRmaster": "true", **config}
            subject = Subject(sr_sm_config=sm_config)
            note = f"sm_config=[{pairs}]"
            return driver.text_of(self.run(host, sr_type, "sr_probe", [], full, subject, note))

    def run_on_vdi(
        self,
        vdi: str,
        command: str,
        arguments: Sequence[str] = (),
        driver_params: dict[str, str] | None = None,
    ) -> ET.Element:
        """Run one command about an existing VDI."""
        sr = self._core.db.get("VDI", vdi, "SR")
        uuid = self._core.db.get("VDI", vdi, "uuid")
        subject = Subject(sr_ref=sr, vdi_ref=vdi, driver_params=driver_params)
        with self._logged(command.replace("vdi_", "VDI."), sr=self._uuid(sr), vdi=uuid):
            return self.run_on(sr, command, arguments, subject, f"sr={sr} vdi={vdi}")

    def open(self, vdi: str, read_write: bool) -> driver.AttachResult:
        """vdi_attach, then vdi_activate if the driver knows it; notes read caching in the VDI."""
        sr, uuid, sr_uuid = self._names(vdi)
        mode = str(read_write).lower()
        answer = driver.attach_result(self.run_on_vdi(vdi, "vdi_attach", [mode]))
        attached = self._attached(sr)
        attached.set_vdi(sr_uuid, uuid, read_write=read_write, activated=False)
        self._note_read_caching(vdi, answer)
        # What the driver said, not what the SM row says (storage_smapiv1.ml).
        if "VDI_ACTIVATE" in self.driver_of(sr).features:
            driver.unit(self.run_on_vdi(vdi, "vdi_activate", [mode]))
        attached.set_vdi(sr_uuid, uuid, read_write=read_write, activated=True)
        return answer

    def close(self, vdi: str) -> None:
        """vdi_deactivate, if it was activated, then vdi_detach; ends the note on read caching."""
        sr, uuid, sr_uuid = self._names(vdi)
        attached = self._attached(sr)
        state = attached.vdis(sr_uuid).get(uuid)
        if state is None:
            return
        if state["activated"]:
            if "VDI_DEACTIVATE" in self.driver_of(sr).features:
                driver.unit(self.run_on_vdi(vdi, "vdi_deactivate"))
            mode = state["read_write"]
            attached.set_vdi(sr_uuid, uuid, read_write=mode, activated=False)
        driver.unit(self.run_on_vdi(vdi, "vdi_detach"))
        attached.remove_vdi(sr_uuid, uuid)
        for key in self._read_caching_keys(sr):
            self._core.db.remove_from_map("VDI", vdi, "sm_config", key)

    def _names(self, vdi: str) -> tuple[str, str, str]:
        record = self._core.db.record("VDI", vdi)
        return record["SR"], record["uuid"], self._uuid(record["SR"])

    def _read_caching_keys(self, sr: str) -> tuple[str, str]:
        host = self._core.db.get("host", self.host_of(sr), "uuid")
        return f"read-caching-enabled-on-{host}", f"read-caching-reason-{host}"

    def _note_read_caching(self, vdi: str, answer: driver.AttachResult) -> None:
        enabled, reason = self._read_caching_keys(self._core.db.get("VDI", vdi, "SR"))
        for key in (enabled, reason):
            self._core.db.remove_from_map("VDI", vdi, "sm_config", key)
        cached = str(not answer.o_direct).lower()
        self._core.db.add_to_map("VDI", vdi, "sm_config", enabled, cached)
        if answer.o_direct:
            self._core.db.add_to_map("VDI", vdi, "sm_config", reason, answer.o_direct_reason)

    def _uuid(self, sr: str) -> str:
        return str(self._core.db.get("SR", sr, "uuid"))


@contextmanager
def _not_implemented(sr: str) -> Iterator[None]:
    try:
        yield
    except Unimplemented:
        raise ApiError("SR_OPERATION_NOT_SUPPORTED", sr) from None


def _masked(config: dict[str, str]) -> str:
    """A device_config as SR.create and SR.attach log it: keys that contain `password` only."""
    return "; ".join(
        f"{key}:{'(omitted)' if 'password' in key else value}" for key, value in config.items()
    )


def _rpc(item: Any) -> str:
    """A value as Rpc.to_string prints it."""
    if isinstance(item, dict):
        return "{" + ";".join(f"{key}:{_rpc(value)}" for key, value in item.items()) + "}"
    return f"I({item})" if isinstance(item, int) else f"S({item})"
