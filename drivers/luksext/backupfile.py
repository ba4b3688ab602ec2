# SPDX-License-Identifier: LGPL-2.1-only
"""The file of a header backup: the area in front of the data, byte for byte, and a manifest.

The manifest lies behind the area, so that `cryptsetup luksDump` and `cryptsetup luksHeaderRestore`,
which do not look at the end of a file, take it as they take their own.
"""
import hashlib
import json
from typing import Dict, NamedTuple, Tuple

from luksext import header, untrusted
from luksext.errors import BackupDamaged, LuksError
from luksext.header import Header

# How a file ends: the manifest in a line, its SHA-256, and what the file is.
_END = b" luksext-header-backup 1\n"

# Bytes at the end of a file that hold its manifest.
TRAILER_LIMIT = 64 * 1024


class Backup(NamedTuple):
    """The manifest of a backup.

    serial: seconds since 1970 when it was made, and more than that of any before; so it tells which
    is newer on other hosts too. minimum: backups with a lesser serial hold keys that were revoked.
    created: the same time, ISO 8601 in UTC. reason: why it was made. device_size: in bytes.
    disk: the world-wide name of the disk, "" where it has none. payload_offset: where the data
    start, in bytes; so long is the area. marks: see Header; by slot, as JSON has them.
    sha256: of the area, in hexadecimal.
    """

    luks_uuid: str
    version: int
    serial: int
    minimum: int
    created: str
    reason: str
    device_size: int
    disk: str
    payload_offset: int
    volume_key: str
    marks: Dict[str, str]
    sha256: str


def pack(backup: Backup, area: bytes) -> bytes:
    """The file of `backup`, whose area is `area`."""
    text = json.dumps(backup._asdict(), sort_keys=True).encode("ascii")
    checksum = hashlib.sha256(text).hexdigest().encode("ascii")
    return b"\n".join([area, text, checksum + _END])


def unpack(content: bytes) -> Tuple[Backup, bytes, Header]:
    """The manifest, the area and the header in a file. Raises BackupDamaged."""
    backup, length = manifest(content)
    area = content[:-length]
    if hashlib.sha256(area).hexdigest() != backup.sha256:
        raise BackupDamaged("its checksum is not right")
    try:
        found = header.parse("the header backup", area)
    except LuksError as error:
        raise BackupDamaged("there is no intact header in it") from error
    if (found.uuid, found.volume_key, found.payload_offset, found.reencryption) != (
            backup.luks_uuid, backup.volume_key, len(area), None):
        raise BackupDamaged("its manifest is not that of its header")
    return backup, area, found


def manifest(content: bytes) -> Tuple[Backup, int]:
    """The manifest at the end of a file, and how many bytes it and its checksum take there."""
    tail = content[-TRAILER_LIMIT:]
    if not tail.endswith(_END):
        raise BackupDamaged("it is cut off, or is no file of luksext header-export")
    rest, _, checksum = tail[:-len(_END)].rpartition(b"\n")
    rest, _, text = rest.rpartition(b"\n")
    if hashlib.sha256(text).hexdigest().encode("ascii") != checksum:
        raise BackupDamaged("the checksum of its manifest is not right")
    try:
        return _checked(untrusted.typed(Backup(**untrusted.parse(text)))), len(tail) - len(rest)
    except (ValueError, TypeError) as error:
        raise BackupDamaged("its manifest is of another version") from error


def _checked(backup: Backup) -> Backup:
    """`backup` with its marks by the numbers of keyslots. Raises ValueError, TypeError."""
    marks = {str(untrusted.number(slot)): mark for slot, mark in dict(backup.marks).items()}
    if not all(isinstance(mark, str) for mark in marks.values()):
        raise TypeError("marks")
    return backup._replace(marks=marks)
