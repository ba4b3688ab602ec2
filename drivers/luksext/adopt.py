# SPDX-License-Identifier: LGPL-2.1-only
"""Makes a container ours that was made by hand, as it is, with the ext SR inside.

Nothing is copied, formatted or removed: the header says whose disk it is, and a binding is added
where none opens. Until XAPI is told, the SR goes on as the ext SR that it was.
"""
import glob
import os
import re
from typing import List, NamedTuple, Optional, Tuple

from luksext import begun, bindings, cryptsetup, devices, header, keyslots, lvm
from luksext import container as containers
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.cryptsetup import Flags
from luksext.errors import (CommandFailed, DeviceIsOurs, NoBinding, NotAdoptable,
                            NotPlugged, UnlockRefused)
from luksext.generation import SUBSYSTEM, Binding, Identity
from luksext.keyslots import Way
from luksext.configuration import CIPHERS
from luksext.record import Record

UNIT_FOLDER = "/etc/systemd/system"

# What clevis and cryptsetup's users call an open container; the device-config may name it.
_NAMED_BY_UUID = re.compile(
    r"/dev/(?:mapper/luks-|disk/by-uuid/)([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")


class Found(NamedTuple):
    """What is on a disk that somebody encrypted by hand.

    bindings: those whose keyslot is active. passphrase_slots: the keyslots that no binding opens.
    label: of LUKS2, which our mark replaces. group: the volume group inside, of the SR `sr_uuid`.
    """

    container: LuksContainer
    luks_version: int
    bindings: List[Binding]
    passphrase_slots: List[int]
    label: str
    group: str
    sr_uuid: str


def container_at(path: str) -> LuksContainer:
    """The container on the disk `path`, or under the mapping `path`, open or not.

    Raises DeviceMissing, DeviceUnsuitable, HeaderMissing, HeaderDamaged, Ambiguous.
    """
    named = _NAMED_BY_UUID.match(path)
    if named:
        return containers.find_recorded(Record(named.group(1), "", 0), path)
    devices.check_exists(path)
    mapping = devices.crypt_mapping_at(path)
    disk = devices.disk_of(mapping) if mapping else None
    return LuksContainer(disk or path, header.read(disk or path))


def check(container: LuksContainer) -> None:
    """Raises NotAdoptable for a container that can never be one of ours, with the reason."""
    found = container.header
    reasons = (
        (found.sector_size != devices.SECTOR,
         "its encryption has sectors of {} bytes, VHD images need 512".format(found.sector_size)),
        (devices.logical_block_size(container.device) != devices.SECTOR,
         "the disk has blocks of {} bytes, VHD images need 512".format(
             devices.logical_block_size(container.device))),
        (found.cipher not in CIPHERS,
         "its cipher is {}, not {}".format(found.cipher, " or ".join(CIPHERS))),
        (bool(found.requirements) and not begun.is_ours(found),
         "its header asks for {}".format(" ".join(found.requirements))),
        (any(cipher.startswith("cipher_null") for cipher in found.keyslot_ciphers),
         "a keyslot is not encrypted"))
    for applies, reason in reasons:
        if applies:
            raise NotAdoptable(container.device, reason)


def unlock(container: LuksContainer, passphrase: Optional[bytes] = None) -> None:
    """Opens `container` as the ext SR's device-config expects it, by a binding or `passphrase`.

    Raises NotAdoptable, and UnlockRefused's children, NoBinding where there is no way in.
    """
    check(container)
    if container.mapping is None:
        way, _ = way_in(container, passphrase)
        cryptsetup.open_device(container.device, "luks-" + container.uuid, way.slot, way.key,
                               Flags())


def identify(device: str) -> Found:
    """What is on `device`, whose container is open: how it is unlocked, and the SR inside.

    Raises NotAdoptable where it cannot become one of ours, DeviceIsOurs where it is another's,
    NotPlugged where it is closed.
    """
    container = container_at(device)
    check(container)
    mapping = container.mapping
    if mapping is None:
        raise NotPlugged(container.device, "its container is closed")
    group = lvm.sr_group_on(mapping.path)
    sr_uuid = lvm.sr_of(group) if group else None
    if group is None or sr_uuid is None:
        raise NotAdoptable(container.device, "no ext SR is in it")
    identity = container.identity
    if identity is not None and identity.sr_uuid != sr_uuid:
        raise DeviceIsOurs(container.device, identity.sr_uuid)
    bound = container.bindings
    slots = {binding.slot for binding in bound}
    return Found(container, container.header.version, bound,
                 [slot for slot in container.header.keyslots if slot not in slots],
                 container.header.label, group, sr_uuid)


def check_whole(disks: List[Found]) -> None:
    """Raises NotAdoptable unless `disks` are all disks of one SR, and each of them encrypted."""
    mappings = [disk.container.mapping for disk in disks]
    inside = {mapping.kernel_name for mapping in mappings if mapping is not None}
    for physical in lvm.physical_volumes(disks[0].group):
        if devices.kernel_name(physical.path) not in inside:
            raise NotAdoptable(
                physical.path, "it belongs to the SR {} too, and is not one of the containers "
                "that were named".format(disks[0].sr_uuid))


def take(container: LuksContainer, identity: Identity, pin: Pin,
         passphrase: Optional[bytes] = None) -> bool:
    """Marks `container` as ours and sees to it that a binding opens it; whether one was added.

    passphrase: opens the container where no binding does; where given, it is proved in any case and
    noted as a recovery passphrase that is known to work.

    Raises what `way_in` does, with nothing changed.
    """
    way, bound = way_in(container, passphrase)
    mark(container, identity)
    if passphrase is not None:
        keyslots.confirm(container, passphrase)
    if not bound:
        bindings.add(container, way, pin)
    return not bound


def way_in(container: LuksContainer, passphrase: Optional[bytes]) -> Tuple[Way, bool]:
    """A key that opens `container`, and whether it is that of a binding. A `passphrase` that is
    given has to open it in any case.

    Raises UnlockRefused's children, NoBinding, WrongRecoveryKey.
    """
    typed = keyslots.way_in(container, passphrase) if passphrase is not None else None
    try:
        return keyslots.way_in(container), True
    except (UnlockRefused, NoBinding):
        if typed is None:
            raise
        return typed, False


def mark(container: LuksContainer, identity: Identity) -> None:
    """Writes into the header whose disk it is. Bindings and other data there stay.

    Raises DeviceIsOurs where it says something else already, HeaderFull where LUKS1 has no room,
    NotAdoptable where its place there is taken.
    """
    found = container.identity
    if found == identity:
        return
    if found is not None:
        raise DeviceIsOurs(container.device, found.sr_uuid)
    try:
        _write(container, identity)
    except CommandFailed as error:
        raise NotAdoptable(container.device, "its header cannot take the SR's mark ({})".format(
            error.sentence)) from error
    if container.refreshed().identity != identity:
        raise NotAdoptable(container.device, "its header does not keep the SR's mark")


def _write(container: LuksContainer, identity: Identity) -> None:
    if container.header.version == 2:
        cryptsetup.set_label(container.device, str(identity), SUBSYSTEM)
    else:
        # luksmeta's area is made where there is none; one that is there stays as it is.
        container.generation.write_identity(container.device, identity)


def units(luks_uuid: str) -> List[str]:
    """The systemd units that are enabled to unlock this container at boot: ours does that now.

    An instance's name holds the UUID as typed, or with its dashes escaped (systemd-escape(1)).
    """
    links = [path for kind in ("wants", "requires")
             for path in glob.glob(os.path.join(UNIT_FOLDER, "*." + kind, "*"))]
    names = {os.path.basename(path) for path in links}
    return sorted(name for name in names if luks_uuid in name.replace("\\x2d", "-"))
