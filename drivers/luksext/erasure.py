# SPDX-License-Identifier: LGPL-2.1-only
"""The end of a container, which a kill or a power cut may come into.

A disk without a header may be the one that was erased, or a blank one in the place of a disk that
was pulled and keeps all its keys. So it is noted on this host which disk is to be erased, before.
"""
from typing import Union

from luksext import alive, devices, header
from luksext import container as containers
from luksext.container import LuksContainer
from luksext.errors import DeviceMissing, HeaderDamaged, HeaderMissing, LuksError
from luksext.state import Store

_NOTE = "erasure"


def erase(luks_uuid: str, disk: Union[LuksContainer, LuksError], sr_uuid: str) -> None:
    """Erases the container, or ends what an interrupted call began.

    disk: where it is, or why it was not found. Raises DeviceMissing, with how to go on, for a disk
    that is not there and was not erased here; else why it was not found; DeviceInUse, DiskFails.
    """
    place = str(Store(luks_uuid).load(_NOTE).get("device", ""))
    if devices.lasts(place):
        # Should another disk have that UUID, it is a copy.
        _finish(luks_uuid, place, sr_uuid)
    elif isinstance(disk, LuksContainer):
        Store(luks_uuid).save(_NOTE, {"device": devices.lasting_name(disk.device)})
        disk.erase()
    elif not (place and isinstance(disk, HeaderMissing)):
        raise _not_erased(luks_uuid, disk, sr_uuid)


def _finish(luks_uuid: str, device: str, sr_uuid: str) -> None:
    try:
        devices.check_exists(device)
    except LuksError as error:
        raise _not_erased(luks_uuid, error, sr_uuid) from error
    alive.check(device)
    try:
        found = header.read(device)
    except HeaderMissing:
        return
    except HeaderDamaged:
        if any(remains.uuid == luks_uuid for remains in header.remains(device)):
            containers.erase_start(device)
        return
    if found.uuid == luks_uuid:
        LuksContainer(device, found).erase()


def _not_erased(luks_uuid: str, why: LuksError, sr_uuid: str) -> LuksError:
    if not isinstance(why, (DeviceMissing, HeaderMissing)):
        return why
    return DeviceMissing(
        "{} The LUKS container {} was not erased by this host: wherever its disk is, its keys open "
        "it.".format(why.sentence, luks_uuid),
        "Put its disk in, then run `xe sr-destroy uuid={0}` again. To go on without it: xe "
        "sr-forget uuid={0}".format(sr_uuid))
