# SPDX-License-Identifier: LGPL-2.1-only
"""Whether this host is its pool's master (/etc/xensource/pool.conf; ocaml/xapi/pool_role.ml)."""

from __future__ import annotations

from pathlib import Path

from .db import write_durably

_SLAVE = "slave:"


def master(pool_conf: Path) -> str:
    """The address of the pool's master, empty on the master itself and on a host by itself."""
    text = pool_conf.read_text(encoding="utf-8").strip() if pool_conf.exists() else "master"
    return text.removeprefix(_SLAVE) if text.startswith(_SLAVE) else ""


def follow(pool_conf: Path, address: str) -> None:
    """Be a member of the pool whose master is there, from the next start on."""
    write_durably(pool_conf, f"{_SLAVE}{address}\n")


def lead(pool_conf: Path) -> None:
    """Be a master, from the next start on."""
    write_durably(pool_conf, "master\n")
