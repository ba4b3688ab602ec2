# SPDX-License-Identifier: LGPL-2.1-only
"""Where this host's notes of containers lie. Loads next to nothing: every scan asks here."""
import glob
import os

# On the root filesystem of dom0, and so off the encrypted volumes.
FOLDER = "/var/lib/luksext"

# In the notes of an SR's first container, while the adoption of the SR is under way.
ADOPTION = "adoption"

# In the notes of an SR that is encrypted where it is, until its data are.
IN_PLACE = "in-place"


def path(folder: str, name: str) -> str:
    """Of the note `name` of a container, whose notes are in `folder`."""
    return os.path.join(folder, name + ".json")


def exist(name: str) -> bool:
    """Whether there is such a note of any container."""
    return bool(glob.glob(path(os.path.join(FOLDER, "*"), name)))
