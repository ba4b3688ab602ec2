# SPDX-License-Identifier: LGPL-2.1-only
"""The host itself: its rows, what happens at its start and before its end, and periodic scans.

Sources: ocaml/xapi/create_storage.ml, xapi_host.ml, xapi_pbd.ml, xapi_sr.ml.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from . import clock
from .core import Context, Core
from .errors import ApiError
from .message import Messages
from .schema import NULL
from .storage import Storage


def read_inventory(path: Path) -> dict[str, str]:
    """KEY='value' lines of /etc/xensource-inventory."""
    entries = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, text = line.partition("=")
        if equals:
            entries[key.strip()] = text.strip().strip("'\"")
    return entries


class Host:
    """This host."""

    def __init__(self, core: Core, storage: Storage, messages: Messages) -> None:
        self._core = core
        self._storage = storage
        self._messages = messages
        self._stopping = threading.Event()

    def ensure_rows(self) -> None:
        """Create pool, host, its metrics and control domain, unless they exist."""
        db = self._core.db
        if not db.refs("host"):
            inventory = read_inventory(self._core.config.inventory)
            host = self._create_host(inventory)
            dom0 = self._create_control_domain(inventory["CONTROL_DOMAIN_UUID"], host)
            db.set("host", host, "control_domain", dom0)
            db.create("pool", {"name_label": "lab", "master": host, "default_SR": NULL})
        db.set("host", self._core.host, "enabled", True)
        db.flush()

    def _create_host(self, inventory: dict[str, str]) -> str:
        name = socket.gethostname()
        metrics = self._core.db.create(
            "host_metrics",
            {"live": True, "last_updated": clock.now(), "memory_total": str(1 << 30)},
        )
        version = inventory.get("PRODUCT_VERSION", "8.3.0")
        return self._core.db.create(
            "host",
            {
                "uuid": inventory["INSTALLATION_UUID"],
                "name_label": name,
                "hostname": name,
                "address": "127.0.0.1",
                "metrics": metrics,
                "API_version_major": "2",
                "API_version_minor": "21",
                "API_version_vendor": "lab",
                "software_version": {"product_brand": "XCP-ng", "product_version": version},
                "cpu_info": {"cpu_count": "1", "socket_count": "1"},
            },
        )

    def _create_control_domain(self, uuid: str, host: str) -> str:
        return self._core.db.create(
            "VM",
            {
                "uuid": uuid,
                "name_label": f"Control domain on host: {socket.gethostname()}",
                "is_control_domain": True,
                "power_state": "Running",
                "resident_on": host,
                "domid": "0",
                "platform": {"cores-per-socket": "1"},
            },
        )

    # Start -----------------------------------------------------------------------------------

    def plug_all(self) -> None:
        """What xapi does about PBDs when it starts: two attempts for each, then an alert.

        The second attempt belongs to the moment when the management interface has its address.
        There is no third, ever.
        """
        self._resynchronise()
        for _ in range(2):
            for pbd in self._unplugged():
                self._try_plug(pbd)
            self._core.db.flush()
        unplugged = self._unplugged()
        if unplugged:
            self._core.log.debug(
                "create_storage", f"Some PBDs are not currently plugged: {', '.join(unplugged)}"
            )
            uuid = self._core.db.get("host", self._core.host, "uuid")
            self._messages.add("PBD_PLUG_FAILED_ON_SERVER_START", "3", "Host", uuid, "")
            self._core.db.flush()

    def _resynchronise(self) -> None:
        """currently_attached := the SR is in the table, which a reboot has emptied."""
        db = self._core.db
        for vbd, record in db.records("VBD").items():
            # Dom0's data paths are not reconnected: what used them ended with the emulator.
            if db.get("VM", record["VM"], "is_control_domain"):
                db.destroy("VBD", vbd)
        for pbd, record in db.records("PBD").items():
            attached = db.get("SR", record["SR"], "uuid") in self._core.attached
            db.set("PBD", pbd, "currently_attached", attached)

    def _unplugged(self) -> list[str]:
        pbds = self._core.db.records("PBD").items()
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
        """Unplug every PBD, one after another; the first failure leaves the rest plugged."""
        log = self._core.log
        log.info("xapi_pbd", "Unplugging all SRs plugged on local host")
        self._core.db.set("host", host, "enabled", False)
        for pbd, record in self._core.db.records("PBD").items():
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
