# SPDX-License-Identifier: LGPL-2.1-only
"""Tasks: the handle of a call that runs in the background, and the parent of a driver's call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import clock
from .db import Database
from .errors import description_of
from .wire import value


class Tasks:
    """Creates tasks and runs calls below them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(self, label: str, description: str = "") -> str:
        """A pending task."""
        return self._db.create(
            "task",
            {
                "name_label": label,
                "name_description": description,
                "created": clock.now(),
                "status": "pending",
                "type": "<none/>",
                "resident_on": next(iter(self._db.refs("host"))),
            },
        )

    @contextmanager
    def running(self, label: str) -> Iterator[str]:
        """A task that exists for as long as the block runs."""
        task = self.create(label)
        try:
            yield task
        finally:
            self._db.destroy("task", task)

    def background(self, label: str, call: Callable[[], Any]) -> str:
        """Run the call in a thread and return its task at once."""
        task = self.create(f"Async.{label}")
        thread = threading.Thread(
            target=self._complete, args=(task, call), name=f"Async.{label}", daemon=True
        )
        thread.start()
        return task

    def _complete(self, task: str, call: Callable[[], Any]) -> None:
        try:
            result = call()
        except Exception as failure:  # pylint: disable=broad-except
            # Whatever went wrong is the task's outcome: nobody else would learn of it.
            self.finish(task, "failure", error_info=description_of(failure))
        else:
            self.finish(task, "success", result="" if result in ("", None) else value(result))
        self._db.flush()

    def finish(
        self, task: str, status: str, result: str = "", error_info: list[str] | None = None
    ) -> None:
        """Set the outcome; a task that a client destroyed meanwhile is left alone."""
        if not self._db.exists("task", task):
            return
        for field, item in (
            ("progress", 1.0),
            ("finished", clock.now()),
            ("result", result),
            ("error_info", error_info or []),
            ("status", status),
        ):
            self._db.set("task", task, field, item)

    def cancel(self, task: str) -> None:
        """Mark a pending task as cancelled; its call goes on (driver calls are never cut)."""
        if self._db.get("task", task, "status") == "pending":
            self.finish(task, "cancelled", error_info=["TASK_CANCELLED", task])
