# SPDX-License-Identifier: LGPL-2.1-only
"""Closes open containers. On its own, so that an unplug need not load all that opens them."""
import time

from luksext import cryptsetup, devices
from luksext.devices import Mapping
from luksext.errors import DeviceInUse
from luksext.run import run

_CLOSE_TRIES = 5


def close(mapping: Mapping) -> None:
    """Closes an open container. Raises DeviceInUse while something uses it.

    udev may hold a new device for a moment, so a busy one is tried again.
    """
    for attempt in range(_CLOSE_TRIES):
        if cryptsetup.close(mapping.name):
            return
        run(["udevadm", "settle", "--timeout=5"], accept=(0, 1))
        time.sleep(0.2 * attempt)
    raise DeviceInUse(mapping.path, devices.holders(mapping.path))
