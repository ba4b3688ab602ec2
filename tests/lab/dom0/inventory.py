#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Print an /etc/xensource-inventory: ``inventory HOSTNAME [SEED]``.

The same arguments always give the same identity, so it may be printed anew at each boot. SEED
(default: the host name) tells hosts of the same name apart.
"""

import sys
import uuid

#: Names the lab's hosts; any constant would do.
NAMESPACE = uuid.UUID("b3f1c1de-3b0c-5a86-8f0a-5d1c2a6c8f10")
PRIMARY_DISK = "/dev/lab-root-disk"


def inventory(hostname: str, seed: str) -> str:
    """The file's text: one ``KEY='value'`` a line, as the installer writes it."""
    fields = {
        "PRODUCT_BRAND": "XCP-ng",
        "PRODUCT_NAME": "xcp-ng",
        "PRODUCT_VERSION": "8.3.0",
        "PRODUCT_VERSION_TEXT": "8.3",
        "PLATFORM_NAME": "XCP",
        "PLATFORM_VERSION": "3.4.0",
        "BUILD_NUMBER": "lab",
        "PRIMARY_DISK": PRIMARY_DISK,
        "BACKUP_PARTITION": "",
        "CONTROL_DOMAIN_UUID": str(uuid.uuid5(NAMESPACE, f"control domain {seed}")),
        "INSTALLATION_UUID": str(uuid.uuid5(NAMESPACE, f"installation {seed}")),
        "MANAGEMENT_INTERFACE": "lo",
        "MANAGEMENT_ADDRESS_TYPE": "IPv4",
        "HOSTNAME": hostname,
    }
    return "".join(f"{key}='{value}'\n" for key, value in fields.items())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: inventory HOSTNAME [SEED]")
    print(inventory(sys.argv[1], sys.argv[-1]), end="")
