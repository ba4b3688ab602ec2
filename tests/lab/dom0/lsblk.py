#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for XCP-ng's plugin lsblk.py, by which Xen Orchestra learns of a host's disks.

Its answer is that of the real one: a tree of devices whose values are all texts.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import Any

COLUMNS = "NAME,KNAME,PKNAME,SIZE,TYPE,RO,MOUNTPOINT"


def list_block_devices(_session: Any, _arguments: dict[str, str]) -> str:
    """{"blockdevices": …} of this host."""
    listed = subprocess.run(
        ["lsblk", "--pairs", "--bytes", "--output", COLUMNS],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout
    return json.dumps({"blockdevices": tree(listed)})


def tree(listed: str) -> list[dict[str, Any]]:
    """The devices of `lsblk --pairs`, each with its children; parents are listed first."""
    roots: list[dict[str, Any]] = []
    known: dict[str, dict[str, Any]] = {}
    for line in listed.splitlines():
        pairs = (pair.partition("=") for pair in shlex.split(line))
        device: dict[str, Any] = {name.lower(): text for name, _, text in pairs}
        parent = known.get(device["pkname"])
        (roots if parent is None else parent.setdefault("children", [])).append(device)
        known[device["kname"]] = device
    return roots


if __name__ == "__main__":
    import XenAPIPlugin  # type: ignore[import-not-found]

    XenAPIPlugin.dispatch({"list_block_devices": list_block_devices})
