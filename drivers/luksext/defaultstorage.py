# SPDX-License-Identifier: LGPL-2.1-only
"""The disks that the first start of a host makes storage on and overwrites: encrypted ones of them.

The installer writes their names into a shell script. The storage manager's storage-init sources it
and clears the start of each when it runs for the first time, and again after pool-eject, when the
host forgets that it ran.
"""
import os
import shlex
from typing import List

from luksext import container, contents, devices

FILE = "/etc/firstboot.d/data/default-storage.conf"

_ENCRYPTED = "crypto_LUKS"


def endangered() -> List[str]:
    """The encrypted disks, ours or not, that storage-init would overwrite.

    Raises OSError and ValueError where it cannot be told which those are: FILE cannot be read or is
    no shell script; LuksError where a disk that it names cannot be looked at.
    """
    named = _named()
    numbers = {devices.number_of(path) for path in named}
    found = [path for path in named if _ENCRYPTED in contents.kinds(path)]
    if not named:
        return found
    # What lies over a partition, or below it, goes with it.
    known = {devices.number_of(path) for path in found}
    for other in container.all_containers():
        number = devices.number_of(other.device)
        if number not in known and numbers & {number, devices.disk_number(other.device)}:
            found.append(other.device)
    return found


def _named() -> List[str]:
    """The paths that FILE names and that exist."""
    if not os.path.exists(FILE):
        return []
    with open(FILE, encoding="utf-8", errors="replace") as file:
        words = shlex.split(file.read(), comments=True)
    return [path for word in words if word.startswith("PARTITIONS=")
            for path in word.split("=", 1)[1].split() if os.path.exists(path)]
