# SPDX-License-Identifier: LGPL-2.1-only
"""The state of an SR's encryption, as a dictionary that is JSON.

Cheap: headers are read and remembered proofs are told, nothing is unsealed. What needs attention is
told as codes of alerts (alerts.py).
"""
from typing import Any, Dict, List, Optional, Set

from luksext import backup, clevis, devices, health, keyslots, predict, reencrypt, times
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.errors import LuksError
from luksext.health import Proof
from luksext.keyslots import Slot
from luksext.repository import Repository

SCHEMA = 1


def of(sr: Repository) -> Dict[str, Any]:
    """The status of one SR."""
    disks = [_disk(disk) if isinstance(disk, LuksContainer) else _broken(disk)
             for disk in sr.disks]
    status = {"schema": SCHEMA, "sr_uuid": sr.uuid, "encrypted": True, "at": times.now(),
              "recovery": _recovery(disks), "disks": disks}
    status["alerts"] = sorted(_alerts(disks))
    return status


def _broken(error: LuksError) -> Dict[str, Any]:
    return {"error": {"code": error.code, "text": str(error)}}


def _disk(container: LuksContainer) -> Dict[str, Any]:
    mapping = container.mapping
    backups = backup.list_of(container.uuid)
    proofs = {proof.slot: proof for proof in health.remembered(container)}
    return {
        "device": container.device,
        "luks_uuid": container.uuid,
        "luks_version": container.header.version,
        "cipher": container.header.cipher,
        "key_bits": container.header.key_bits,
        "sector_size": container.header.sector_size,
        "size": devices.size_of(container.device),
        "open": mapping.path if mapping else "",
        "slots": [_slot(slot, proofs.get(slot.number)) for slot in keyslots.slots(container)],
        "header_backups": len(backups),
        "header_backup": backups[-1].created if backups else "",
        "header_backup_fresh": backup.is_fresh(container),
        "reencryption": reencrypt.progress(container)._asdict(),
    }


def _slot(slot: Slot, proof: Optional[Proof]) -> Dict[str, Any]:
    told: Dict[str, Any] = {"slot": slot.number, "role": slot.role}
    if slot.pin is not None:
        prediction = predict.predict(slot.pin)
        told.update(
            pin=slot.pin.name, policy=[_policy(leaf) for leaf in clevis.sealed_leaves(slot.pin)],
            next_boot={"state": prediction.state, "reason": prediction.reason},
            proof=None if proof is None else {
                "ok": proof.ok, "code": proof.code, "text": proof.sentence,
                "may_pass": proof.may_pass, "at": proof.at})
    if slot.role == "recovery":
        told.update(name=slot.name, confirmed=slot.confirmed, created=slot.created,
                    escrow=slot.escrow)
    if slot.role == "suspend":
        told.update(until=slot.until)
    return told


def _policy(leaf: Pin) -> Dict[str, str]:
    """What of a pin tells an administrator what it depends on."""
    told = {"pin": leaf.name}
    for key in ("pcr_ids", "pcr_bank", "url"):
        if leaf.config.get(key):
            told[key] = str(leaf.config[key])
    return told


def _recovery(disks: List[Dict[str, Any]]) -> str:
    """confirmed, unconfirmed or none: the state of the disk that is off worst; unknown where none
    can be read."""
    states = []
    for disk in _readable(disks):
        recovery = [slot for slot in disk["slots"] if slot["role"] == "recovery"]
        states.append("confirmed" if any(slot["confirmed"] for slot in recovery)
                      else "unconfirmed" if recovery else "none")
    return next((state for state in ("none", "unconfirmed", "confirmed") if state in states),
                "unknown")


def _readable(disks: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """A disk that is missing has keys all the same: of the others is told what is known."""
    return [disk for disk in disks if "error" not in disk]


def _alerts(disks: List[Dict[str, Any]]) -> Set[str]:
    found: Set[str] = set()
    for disk in disks:
        found |= _alerts_of_disk(disk)
    recovery = _recovery(disks)
    # No key is added or confirmed while data are encrypted anew.
    steady = all(disk["reencryption"]["state"] == "none" for disk in _readable(disks))
    if steady and recovery in ("none", "unconfirmed"):
        found.add({"none": "LUKS-W001", "unconfirmed": "LUKS-W002"}[recovery])
    if len(set(map(_keys_of, _readable(disks)))) > 1:
        found.add("LUKS-W008")
    return found


def _keys_of(disk: Dict[str, Any]) -> str:
    """The ways into a disk without the numbers of their slots, to compare disks."""
    return repr(sorted((slot["role"], slot.get("name", ""), slot.get("pin", ""),
                        repr(slot.get("policy", "")))
                       for slot in disk["slots"]))


def _alerts_of_disk(disk: Dict[str, Any]) -> Set[str]:
    if "error" in disk:
        return {"LUKS-W012"}
    found = set()
    for slot in disk["slots"]:
        proof = slot.get("proof")
        if proof and not proof["ok"]:
            found.add("LUKS-W011" if proof["may_pass"] else "LUKS-W003")
        if slot.get("next_boot", {}).get("state") == "breaks":
            found.add("LUKS-W004")
        if slot["role"] == "suspend":
            found.add("LUKS-W006")
        if slot["role"] == "unknown":
            found.add("LUKS-W007")
    encrypting = disk["reencryption"]["state"]
    if encrypting in ("interrupted", "stuck"):
        found.add("LUKS-W009")
    if encrypting == "none" and not disk["header_backup_fresh"]:
        found.add("LUKS-W005")
    return found
