# SPDX-License-Identifier: LGPL-2.1-only
"""The containers of one SR, as the administrator's verbs see them.

XAPI's callers know from the database which containers an SR has; the console finds them by the
identity in their headers. A container that cannot be read is kept as the error that says why, so
that the status of an SR tells of all its disks.
"""
import functools
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

from luksext import container as containers
from luksext.container import LuksContainer
from luksext.cryptsetup import Flags
from luksext.errors import LuksError
from luksext.record import Record


class Repository(NamedTuple):
    """An SR and its disks, each a container or the error that keeps us from it.

    records: what XAPI noted of each disk, None where nothing is known.
    """

    uuid: str
    disks: List[Union[LuksContainer, LuksError]]
    records: List[Optional[Record]]
    flags: Flags = Flags()

    @property
    def readable(self) -> List[LuksContainer]:
        """The containers that could be read."""
        return [disk for disk in self.disks if isinstance(disk, LuksContainer)]

    @property
    def containers(self) -> List[LuksContainer]:
        """All containers. Raises the error of the first that cannot be read."""
        for disk in self.disks:
            if isinstance(disk, LuksError):
                raise disk
        return self.readable

    def refreshed(self) -> "Repository":
        """The same SR with its headers as they are now; one that is lost now is an error, too."""
        return self._replace(disks=[
            _found(disk.refreshed) if isinstance(disk, LuksContainer) else disk
            for disk in self.disks])


def recorded(sr_uuid: str, records: Sequence[Record], hints: Sequence[str],
             flags: Flags) -> Repository:
    """The SR whose containers are known by `records`; by their identity where there are none.

    hints: paths where they are expected, at least one.
    """
    if not records:
        return identified(sr_uuid, hints)._replace(flags=flags)
    places = list(hints) + [hints[0]] * (len(records) - len(hints))
    return Repository(sr_uuid, [
        _found(functools.partial(containers.find_recorded, record, hint))
        for record, hint in zip(records, places)], list(records), flags)


def identified(sr_uuid: str, hints: Sequence[str] = ()) -> Repository:
    """The SR as its disks name it. Raises DeviceMissing, Ambiguous, NotOurs, HeaderMissing,
    HeaderDamaged."""
    return _unrecorded(sr_uuid, containers.find_identified(sr_uuid, list(hints)))


def remaining(sr_uuid: str) -> Repository:
    """The SR with those disks of this host that name it; none where all headers are lost."""
    return next((sr for sr in all_of_host() if sr.uuid == sr_uuid), Repository(sr_uuid, [], []))


def all_of_host() -> Iterator[Repository]:
    """Every SR that has a disk in this host, by what the disks say; disks may be missing."""
    by_sr: Dict[str, Dict[int, LuksContainer]] = {}
    for container, identity in containers.identified([]):
            by_sr.setdefault(identity.sr_uuid, {})[identity.disk] = container
    for sr_uuid, disks in sorted(by_sr.items()):
        yield _unrecorded(sr_uuid, [disks[number] for number in sorted(disks)])


def _unrecorded(sr_uuid: str, found: Sequence[LuksContainer]) -> Repository:
    return Repository(sr_uuid, list(found), [None] * len(found))


def _found(find: Callable[[], LuksContainer]) -> Union[LuksContainer, LuksError]:
    try:
        return find()
    except LuksError as error:
        return error
