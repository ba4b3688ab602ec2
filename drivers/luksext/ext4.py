# SPDX-License-Identifier: LGPL-2.1-only
"""The ext4 filesystem of an SR: its size; growing it while it is mounted, shrinking it while it is
not."""
import re
from typing import Tuple

from luksext.errors import CommandFailed
from luksext.run import run

# Seconds. The kernel writes the new block groups' tables: minutes for tens of terabytes.
_GROW_DEADLINE = 3600

# Seconds. Checking reads all tables, shrinking moves what is in the way.
_CHECK_DEADLINE = 7200


def size_of(device: str) -> int:
    """Bytes that the filesystem on `device` uses of it. Raises CommandFailed where there is none.

    Read with `dumpe2fs -h`: statfs(2) leaves the filesystem's own tables out.
    """
    count, block = _blocks(device)
    return count * block


def _blocks(device: str) -> Tuple[int, int]:
    """How many blocks the filesystem has, and the bytes of each."""
    argv = ["dumpe2fs", "-h", device]
    output = run(argv).stdout.decode("utf-8", "replace")
    found = dict(re.findall(r"^(Block count|Block size):\s+(\d{1,18})$", output, re.MULTILINE))
    if len(found) != 2:
        raise CommandFailed(" ".join(argv), 0, "it prints no size")
    return int(found["Block count"]), int(found["Block size"])


def grow(device: str) -> None:
    """Grows the mounted filesystem to the size of `device`; one that fills it is left as it is."""
    run(["resize2fs", device], deadline=_GROW_DEADLINE)


def check(device: str) -> None:
    """Checks the filesystem on `device`, which is not mounted, and repairs what is safe to repair.

    Raises CommandFailed where it has damages that e2fsck(8) leaves to a person.
    """
    run(["e2fsck", "-f", "-p", device], deadline=_CHECK_DEADLINE, accept=(0, 1))


def least_size(device: str) -> int:
    """Bytes that the filesystem on `device` could shrink to, as resize2fs estimates."""
    output = run(["resize2fs", "-P", device], deadline=_CHECK_DEADLINE).stdout
    found = re.search(r"(\d+)\s*$", output.decode("utf-8", "replace"))
    return int(found.group(1)) * _blocks(device)[1] if found else 0


def shrink(device: str, size: int) -> None:
    """Makes the filesystem on `device`, which was checked, `size` bytes large.

    Not safe against a power cut: blocks are moved in place.
    """
    run(["resize2fs", device, "{}K".format(size // 1024)], deadline=_CHECK_DEADLINE)
