# SPDX-License-Identifier: LGPL-2.1-only
"""The parts that all operations share, and who is calling."""

from __future__ import annotations

from dataclasses import dataclass

from .attached import AttachedTable
from .config import Config
from .db import Database
from .driver import Driver
from .log import Log
from .operations import Operations
from .registry import Registry
from .scripts import Scripts
from .secret import Secrets
from .session import Sessions
from .task import Tasks


@dataclass(frozen=True)
class Context:
    """The caller of an API method."""

    session: str


class Core:
    """Everything below the API, built from a configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log = Log(config.log_file)
        self.db = Database(config.db_file)
        self.sessions = Sessions(self.db)
        self.tasks = Tasks(self.db)
        self.secrets = Secrets(self.db, self.log)
        self.scripts = Scripts()
        self.driver = Driver(
            self.db, self.log, self.sessions, self.tasks, self.scripts, config.answers_dir
        )
        self.registry = Registry(config, self.db, self.log, self.driver)
        self.operations = Operations(self.db, self.registry)
        self.attached = AttachedTable(config.attached_file)

    @property
    def host(self) -> str:
        """The only host, which is the pool's master."""
        return next(iter(self.db.refs("host")))

    def close(self) -> None:
        """Bring the database to disk and close the log."""
        self.scripts.close()
        self.db.flush()
        self.log.close()
