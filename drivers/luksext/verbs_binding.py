# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs for bindings: what unlocks the SR with nobody present."""
from typing import Any, Dict, List, Optional

from luksext import backup, bindings, health, keyslots, options, times, verb_slots
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.errors import ArgumentInvalid, BindingHealthy
from luksext.repository import Repository
from luksext.verb import FORCE, RECOVERY_KEY, Arguments, Parameter, Verb, number, truth
from luksext.verb_slots import DEVICE, Meant
from luksext.verbs_recovery import on_all, way_in

_PIN = Parameter("pin", "clevis pin: tpm2, tang, sss or another that is installed")
_PIN_CONFIG = Parameter("pin-config", "its configuration in JSON")
_SLOT = Parameter("slot", "number of the binding's keyslot, as `luksext status` shows it")
_HOURS = Parameter("hours", "how long the window stays open, 1 to 168 (default: 24)")


def _pin(arguments: Arguments) -> Optional[Pin]:
    if "pin" not in arguments and "pin-config" not in arguments:
        return None
    return options.parse_pin(arguments)


def _add(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    pin = options.parse_pin(arguments)
    slots = on_all(
        sr, lambda container: bindings.add(container, way_in(container, arguments), pin),
        keyslots.take_back)
    return {"slots": slots, "pin": pin.name}


def _remove(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Removes the binding on every disk that has it: a removal that was cut short is repeated."""
    force = truth("binding-remove", arguments, FORCE.name)
    doomed = _meant("binding-remove", sr, arguments)
    verb_slots.check_same("binding-remove", doomed)
    for container, slot in doomed:
        bindings.check_removable(container, slot, force)
    for container, slot in doomed:
        backup.outdate(container)
        bindings.remove(container, slot, force)
        backup.revoked(container.refreshed())
    return {"slots": verb_slots.numbers(sr, doomed)}


def _rebind(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Disk by disk; one that was bound anew before this was cut short is left as it is."""
    pin = _pin(arguments)
    force = truth("rebind", arguments, FORCE.name)
    due = []
    healthy: List[BindingHealthy] = []
    for container, slot in _meant("rebind", sr, arguments):
        try:
            bindings.check_rebind(container, slot, pin, force)
            due.append((container, slot, way_in(container, arguments)))
        except BindingHealthy as error:
            healthy.append(error)
    if not due:
        raise healthy[0]
    slots = []
    for container, slot, way in due:
        backup.outdate(container)
        slots.append(bindings.rebind(container, slot, way, pin, force=True))
        backup.revoked(container.refreshed())
    return {"slots": slots, "proofs": _proofs(sr)}


def _meant(verb: str, sr: Repository, arguments: Arguments) -> List[Meant]:
    """The binding that is meant, on the disks that have it: of the given slot, else the only one.
    """
    containers = verb_slots.disks(verb, sr, arguments)
    wanted = number(verb, arguments, "slot", 0, 31)
    if wanted is None:
        found = [Meant(container, slot) for container in containers
                 for slot in _only_binding(verb, container)]
    else:
        found = verb_slots.by_number(verb, containers, wanted, ("binding",))
    if not found:
        raise _which(verb, containers[0])
    return found


def _only_binding(verb: str, container: LuksContainer) -> List[int]:
    found = _bindings(container)
    if len(found) > 1:
        raise _which(verb, container)
    return found


def _which(verb: str, container: LuksContainer) -> ArgumentInvalid:
    return ArgumentInvalid(
        verb, "cannot tell which binding of {} is meant".format(container.device),
        "slot with one of {}".format(", ".join(map(str, _bindings(container))) or "none"))


def _bindings(container: LuksContainer) -> List[int]:
    return [slot.number for slot in keyslots.slots(container) if slot.role == "binding"]


def _prove(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Whether each binding opens its keyslot now, without opening the volume."""
    proofs = _proofs(sr)
    return {"ok": all(proof["ok"] for proof in proofs), "proofs": proofs}


def _proofs(sr: Repository) -> List[Dict[str, Any]]:
    return [dict(proof._asdict(), device=container.device)
            for container in sr.containers for proof in health.prove(container.refreshed())]


def _suspend(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    hours = number("suspend", arguments, "hours", 1, 168) or 24
    until = times.after(3600 * hours)
    slots = on_all(
        sr, lambda container: bindings.suspend(container, way_in(container, arguments), until),
        bindings.drop_suspension)
    return {"slots": slots, "until": until,
            "next": "Update the firmware and restart the host before {}: the next plug of the SR "
                    "ends this. To end it now: luksext resume --sr-uuid={}".format(until, sr.uuid)}


def _resume(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    slots: List[int] = []
    ended = [bindings.end_suspend(container, lambda verb, slot: slots.append(slot))
             for container in sr.containers]
    told = {"ended": ended, "slots": slots}
    if any(ended):
        told["next"] = "Header copies that were exported meanwhile open without PCRs: destroy them."
    return told


VERBS = (
    Verb("binding-add", "bind the SR to one more pin", (_PIN, _PIN_CONFIG, RECOVERY_KEY), _add),
    Verb("binding-remove", "remove a binding", (_SLOT, DEVICE, FORCE), _remove),
    Verb("rebind", "replace a binding: by the same pin where TPM, PCRs or server changed, or by "
                   "another policy",
         (_SLOT, DEVICE, _PIN, _PIN_CONFIG, RECOVERY_KEY, FORCE), _rebind),
    Verb("prove", "prove that each binding still opens its keyslot", (), _prove,
         audited=False),
    Verb("suspend", "let one firmware update pass: until the next plug the SR opens without PCRs",
         (_HOURS, RECOVERY_KEY), _suspend),
    Verb("resume", "end a suspension now", (), _resume),
)
