# SPDX-License-Identifier: LGPL-2.1-only
"""Messages, which clients show as alerts (xen-api: ocaml/xapi/xapi_message.ml)."""

from __future__ import annotations

from . import clock
from .core import Context, Core
from .errors import ApiError

#: Class of the object of a message -> table.
OBJECTS = {"VM": "VM", "Host": "host", "SR": "SR", "Pool": "pool", "VDI": "VDI"}

LIMIT = 10000


class Messages:
    """Methods of message."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def create(
        self, _context: Context, name: str, priority: str, cls: str, obj_uuid: str, body: str
    ) -> str:
        """message.create: the object must exist; the priority may be a number or its text."""
        if cls not in OBJECTS:
            raise ApiError("INTERNAL_ERROR", f"no such class of messages: {cls}")
        self._core.db.by_uuid(OBJECTS[cls], obj_uuid)
        return self.add(name, str(int(priority)), cls, obj_uuid, body)

    def add(self, name: str, priority: str, cls: str, obj_uuid: str, body: str) -> str:
        """Store a message; the oldest goes when there are too many."""
        self._core.log.debug("xapi_message", f"Message.create {name} {priority} {cls} {obj_uuid}")
        refs = self._core.db.refs("message")
        if len(refs) >= LIMIT:
            self._core.db.destroy("message", refs[0])
        return self._core.db.create(
            "message",
            {
                "name": name,
                "priority": priority,
                "cls": cls,
                "obj_uuid": obj_uuid,
                "timestamp": clock.now(),
                "body": body,
            },
        )

    def destroy(self, _context: Context, message: str) -> None:
        """message.destroy."""
        self._core.db.destroy("message", message)

    def destroy_many(self, context: Context, messages: list[str]) -> None:
        """message.destroy_many."""
        for message in messages:
            self.destroy(context, message)
