# SPDX-License-Identifier: LGPL-2.1-only
"""The storage manager to test the driver on: a checkout named by SM, else the lab's stand-in."""
import os
from typing import List, NamedTuple, Optional

STAND_IN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab", "sm")
MISSING = "needs the storage manager: set SM=checkout"

# Modules of dom0 that the storage manager imports, and that no test calls.
_STUBS = {
    "fairlock": "class Fairlock(object):\n    def __init__(self, name):\n        pass\n",
    "XenAPI": "class Failure(Exception):\n    pass\nclass Session:\n    pass\n",
    "bitarray": "class bitarray:\n    pass\n",
}


class StorageManager(NamedTuple):
    """Where its modules are imported from, and whether they are the package `sm`."""

    path: List[str]
    package: bool


def find() -> Optional[StorageManager]:
    """The storage manager to test on, None where there is none."""
    root = os.environ.get("SM") or STAND_IN
    if os.path.isdir(os.path.join(root, "libs", "sm")):
        return StorageManager([os.path.join(root, "libs")], True)
    for folder in (os.path.join(root, "drivers"), root):
        if os.path.exists(os.path.join(folder, "EXTSR.py")):
            return StorageManager([folder, root], False)
    return None


def names(found: StorageManager) -> List[str]:
    """The names of all modules that importing the driver on it may import."""
    modules = ["LUKSEXTSR", "luksext_life", "luksext_unplug", "luksext_sm", "sm", *_STUBS]
    for folder in found.path:
        modules += [name[:-len(".py")] for name in os.listdir(folder) if name.endswith(".py")]
    return modules


def write_stubs(folder) -> None:
    """Writes the modules of dom0 to `folder`."""
    for name, text in _STUBS.items():
        with open(os.path.join(str(folder), name + ".py"), "w") as module:
            module.write(text)
