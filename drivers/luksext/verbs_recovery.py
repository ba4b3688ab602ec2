# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs for recovery keys: one key opens all disks of the SR, in a keyslot of each."""
from typing import Any, Callable, Dict, List, Optional, Sequence

from luksext import backup, escrow, keys, keyslots, untrusted, verb_slots
from luksext.container import LuksContainer, first_error_counts
from luksext.errors import ArgumentInvalid, LuksError, NoSuchKey
from luksext.keyslots import Slot, Way
from luksext.repository import Repository
from luksext.run import log, overtime
from luksext.verb import RECOVERY_KEY, Arguments, Parameter, Verb, number
from luksext.verb_slots import DEVICE, Meant

_NAME = Parameter("name", "what to call the key, such as safe: letters, digits, . _ -")
_TYPED = Parameter("key", "the recovery key, as it was shown; case and dashes do not matter",
                   required=True, secret=True)
_ESCROW = Parameter("escrow-jwk", "public key (JWK, in JSON) of your organisation: the recovery "
                                  "key is kept in the header, encrypted to it")


# Roles of keyslots.
_REVOCABLE = ("recovery", "unknown")


def way_in(container: LuksContainer, arguments: Arguments) -> Way:
    """A key that opens `container`: the given recovery key, else by a binding."""
    typed = arguments.get(RECOVERY_KEY.name)
    return keyslots.way_in(container, keys.as_typed(typed) if typed else None)


def on_all(sr: Repository, do: Callable[[LuksContainer], int],
           undo: Callable[[LuksContainer, int], None]) -> List[int]:
    """Does something on every disk; where that fails on one, takes it back on those before.

    do: returns the number of the keyslot that it made. Returns those numbers.
    """
    done = []
    for container in sr.containers:
        try:
            done.append(do(container))
        except BaseException:
            for earlier, slot in reversed(list(zip(sr.containers, done))):
                try:
                    undo(earlier.refreshed(), slot)
                except LuksError as error:
                    log.error("cannot undo: %s", error)
            raise
    return done


def _add(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    return _add_named(sr, arguments, arguments.get("name", "recovery"))


def _add_named(sr: Repository, arguments: Arguments, name: str) -> Dict[str, Any]:
    key = keys.generate()
    passphrase = keys.to_passphrase(key)
    sealed = _escrowed(passphrase, arguments.get(_ESCROW.name))
    slots = on_all(
        sr,
        lambda container: keyslots.add_recovery(
            container, way_in(container, arguments), name, passphrase, sealed),
        keyslots.take_back)
    return {"name": name, "recovery_key": key, "slots": slots, "escrow": sealed,
            "next": "Write it down: it is not shown again. Then prove that you have it: "
                    "luksext recovery-confirm --sr-uuid={}".format(sr.uuid)}


def _escrowed(passphrase: bytes, jwk: Optional[str]) -> str:
    if not jwk:
        return ""
    try:
        key = untrusted.parse(jwk)
    except ValueError:
        raise ArgumentInvalid("recovery-add", "cannot read escrow-jwk",
                              "a public key as JWK, in JSON") from None
    return escrow.seal(passphrase, key)


def _test(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    passphrase = keys.as_typed(arguments["key"])
    return _opened([keyslots.test(container, passphrase) for container in sr.containers])


def _confirm(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Notes that the administrator has the key; drops the key that it was made to replace."""
    passphrase = keys.as_typed(arguments["key"])
    confirmed = [keyslots.confirm(container, passphrase) for container in sr.containers]
    return dict(_opened(confirmed), confirmed=True)


def _opened(slots: List[Slot]) -> Dict[str, Any]:
    return {"name": slots[0].name, "slots": [slot.number for slot in slots]}


def _rotate(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """A new key; the old one goes on until the new one is confirmed, and is revoked by hand then:
    whoever loses the answer of this verb must not lose the way in."""
    old = arguments["name"]
    if not _named(sr.containers, old):
        raise _no_such_key(sr, arguments)
    made = _add_named(sr, arguments, arguments.get("new-name") or _next_name(sr, old))
    made["next"] += (", then drop the old one: luksext recovery-revoke --sr-uuid={} "
                     "--name={}".format(sr.uuid, old))
    return made


def _next_name(sr: Repository, name: str) -> str:
    taken = {slot.name for container in sr.containers for slot in keyslots.slots(container)}
    stem = name[:28]
    return next(candidate for candidate in ("{}.{}".format(stem, n) for n in range(2, 99))
                if candidate not in taken)


def _revoke(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Revokes the key on every disk that has it: a revocation that was cut short is repeated."""
    if bool(arguments.get("name")) == bool(arguments.get("slot")):
        raise ArgumentInvalid("recovery-revoke", "needs to know which key is meant",
                              "either name or slot, as `luksext status` shows them")
    containers = verb_slots.disks("recovery-revoke", sr, arguments)
    wanted = number("recovery-revoke", arguments, "slot", 0, 31)
    doomed = _named(containers, arguments["name"]) if wanted is None else \
        verb_slots.by_number("recovery-revoke", containers, wanted, _REVOCABLE)
    if not doomed:
        raise _no_such_key(sr, arguments)
    for container, slot in doomed:
        keyslots.check_revocable(container, slot)
    for container, slot in doomed:
        backup.outdate(container)
        keyslots.revoke(container, slot)
        backup.revoked(container.refreshed())
    return {"slots": verb_slots.numbers(sr, doomed),
            "next": "Header copies that were exported before still hold the key: destroy them."}


def _named(containers: Sequence[LuksContainer], name: str) -> List[Meant]:
    """Where the disks have the recovery key of that name."""
    return [Meant(container, slot.number) for container in containers
            for slot in _revocable(container) if slot.name == name]


def _revocable(container: LuksContainer) -> List[Slot]:
    return [slot for slot in keyslots.slots(container) if slot.role in _REVOCABLE]


def _no_such_key(sr: Repository, arguments: Arguments) -> NoSuchKey:
    known = {slot.name or str(slot.number) for container in sr.containers
             for slot in _revocable(container)}
    return NoSuchKey(sr.uuid, arguments.get("name") or arguments.get("slot") or "", sorted(known))


def _unlock(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Opens all disks by the recovery key, or none; plug then finds them open."""
    passphrase = keys.as_typed(arguments["key"])
    slots = [keyslots.test(container, passphrase) for container in sr.containers]
    opened: List[LuksContainer] = []
    try:
        for container, slot, record in zip(sr.containers, slots, sr.records):
            if container.open_by(slot.number, passphrase, record, sr.flags):
                opened.append(container)
    except BaseException:
        for container in reversed(opened):
            with overtime(), first_error_counts():
                container.close()
        raise
    return {"opened": [container.device for container in sr.containers],
            "next": "xe pbd-plug uuid=$(xe pbd-list sr-uuid={} params=uuid --minimal)".format(
                sr.uuid)}


VERBS = (
    Verb("recovery-add", "make a recovery key; it is shown once",
         (_NAME, _ESCROW, RECOVERY_KEY), _add),
    Verb("recovery-confirm", "prove that you have a recovery key, by typing it", (_TYPED,),
         _confirm),
    Verb("recovery-test", "tell which recovery key this is, and whether it opens", (_TYPED,),
         _test, audited=False),
    Verb("recovery-rotate", "make a new recovery key in the place of an old one",
         (_NAME._replace(required=True), Parameter("new-name", "what to call the new key"),
          _ESCROW, RECOVERY_KEY), _rotate),
    Verb("recovery-revoke", "make a recovery key useless",
         (_NAME, Parameter("slot", "number of its keyslot, in the place of the name"), DEVICE),
         _revoke),
    Verb("unlock", "open the disks by a recovery key, so that pbd-plug works", (_TYPED,), _unlock),
)
