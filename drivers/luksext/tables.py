# SPDX-License-Identifier: LGPL-2.1-only
"""What the kernel does with an open container, compared with its header.

A line of a table is "START SECTORS TARGET PARAMETER…"; of the target crypt: "START SECTORS crypt
CIPHER KEY IV_OFFSET DEVICE OFFSET [N OPTIONS…]" (kernel, admin-guide/device-mapper/dm-crypt.rst).

A container has one line. One in re-encryption has a line for each volume key; and while cryptsetup
works on it, the mapping leads to a device NAME-overlay that has these lines, of which the part in
work leads through NAME-hotzone-forward (lib/luks2/luks2_reencrypt.c).
"""
import re
from typing import Dict, List

from luksext import cryptsetup, devices
from luksext.devices import Mapping
from luksext.errors import MappingMismatch
from luksext.header import SECTOR, Header

OVERLAY = "-overlay"

_START = re.compile(r"[0-9]{1,18}\Z")
_HOTZONE = "-hotzone-forward"


def check(mapping: Mapping, device: str, header: Header) -> None:
    """Raises MappingMismatch unless `mapping` is what `header`, that of `device`, describes."""
    offset = header.payload_offset // SECTOR
    bases = {devices.number_of(device): offset}
    lines = cryptsetup.mapping_tables(mapping.name)
    if header.reencryption is not None:
        bases.update(_hotzone(mapping))
        if lines and lines[0][2:3] == ["linear"]:
            lines = _overlay(mapping, lines[0])
    elif len(lines) > 1:
        raise MappingMismatch(mapping.name, "{} parts".format(len(lines)), "one")
    if not lines:
        raise MappingMismatch(mapping.name, "nothing", header.cipher)
    for line in lines:
        _check_line(mapping, line, header.cipher, device, bases)


def _overlay(mapping: Mapping, line: List[str]) -> List[List[str]]:
    below = devices.named(mapping.name + OVERLAY)
    if below is None or line[3:] != [devices.number_of(below), "0"]:
        raise MappingMismatch(mapping.name, " ".join(line[2:]), "a part of a re-encryption")
    return cryptsetup.mapping_tables(mapping.name + OVERLAY)


def _hotzone(mapping: Mapping) -> Dict[str, int]:
    zone = devices.named(mapping.name + _HOTZONE)
    return {} if zone is None else {devices.number_of(zone): 0}


def _check_line(mapping: Mapping, line: List[str], cipher: str, device: str,
                bases: Dict[str, int]) -> None:
    start, target, *found = (line[i] if i < len(line) else "?" for i in (0, 2, 3, 6, 7))
    disk = devices.number_of(device)
    below = found[1] if found[1] in bases else disk
    expected = [cipher, below, str(bases[below] + int(start if _START.match(start) else 0))]
    if target != "crypt" or found != expected:
        raise MappingMismatch(mapping.name, " ".join(found), " ".join(expected))
