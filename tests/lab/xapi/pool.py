# SPDX-License-Identifier: LGPL-2.1-only
"""Hosts join the master's pool, start in it, and leave it (ocaml/xapi/xapi_pool.ml).

What this shows: where a driver and a plugin run, what becomes of the rows, what a host without a
driver does to them, what is refused while a host is away. What it does not: VMs, shared SRs, a
master that changes, members that go on without their master, xapi's own way between hosts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .core import Context, Core
from .errors import ApiError
from .host import Host
from .peer import JOIN, Peer, RemoteNode
from .storage import Storage

#: Tables of a host that joins which the master gets, in this order.
MOVED = ("SR", "PBD", "VDI", "secret")

Record = dict[str, Any]


class Pool:
    """Methods of pool; and what hosts tell the master."""

    def __init__(self, core: Core, storage: Storage, host: Host) -> None:
        self._core = core
        self._storage = storage
        self._host = host

    # On the host that joins ------------------------------------------------------------------

    def join(self, _context: Context, address: str, _username: str, _password: str) -> None:
        """pool.join: the master gets our rows, we unplug, and start again as its member."""
        core, peer = self._core, Peer(address)
        core.log.info("xapi_pool", f"Joining the pool of {address}")
        try:
            peer.tell(
                JOIN,
                {
                    "identity": core.node.identity(),
                    **{table: core.db.records(table) for table in MOVED},
                },
            )
        except OSError:
            raise ApiError("POOL_JOINING_HOST_SERVICE_FAILED") from None
        for pbd in core.db.get("host", core.host, "PBDs"):
            with self._ignoring_failures():
                self._storage.pbd_unplug(_context, pbd)
        core.node.join(address)

    # On the master ---------------------------------------------------------------------------

    def admit(self, joining: dict[str, Any]) -> None:
        """Make rows for a host that joins, its SRs, their PBDs and VDIs, and its secrets.

        As with xapi, what cannot be made is passed over; and secrets come last, so that a PBD which
        names one is not made.
        """
        host = self._host.add(joining["identity"], enabled=False)
        srs: dict[str, str] = {}
        for ref, sr in joining["SR"].items():
            with self._ignoring_failures():
                srs[ref] = self._admit_sr(sr)
        for pbd in joining["PBD"].values():
            with self._ignoring_failures():
                self._storage.pbd_create(Context(""), {**pbd, "host": host, "SR": srs[pbd["SR"]]})
        for table in ("VDI", "secret"):
            for row in joining[table].values():
                with self._ignoring_failures():
                    moved = {"SR": srs[row["SR"]]} if table == "VDI" else {}
                    self._core.db.create(table, {**row, **moved})
        self._core.db.flush()

    def _admit_sr(self, sr: Record) -> str:
        ref = self._storage.sr_introduce(
            Context(""),
            sr["uuid"],
            sr["name_label"],
            sr["name_description"],
            sr["type"],
            sr["content_type"],
            False,
            sr["sm_config"],
        )
        self._core.db.set("SR", ref, "other_config", sr["other_config"])
        return ref

    def hello(self, member: dict[str, str]) -> None:
        """A member has started: do what xapi does when it starts on a host."""
        host = self._core.db.by_uuid("host", member["uuid"])
        self._core.db.set("host", host, "address", member["address"])
        self._core.nodes.add(host, RemoteNode(host, member["address"]))
        self._core.registry.register(host)
        self._host.plug_all(host)
        self._core.db.set("host", host, "enabled", True)
        self._core.db.flush()

    def find_members(self) -> None:
        """When the master starts: look for the members that run. Their own start was before."""
        for host, record in self._core.db.records("host").items():
            if host == self._core.host:
                continue
            with self._ignoring_failures():
                self._core.nodes.add(host, RemoteNode(host, record["address"]))
                self._core.registry.look(host)

    def eject(self, context: Context, host: str) -> None:
        """pool.eject: unplug all of a host, which must succeed; forget the SRs that only it has."""
        core = self._core
        if host == core.host:
            raise ApiError("INTERNAL_ERROR", "Xapi_pool.Cannot_eject_master")
        node = core.nodes.of(host)
        pbds = core.db.get("host", host, "PBDs")
        srs = [core.db.get("PBD", pbd, "SR") for pbd in pbds]
        alone = [sr for sr in srs if len(core.db.get("SR", sr, "PBDs")) == 1]
        for pbd in pbds:
            self._storage.pbd_unplug(context, pbd)
        for sr in alone:
            self._storage.sr_forget(context, sr)
        node.leave()
        core.nodes.remove(host)
        core.registry.forget(host)
        self._host.remove(host)

    @contextmanager
    def _ignoring_failures(self) -> Iterator[None]:
        """protect_exn of xapi_pool.ml."""
        try:
            yield
        except (ApiError, KeyError) as failure:
            self._core.log.debug("xapi_pool", f"Ignoring exception: {failure!r}")
