# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs for what lies in the containers: growing it."""
from typing import Any, Dict

from luksext import grow, lvm
from luksext.repository import Repository
from luksext.verb import RECOVERY_KEY, Arguments, Verb
from luksext.verbs_recovery import way_in


def _grow(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Gives the SR all that its disks have now, while it is plugged."""
    group = lvm.GROUP_PREFIX + sr.uuid
    grown = [grow.grow(container, way_in(container, arguments), group, sr.uuid)
             for container in sr.containers]
    return {"disks": [{"device": container.device, "before": growth.before._asdict(),
                       "after": growth.after._asdict()}
                      for container, growth in zip(sr.containers, grown)],
            "next": "xe sr-scan uuid=" + sr.uuid}


VERBS = (
    Verb("grow", "give the SR all space of its disks, after they grew", (RECOVERY_KEY,), _grow),
)
