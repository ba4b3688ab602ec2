# SPDX-License-Identifier: LGPL-2.1-only
"""xe's connection: the PyPI package XenAPI over the local socket, or over HTTP from elsewhere."""

from __future__ import annotations

import contextlib
import http
import http.client
import os
import shutil
import socket
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import XenAPI  # type: ignore[import-untyped]

SOCKET = "LAB_XAPI_SOCKET"
DEFAULT_SOCKET = "/var/lib/xcp/xapi"


class _Connection(http.client.HTTPConnection):
    """HTTP to an address: the path of a socket, or HOST:PORT."""

    def __init__(self, address: str) -> None:
        super().__init__("localhost")
        self._address = address

    def connect(self) -> None:
        if self._address.startswith("/"):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(self._address)
        else:
            host, _, port = self._address.rpartition(":")
            self.sock = socket.create_connection((host, int(port)))


class _Transport(XenAPI.UDSTransport):
    """XenAPI's own transport takes the path from the URL, where it may hold no underscore."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    def make_connection(self, host: str) -> _Connection:
        super().make_connection(host)
        self._connection = host, _Connection(self._address)
        return self._connection[1]


class Client:
    """A session of the API, ended by close()."""

    def __init__(self, address: str | None = None) -> None:
        """Log in at the address: the one given, else $LAB_XAPI_SOCKET, else xapi's socket."""
        self._address = address or os.environ.get(SOCKET, DEFAULT_SOCKET)
        self._session = XenAPI.Session("http://localhost/", transport=_Transport(self._address))
        self._session.login_with_password("root", "", "1.0", "cli")
        self._uuids: dict[tuple[str, str], str] = {}

    def call(self, method: str, *parameters: Any) -> Any:
        """Call a method. Raises XenAPI.Failure."""
        return self._session.xenapi_request(method, parameters)

    def ref(self, cls: str, uuid: str) -> str:
        """The reference of a uuid. Raises XenAPI.Failure."""
        return str(self.call(f"{cls}.get_by_uuid", uuid))

    def send(self, vdi: str, source: BinaryIO, length: int) -> None:
        """Make length bytes the contents of a VDI. Raises XenAPI.Failure."""
        with self._transfer("/import_raw_vdi", vdi) as (connection, url):
            connection.request("PUT", url, source, {"Content-Length": str(length)})
            connection.getresponse().read()

    def fetch(self, vdi: str, sink: BinaryIO) -> None:
        """Write the contents of a VDI to a file. Raises XenAPI.Failure."""
        with self._transfer("/export_raw_vdi", vdi) as (connection, url):
            connection.request("GET", url)
            answer = connection.getresponse()
            if answer.status == http.HTTPStatus.OK:
                shutil.copyfileobj(answer, sink)

    @contextmanager
    def _transfer(self, path: str, vdi: str) -> Iterator[tuple[_Connection, str]]:
        """A connection and a URL; afterwards the failure that the transfer's task tells."""
        task = self.call("task.create", f"VDI {path.strip('/')}", "")
        handle = self._session.handle
        query = urllib.parse.urlencode({"session_id": handle, "task_id": task, "vdi": vdi})
        connection = _Connection(self._address)
        try:
            # The server may refuse before it has read everything; then the task knows why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                yield connection, f"{path}?{query}"
        finally:
            connection.close()
        try:
            while self.call("task.get_status", task) == "pending":
                time.sleep(0.05)
            if self.call("task.get_status", task) != "success":
                raise XenAPI.Failure(self.call("task.get_error_info", task))
        finally:
            self.call("task.destroy", task)

    def close(self) -> None:
        """End the session."""
        self._session.xenapi.session.logout()
