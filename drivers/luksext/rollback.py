# SPDX-License-Identifier: LGPL-2.1-only
"""Which keys were destroyed on this host: a header that has one of them all the same is an old one.

Whoever had the disk in hand may have put an old copy of the header back, in which a key is valid
that was revoked since. What tells a key from every other, its mark, is noted off the disk.
"""
from typing import Iterable, List

from luksext.header import Header
from luksext.state import Store

_NAME = "revoked"

# How many are remembered of a container, the newest.
_KEPT = 256


def note(luks_uuid: str, mark: str) -> None:
    """Notes that the key with this mark was destroyed. Raises NotWritten."""
    _save(luks_uuid, [*_marks(luks_uuid), mark][-_KEPT:])


def forgive(luks_uuid: str, marks: Iterable[str]) -> None:
    """Forgets it of keys that somebody wanted back. Raises NotWritten."""
    known, wanted = _marks(luks_uuid), set(marks)
    if wanted & set(known):
        _save(luks_uuid, [mark for mark in known if mark not in wanted])


def revived(header: Header) -> List[int]:
    """The keyslots in `header` whose keys were destroyed."""
    known = set(_marks(header.uuid)) if header.marks else set()
    return sorted(slot for slot, mark in header.marks.items() if mark in known)


def _marks(luks_uuid: str) -> List[str]:
    found = Store(luks_uuid).load(_NAME).get("marks")
    return [mark for mark in found if isinstance(mark, str)] if isinstance(found, list) else []


def _save(luks_uuid: str, marks: List[str]) -> None:
    Store(luks_uuid).save(_NAME, {"marks": marks})
