# SPDX-License-Identifier: LGPL-2.1-only
"""What the master has done on a host of its pool, and the host that it is itself.

All that XAPI knows is the master's. What is a host's own stays there: the files with its SR types,
its drivers and plugins and what they run, and the table of what it has attached.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from . import conf, process, role
from .attached import AttachedTable
from .config import Config
from .db import write_durably
from .process import Outcome
from .scripts import Scripts


class Node(Protocol):
    """One host, wherever it is."""

    attached: AttachedTable

    def settings(self) -> dict[str, str]:
        """What its xapi.conf and xapi.conf.d say, and where drivers and plugins are."""

    def programs(self, folder: str) -> dict[str, bool] | None:
        """The names in one of its folders, and which can be executed; None: there is none."""

    def run_script(self, argv: list[str], environment: Mapping[str, str]) -> Outcome:
        """Run a driver on it."""

    def run_program(self, argv: list[str], environment: Mapping[str, str]) -> Outcome:
        """Run anything else on it."""

    def leave(self) -> None:
        """Have it forget its pool: it starts again as one that was never in any."""


class LocalNode:
    """This host."""

    def __init__(self, config: Config, restart: Callable[[], None]) -> None:
        """`restart` starts the emulator again, a moment after it was called."""
        self._config = config
        self._restart = restart
        self._scripts = Scripts()
        self.attached = AttachedTable(self.read_attached(), self.keep_attached)

    def identity(self) -> dict[str, str]:
        """What tells this host from others."""
        inventory = read_inventory(self._config.inventory)
        return {
            "uuid": inventory["INSTALLATION_UUID"],
            "control_domain": inventory["CONTROL_DOMAIN_UUID"],
            "version": inventory.get("PRODUCT_VERSION", "8.3.0"),
            "name": socket.gethostname(),
        }

    def settings(self) -> dict[str, str]:
        """What xapi.conf and xapi.conf.d say, and where drivers and plugins are if they do not."""
        return {
            "sm-dir": str(self._config.sm_dir),
            "xapi-plugins-root": str(self._config.plugin_dir),
            **conf.read(self._config.conf_file, self._config.conf_dir),
        }

    def programs(self, folder: str) -> dict[str, bool] | None:
        """The names in a folder, and which can be executed; None: there is none."""
        path = Path(folder)
        if not path.is_dir():
            return None
        return {entry.name: os.access(entry, os.X_OK) for entry in sorted(path.iterdir())}

    def run_script(self, argv: list[str], environment: Mapping[str, str]) -> Outcome:
        """Run a driver."""
        return self._scripts.run(argv, environment)

    def run_program(self, argv: list[str], environment: Mapping[str, str]) -> Outcome:
        """Run anything else."""
        return process.run(argv, environment)

    def read_attached(self) -> str:
        """The table of what is attached, empty after a boot."""
        file = self._config.attached_file
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def keep_attached(self, text: str) -> None:
        """Store that table."""
        write_durably(self._config.attached_file, text)

    def join(self, address: str) -> None:
        """Be a member of the pool whose master is there, after a restart of the emulator."""
        role.follow(self._config.pool_conf, address)
        self._restart()

    def leave(self) -> None:
        """Forget the pool, and that storage-init ran (reset-and-reboot), then start anew.

        The reboot itself is left to whoever wants it.
        """
        role.lead(self._config.pool_conf)
        self._config.db_file.unlink(missing_ok=True)
        self._config.storage_init_mark.unlink(missing_ok=True)
        self._restart()

    def close(self) -> None:
        """End what runs drivers; drivers that run go on."""
        self._scripts.close()


def read_inventory(path: Path) -> dict[str, str]:
    """KEY='value' lines of /etc/xensource-inventory."""
    entries = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, text = line.partition("=")
        if equals:
            entries[key.strip()] = text.strip().strip("'\"")
    return entries
