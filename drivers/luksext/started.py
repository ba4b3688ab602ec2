# SPDX-License-Identifier: LGPL-2.1-only
"""What decided on Secure Boot when this host booted, for hosts whose kernel shows no event log.

All firmware measures these variables into PCR 7 ("TCG PC Client Platform Firmware Profile
Specification" 1.05, 3.3.4.8). So when one is not what it was soon after the boot, PCR 7 will
change. The note is on a filesystem that goes with the boot.
"""
import contextlib
import hashlib
import json
import os
from typing import Dict, List

from luksext import efivars, run, state
from luksext.errors import NotWritten

_NAME = "secure-boot"


def note() -> None:
    """Notes the variables as they are, once a boot: to be called by whoever unlocks.

    Does nothing where the firmware shows none. That a note cannot be written is no reason not to
    unlock: there is one prediction less.
    """
    path = os.path.join(run.PRIVATE_DIR, _NAME)
    if os.path.exists(path) or not efivars.available():
        return
    run.make_private(run.PRIVATE_DIR)
    with contextlib.suppress(OSError, NotWritten):
        state.write(path, json.dumps(_fingerprints()).encode("ascii"))


def changed() -> List[str]:
    """The names of the variables that changed since `note`; none where that is not known."""
    try:
        with open(os.path.join(run.PRIVATE_DIR, _NAME), encoding="ascii") as file:
            before = json.load(file)
        now = _fingerprints() if efivars.available() else before
        return [name for name in sorted(now) if before[name] != now[name]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _fingerprints() -> Dict[str, str]:
    """A fingerprint of each variable. Raises OSError."""
    return {name: hashlib.sha256(efivars.read(name, guid) or b"").hexdigest()
            for name, guid in efivars.ALWAYS_MEASURED}
