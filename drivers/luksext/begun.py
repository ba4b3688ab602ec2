# SPDX-License-Identifier: LGPL-2.1-only
"""What this host noted of re-encryptions that it began, and of their end.

A header in re-encryption is opened only where it is the one that was begun here: whoever had the
disk in hand in between may have written another. The note lies off the disk.
"""
from typing import TYPE_CHECKING, List, NamedTuple, Optional

from luksext.state import Store
from luksext.untrusted import number

if TYPE_CHECKING:
    from luksext.header import Header  # an unplug reads none

_NAME = "reencryption"
_ENDED = "volume-key"


class Begun(NamedTuple):
    """since: ISO 8601 in UTC. before, after: the volume keys, as in `Header`; before is "" where
    the data were in clear, after is "" until cryptsetup made it. unbound: keyslots that opened
    nothing already before. jwe: the sealed key of the only keyslot of a container that is being
    encrypted in place: the header takes no binding until the end."""

    since: str
    before: str
    after: str
    unbound: List[int]
    jwe: str = ""


def load(luks_uuid: str) -> Optional[Begun]:
    """The note; None where there is none, or none that can be read."""
    note = Store(luks_uuid).load(_NAME)
    try:
        return Begun(str(note["since"]), str(note["before"]), str(note["after"]),
                     [number(slot) for slot in note["unbound"]], str(note.get("jwe", "")))
    except (KeyError, TypeError, ValueError):
        return None


def save(luks_uuid: str, note: Begun) -> None:
    """Notes it, to survive a power cut."""
    Store(luks_uuid).save(_NAME, dict(note._asdict()))


def forget(luks_uuid: str) -> None:
    """Nothing is in re-encryption any more."""
    Store(luks_uuid).save(_NAME, {})


def is_ours(header: "Header") -> bool:
    """Whether the unfinished re-encryption in `header` is the one that was begun here."""
    note, found = load(header.uuid), header.reencryption
    return (note is not None and found is not None and note.before == header.volume_key
            and note.after in ("", found.volume_key))


def is_outdated(header: "Header") -> bool:
    """Whether `header` is of before a re-encryption that was begun here and is not at its end: some
    of the data have the new volume key, which it has not. None is let run before that is noted."""
    note = load(header.uuid)
    return (note is not None and note.after != "" and header.reencryption is None
            and header.volume_key == note.before)


def waiting(header: "Header") -> str:
    """The sealed key that waits until the header of a container that was encrypted in place takes
    its binding, also after the last part was encrypted; "" where none does."""
    note = load(header.uuid)
    if note is None:
        return ""
    at_the_end = header.reencryption is None and note.after == header.volume_key
    return note.jwe if at_the_end or is_ours(header) else ""


def end(luks_uuid: str, volume_key: str) -> None:
    """Notes the volume key that the container has after its re-encryption, and for as long as
    nothing else is noted: what was recorded of it elsewhere may be of the time before."""
    Store(luks_uuid).save(_ENDED, {"volume_key": volume_key})


def has_ended(luks_uuid: str, before: str, after: str) -> bool:
    """Whether a re-encryption that this host knows of led from one volume key to the other."""
    note = load(luks_uuid)
    return Store(luks_uuid).load(_ENDED).get("volume_key") == after or (
        note is not None and (note.before, note.after) == (before, after))
