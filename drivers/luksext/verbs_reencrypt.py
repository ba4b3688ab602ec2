# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs for a new volume key: all data are encrypted anew, while the SR is in use."""
from typing import Any, Dict

from luksext import keys, reencrypt
from luksext.container import LuksContainer
from luksext.repository import Repository
from luksext.verb import RECOVERY_KEY, Arguments, Parameter, Verb

_ALL_KEYS = Parameter("key", "every recovery key that the SR has, one a line", secret=True,
                      several=True)


def _start(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    typed = [keys.as_typed(line) for line in arguments.get("key", "").splitlines() if line]
    for container in sr.containers:
        reencrypt.check(container, typed)
    for container in sr.containers:
        reencrypt.start(container, typed)
    return dict(_status(sr, arguments),
                next="See how far it is: luksext reencrypt-status --sr-uuid=" + sr.uuid)


def _status(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    return {"reencryption": [_progress(container) for container in sr.containers]}


def _progress(container: LuksContainer) -> Dict[str, Any]:
    return dict(reencrypt.progress(container)._asdict(), device=container.device)


def _resume(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    typed = arguments.get("key")
    for container in sr.containers:
        reencrypt.resume(container, keys.as_typed(typed) if typed else None)
    return _status(sr, arguments)


def _accept(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    for container in sr.containers:
        reencrypt.accept(container, keys.as_typed(arguments["key"]))
    return {"next": "xe pbd-plug uuid=$(xe pbd-list sr-uuid={} params=uuid --minimal)".format(
        sr.uuid)}


VERBS = (
    Verb("reencrypt", "give the SR a new volume key: encrypt all data anew, while it is in use",
         (_ALL_KEYS,), _start),
    Verb("reencrypt-status", "tell how far a re-encryption is", (), _status, audited=False),
    Verb("reencrypt-resume", "let an interrupted re-encryption go on", (RECOVERY_KEY,), _resume),
    Verb("reencrypt-accept", "take a re-encryption that was begun or done elsewhere for ours",
         (RECOVERY_KEY._replace(required=True),), _accept),
)
