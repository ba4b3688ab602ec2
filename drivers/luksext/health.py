# SPDX-License-Identifier: LGPL-2.1-only
"""Does each binding open its keyslot, now? Asked without opening the volume, and remembered.

A proof costs the TPM or server an unsealing, seconds with some TPMs, so it is made rarely; what it
showed is told until the next one.
"""
import hashlib
from typing import Any, Dict, List, NamedTuple

from luksext import keyslots, times
from luksext.container import LuksContainer
from luksext.errors import LuksError, TimeOver
from luksext.state import Store
from luksext.untrusted import typed

_NOTE = "proofs"

# Seconds until a proof is made again; one that failed may be cured, and is looked at sooner.
INTERVAL = 6 * 3600
_FAILED_INTERVAL = 1800


class Proof(NamedTuple):
    """What came of trying a binding.

    slot: its keyslot. code: 0, or the code of the error, whose sentence is `sentence`.
    at: when, in UTC as ISO 8601. may_pass: that of the error (LuksError).
    """

    slot: int
    ok: bool
    code: int
    sentence: str
    at: str
    may_pass: bool = False


def prove(container: LuksContainer) -> List[Proof]:
    """Tries every binding of `container`, and remembers the outcome. Needs no open volume.

    Raises TimeOver, with nothing remembered: that tells nothing of a binding.
    """
    bindings = container.bindings
    proofs = [_prove(container, binding.slot) for binding in bindings]
    # What a sealed key says of PCRs and servers is known to be true once it was unsealed.
    sealed = _sealed(container)
    sealed.update({str(binding.slot): _digest(binding.jwe)
                   for binding, proof in zip(bindings, proofs) if proof.ok})
    Store(container.uuid).save(_NOTE, {
        "marks": _marks(container), "proofs": [proof._asdict() for proof in proofs],
        "sealed": sealed})
    return proofs


def was_changed(container: LuksContainer, slot: int) -> bool:
    """Whether the sealed key of the binding of `slot` is another than the one that opened the same
    key's keyslot when that was last proved."""
    proven = _sealed(container).get(str(slot))
    return any(binding.slot == slot and proven not in (None, _digest(binding.jwe))
               for binding in container.bindings)


def _sealed(container: LuksContainer) -> Dict[str, Any]:
    """By keyslot whose key is still in it, what tells the sealed key that opened it last."""
    note = Store(container.uuid).load(_NOTE)
    known, sealed = note.get("marks"), note.get("sealed")
    if not isinstance(known, dict) or not isinstance(sealed, dict):
        return {}
    return {slot: digest for slot, digest in sealed.items()
            if slot in known and known[slot] == _marks(container).get(slot)}


def _digest(jwe: str) -> str:
    return hashlib.sha256(jwe.encode("utf-8")).hexdigest()


def remembered(container: LuksContainer) -> List[Proof]:
    """The last proofs of the keys that are still in their keyslots."""
    note = Store(container.uuid).load(_NOTE)
    marks = _marks(container)
    noted = note.get("marks")
    known = noted if isinstance(noted, dict) else {}
    return [proof for proof in _proofs(note) if str(proof.slot) in marks
            and known.get(str(proof.slot)) == marks[str(proof.slot)]]


def due(container: LuksContainer, now: float, seconds: float = INTERVAL) -> bool:
    """Whether it is time to prove again.

    now: seconds since 1970. seconds: how long a proof is good for; one that failed is for a part
    of that. A key that came or went since, and a clock that was set back, make a proof due.
    """
    note = Store(container.uuid).load(_NOTE)
    if note.get("marks") != _marks(container):
        return True
    for proof in _proofs(note):
        age = now - times.read(proof.at)
        if not 0 <= age < (seconds if proof.ok else min(seconds, _FAILED_INTERVAL)):
            return True
    return False


def _prove(container: LuksContainer, slot: int) -> Proof:
    code, sentence, may_pass = 0, "", False
    try:
        keyslots.key_of(container, slot)
    except TimeOver:
        raise
    except LuksError as error:
        code, sentence, may_pass = error.code, error.sentence, error.may_pass
    return Proof(slot, code == 0, code, sentence, times.now(), may_pass)


def _marks(container: LuksContainer) -> Dict[str, str]:
    """The keys in all keyslots, as JSON holds them."""
    return {str(slot): mark for slot, mark in container.header.marks.items()}


def _proofs(note: Dict[str, Any]) -> List[Proof]:
    """The proofs in a note; none where it is damaged."""
    try:
        proofs = [typed(Proof(**fields)) for fields in note.get("proofs", [])]
        for proof in proofs:
            times.read(proof.at)
        return proofs
    except (TypeError, ValueError):
        return []
