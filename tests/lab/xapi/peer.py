# SPDX-License-Identifier: LGPL-2.1-only
"""How hosts of a pool speak with each other: HTTP to the port that clients use.

Paths below /lab are the lab's own: xapi's way between hosts is another, and what passes there is
not what a storage driver sees.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

from .attached import AttachedTable
from .errors import ApiError
from .node import LocalNode
from .process import Outcome

#: Where a member hears from its master.
NODE = "/lab/node"
#: Where a master hears from a host that joins, and from a member that starts.
JOIN, HELLO = "/lab/join", "/lab/hello"

#: Seconds until a host that does not take a connection is given up, and one that is gone while it
#: should answer: an answer itself may take as long as it takes.
_CONNECT = 10
_IDLE, _INTERVAL, _PROBES = 5, 5, 3

_DEFAULT_PORT = 80


class Peer:
    """The emulator of another host, at ADDRESS or ADDRESS:PORT."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._host, _, port = address.partition(":")
        self._port = int(port or _DEFAULT_PORT)

    def own_address(self) -> str:
        """The address of this host as that one sees it. Raises OSError."""
        with socket.create_connection((self._host, self._port), _CONNECT) as probe:
            return str(probe.getsockname()[0])

    def post(self, path: str, body: bytes) -> tuple[bytes, str]:
        """An answer and its content type. Raises OSError when there is none."""
        connection = http.client.HTTPConnection(self._host, self._port, _CONNECT)
        try:
            connection.connect()
            _wait_while_it_lives(connection.sock)
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.read(), answer.headers["Content-Type"]
        except http.client.HTTPException as problem:
            raise ConnectionError(f"{self.address}: {problem!r}") from problem
        finally:
            connection.close()

    def tell(self, path: str, item: Any) -> Any:
        """The same in JSON. Raises OSError, and ApiError with what the other one refused by."""
        body, _ = self.post(path, json.dumps(item).encode())
        answer = json.loads(body)
        if "error" in answer:
            raise ApiError(*answer["error"])
        return answer["result"]


def _wait_while_it_lives(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _IDLE),
        (socket.TCP_KEEPINTVL, _INTERVAL),
        (socket.TCP_KEEPCNT, _PROBES),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


class RemoteNode:
    """A member of the pool, as its master has it: each method is one of LocalNode there."""

    def __init__(self, host: str, address: str) -> None:
        """`host` is its reference. Raises ApiError CANNOT_CONTACT_HOST, as all methods do."""
        self._host = host
        self._peer = Peer(address)
        self.attached = AttachedTable(
            self._call("read_attached"), lambda text: self._call("keep_attached", text)
        )

    def settings(self) -> dict[str, str]:
        """What its xapi.conf and xapi.conf.d say, and where drivers and plugins are."""
        return dict(self._call("settings"))

    def programs(self, folder: str) -> dict[str, bool] | None:
        """The names in one of its folders, and which can be executed; None: there is none."""
        names: dict[str, bool] | None = self._call("programs", folder)
        return names

    def run_script(self, argv: list[str], environment: Mapping[str, str]) -> Outcome:
        """Run a driver on it."""
        return self._run("run_script", argv, environment)

    def run_program(self, argv: list[str], environment: Mapping[str, str]) -> Outcome:
        """Run anything else on it."""
        return self._run("run_program", argv, environment)

    def leave(self) -> None:
        """Have it forget its pool."""
        self._call("leave")

    def _run(self, method: str, argv: list[str], environment: Mapping[str, str]) -> Outcome:
        out, err, trouble = self._call(method, argv, dict(environment))
        return Outcome(base64.b64decode(out), err, trouble)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return self._peer.tell(NODE, [method, *arguments])
        except OSError:
            raise ApiError("CANNOT_CONTACT_HOST", self._host) from None


_METHODS = ("settings", "programs", "run_script", "run_program", "read_attached", "keep_attached",
            "leave")  # fmt: skip


def serve(node: LocalNode, request: list[Any]) -> Any:
    """Do what a RemoteNode asks for."""
    method, *arguments = request
    if method not in _METHODS:
        raise ApiError("MESSAGE_METHOD_UNKNOWN", str(method))
    result = getattr(node, method)(*arguments)
    if isinstance(result, Outcome):
        return [base64.b64encode(result.out).decode(), result.err, result.trouble]
    return result
