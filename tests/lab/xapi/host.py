# SPDX-License-Identifier: LGPL-2.1-only
"""Hosts: their rows, what happens at a start and before an end, and periodic scans.

Sources: ocaml/xapi/create_storage.ml, xapi_host.ml, xapi_pbd.ml, xapi_sr.ml.
"""

from __future__ import annotations

import threading
from typing import Any

from . import clock
from .core import Context, Core
from .errors import ApiError
from .message import Messages
from .schema import NULL
from .storage import Storage


class Host:
    """What XAPI does about the hosts of the pool."""

    def __init__(self, core: Core, storage: Storage, messages: Messages) -> None:
        self._core = core
        self._storage = storage
        self._messages = messages
        self._stopping = threading.Event()

    def ensure_rows(self) -> None:
        """Create pool and this host, unless they exist."""
        db = self._core.db
        if not db.refs("pool"):
            host = self.add(self._core.node.identity(), enabled=True)
            db.create("pool", {"name_label": "lab", "master": host, "default_SR": NULL})
        db.set("host", self._core.host, "enabled", True)
        self._core.nodes.add(self._core.host, self._core.node)
        db.flush()

    def add(self, identity: dict[str, str], *, enabled: bool) -> str:
        """A host, its metrics and its control domain; returns its reference."""
        db = self._core.db
        host = self._create_host(identity, enabled)
        db.set("host", host, "control_domain", self._create_control_domain(identity, host))
        return host

    def remove(self, host: str) -> None:
        """A host has left: it goes, with its metrics and its control domain."""
        db, record = self._core.db, self._core.db.record("host", host)
        db.destroy("VM", record["control_domain"])
        db.destroy("host_metrics", record["metrics"])
        db.destroy("host", host)

    def _create_host(self, identity: dict[str, str], enabled: bool) -> str:
        name = identity["name"]
        metrics = self._core.db.create(
            "host_metrics",
            {"live": True, "last_updated": clock.now(), "memory_total": str(1 << 30)},
        )
        return self._core.db.create(
            "host",
            {
                "uuid": identity["uuid"],
                "enabled": enabled,
                "name_label": name,
                "hostname": name,
                "address": "127.0.0.1",
                "metrics": metrics,
                "API_version_major": "2",
                "API_version_minor": "21",
                "API_version_vendor": "lab",
                "software_version": {
                    "product_brand": "XCP-ng",
                    "product_version": identity["version"],
                },
                "cpu_info": {"cpu_count": "1", "socket_count": "1"},
            },
        )

    def _create_control_domain(self, identity: dict[str, str], host: str) -> str:
        return self._core.db.create(
            "VM",
            {
                "uuid": identity["control_domain"],
                "name_label": f"Control domain on host: {identity['name']}",
                "is_control_domain": True,
                "power_state": "Running",
                "resident_on": host,
                "domid": "0",
                "platform": {"cores-per-socket": "1"},
            },
        )

    # Start -----------------------------------------------------------------------------------

    def plug_all(self, host: str) -> None:
        """What xapi does about PBDs when it starts on a host: two attempts each, then an alert.

        The second attempt belongs to the moment when the management interface has its address.
        There is no third, ever.
        """
        self._resynchronise(host)
        for _ in range(2):
            for pbd in self._unplugged(host):
                self._try_plug(pbd)
            self._core.db.flush()
        unplugged = self._unplugged(host)
        if unplugged:
            self._core.log.debug(
                "create_storage", f"Some PBDs are not currently plugged: {', '.join(unplugged)}"
            )
            uuid = self._core.db.get("host", host, "uuid")
            self._messages.add("PBD_PLUG_FAILED_ON_SERVER_START", "3", "Host", uuid, "")
            self._core.db.flush()

    def _resynchronise(self, host: str) -> None:
        """currently_attached := the SR is in the table, which a reboot has emptied."""
        db, attached = self._core.db, self._core.nodes.of(host).attached
        for vbd, record in db.records("VBD").items():
            # Dom0's data paths are not reconnected: what used them ended with the emulator.
            if record["VM"] == db.get("host", host, "control_domain"):
                db.destroy("VBD", vbd)
        for pbd, record in self._pbds(host).items():
            plugged = db.get("SR", record["SR"], "uuid") in attached
            db.set("PBD", pbd, "currently_attached", plugged)

    def _pbds(self, host: str) -> dict[str, dict[str, Any]]:
        return self._core.db.records("PBD", lambda pbd: pbd["host"] == host)

    def _unplugged(self, host: str) -> list[str]:
        pbds = self._pbds(host).items()
        return [pbd for pbd, record in pbds if not record["currently_attached"]]

    def _try_plug(self, pbd: str) -> None:
        uuid = self._core.db.get("PBD", pbd, "uuid")
        try:
            self._storage.plug(pbd)
        except Exception as failure:  # pylint: disable=broad-except
            # One SR must not keep the others from being plugged.
            self._core.log.error("create_storage", f"Could not plug in pbd '{uuid}': {failure}")

    # End -------------------------------------------------------------------------------------

    def prepare_for_poweroff(self, _context: Context, host: str) -> None:
        """Unplug a host's PBDs, one after another; the first failure leaves the rest plugged."""
        log = self._core.log
        log.info("xapi_pbd", "Unplugging all SRs plugged on local host")
        self._core.db.set("host", host, "enabled", False)
        for pbd, record in self._pbds(host).items():
            if record["currently_attached"]:
                log.debug("xapi_pbd", f"Unplugging PBD {record['uuid']}")
                self._storage.unplug(pbd)
        log.debug("xapi_pbd", "Finished unplug_all_pbds")

    # Scans -----------------------------------------------------------------------------------

    def start_scanning(self) -> None:
        """Scan now and then what asks for it, in a thread, until stop_scanning."""
        threading.Thread(target=self._scan_for_ever, name="scanning_thread", daemon=True).start()

    def stop_scanning(self) -> None:
        """End the thread at its next turn."""
        self._stopping.set()

    def _scan_for_ever(self) -> None:
        while not self._stopping.wait(self._interval()):
            self.scan_all()
            self.collect_vbds()
            self._core.db.flush()

    def _interval(self) -> float:
        other_config = self._core.db.get("host", self._core.host, "other_config")
        try:
            return float(other_config["auto-scan-interval"])
        except (KeyError, ValueError):
            return self._core.config.scan_interval

    def scan_all(self) -> None:
        """Scan the plugged SRs that have other_config:auto-scan=true or :dirty."""
        for pbd in self._core.db.records("PBD").values():
            if not pbd["currently_attached"]:
                continue
            other_config = self._core.db.get("SR", pbd["SR"], "other_config")
            if other_config.get("auto-scan") == "true" or "dirty" in other_config:
                self._try_scan(pbd["SR"])

    def collect_vbds(self) -> None:
        """Destroy the VBDs whose VM or VDI is gone (db_gc_util.ml, gc_VBDs)."""
        db = self._core.db
        for vbd, record in db.records("VBD").items():
            if not (db.exists("VM", record["VM"]) and db.exists("VDI", record["VDI"])):
                db.destroy("VBD", vbd)

    def _try_scan(self, sr: str) -> None:
        try:
            self._storage.sr_scan(Context(""), sr)
        except ApiError as failure:
            self._core.log.error("xapi_sr", f"Caught exception attempting an SR.scan: {failure}")
