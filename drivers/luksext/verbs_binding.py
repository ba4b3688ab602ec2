# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs for bindings: what unlocks the SR with nobody present."""
import time
from typing import Any, Dict, List, Optional

from luksext import backup, bindings, health, keyslots, options
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.errors import ArgumentInvalid, BindingHealthy
from luksext.repository import Repository
from luksext.verb import FORCE, RECOVERY_KEY, Arguments, Parameter, Verb, number, truth
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
    force = truth("binding-remove", arguments, FORCE.name)
    for container in sr.containers:
        slot = _slot("binding-remove", container, arguments)
        backup.outdate(container)
        bindings.remove(container, slot, force)
        backup.revoked(container.refreshed())
    return {}


def _rebind(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Disk by disk; one that was bound anew before this was cut short is left as it is."""
    pin = _pin(arguments)
    force = truth("rebind", arguments, FORCE.name)
    slots = []
    healthy: List[BindingHealthy] = []
    for container in sr.containers:
        try:
            slots.append(bindings.rebind(container, _slot("rebind", container, arguments),
                                         way_in(container, arguments), pin, force))
        except BindingHealthy as error:
            healthy.append(error)
    if not slots:
        raise healthy[0]
    for container in sr.containers:
        backup.revoked(container.refreshed())
    return {"slots": slots, "proofs": _proofs(sr)}


def _slot(verb: str, container: LuksContainer, arguments: Arguments) -> int:
    """The binding that is meant: the given slot, else the only one."""
    known = [slot.number for slot in keyslots.slots(container) if slot.role == "binding"]
    wanted = number(verb, arguments, "slot", 0, 31)
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted is None or wanted not in known:
        raise ArgumentInvalid(verb, "cannot tell which binding of {} is meant".format(
            container.device), "slot with one of {}".format(", ".join(map(str, known)) or "none"))
    return wanted


def _prove(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    """Whether each binding opens its keyslot now, without opening the volume."""
    proofs = _proofs(sr)
    return {"ok": all(proof["ok"] for proof in proofs), "proofs": proofs}


def _proofs(sr: Repository) -> List[Dict[str, Any]]:
    return [dict(proof._asdict(), device=container.device)
            for container in sr.containers for proof in health.prove(container.refreshed())]


def _suspend(sr: Repository, arguments: Arguments) -> Dict[str, Any]:
    hours = number("suspend", arguments, "hours", 1, 168) or 24
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600 * hours))
    slots = on_all(
        sr, lambda container: bindings.suspend(container, way_in(container, arguments), until),
        keyslots.take_back)
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
    Verb("binding-remove", "remove a binding", (_SLOT, FORCE), _remove),
    Verb("rebind", "replace a binding: by the same pin where TPM, PCRs or server changed, or by "
                   "another policy", (_SLOT, _PIN, _PIN_CONFIG, RECOVERY_KEY, FORCE), _rebind),
    Verb("prove", "prove that each binding still opens its keyslot", (), _prove,
         audited=False),
    Verb("suspend", "let one firmware update pass: until the next plug the SR opens without PCRs",
         (_HOURS, RECOVERY_KEY), _suspend),
    Verb("resume", "end a suspension now", (), _resume),
)
