# SPDX-License-Identifier: LGPL-2.1-only
"""The lines of /var/log/xensource.log, in xapi's format."""

from __future__ import annotations

import datetime
import socket
import threading
from pathlib import Path


class Log:
    """Appends lines `[time|level|host|thread|task|module] message`, as xapi does."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Kept open for as long as the emulator lives: a line is one write, never interleaved.
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._lock = threading.Lock()
        self._host = socket.gethostname()

    def write(self, level: str, module: str, message: str) -> None:
        """One line of the given level (debug, info, warn, error)."""
        now = datetime.datetime.now(datetime.UTC)
        stamp = now.strftime("%Y%m%dT%H:%M:%S.") + f"{now.microsecond // 1000:03}Z"
        thread = threading.current_thread().name
        with self._lock:
            self._file.write(f"{stamp}|{level:>5}|{self._host}|{thread}||{module}] {message}\n")

    def debug(self, module: str, message: str) -> None:
        """xapi logs debug by default (scripts/xapi.conf disables a few modules only)."""
        self.write("debug", module, message)

    def info(self, module: str, message: str) -> None:
        """One line at level info."""
        self.write("info", module, message)

    def warn(self, module: str, message: str) -> None:
        """One line at level warn."""
        self.write("warn", module, message)

    def error(self, module: str, message: str) -> None:
        """One line at level error."""
        self.write("error", module, message)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
