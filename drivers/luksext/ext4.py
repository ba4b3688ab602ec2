# SPDX-License-Identifier: LGPL-2.1-only
"""The ext4 filesystem of an SR: its size, and growing it while it is mounted."""
import re

from luksext.errors import CommandFailed
from luksext.run import run

# Seconds. The kernel writes the new block groups' tables: minutes for tens of terabytes.
_GROW_DEADLINE = 3600


def size_of(device: str) -> int:
    """Bytes that the filesystem on `device` uses of it. Raises CommandFailed where there is none.

    Read with `dumpe2fs -h`: statfs(2) leaves the filesystem's own tables out.
    """
    argv = ["dumpe2fs", "-h", device]
    output = run(argv).stdout.decode("utf-8", "replace")
    found = dict(re.findall(r"^(Block count|Block size):\s+(\d+)$", output, re.MULTILINE))
    if len(found) != 2:
        raise CommandFailed(" ".join(argv), 0, "it prints no size")
    return int(found["Block count"]) * int(found["Block size"])


def grow(device: str) -> None:
    """Grows the mounted filesystem to the size of `device`; one that fills it is left as it is."""
    run(["resize2fs", device], deadline=_GROW_DEADLINE)
