# SPDX-License-Identifier: LGPL-2.1-only
"""Which host this is: its UUID, as the installer gave it and XAPI knows it by."""
from luksext.errors import HostUnknown

INVENTORY = "/etc/xensource-inventory"


def uuid() -> str:
    """The UUID of this host. Raises HostUnknown."""
    try:
        with open(INVENTORY, encoding="ascii", errors="replace") as inventory:
            for line in inventory:
                if line.startswith("INSTALLATION_UUID="):
                    return line.split("=", 1)[1].strip().strip("'")
    except OSError:
        pass
    raise HostUnknown(INVENTORY)
