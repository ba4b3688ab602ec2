# SPDX-License-Identifier: LGPL-2.1-only
"""What each keyslot of a container is, and recovery keys: added, proved, confirmed, revoked.

Every change is made in an order that leaves a way in when it is cut short: what is new is added and
proved before anything is removed. Callers see to it that one change at a time is made.
"""
import contextlib
import re
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence

from luksext import clevis, cryptsetup, rollback
from luksext.clevis import Pin
from luksext.container import LuksContainer, add_recovery_key
from luksext.errors import (KeyRefused, LastWayIn, LuksError, MemoryShort, NameRefused, ToolMissing,
                            UnlockRefused, WrongRecoveryKey, WrongSlot)
from luksext.generation import Note, recovery_note
from luksext.run import log, overtime
from luksext.state import Store

# In the order in which a typed key is tried on them.
ROLES = ("recovery", "unknown", "binding", "suspend")

# The suspensions that this host made, and how many of the newest are remembered.
_SUSPENSIONS = "suspensions"
_SUSPENSIONS_KEPT = 16

_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}\Z")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
_JWE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){4}\Z")


class Slot(NamedTuple):
    """An active keyslot.

    role: one of ROLES. name: of a recovery key, or of the pin. pin: as in the sealed key, None
    without binding. confirmed: somebody typed the key, and it opened. created: ISO 8601 in UTC.
    escrow: a JWE or "". until: when a suspension ends, ISO 8601 in UTC.
    """

    number: int
    role: str
    name: str
    pin: Optional[Pin]
    confirmed: bool
    created: str
    escrow: str
    until: str = ""


class Way(NamedTuple):
    """A key that opens the container, and the keyslot that it opens."""

    slot: int
    key: bytes


def slots(container: LuksContainer) -> List[Slot]:
    """Every active keyslot, by number."""
    generation, device, header = container.generation, container.device, container.header
    pins = {binding.slot: clevis.describe(binding.jwe)
            for binding in container.bindings}
    notes = {note.slot: note for note in generation.notes(device, header)}
    return [_slot(number, pins.get(number), _believed(container, notes.get(number)))
            for number in header.keyslots]


def _believed(container: LuksContainer, note: Optional[Note]) -> Optional[Note]:
    """`note`; of an unknown kind where it tells of a suspension that this host did not make."""
    if note and note.kind == "suspend" \
            and container.header.marks.get(note.slot) not in _suspensions(container):
        return note._replace(kind="unknown")
    return note


def note_suspension(container: LuksContainer, number: int) -> None:
    """Notes on this host that the keyslot is a suspension. Its end destroys the keyslot, and may
    renew bindings: for that, what a header says is not enough. Raises NotWritten."""
    marks = [*_suspensions(container), container.header.marks[number]]
    Store(container.uuid).save(_SUSPENSIONS, {"marks": marks[-_SUSPENSIONS_KEPT:]})


def _suspensions(container: LuksContainer) -> List[str]:
    marks = Store(container.uuid).load(_SUSPENSIONS).get("marks")
    return [mark for mark in marks if isinstance(mark, str)] if isinstance(marks, list) else []


def _slot(number: int, pin: Optional[Pin], note: Optional[Note]) -> Slot:
    """A header is data that anybody may have written: of a note, only what has its form counts."""
    data = note.data if note else {}

    def text(name: str, form: Any) -> str:
        return data[name] if isinstance(data.get(name), str) and form.match(data[name]) else ""

    created = text("created", _TIME)
    if note and note.kind == "unknown":
        return Slot(number, "unknown", "", None, False, "", "")
    if note and note.kind == "suspend":
        return Slot(number, "suspend", pin.name if pin else "", pin, False, created, "",
                    text("until", _TIME))
    if pin:
        return Slot(number, "binding", pin.name, pin, False, created, "")
    if note:
        return Slot(number, "recovery", text("name", _NAME), None, data.get("confirmed") is True,
                    created, text("escrow", _JWE))
    return Slot(number, "unknown", "", None, False, "", "")


def find(container: LuksContainer, number: int, roles: Sequence[str], wanted: str) -> Slot:
    """The keyslot `number`. Raises WrongSlot unless its role is one of `roles`."""
    for slot in slots(container):
        if slot.number == number:
            if slot.role in roles:
                return slot
            raise WrongSlot(container.device, number, "of the role " + slot.role, wanted)
    raise WrongSlot(container.device, number, "not in use", wanted)


def way_in(container: LuksContainer, passphrase: Optional[bytes] = None) -> Way:
    """`passphrase`, else the key of the first binding that gives one up, proved to open its slot.

    Raises WrongRecoveryKey; NoBinding, ToolMissing, UnlockRefused's children.
    """
    if passphrase is not None:
        return Way(test(container, passphrase).number, passphrase)

    def prove(slot: int, key: bytes) -> None:
        if not container.opened_by(slot, key):
            raise KeyRefused(container.device, slot)

    return Way(*container.by_binding(prove))


def key_of(container: LuksContainer, slot: int) -> bytes:
    """The key that the binding of `slot` gives up, proved to open it.

    Raises WrongSlot, ToolMissing, UnlockRefused's children.
    """
    for binding in container.bindings:
        if binding.slot == slot:
            key = clevis.unseal(binding.jwe)
            if container.opened_by(slot, key):
                return key
            raise KeyRefused(container.device, slot)
    raise WrongSlot(container.device, slot, "not bound", "a binding")


def is_proven(container: LuksContainer, slot: int) -> bool:
    """Whether the binding of `slot` opens it now."""
    try:
        key_of(container, slot)
    except (UnlockRefused, ToolMissing):
        return False
    return True


def test(container: LuksContainer, passphrase: bytes) -> Slot:
    """The keyslot that `passphrase` opens. Raises WrongRecoveryKey; MemoryShort where there is too
    little for one of the keyslots that might have been it."""
    refusal: LuksError = WrongRecoveryKey(container.device)
    for slot in sorted(slots(container), key=lambda slot: ROLES.index(slot.role)):
        try:
            if container.opened_by(slot.number, passphrase):
                return slot
        except MemoryShort as error:
            refusal = error
    raise refusal


def add_recovery(container: LuksContainer, way: Way, name: str, key: bytes,
                 escrow: str = "") -> int:
    """Puts `key` into a free keyslot as the recovery key `name`, and proves it; its number.

    key: of `keys.to_passphrase`.
    escrow: the key as `escrow.seal` encrypted it, kept beside it.
    Raises ReencryptionUnfinished, NameRefused, HeaderFull. A failure takes back what was begun.
    """
    container = container.refreshed()
    container.check_steady()
    device, generation = container.device, container.generation
    _check_name(container, name)
    slot = generation.free_slot(device, container.header)
    with taken_back_on_failure(container, slot, key):
        add_recovery_key(device, container.header.version, slot, way.key, key)
        generation.write_note(device, container.refreshed().header,
                              recovery_note(slot, name, escrow=escrow))
        if not container.opened_by(slot, key):
            raise KeyRefused(device, slot)
    return slot


def _check_name(container: LuksContainer, name: str) -> None:
    if not _NAME.match(name):
        raise NameRefused(name, "it has characters that names have not, or is too long")
    if name in _names(container):
        raise NameRefused(name, "{} has a key of that name".format(container.device))


def _names(container: LuksContainer) -> List[str]:
    return [slot.name for slot in slots(container) if slot.role == "recovery"]


def confirm(container: LuksContainer, passphrase: bytes) -> Slot:
    """Notes that somebody has the key of the keyslot that `passphrase` opens; that keyslot.

    One of which nothing was known becomes a recovery key called "passphrase".
    Raises ReencryptionUnfinished, WrongRecoveryKey; WrongSlot for the key of a binding.
    """
    container = container.refreshed()
    container.check_steady()
    slot = test(container, passphrase)
    if slot.role not in ("recovery", "unknown"):
        raise WrongSlot(container.device, slot.number, "of the role " + slot.role,
                        "a recovery key")
    note = recovery_note(slot.number, slot.name or _free_name(container), True, slot.created,
                         slot.escrow)
    if not slot.confirmed:
        container.generation.write_note(container.device, container.header, note)
    return _slot(slot.number, None, note)


def _free_name(container: LuksContainer) -> str:
    taken = _names(container)
    candidates = ["passphrase", *("passphrase{}".format(n) for n in range(2, len(taken) + 3))]
    return next(name for name in candidates if name not in taken)


def revoke(container: LuksContainer, slot: int) -> None:
    """Destroys a keyslot that is a recovery key, or of which nothing is known. Raises what
    `check_revocable` does."""
    check_revocable(container, slot)
    take_back(container, slot)


def check_revocable(container: LuksContainer, slot: int) -> None:
    """Raises ReencryptionUnfinished, WrongSlot, LastWayIn: a recovery key must be left, one that is
    confirmed where this one is, and something that is proven to open the container."""
    container = container.refreshed()
    container.check_steady()
    doomed = find(container, slot, ("recovery", "unknown"), "a recovery key")
    others = [other for other in slots(container) if other.number != slot]
    recovery = [other for other in others if other.role == "recovery"]
    if not recovery:
        raise LastWayIn(container.device, slot, "no recovery key would be left",
                        "Add another first: luksext recovery-add")
    if not any(other.confirmed for other in recovery):
        bindings = [other.number for other in others if other.role == "binding"]
        if doomed.confirmed or not any(is_proven(container, number) for number in bindings):
            raise LastWayIn(container.device, slot, "nobody has proven to have another recovery "
                            "key", "Type the other one first: luksext recovery-confirm")


def take_back(container: LuksContainer, slot: int) -> None:
    """Destroys `slot` with its binding and note; the caller knows that it is not needed.

    The keyslot comes first: what is left of an interrupted removal opens nothing.
    """
    container = container.refreshed()
    if slot in container.header.keyslots:
        cryptsetup.kill_slot(container.device, slot)
    container.generation.remove_binding(container.device, container.header, slot)
    container.generation.remove_note(container.device, container.header, slot)
    if slot in container.header.marks:
        rollback.note(container.uuid, container.header.marks[slot])


@contextlib.contextmanager
def taken_back_on_failure(container: LuksContainer, slot: int, key: bytes) -> Iterator[None]:
    """For filling `slot`, which is free, with `key`: a failure leaves it free again. If somebody
    else filled it meanwhile, which may be what failed, `key` does not open it, and it stays."""
    try:
        yield
    except BaseException:
        try:
            with overtime():
                container = container.refreshed()
                if slot not in container.header.keyslots or container.opened_by(slot, key):
                    take_back(container, slot)
        except LuksError as error:
            log.error("cannot clean up: %s", error)
        raise
