# SPDX-License-Identifier: LGPL-2.1-only
"""A host that is a member of a pool: it knows nothing, its master knows all.

Its own clients, which are its drivers, plugins and xe, speak with it as with any xapi, on the local
socket; it passes on what they say. Clients from elsewhere are told where the master is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

from . import wire
from .config import Config
from .node import LocalNode
from .peer import HELLO, NODE, Peer, serve
from .server import Answering, Server, tell

#: Seconds between two attempts to find the master.
PATIENCE = 0.5


class Member:
    """One running emulator of that kind."""

    def __init__(self, config: Config, master: str, restart: Callable[[], None]) -> None:
        self.config = config
        self.node = LocalNode(config, restart)
        self._master = Peer(master)
        self._stopping = threading.Event()
        self.server: Server | None = None

    def start(self) -> None:
        """Serve; say hello to the master, however long that takes; the rest is the master's."""
        self.config.ready_file.unlink(missing_ok=True)
        self.server = Server(self.config, self._handler(_OnSocket), self._handler(_OnPort))
        self.server.start()
        threading.Thread(target=self._say_hello, name="hello", daemon=True).start()

    def _say_hello(self) -> None:
        assert self.server is not None
        uuid = self.node.identity()["uuid"]
        while not self._stopping.wait(PATIENCE):
            with suppress(OSError):
                own = f"{self._master.own_address()}:{self.server.port}"
                self._master.tell(HELLO, {"uuid": uuid, "address": own})
                self.config.ready_file.parent.mkdir(parents=True, exist_ok=True)
                self.config.ready_file.touch()
                return

    def _handler(self, kind: type[BaseHTTPRequestHandler]) -> type[BaseHTTPRequestHandler]:
        return type("BoundHandler", (kind,), {"node": self.node, "master": self._master})

    def stop(self) -> None:
        """Stop serving. Nothing is detached."""
        self._stopping.set()
        if self.server is not None:
            self.server.stop()
        self.node.close()


class _OnSocket(Answering):
    """Passes on what the host's own clients say."""

    #: Set by Member.
    master: Peer

    def do_POST(self) -> None:  # pylint: disable=invalid-name
        """Any call of the API, in either form."""
        try:
            body, content_type = self.master.post(self.path, self.body())
        except OSError:
            self.answer(wire.failure(["HOST_IN_EMERGENCY_MODE"]), "text/xml")
        else:
            self.answer(body.decode(), content_type)


class _OnPort(Answering):
    """Serves the master, and tells others where that is."""

    #: Set by Member.
    node: LocalNode
    master: Peer

    def do_POST(self) -> None:  # pylint: disable=invalid-name
        """/lab/node is the master; every other path is a client that is wrong here."""
        if self.path == NODE:
            self.answer(tell(lambda: serve(self.node, json.loads(self.body()))), "text/json")
        else:
            self.body()
            self.answer(wire.failure(["HOST_IS_SLAVE", self.master.address]), "text/xml")
