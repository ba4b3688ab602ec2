# SPDX-License-Identifier: LGPL-2.1-only
"""Bindings: what opens a container with nobody present. Added, removed, renewed, suspended.

A new binding is proved before an old one goes: cut short at any step, a container has one too many,
never one too few. Callers see to it that one change at a time is made.
"""
import time
from typing import Any, Callable, Dict, List, Optional

from luksext import backup, begun, clevis, cryptsetup, health, keyslots, options, times
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.errors import (BindingChanged, BindingHealthy, KeyRefused, LastWayIn,
                            ReencryptionUnfinished, UnlockRefused, Unsupported)
from luksext.generation import Binding, Note
from luksext.keyslots import Slot, Way, take_back
from luksext.state import Store

# Is told of each change as soon as it is made: the verb that would make it, and its keyslot.
Told = Callable[[str, int], None]

# Suspensions of which the plug that ends them was there.
_PLUGGED = "suspension"


def add(container: LuksContainer, way: Way, pin: Pin) -> int:
    """Binds the container to `pin` as well; the number of the keyslot.

    Raises ReencryptionUnfinished, OptionInvalid, ToolMissing, HeaderFull; UnlockRefused's children
    where the TPM or server cannot seal now, or does not unseal what it sealed. A failure takes back
    what was begun.
    """
    return _add(container.refreshed(), way, pin)


def _add(container: LuksContainer, way: Way, pin: Pin,
         suspension: Optional[Dict[str, Any]] = None) -> int:
    """suspension: what to note of the keyslot. The note comes before the binding: at no moment does
    one without PCRs look as if it were to stay."""
    container.check_steady()
    pin = options.check_pin(pin)
    clevis.check_tools(pin)
    device, kind = container.device, container.generation
    key = clevis.new_key()
    jwe = clevis.seal(pin, key)
    slot = kind.free_slot(device, container.header)
    with keyslots.taken_back_on_failure(container, slot, key):
        cryptsetup.add_key(device, slot, way.key, key)
        if suspension is not None:
            added = container.refreshed()
            keyslots.note_suspension(added, slot)
            kind.write_note(device, added.header, Note("suspend", slot, suspension))
        kind.write_binding(device, Binding(slot, jwe))
        if keyslots.key_of(container.refreshed(), slot) != key:
            raise KeyRefused(device, slot)
    return slot


def remove(container: LuksContainer, slot: int, force: bool = False) -> None:
    """Destroys a binding. Raises what `check_removable` does."""
    check_removable(container, slot, force)
    take_back(container, slot)


def check_removable(container: LuksContainer, slot: int, force: bool) -> None:
    """Raises ReencryptionUnfinished, WrongSlot; LastWayIn where no recovery key is left, where
    nothing is proven to open the container, and without `force` where nothing would open it with
    nobody present."""
    container = container.refreshed()
    container.check_steady()
    keyslots.find(container, slot, ("binding",), "a binding")
    others = [other for other in keyslots.slots(container) if other.number != slot]
    recovery = [other for other in others if other.role == "recovery"]
    if not recovery:
        raise LastWayIn(container.device, slot, "the container has no recovery key",
                        "Add one first: luksext recovery-add")
    if not any(keyslots.is_proven(container, other.number) for other in _bindings(others)):
        if not any(other.confirmed for other in recovery):
            raise LastWayIn(
                container.device, slot, "no other binding opens the container, and nobody has "
                "proven to have a recovery key",
                "Type a recovery key first: luksext recovery-confirm")
        if not force:
            raise LastWayIn(
                container.device, slot, "no other binding opens the container with nobody present",
                "To remove it all the same: luksext binding-remove --slot={} --force=true".format(
                    slot))


def _bindings(slots: List[Slot]) -> List[Slot]:
    return [slot for slot in slots if slot.role == "binding"]


def rebind(container: LuksContainer, slot: int, way: Way, pin: Optional[Pin] = None,
           force: bool = False) -> int:
    """Replaces the binding of `slot`, by the same pin or another; the number of its new keyslot.

    Raises what `check_rebind` and `add` do, with the old binding left as it is.
    """
    container = container.refreshed()
    old = check_rebind(container, slot, pin, force)
    new = _add(container, way, pin or clevis.to_seal_again(old))
    take_back(container, slot)
    return new


def check_rebind(container: LuksContainer, slot: int, pin: Optional[Pin], force: bool) -> Pin:
    """The pin of a binding that is to be replaced.

    Raises ReencryptionUnfinished, WrongSlot; BindingHealthy without `force` where the binding opens
    its slot and `pin` asks for nothing else; BindingChanged where somebody else may have written
    what the binding asks for, and no `pin` is given.
    """
    container.check_steady()
    # What seems to be the old binding is a recovery key that waits for its note.
    if begun.waiting(container.header):
        raise ReencryptionUnfinished(container.device)
    old = keyslots.find(container, slot, ("binding",), "a binding")
    assert old.pin is not None
    if pin is None and health.was_changed(container, slot):
        raise BindingChanged(container.device, slot)
    unchanged = pin is None or _same(pin, old.pin)
    if unchanged and not force and keyslots.is_proven(container, slot):
        raise BindingHealthy(container.device, slot)
    return old.pin


def _same(pin: Pin, sealed: Pin) -> bool:
    """Whether `pin` asks for nothing that the sealed key has not."""
    wanted = dict(options.check_pin(pin).config)
    # The bank has a second name for sealing.
    wanted.pop("pcr_hash", None)
    found = {name: sealed.config.get(name) for name in [*wanted, "pcr_ids"]}
    return pin.name == sealed.name and found == dict({"pcr_ids": None}, **wanted)


def suspend(container: LuksContainer, way: Way, until: str) -> int:
    """Lets the container open without PCRs until it is plugged next; the number of the keyslot.

    The keyslot is bound as the first binding with PCRs is, but for those.
    until: ISO 8601 in UTC, as luksext.times has it: after that, it is over without a plug, and
    no binding is renewed.
    Raises Unsupported where no binding has PCRs, and what `add` raises.
    """
    container = container.refreshed()
    slots = keyslots.slots(container)
    slot = _add(container, way, _unmeasured(container, slots),
                {"until": until, "created": times.now()})
    for earlier in slots:
        if earlier.role == "suspend":
            drop_suspension(container, earlier.number)
    return slot


def drop_suspension(container: LuksContainer, suspended: int,
                    told: Told = lambda verb, slot: None) -> None:
    """Destroys the keyslot of a suspension, and with it the header backups of this host that hold
    it: whoever takes the host restores one by hand, and the TPM asks for no PCRs."""
    backup.outdate(container)
    take_back(container, suspended)
    told("resume", suspended)
    backup.revoked(container.refreshed())


def _is_future(until: str) -> bool:
    try:
        return times.read(until) > time.time()
    except ValueError:
        return False


def _unmeasured(container: LuksContainer, slots: List[Slot]) -> Pin:
    for slot in slots:
        if slot.role == "binding" and slot.pin and clevis.has_pcrs(slot.pin):
            return clevis.without_pcrs(clevis.to_seal_again(slot.pin))
    raise Unsupported(
        "No binding of {} depends on PCRs: a firmware update does not break it, and there is "
        "nothing to suspend.".format(container.device),
        "See what it is bound to with: luksext status")


def plugged(container: LuksContainer) -> bool:
    """Notes of suspensions that the plug was there with which they end: should that fail now, they
    are `is_over` until it is done. Whether there are any."""
    marks = [container.header.marks.get(slot.number) for slot in _suspended(container)]
    if marks:
        Store(container.uuid).save(_PLUGGED, {"marks": marks})
    return bool(marks)


def is_over(container: LuksContainer) -> bool:
    """Whether a suspension is to end: its time is over, or the plug that ends it was there."""
    noted = Store(container.uuid).load(_PLUGGED).get("marks")
    marks = noted if isinstance(noted, list) else []
    return any(not _is_future(slot.until) or container.header.marks.get(slot.number) in marks
               for slot in _suspended(container))


def _suspended(container: LuksContainer) -> List[Slot]:
    return [slot for slot in keyslots.slots(container) if slot.role == "suspend"]


def end_suspend(container: LuksContainer, told: Told = lambda verb, slot: None) -> bool:
    """Ends a suspension; whether there was one.

    Bindings with PCRs that do not open are renewed first, by the key of the suspension: the update
    that it was made for changed those. Past its time nothing is: nobody planned that change.
    Raises LastWayIn where nothing else is proven to open the container, the refusal of a binding
    that may pass by itself, and what `rebind` and `backup.revoked` raise; the suspension goes on
    then, unless only the backup failed.
    """
    container = container.refreshed()
    suspended = _suspended(container)
    for slot in suspended:
        container.check_steady()
        _renew(container.refreshed(), slot, told)
        _check_other_way(container, slot.number)
        drop_suspension(container, slot.number, told)
    return bool(suspended)


def _renew(container: LuksContainer, suspended: Slot, told: Told) -> None:
    stale = [slot.number for slot in _bindings(keyslots.slots(container))
             if slot.pin and clevis.has_pcrs(slot.pin) and _tried(container, slot.number) is None]
    if not stale or not _is_future(suspended.until):
        return
    key = _tried(container, suspended.number)
    if key is not None:
        for number in stale:
            told("rebind", rebind(container, number, Way(suspended.number, key)))


def _tried(container: LuksContainer, slot: int) -> Optional[bytes]:
    """The key that the binding of `slot` gives up; None where it is refused, twice.

    Raises a refusal that may pass, and ToolMissing: a TPM that is in lockout, or silent, is no
    reason to do without what it will open.
    """
    for _ in range(2):
        try:
            return keyslots.key_of(container, slot)
        except UnlockRefused as refusal:
            if refusal.may_pass:
                raise
    return None


def _check_other_way(container: LuksContainer, suspended: int) -> None:
    container = container.refreshed()
    others = [slot for slot in keyslots.slots(container) if slot.number != suspended]
    if not any(slot.confirmed for slot in others) and not any(
            keyslots.is_proven(container, slot.number) for slot in _bindings(others)):
        raise LastWayIn(
            container.device, suspended, "nothing else is proven to open the container",
            "Renew a binding, then end the suspension: luksext rebind; luksext resume")
