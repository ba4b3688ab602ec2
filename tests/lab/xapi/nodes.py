# SPDX-License-Identifier: LGPL-2.1-only
"""The hosts that the master can have something done on."""

from __future__ import annotations

from .errors import ApiError
from .node import Node


class Nodes:
    """By the reference of the host."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def add(self, host: str, node: Node) -> None:
        """A host is there, or there again."""
        self._nodes[host] = node

    def remove(self, host: str) -> None:
        """A host is not there any more."""
        self._nodes.pop(host, None)

    def of(self, host: str) -> Node:
        """A host of the pool. Raises HOST_OFFLINE for one not heard of since the master's start.

        One that went away later is noticed when something is done on it.
        """
        try:
            return self._nodes[host]
        except KeyError:
            raise ApiError("HOST_OFFLINE", host) from None
