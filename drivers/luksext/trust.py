# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a header is the one that was recorded when its container was made.

Whoever had the disk in hand may have written any header to it: another container under the same
UUID to which he has a key, or one that makes cryptsetup work for days. So before any key is tried,
each copy of the header that cryptsetup might use is compared with what was recorded off the disk.
"""
from typing import Optional

from luksext import begun, devices, header, rollback
from luksext.errors import (ContainerReplaced, HeaderMismatch, HeaderOutdated, KeyCost,
                            ReencryptionForeign, RevokedKeyBack)
from luksext.header import Header
from luksext.configuration import CIPHERS
from luksext.record import Record

# A persistent flag (cryptsetup(8), --persistent) that shows which blocks are free. The others only
# change how fast it is.
DISCARDS = "allow-discards"
_HARMLESS = ("same-cpu-crypt", "submit-from-crypt-cpus", "no-read-workqueue", "no-write-workqueue",
             "high_priority")


def record_of(found: Header) -> Record:
    """What to note of the container with the header `found`."""
    return Record(found.uuid, found.cipher, found.key_bits, found.volume_key,
                  found.payload_offset)


def check(device: str, expected: Optional[Record], discard: bool = False) -> None:
    """Raises an error that names the difference unless `device` has the container `expected`.

    expected: None where nothing is recorded; then it must be one of the kind that we make.
    discard: whether discards may go through to the disk; the header must not have them do so else.
    Raises HeaderMismatch, ContainerReplaced, HeaderOutdated, RevokedKeyBack, KeyCost,
    ReencryptionForeign; HeaderMissing, HeaderDamaged, DiskFails.
    """
    for found in header.copies(device):
        _check_copy(device, found, expected, discard)


def check_current(device: str, found: Header) -> None:
    """Raises HeaderOutdated for the header of before a re-encryption that is not at its end: what
    has the new volume key would be noise, under a filesystem that writes."""
    if begun.is_outdated(found):
        raise HeaderOutdated(device, found.uuid)


def check_cost(device: str, found: Header) -> None:
    """Raises KeyCost where trying a key would take more than any header should ask for."""
    if found.excess:
        raise KeyCost(device, found.excess)


def _check_copy(device: str, found: Header, expected: Optional[Record], discard: bool) -> None:
    if expected is not None:
        _compare(device, "LUKS UUID", found.uuid, expected.uuid)
        _compare(device, "cipher", found.cipher, expected.cipher)
        _compare(device, "key size", str(found.key_bits), str(expected.key_bits))
        if expected.volume_key and found.volume_key != expected.volume_key \
                and not begun.has_ended(found.uuid, expected.volume_key, found.volume_key):
            raise ContainerReplaced(device)
        if expected.payload_offset:
            _compare(device, "payload offset", str(found.payload_offset),
                     str(expected.payload_offset))
    _compare_ciphers(device, "cipher", found.cipher)
    for cipher in found.keyslot_ciphers:
        _compare_ciphers(device, "keyslot cipher", cipher)
    _compare(device, "sector size", str(found.sector_size), str(devices.SECTOR))
    if found.unusual:
        raise HeaderMismatch(device, found.unusual, "a layout that cryptsetup makes")
    odd = set(found.flags) - {*_HARMLESS, *([DISCARDS] if discard else [])}
    if odd:
        raise HeaderMismatch(device, "persistent flags " + " ".join(sorted(odd)),
                             "none (device-config:discard=true allows {})".format(DISCARDS))
    check_current(device, found)
    if found.reencryption is None:
        _compare(device, "requirements", " ".join(found.requirements) or "none", "none")
    elif not begun.is_ours(found):
        raise ReencryptionForeign(device)
    slots = rollback.revived(found)
    if slots:
        raise RevokedKeyBack(device, slots)
    check_cost(device, found)


def _compare_ciphers(device: str, what: str, found: str) -> None:
    if found not in CIPHERS:
        _compare(device, what, found, " or ".join(CIPHERS))


def _compare(device: str, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise HeaderMismatch(device, "{} {}".format(what, found), expected)
