# SPDX-License-Identifier: LGPL-2.1-only
"""A network between machines: what each sends goes to all, by multicast on the loopback interface.

It reaches nothing else. Machines may come and go.
"""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass

_GROUP = "230.0.0.1"
_PREFIX = "10.0.3."


@dataclass(frozen=True)
class Nic:
    """A machine's connection to a network: the UDP port that tells networks apart, and which of
    its machines this is."""

    port: int
    number: int

    @property
    def address(self) -> str:
        """The machine's address there."""
        return f"{_PREFIX}{self.number}"

    def options(self) -> list[str]:
        """QEMU's, for the second network card of a guest."""
        backend = f"socket,id=lan,mcast={_GROUP}:{self.port},localaddr=127.0.0.1"
        card = f"virtio-net-pci,netdev=lan,mac=52:54:00:4c:41:{self.number:02x},romfile="
        return ["-netdev", backend, "-device", card]


class Lan:
    """Gives machines their connections to a network of their own."""

    def __init__(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._numbers = itertools.count(1)

    def nic(self) -> Nic:
        """The connection of one more machine."""
        return Nic(self._port, next(self._numbers))
