# SPDX-License-Identifier: LGPL-2.1-only
"""Which SRs and VDIs a host has attached (storage.db of storage_smapiv1_wrapper.ml).

The file is on that host, on a file system in memory: it outlives a restart of the toolstack, not of
the host.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any


class AttachedTable:
    """SR uuid -> VDI uuid -> {"read_write": bool, "activated": bool}."""

    def __init__(self, text: str, keep: Callable[[str], None]) -> None:
        """`text` is what was kept last, empty after a boot; `keep` stores the table anew."""
        self._keep = keep
        self._lock = threading.Lock()
        self._table: dict[str, dict[str, dict[str, Any]]] = json.loads(text or "{}")

    def __contains__(self, sr_uuid: str) -> bool:
        return sr_uuid in self._table

    def add(self, sr_uuid: str) -> None:
        """Note an SR as attached, without VDIs."""
        with self._lock:
            self._table[sr_uuid] = {}
            self._write()

    def remove(self, sr_uuid: str) -> None:
        """Forget an SR and its VDIs."""
        with self._lock:
            self._table.pop(sr_uuid, None)
            self._write()

    def vdis(self, sr_uuid: str) -> dict[str, dict[str, Any]]:
        """The VDIs of an attached SR that have a data path."""
        with self._lock:
            return {uuid: dict(state) for uuid, state in self._table.get(sr_uuid, {}).items()}

    def set_vdi(self, sr_uuid: str, vdi_uuid: str, *, read_write: bool, activated: bool) -> None:
        """Note the state of a VDI's data path."""
        with self._lock:
            state = {"read_write": read_write, "activated": activated}
            self._table[sr_uuid][vdi_uuid] = state
            self._write()

    def remove_vdi(self, sr_uuid: str, vdi_uuid: str) -> None:
        """Forget a data path."""
        with self._lock:
            self._table.get(sr_uuid, {}).pop(vdi_uuid, None)
            self._write()

    def _write(self) -> None:
        self._keep(json.dumps(self._table, indent=1))
