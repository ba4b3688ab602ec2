# SPDX-License-Identifier: LGPL-2.1-only
"""All verbs, and the one way to run them: checked, alone, backed up, audited."""
from typing import Any, Dict, List, Sequence

from luksext import (audit, backup, state, status, verbs_binding, verbs_header, verbs_recovery,
                     verbs_reencrypt, verbs_volume)
from luksext.container import LuksContainer
from luksext.errors import LuksError, VerbUnknown
from luksext.repository import Repository
from luksext.run import log, overtime
from luksext.verb import Arguments, Verb, check

# What every verb takes, and what its caller uses to find the SR.
COMMON = ("sr-uuid",)


def _status(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    return status.of(sr)


VERBS: Dict[str, Verb] = {verb.name: verb for verb in (
    Verb("status", "all that there is to know of an SR's encryption", (), _status,
         audited=False),
    *verbs_recovery.VERBS, *verbs_binding.VERBS, *verbs_header.VERBS, *verbs_reencrypt.VERBS,
    *verbs_volume.VERBS)}


def find(name: str, arguments: Arguments) -> Verb:
    """The verb of that name, its arguments checked. Raises VerbUnknown, ArgumentInvalid."""
    if name not in VERBS:
        raise VerbUnknown(name, sorted(VERBS))
    check(VERBS[name], arguments, COMMON)
    return VERBS[name]


def run(verb: Verb, sr: Repository, arguments: Arguments, who: str) -> Dict[str, Any]:
    """Runs `verb` on `sr` for the user `who`; what it tells is JSON, with schema and SR."""
    if not verb.audited:
        return _answer(sr, verb.run(sr, arguments))
    with state.locked(sr.uuid):
        # Whoever had the lock before may have changed the headers.
        sr = sr.refreshed()
        backed_up = [disk for disk in sr.readable if _is_backed_up(disk)]
        try:
            with audit.audited(verb.name, sr.uuid, arguments, who) as answer:
                told = verb.run(sr, arguments)
                answer.update(told)
        except BaseException:
            # What the verb changed. A header that was not as in its backup before may be what it
            # failed of.
            with overtime():
                for warning in _back_up(backed_up, verb.name):
                    log.error("%s", warning)
            raise
        warnings = _back_up(sr.readable, verb.name)
    if warnings:
        told["warnings"] = warnings
    return _answer(sr, told)


def _answer(sr: Repository, told: Dict[str, Any]) -> Dict[str, Any]:
    return dict({"schema": status.SCHEMA, "sr_uuid": sr.uuid}, **told)


def _is_backed_up(container: LuksContainer) -> bool:
    try:
        return backup.is_fresh(container)
    except LuksError:
        return False


def _back_up(containers: Sequence[LuksContainer], reason: str) -> List[str]:
    """Backs up every header that changed. The change is made: a failure is told, not raised."""
    warnings = []
    for container in containers:
        try:
            current = container.refreshed()
            # While data are encrypted anew, the header changes all the time: afterwards.
            if current.header.reencryption is None and not backup.is_fresh(current):
                backup.create(current, reason)
        except LuksError as error:
            warnings.append("The header of {} was not backed up. {}".format(
                container.device, error))
    return warnings
