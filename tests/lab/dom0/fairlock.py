#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for SM's fairlock helper: ``fairlock SOCKET``.

Whoever is connected to the socket and was greeted holds the lock; the others wait in the socket's
queue, first come first served. Closing the connection, or dying, releases the lock.
"""

import socket
import sys
from contextlib import suppress
from pathlib import Path

#: Waiters that the kernel queues; the next ones get ECONNREFUSED.
QUEUE = 64
#: What a client must receive before it may believe that it holds the lock.
GREETING = b"LOCK\0"


def serve(path: Path) -> None:
    """Grant the lock at ``path`` to one client after the other, for ever."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(QUEUE)
        while True:
            client, _ = server.accept()
            with client, suppress(ConnectionError):
                client.sendall(GREETING)
                _wait_for_close(client)


def _wait_for_close(client: socket.socket) -> None:
    while client.recv(128):
        pass


def main(arguments: list[str]) -> None:
    """Run one command line, for ever."""
    if len(arguments) != 1:
        sys.exit("usage: fairlock SOCKET")
    serve(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
