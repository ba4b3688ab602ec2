# SPDX-License-Identifier: LGPL-2.1-only
"""QEMU's machine protocol, as much as the lab needs of it (QEMU's docs/interop/qmp-spec)."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

from .errors import LabError


class Qmp:
    """A connection to a running QEMU. Its methods may be called from several threads."""

    def __init__(self, connection: socket.socket, timeout: float = 30) -> None:
        """Wait up to `timeout` seconds for QEMU's greeting, and for each answer later on."""
        connection.settimeout(timeout)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._read()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer. Raises LabError when QEMU refuses it or is gone."""
        with self._lock:
            request = {"execute": command, "arguments": arguments}
            try:
                self._connection.sendall(json.dumps(request).encode())
            except OSError as error:
                raise LabError(f"QEMU went away: {error}.") from error
            while "event" in (answer := self._read()):
                self._events.append(answer)
        if "error" in answer:
            raise LabError(f"QEMU refuses {command}: {answer['error']['desc']}.")
        return answer["return"]

    def wait_device_deleted(self, device: str, timeout: float) -> bool:
        """Wait until a device that was asked to go is gone; return whether it went in time."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            # Events come along with answers; asking for something harmless collects them.
            self.execute("query-status")
            for event in self._events:
                deleted = event["event"] == "DEVICE_DELETED"
                if deleted and event["data"].get("device") == device:
                    self._events.clear()
                    return True
            time.sleep(0.05)
        return False

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._connection.close()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise LabError(f"QEMU does not answer: {error}.") from error
        if not line:
            raise LabError("QEMU went away.")
        message: dict[str, Any] = json.loads(line)
        return message
