# SPDX-License-Identifier: LGPL-2.1-only
"""Whether LVM's filters let it see the open disks of encrypted SRs.

Both of dom0's configurations are read as files: the storage manager chooses between them.
"""
import contextlib
import re
from typing import Iterator, List, NamedTuple, Optional, Tuple

CONFIGURATIONS = ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf", "/etc/lvm/master/lvm.conf")

# The names that an open disk has; udev gives it the last ones (60-persistent-storage-dm.rules).
_NAMES = ("/dev/mapper/luks-UUID", "/dev/dm-0", "/dev/disk/by-id/dm-name-luks-UUID")

_DEFINITION = re.compile(
    r"^\s*(global_filter|filter)\s*=\s*(\[(?:\s*\"[^\"]*\"\s*,?)*\s*\]|\"[^\"]*\")", re.MULTILINE)
_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)


class Rejection(NamedTuple):
    """A filter that hides the open disks: its name, and the file that it is in."""

    filter: str
    path: str


def rejections() -> Iterator[Rejection]:
    """Every filter of this host that rejects the open disks."""
    for path in CONFIGURATIONS:
        for name, patterns in _filters(path):
            if not _accepts(patterns):
                yield Rejection(name, path)


def _filters(path: str) -> Iterator[Tuple[str, List[str]]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = _COMMENT.sub("", file.read())
    except OSError:
        return
    for name, patterns in _DEFINITION.findall(text):
        yield name, re.findall(r'"([^"]*)"', patterns)


def _accepts(patterns: List[str]) -> bool:
    """As lvm.conf(5) says: of each name the first pattern that matches decides; a device is used
    when one of its names is accepted, or none is rejected."""
    decisions = [_decision(patterns, name) for name in _NAMES]
    return True in decisions or False not in decisions


def _decision(patterns: List[str], name: str) -> Optional[bool]:
    for pattern in patterns:
        # Between the character after the a or r, and the last one, is a regular expression.
        with contextlib.suppress(re.error):
            if re.search(pattern[2:-1], name):
                return pattern[:1] == "a"
    return None
