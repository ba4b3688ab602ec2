# SPDX-License-Identifier: LGPL-2.1-only
"""The emulator from its start to its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from . import role
from .api import Api
from .config import Config
from .core import Core
from .member import Member
from .process import limit_open_files
from .server import Server, handler_of


class Emulator:
    """One running emulator of a master, which may be alone in its pool."""

    def __init__(self, config: Config, restart: Callable[[], None]) -> None:
        self.config = config
        self.core = Core(config, restart)
        self.api = Api(self.core)
        self.server: Server | None = None

    def start(self) -> None:
        """Register drivers, serve, plug, then say that all this is done (the ready file)."""
        self.config.ready_file.unlink(missing_ok=True)
        self.api.host.ensure_rows()
        self.api.pool.find_members()
        self.core.registry.register(self.core.host)
        handler = handler_of(self.api)
        self.server = Server(self.config, handler, handler)
        self.server.start()
        self.api.host.plug_all(self.core.host)
        self.api.host.start_scanning()
        self.config.ready_file.parent.mkdir(parents=True, exist_ok=True)
        self.config.ready_file.touch()

    def stop(self) -> None:
        """Stop serving. Nothing is detached: that is for host.prepare_for_poweroff."""
        self.api.host.stop_scanning()
        if self.server is not None:
            self.server.stop()
        self.core.close()


def create(config: Config, restart: Callable[[], None]) -> Emulator | Member:
    """The emulator that this host needs; `restart` is called when it is to be made anew."""

    def after_a_while() -> None:
        threading.Timer(config.fuse, restart).start()

    master = role.master(config.pool_conf)
    return Member(config, master, after_a_while) if master else Emulator(config, after_a_while)


def main() -> int:
    """Run until SIGTERM or SIGINT; SIGHUP restarts, as xe-toolstack-restart does with xapi."""
    config = Config.from_environment()
    limit_open_files()
    received: list[int] = []
    wake = threading.Event()

    def note(number: int, _frame: object = None) -> None:
        received.append(number)
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, note)
    _write_pid(config.pid_file)
    emulator = create(config, lambda: note(signal.SIGHUP))
    emulator.start()
    wake.wait()
    emulator.stop()
    if received[0] == signal.SIGHUP:
        os.execv(sys.executable, [sys.executable, str(Path(__file__).resolve().parent)])
    return 0


def _write_pid(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{os.getpid()}\n", encoding="utf-8")
