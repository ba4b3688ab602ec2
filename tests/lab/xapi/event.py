# SPDX-License-Identifier: LGPL-2.1-only
"""event.from and event.inject (xen-api: ocaml/xapi/xapi_event.ml)."""

from __future__ import annotations

import time
from typing import Any

from .core import Context, Core
from .db import on_wire
from .errors import ApiError
from .schema import CLASSES, SILENT


class Events:
    """What changed since a token: a generation of the database."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def inject(self, _context: Context, cls: str, ref: str) -> str:
        """event.inject: counts the object as changed; the token is from just before that."""
        table = {name.lower(): name for name in CLASSES}.get(cls.lower())
        if table is None:
            raise ApiError("HANDLE_INVALID", cls, ref)
        return _token(self._core.db.touch(table, ref))

    def wait(
        self, _context: Context, classes: list[str], token: str, timeout: float
    ) -> dict[str, Any]:
        """event.from: changes since the token, at the latest after timeout seconds.

        classes: `*`, a class, or class/reference; in any case. Without a token everything is new.
        """
        since = _generation(token)
        wanted = [entry.lower() for entry in classes]
        deadline = time.monotonic() + float(timeout)
        db = self._core.db
        with db.changed:
            while True:
                events = self._since(since, wanted)
                left = deadline - time.monotonic()
                if events or left <= 0:
                    return {
                        "events": events,
                        "valid_ref_counts": {
                            name.lower(): len(db.refs(name))
                            for name in CLASSES
                            if name not in SILENT
                        },
                        "token": _token(db.generation),
                    }
                db.changed.wait(left)

    def _since(self, since: int, wanted: list[str]) -> list[dict[str, Any]]:
        events = []
        for (name, ref), change in sorted(
            self._core.db.history.items(), key=lambda entry: entry[1].modified
        ):
            if change.modified <= since or not _wants(wanted, name, ref):
                continue
            is_new = change.created > since
            if change.deleted is None:
                events.append(self._event("add" if is_new else "mod", name, ref))
            elif not is_new:
                events.append(self._event("del", name, ref))
        return events

    def _event(self, operation: str, name: str, ref: str) -> dict[str, Any]:
        event: dict[str, Any] = {
            "id": str(self._core.db.generation),
            "ts": "0.0",
            "class": name.lower(),
            "operation": operation,
            "ref": ref,
        }
        if operation != "del":
            event["snapshot"] = on_wire(name, self._core.db.record(name, ref))
        return event


def _wants(wanted: list[str], name: str, ref: str) -> bool:
    name = name.lower()
    return any(entry in ("*", name, f"{name}/{ref.lower()}") for entry in wanted)


def _token(generation: int) -> str:
    return f"{generation:020},{0:020}"


def _generation(token: str) -> int:
    try:
        return int(token.split(",")[0]) if token else 0
    except ValueError:
        raise ApiError("EVENT_FROM_TOKEN_PARSE_FAILURE", token) from None
