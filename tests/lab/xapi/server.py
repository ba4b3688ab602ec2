# SPDX-License-Identifier: LGPL-2.1-only
"""HTTP: XML-RPC and JSON-RPC on a port and on the local socket, and raw VDI contents.

Each request that changes something is on disk before it is answered (Api.call).
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
import urllib.parse
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from . import wire
from .api import Api
from .config import Config
from .core import Context
from .errors import ApiError, description_of
from .peer import HELLO, JOIN


class Answering(BaseHTTPRequestHandler):
    """One connection of a client, whatever is served."""

    protocol_version = "HTTP/1.1"
    answering = False

    def handle(self) -> None:
        """Serve the connection; a client that vanishes is nothing to report."""
        with suppress(ConnectionError):
            super().handle()

    def body(self) -> bytes:
        """What the client sent."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, text: str, content_type: str, status: int = 200) -> None:
        """Answer the request."""
        # The content type has no charset: npm's xen-api takes nothing else for JSON.
        data = text.encode()
        self.answering = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if data:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """The log is for what xapi logs."""


def tell(call: Callable[[], Any]) -> str:
    """The answer to another host: what the call returns or fails with, for Peer.tell."""
    try:
        return json.dumps({"result": call()})
    except Exception as failure:  # pylint: disable=broad-except
        # The other side always gets an answer; what is not an ApiError is an INTERNAL_ERROR.
        return json.dumps({"error": description_of(failure)})


class Handler(Answering):
    """One connection of a client of a master."""

    #: Set by handler_of().
    api: Api

    def do_POST(self) -> None:  # pylint: disable=invalid-name
        """/jsonrpc is JSON-RPC 2.0, what is below /lab another host, every other path XML-RPC."""
        path, body = self.path.partition("?")[0], self.body()
        from_hosts = {JOIN: self.api.pool.admit, HELLO: self.api.pool.hello}
        if path in from_hosts:
            self.answer(tell(lambda: from_hosts[path](json.loads(body))), "application/json")
        elif path == "/jsonrpc":
            self.answer(json.dumps(self._json_rpc(body)), "application/json")
        else:
            self.answer(self._xml_rpc(body), "text/xml")

    def do_PUT(self) -> None:  # pylint: disable=invalid-name
        """/import_raw_vdi?session_id=&task_id=&vdi=: the body becomes the VDI's contents."""
        length = int(self.headers.get("Content-Length", 0))
        with self._transfer("/import_raw_vdi") as (context, vdi):
            self.api.datapath.import_raw(context, vdi, self.rfile, length)  # type: ignore[arg-type]
            self.answer("", "text/plain")

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """/export_raw_vdi?session_id=&task_id=&vdi=: the VDI's contents."""
        with self._transfer("/export_raw_vdi") as (context, vdi):
            pieces = self.api.datapath.export_raw(context, vdi)
            # The data path opens with the first piece: until then a failure can be answered.
            first = next(pieces, b"")
            self.answering = True
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", self.api.core.db.get("VDI", vdi, "virtual_size"))
            self.end_headers()
            self.wfile.write(first)
            for piece in pieces:
                self.wfile.write(piece)

    @contextmanager
    def _transfer(self, path: str) -> Iterator[tuple[Context, str]]:
        """Session and VDI of a transfer; its task, if one is given, gets the outcome."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        core, task = self.api.core, query.get("task_id", "")
        # After a failure the rest of the body is still to come: the connection cannot go on.
        self.close_connection = True
        self.answering = False
        try:
            if url.path != path:
                raise ApiError("HANDLE_INVALID", "path", url.path)
            core.sessions.check(query.get("session_id", ""))
            yield Context(query["session_id"]), query.get("vdi", "")
        except Exception as failure:  # pylint: disable=broad-except
            # The client learns of it from the task, as with xapi.
            core.log.error("datapath", f"{path} failed with exception {failure}")
            core.tasks.finish(task, "failure", error_info=description_of(failure))
            if not self.answering:
                self.answer("; ".join(description_of(failure)), "text/plain", status=500)
        else:
            core.tasks.finish(task, "success")
        finally:
            core.db.flush()

    def _xml_rpc(self, body: bytes) -> str:
        try:
            parameters, name = xmlrpc.client.loads(body.decode())
            return wire.success(self.api.call(name or "", parameters))
        except (ExpatError, xmlrpc.client.Error, UnicodeDecodeError) as problem:
            return wire.failure(["XMLRPC_UNMARSHAL_FAILURE", "methodCall", str(problem)])
        except Exception as failure:  # pylint: disable=broad-except
            # A client always gets an answer; what is not an ApiError is an INTERNAL_ERROR.
            return wire.failure(description_of(failure))

    def _json_rpc(self, body: bytes) -> dict[str, Any]:
        request: dict[str, Any] = {}
        try:
            request = json.loads(body)
            result = self.api.call(request["method"], request.get("params", []))
            answer: dict[str, Any] = {"result": _jsonable(result)}
        except Exception as failure:  # pylint: disable=broad-except
            code, *parameters = description_of(failure)
            answer = {"error": {"code": 1, "message": code, "data": parameters}}
        return {"jsonrpc": "2.0", "id": request.get("id"), **answer}


def handler_of(api: Api) -> type[Handler]:
    """The handler of one API."""
    return type("BoundHandler", (Handler,), {"api": api})


def _jsonable(item: Any) -> Any:
    """The same with times as strings."""
    if isinstance(item, xmlrpc.client.DateTime):
        return str(item)
    if isinstance(item, dict):
        return {key: _jsonable(entry) for key, entry in item.items()}
    if isinstance(item, list):
        return [_jsonable(entry) for entry in item]
    return item


#: Connections that wait to be accepted. Of more than there is room for, the kernel lets the client
#: wait for ever: to it, they are made.
BACKLOG = 128


class _TcpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = BACKLOG


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = BACKLOG


class Server:
    """Both listeners of one emulator."""

    def __init__(
        self,
        config: Config,
        on_socket: type[BaseHTTPRequestHandler],
        on_port: type[BaseHTTPRequestHandler],
    ) -> None:
        """Open the port and the socket; a link makes the socket known under its usual name."""
        target = config.socket_target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        self._unix = _UnixServer(str(target), on_socket)
        if config.socket != target:
            _link(config.socket, target)
        self._tcp = _TcpServer((config.http_host, config.http_port), on_port)
        self._stopping = False
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """The TCP port, also when the system chose it."""
        return int(self._tcp.server_address[1])

    def start(self) -> None:
        """Serve, in threads."""
        for server in (self._unix, self._tcp):
            thread = threading.Thread(target=self._serve, args=(server,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, server: socketserver.BaseServer) -> None:
        # Not serve_forever: it wakes up again and again, which an emulated machine feels.
        while not self._stopping:
            server.handle_request()

    def stop(self) -> None:
        """Take no more calls."""
        self._stopping = True
        self._wake()
        for thread in self._threads:
            thread.join()
        self._unix.server_close()
        self._tcp.server_close()

    def _wake(self) -> None:
        """Connect once to each listener, so that its thread looks up."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(self._unix.server_address))
        socket.create_connection(("127.0.0.1", self.port)).close()


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(link.name + ".new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
