# SPDX-License-Identifier: LGPL-2.1-only
"""Which keyslots a verb means: a number is that of one disk, on another the key may lie elsewhere.

Two disks have the same key where `luksext status` tells the same of it: role and name, or pin and
policy. A disk that has it not is left out, so that a command that was cut short can be repeated.
"""
import os
from typing import Any, List, NamedTuple, Optional, Sequence

from luksext import clevis, keyslots
from luksext.container import LuksContainer
from luksext.errors import ArgumentInvalid
from luksext.keyslots import Slot
from luksext.repository import Repository
from luksext.untrusted import shown
from luksext.verb import Arguments, Parameter, path

DEVICE = Parameter("device", "do it on this disk only, as `luksext status` names it; needed where "
                             "the disks of the SR differ in their keys")

_POLICY = ("pcr_ids", "pcr_bank", "url")


class Meant(NamedTuple):
    """A disk, and the keyslot that is meant on it."""

    container: LuksContainer
    slot: int


def disks(verb: str, sr: Repository, arguments: Arguments) -> List[LuksContainer]:
    """The disks that are meant: all of the SR, or the one that is named."""
    wanted = path(verb, arguments, DEVICE.name)
    found = [container for container in sr.containers if wanted is None
             or os.path.realpath(container.device) == os.path.realpath(wanted)]
    if not found:
        raise ArgumentInvalid(
            verb, "does not find {} among the disks of the SR".format(shown(wanted or "")),
            "device with one of " + ", ".join(container.device for container in sr.containers))
    return found


def by_number(verb: str, containers: Sequence[LuksContainer], wanted: int,
              roles: Sequence[str]) -> List[Meant]:
    """Where the disks have the key that is in the keyslot `wanted`, of one of `roles`.

    Raises ArgumentInvalid where that slot has different keys, or it cannot be told which of several
    is the same on another disk: a key is not destroyed on a guess.
    """
    known = [[slot for slot in keyslots.slots(container) if slot.role in roles]
             for container in containers]
    keys = {told(slot) for slots in known for slot in slots if slot.number == wanted}
    same = [[slot.number for slot in slots if told(slot) in keys] for slots in known]
    several = any(len(numbers) > 1 for numbers in same)
    if len(keys) > 1 or (several and any(numbers and wanted not in numbers for numbers in same)):
        raise _differ(verb, "keyslot {}".format(wanted), containers)
    return [Meant(container, wanted if wanted in numbers else numbers[0])
            for container, numbers in zip(containers, same) if numbers]


def check_same(verb: str, found: Sequence[Meant]) -> None:
    """Raises ArgumentInvalid unless it is one key on all disks."""
    keys = {told(slot) for container, wanted in found for slot in keyslots.slots(container)
            if slot.number == wanted}
    if len(keys) > 1:
        raise _differ(verb, "it", [container for container, _ in found])


def numbers(sr: Repository, found: Sequence[Meant]) -> List[Optional[int]]:
    """The keyslot of each disk of the SR, None where it has none of `found`."""
    by_device = {container.device: slot for container, slot in found}
    return [by_device.get(container.device) for container in sr.containers]


def _differ(verb: str, what: str, containers: Sequence[LuksContainer]) -> ArgumentInvalid:
    return ArgumentInvalid(
        verb, "cannot tell which key is meant: {} is not the same on {}".format(
            what, " and ".join(container.device for container in containers)),
        "device with one of them, and the slot that `luksext status` shows there")


def told(slot: Slot) -> Any:
    """What tells a key from others, the same on all disks. Of one that nothing is known of, that is
    its number."""
    if slot.pin is None:
        return slot.role, slot.name or slot.number
    return slot.role, slot.name, tuple(
        (leaf.name, *(str(leaf.config.get(key, "")) for key in _POLICY))
        for leaf in clevis.sealed_leaves(slot.pin))
