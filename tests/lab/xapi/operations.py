# SPDX-License-Identifier: LGPL-2.1-only
"""Which operations an SR allows, one at a time (xapi_sr_operations.ml, message_forwarding.ml)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .db import Database, new_ref
from .errors import ApiError
from .registry import Registry

#: Seconds that an operation waits for another one to end (helpers.ml: retry_with_global_lock).
PATIENCE = 300.0

#: Operations that need a feature in the SM row.
NEEDED_FEATURES = {
    "vdi_create": "VDI_CREATE",
    "vdi_destroy": "VDI_DELETE",
    "vdi_resize": "VDI_RESIZE",
    "vdi_snapshot": "VDI_SNAPSHOT",
    "update": "SR_UPDATE",
}


class Operations:
    """Marks SRs with what is being done to them."""

    def __init__(self, db: Database, registry: Registry, patience: float = PATIENCE) -> None:
        self._db = db
        self._registry = registry
        self._patience = patience

    @contextmanager
    def marked(self, sr: str, operation: str) -> Iterator[None]:
        """Hold the SR for one operation; only `plug` may go with another `plug`.

        Raises what forbids the operation, after PATIENCE also OTHER_OPERATION_IN_PROGRESS.
        """
        mark = new_ref()
        self._acquire(sr, operation, mark)
        try:
            yield
        finally:
            if self._db.exists("SR", sr):
                self._db.remove_from_map("SR", sr, "current_operations", mark)

    def _acquire(self, sr: str, operation: str, mark: str) -> None:
        deadline = time.monotonic() + self._patience
        with self._db.changed:
            while True:
                self._check(sr, operation)
                blocker = self._blocker(sr, operation)
                if blocker is None:
                    self._db.add_to_map("SR", sr, "current_operations", mark, operation)
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ApiError("OTHER_OPERATION_IN_PROGRESS", "SR", sr, blocker[1], blocker[0])
                self._db.changed.wait(left)

    def _blocker(self, sr: str, operation: str) -> tuple[str, str] | None:
        for task, other in self._db.get("SR", sr, "current_operations").items():
            if operation != "plug" or other != "plug":
                return task, other
        return None

    def _check(self, sr: str, operation: str) -> None:
        record = self._db.record("SR", sr)
        feature = NEEDED_FEATURES.get(operation)
        if feature and feature not in self._registry.row_features(record["type"]):
            raise ApiError("SR_OPERATION_NOT_SUPPORTED", sr)
        if operation in ("destroy", "forget") and any(
            self._db.get("PBD", pbd, "currently_attached") for pbd in record["PBDs"]
        ):
            raise ApiError("SR_HAS_PBD", sr)
        if operation == "destroy":
            self._check_destroy(sr, record["PBDs"], record["VDIs"])

    def _check_destroy(self, sr: str, pbds: list[str], vdis: list[str]) -> None:
        if not pbds:
            raise ApiError("SR_NO_PBDS", sr)
        if any(self._db.get("VDI", vdi, "managed") for vdi in vdis):
            raise ApiError("SR_NOT_EMPTY")
