# SPDX-License-Identifier: LGPL-2.1-only
"""VMs, which never run here: what leads from them to VDIs is what storage is about."""

from __future__ import annotations

from typing import Any

from .core import Context, Core


class Vms:
    """Methods of VM that are more than a field."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def create(self, _context: Context, record: dict[str, Any]) -> str:
        """VM.create: a row, halted."""
        return self._core.db.create("VM", {**record, "power_state": "Halted", "domid": "-1"})

    def destroy(self, _context: Context, vm: str) -> None:
        """VM.destroy: the row and those of its VBDs; VDIs stay."""
        for vbd in self._core.db.get("VM", vm, "VBDs"):
            self._core.db.destroy("VBD", vbd)
        self._core.db.destroy("VM", vm)
