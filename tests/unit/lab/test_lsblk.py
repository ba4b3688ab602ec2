# SPDX-License-Identifier: LGPL-2.1-only
"""The stand-in for XCP-ng's plugin lsblk.py: the tree that Xen Orchestra is given."""

from __future__ import annotations

from tests.lab.dom0 import lsblk

LISTED = """\
NAME="sda" KNAME="sda" PKNAME="" SIZE="1000" TYPE="disk" RO="0" MOUNTPOINT=""
NAME="sda1" KNAME="sda1" PKNAME="sda" SIZE="900" TYPE="part" RO="0" MOUNTPOINT="/mnt/a b"
NAME="luks-x" KNAME="dm-0" PKNAME="sda1" SIZE="800" TYPE="crypt" RO="1" MOUNTPOINT=""
NAME="sdb" KNAME="sdb" PKNAME="" SIZE="2000" TYPE="disk" RO="0" MOUNTPOINT=""
"""


def test_children_are_in_their_parents() -> None:
    sda, sdb = lsblk.tree(LISTED)
    (sda1,) = sda["children"]
    (luks,) = sda1["children"]
    assert (sda["kname"], sda1["mountpoint"], luks["name"]) == ("sda", "/mnt/a b", "luks-x")
    assert "children" not in sdb


def test_values_are_texts() -> None:
    sdb = lsblk.tree(LISTED)[1]
    assert sdb == {"name": "sdb", "kname": "sdb", "pkname": "", "size": "2000", "type": "disk",
                   "ro": "0", "mountpoint": ""}
