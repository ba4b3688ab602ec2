# SPDX-License-Identifier: LGPL-2.1-only
"""The variables of the UEFI firmware, as they are now: what it will read at the next boot.

They are only read. Names and meanings: "UEFI Specification" 2.10, sections 3.3, 8.5.4 and 32.
"""
import os
from typing import Optional

FOLDER = "/sys/firmware/efi/efivars"

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
IMAGE_SECURITY = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"

# What decides on Secure Boot. All are visible at run time: one that is not there is empty. Firmware
# always measures the first ones, and the others where it has them.
ALWAYS_MEASURED = (("SecureBoot", GLOBAL), ("PK", GLOBAL), ("KEK", GLOBAL),
                   ("db", IMAGE_SECURITY), ("dbx", IMAGE_SECURITY))
SECURE_BOOT = (*ALWAYS_MEASURED, ("dbt", IMAGE_SECURITY), ("dbr", IMAGE_SECURITY))

# A file in efivarfs starts with the variable's attributes, 32 bits.
_ATTRIBUTES = 4


def available() -> bool:
    """Whether this host's firmware shows its variables."""
    try:
        return bool(os.listdir(FOLDER))
    except OSError:
        return False


def read(name: str, guid: str) -> Optional[bytes]:
    """The content of a variable, None where there is none. Raises OSError.

    name: may come from an event log, and be one that no file here can have.
    """
    file_name = "{}-{}".format(name, guid)
    if "/" in file_name:
        return None
    try:
        with open(os.path.join(FOLDER, file_name), "rb") as file:
            return file.read()[_ATTRIBUTES:]
    except (FileNotFoundError, ValueError):
        return None


def planned() -> Optional[str]:
    """What the firmware was asked to do otherwise at the next boot, None for nothing.

    An update of the firmware is handed over as a capsule, announced in OsIndications, or by a boot
    into the updater, named by BootNext. Raises OSError.
    """
    if any(read("OsIndications", GLOBAL) or b""):
        return "the firmware was asked to update itself or to open its setup at the next boot"
    if read("BootNext", GLOBAL):
        return "another boot entry was chosen for the next boot"
    return None
