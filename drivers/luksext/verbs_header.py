# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs for header backups: they hold the keyslots, so who has one and a key has the data."""
import base64
import contextlib
import os
from typing import Any, Dict, List, Optional

from luksext import backup, state
from luksext.backup import Backup
from luksext.container import LuksContainer, find_header
from luksext.errors import ArgumentInvalid, BackupMissing, DeviceIsOurs, DiskFails
from luksext.generation import traces
from luksext.repository import Repository
from luksext.verb import FORCE, Arguments, Parameter, Verb, number, path, truth
from luksext.untrusted import shown

_DEVICE = Parameter("device", "the disk whose header was lost", required=True)
_SERIAL = Parameter("serial", "which backup of this host, as header-list shows it "
                              "(default: the newest)")
_LUKS_UUID = Parameter("luks-uuid", "of the container, where the SR has lost several")
_FILE = Parameter("content-file", "path on this host of a backup that header-export made, in the "
                                  "place of one that this host keeps")
_TO = Parameter("to", "folder on this host to write them to, such as a mounted USB stick; without, "
                      "the answer holds them in base64")


def _backup(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    return {"backups": [_described(backup.create(container, "asked for"))
                        for container in sr.containers]}


def _list(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    return {"backups": [_described(one) for uuid in _luks_uuids(sr)
                        for one in backup.list_of(uuid)]}


def _export(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """The newest backup of each disk, each a file of its own; of a header that changed since its
    last backup, one that is made now."""
    folder = path("header-export", arguments, "to")
    if folder is not None and not os.path.isdir(folder):
        raise ArgumentInvalid("header-export", "cannot write to {}".format(shown(folder)),
                              "a folder that is there on this host")
    there = {container.uuid: container for container in sr.readable}
    chosen = [backup.create(there[uuid], "header-export")
              if uuid in there and "serial" not in arguments
              else _of_this_host("header-export", uuid, arguments) for uuid in _luks_uuids(sr)]
    return {"backups": [_exported(one, folder) for one in chosen],
            "next": "Keep it where this host's disks and recovery keys are not; destroy it when a "
                    "key that it holds is revoked."}


def _exported(one: Backup, folder: Optional[str]) -> Dict[str, Any]:
    told = dict(_described(one), file="luksext-{}-{}.header".format(one.luks_uuid, one.serial))
    content = backup.export(one)
    if folder is None:
        return dict(told, content=base64.b64encode(content).decode("ascii"))
    name = os.path.join(folder, told["file"])
    state.write(name, content)
    return dict(told, file=name)


def _restore(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Writes a backup over the header of a disk, which is then read again to prove it."""
    device = path("header-restore", arguments, "device") or ""
    _check_owner(sr, device)
    uuid = arguments.get("luks-uuid") or _lost(sr, device)
    force = truth("header-restore", arguments, FORCE.name)
    file = path("header-restore", arguments, "content-file")
    if file is not None:
        content = _read(file)
    else:
        if not uuid:
            raise ArgumentInvalid(
                "header-restore", "knows of no backup of what was on {}".format(shown(device)),
                "luks-uuid of one that this host keeps, or content-file, one that was exported")
        content = backup.export(_of_this_host("header-restore", uuid, arguments))
    recorded = {record.uuid: record.volume_key for record in sr.records if record is not None}
    restored = backup.restore(device, content, uuid, force, recorded.get(uuid, ""),
                              named="luks-uuid" in arguments)
    return {"device": device, "luks_uuid": restored.luks_uuid, "serial": restored.serial,
            "keys_that_came_back": restored.revived,
            "next": "xe pbd-plug uuid=$(xe pbd-list sr-uuid={} params=uuid --minimal)".format(
                sr.uuid)}


def _check_owner(sr: Repository, device: str) -> None:
    """Raises DeviceIsOurs for a disk of another encrypted SR, also where its header is damaged: no
    restoration overwrites that."""
    found = find_header(device)
    identity = LuksContainer(device, found).identity if found is not None else None
    owners = [identity.sr_uuid] if identity is not None else _left_of_owners(device)
    if owners and sr.uuid not in owners:
        raise DeviceIsOurs(device, owners[0])


def _left_of_owners(device: str) -> List[str]:
    """The SRs that damaged headers on `device` name, as far as it can be read: a sector that cannot
    may be cured by what is written over it. A device that is not there is told later."""
    found: List[str] = []
    with contextlib.suppress(DiskFails):
        for identity in traces(device):
            found.append(identity.sr_uuid)
    return found


def _lost(sr: Repository, device: str) -> str:
    """The LUKS UUID of the container whose header is to be restored; "" where none is known.

    The one that is on `device`; else the recorded one that cannot be read; without a record, as on
    the console, what this host backed up of the disk."""
    found = find_header(device)
    readable = [container.uuid for container in sr.readable]
    known = _recorded(sr) or backup.of_disk(device) or ([found.uuid] if found is not None else [])
    if found is not None and found.uuid in known:
        return found.uuid
    lost = [uuid for uuid in known if uuid not in readable] or known
    if len(lost) > 1:
        raise ArgumentInvalid("header-restore", "cannot tell which disk is meant",
                              "luks-uuid with one of " + ", ".join(lost))
    return (lost or [""])[0]


def _luks_uuids(sr: Repository) -> List[str]:
    return _recorded(sr) or [container.uuid for container in sr.readable]


def _recorded(sr: Repository) -> List[str]:
    return [record.uuid for record in sr.records if record is not None]


def _of_this_host(verb: str, luks_uuid: str, arguments: Arguments) -> Backup:
    serial = number(verb, arguments, "serial", 1, 10 ** 17)
    found = [one for one in backup.list_of(luks_uuid)
             if (one.serial == serial if serial is not None else one.reason != backup.BEFORE)]
    if not found:
        raise BackupMissing(luks_uuid)
    return found[-1]


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(backup.LARGEST_FILE)
    except OSError as error:
        raise ArgumentInvalid("header-restore",
                              "cannot read {} ({})".format(shown(file), error.strerror),
                              "a file of this host that header-export made") from error


def _described(one: Backup) -> Dict[str, Any]:
    return {"luks_uuid": one.luks_uuid, "serial": one.serial, "created": one.created,
            "reason": one.reason, "sha256": one.sha256}


VERBS = (
    Verb("header-backup", "back up the headers on this host, now", (), _backup,
         audited=False),
    Verb("header-list", "list the header backups of this host", (), _list, audited=False),
    Verb("header-export", "hand out the header backups, to be kept off this host", (_SERIAL, _TO),
         _export),
    Verb("header-restore", "write a header backup back to a disk whose header was lost",
         (_DEVICE, _SERIAL, _LUKS_UUID, _FILE, FORCE), _restore, mends=True),
)
