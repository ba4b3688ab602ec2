# SPDX-License-Identifier: LGPL-2.1-only
"""Containers whose creation did not come to its end, by a kill or a power cut.

XAPI forgets an SR whose creation fails. What is left on the disk then looks like a part of an
encrypted SR, which nothing overwrites. So each container is noted on this host before its disk is
touched, and until the SR is attached for the first time: up to then it holds no data.
"""
import uuid as uuids
from typing import Iterator, List, NamedTuple, Optional

from luksext import container as containers
from luksext import alive, devices, header, lvm, run, state
from luksext.container import LuksContainer
from luksext.generation import Identity
from luksext.header import Header
from luksext.options import Options
from luksext.state import Store

_NOTE = "creation"


class Creation(NamedTuple):
    """A creation that is noted: the container's LUKS UUID, its SR, its device by a lasting name."""

    luks_uuid: str
    sr_uuid: str
    device: str


def make(device: str, identity: Identity, options: Options,
         passphrase: Optional[bytes]) -> LuksContainer:
    """As `format_container`, and notes it before. Raises NotWritten with nothing changed, too."""
    luks_uuid = str(uuids.uuid4())
    Store(luks_uuid).save(_NOTE, {"sr": identity.sr_uuid, "device": devices.lasting_name(device)})
    try:
        return containers.format_container(device, luks_uuid, identity, options, passphrase)
    except BaseException:
        with run.overtime(), containers.first_error_counts():
            undo(device, luks_uuid)
        raise


def end(luks_uuid: str) -> None:
    """The container is part of an SR that XAPI knows: from now on it may hold data. Raises
    NotWritten."""
    Store(luks_uuid).remove(_NOTE)


def noted_on(device: str) -> List[Creation]:
    """The creations that were begun on `device` and have not ended."""
    found = containers.find_header(device)
    present = found.uuid if found else None
    name = devices.lasting_name(device)
    return [creation for creation in _noted() if not _is_used(found, creation)
            and (creation.luks_uuid == present or creation.device == name)]


def noted_of(sr_uuid: str) -> List[Creation]:
    """The creations that were begun for an SR and have not ended."""
    return [creation for creation in _noted() if creation.sr_uuid == sr_uuid
            and not _is_used(containers.find_header(creation.device), creation)]


def _is_used(found: Optional[Header], creation: Creation) -> bool:
    """Whether the header `found` is that of the container, with a key that no creation gives it:
    the disk was in another host since, and may hold data."""
    return found is not None and found.uuid == creation.luks_uuid and not set(
        found.keyslots) <= {containers.BINDING_SLOT, containers.RECOVERY_SLOT}


def _noted() -> Iterator[Creation]:
    for luks_uuid in state.known():
        note = Store(luks_uuid).load(_NOTE)
        if note:
            yield Creation(luks_uuid, str(note.get("sr")), str(note.get("device")))


def undo(device: str, luks_uuid: str) -> None:
    """Destroys a container that was begun on `device`, with what was built in it, and its note.

    Another container on the device stays as it is. Raises DeviceMissing, DeviceInUse, DiskFails.
    """
    devices.check_exists(device)
    alive.check(device)
    found = containers.find_header(device)
    if found is not None and found.uuid == luks_uuid:
        container = LuksContainer(device, found)
        mapping = container.mapping
        group = lvm.sr_group_on(mapping.path) if mapping else None
        if group is not None:
            built_on = [other.mapping for other in containers.all_of(str(lvm.sr_of(group)))]
            lvm.remove_group(group, [found for found in built_on if found is not None])
        container.close()
        container.erase()
    elif any(remains.uuid == luks_uuid for remains in header.remains(device)):
        # What a power cut left of a header that was being written.
        containers.erase_start(device)
    state.forget(luks_uuid)
