# SPDX-License-Identifier: LGPL-2.1-only
"""The parts that all operations share, and who is calling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .config import Config
from .db import Database
from .driver import Driver
from .log import Log
from .node import LocalNode
from .nodes import Nodes
from .operations import Operations
from .registry import Registry
from .secret import Secrets
from .session import Sessions
from .task import Tasks


@dataclass(frozen=True)
class Context:
    """The caller of an API method."""

    session: str


class Core:
    """Everything below the API, built from a configuration."""

    def __init__(self, config: Config, restart: Callable[[], None]) -> None:
        """`restart` starts the emulator again, a moment after it was called."""
        self.config = config
        self.log = Log(config.log_file)
        self.db = Database(config.db_file)
        self.sessions = Sessions(self.db)
        self.tasks = Tasks(self.db)
        self.secrets = Secrets(self.db, self.log)
        self.node = LocalNode(config, restart)
        self.nodes = Nodes()
        self.driver = Driver(
            self.db, self.log, self.sessions, self.tasks, self.nodes, config.answers_dir
        )
        self.registry = Registry(self.db, self.log, self.driver, self.nodes)
        self.operations = Operations(self.db, self.registry)

    @property
    def host(self) -> str:
        """This host, which is the pool's master."""
        (pool,) = self.db.refs("pool")
        return str(self.db.get("pool", pool, "master"))

    def close(self) -> None:
        """Bring the database to disk and close the log."""
        self.node.close()
        self.db.flush()
        self.log.close()
