# SPDX-License-Identifier: LGPL-2.1-only
"""What the kernel does with an open container, compared with its header.

A line of a table is "START SECTORS TARGET PARAMETER…"; of the target crypt: "START SECTORS crypt
CIPHER KEY IV_OFFSET DEVICE OFFSET [N OPTIONS…]" (kernel, admin-guide/device-mapper/dm-crypt.rst).

A container has one line. One in re-encryption has a line for each volume key; and while cryptsetup
works on it, the mapping leads to a device NAME-overlay that has these lines, of which the part in
work leads through NAME-hotzone-forward, or -backward where the data were in clear before
(lib/luks2/luks2_reencrypt.c). What is in clear still has a line "START SECTORS linear DEVICE
OFFSET".
"""
import re
from typing import Dict, List

from luksext import cryptsetup, devices
from luksext.devices import Mapping
from luksext.errors import MappingMismatch
from luksext.header import SECTOR, Header

OVERLAY = "-overlay"

_START = re.compile(r"[0-9]{1,18}\Z")
_HOTZONES = ("-hotzone-forward", "-hotzone-backward")


def check(mapping: Mapping, device: str, header: Header) -> None:
    """Raises MappingMismatch unless `mapping` is what `header`, that of `device`, describes."""
    offset = header.payload_offset // SECTOR
    bases = {devices.number_of(device): offset}
    lines = cryptsetup.mapping_tables(mapping.name)
    if header.reencryption is not None:
        bases.update(_hotzones(mapping))
        if devices.is_mapped(mapping.name + OVERLAY):
            lines = _overlay(mapping, lines)
    elif len(lines) > 1:
        raise MappingMismatch(mapping.name, "{} parts".format(len(lines)), "one")
    if not lines:
        raise MappingMismatch(mapping.name, "nothing", header.cipher)
    moved = header.reencryption.moved if header.reencryption else None
    for line in lines:
        if moved is None or not _is_in_clear(line, device, offset, moved):
            _check_line(mapping, line, header.cipher, device, bases)


def _overlay(mapping: Mapping, lines: List[List[str]]) -> List[List[str]]:
    below = devices.named(mapping.name + OVERLAY)
    found = [" ".join(line[2:]) for line in lines]
    if below is None or found != ["linear {} 0".format(devices.number_of(below))]:
        raise MappingMismatch(mapping.name, ", ".join(found), "a part of a re-encryption")
    return cryptsetup.mapping_tables(mapping.name + OVERLAY)


def _hotzones(mapping: Mapping) -> Dict[str, int]:
    zones = [devices.named(mapping.name + suffix) for suffix in _HOTZONES]
    return {devices.number_of(zone): 0 for zone in zones if zone is not None}


def _is_in_clear(line: List[str], device: str, offset: int, moved: int) -> bool:
    """Whether that is a part of the disk that waits for its encryption, where it has always been;
    or the start, which gave way to the header."""
    start, *found = line[0], *line[2:]
    place = moved // SECTOR
    if start != "0":
        place = int(start) if _START.match(start) else 0
    return place >= offset and found == ["linear", devices.number_of(device), str(place)]


def _check_line(mapping: Mapping, line: List[str], cipher: str, device: str,
                bases: Dict[str, int]) -> None:
    start, target, *found = (line[i] if i < len(line) else "?" for i in (0, 2, 3, 5, 6, 7))
    disk = devices.number_of(device)
    below = found[2] if found[2] in bases else disk
    place = int(start) if _START.match(start) else 0
    # Sectors have the numbers that they have in the data (see `header`).
    expected = [cipher, str(place), below, str(bases[below] + place)]
    if target != "crypt" or found != expected:
        raise MappingMismatch(mapping.name, " ".join(found), " ".join(expected))
