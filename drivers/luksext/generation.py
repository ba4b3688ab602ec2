# SPDX-License-Identifier: LGPL-2.1-only
"""The two generations of LUKS headers: where each keeps a clevis binding and whose disk it is.

LUKS2 keeps bindings in tokens, and our identity in label and subsystem. LUKS1 keeps both in
luksmeta. Bindings are written as clevis writes them, so that clevis's own tools read them. Beside
them lie notes of our own, which say what a keyslot without binding is.
"""
import contextlib
import json
import re
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from luksext import clevis, cryptsetup, rawdisk, times, untrusted
from luksext.errors import DiskFails, HeaderFull
from luksext.header import Header, read, remains
from luksext.untrusted import number

SUBSYSTEM = "luksext"

# clevis marks its data in luksmeta with this UUID (clevis-luks-bind).
_CLEVIS_UUID = "cb6e8904-81ff-40da-a84a-07ab9ab5715e"

# Our identity in luksmeta, in the last slot, so that clevis finds the first ones free.
_IDENTITY_UUID = "6b5b6f0e-4c1d-4be1-9d0c-3c8f5f0a5a6e"
_IDENTITY_SLOT = 7

# How `luksmeta show` names a slot in which nothing is.
_EMPTY = "empty"

# Our notes in luksmeta.
_NOTE_UUID = "3f2a7c58-9b1e-4d06-8a77-5e0c1f6b2d94"
_TEXT = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):([0-9]{1,3}):([0-9]{1,3})"
_IDENTITY = re.compile(_TEXT + r"\Z")

# luksmeta saves each thing at the start of a block, before the data (libluksmeta.c, find_gap).
_SAVED = re.compile(_TEXT.encode("ascii"))
_BLOCK = 4096
_PIECE = 16 * _BLOCK
_LARGEST_HEADER = 16 << 20

# Our notes in LUKS2 tokens: this and the kind.
_NOTE_TYPE = "luksext-"

# LUKS2 On-Disk Format Specification 1.1.0, section 3.2; cryptsetup has the same limit.
_LUKS2_KEYSLOTS = 32


class Identity(NamedTuple):
    """Whose disk a container is: the SR's UUID, the disk's number from 0, and how many it has."""

    sr_uuid: str
    disk: int
    disks: int

    def __str__(self) -> str:
        return "{}:{}:{}".format(self.sr_uuid, self.disk, self.disks)


class Binding(NamedTuple):
    """A sealed key and the keyslot that it opens."""

    slot: int
    jwe: str


class Note(NamedTuple):
    """What is known of a keyslot: `kind` is one of NOTE_KINDS, `data` can be written as JSON."""

    kind: str
    slot: int
    data: Dict[str, Any]


NOTE_KINDS = ("recovery", "suspend")


def recovery_note(slot: int, name: str, confirmed: bool = False, created: str = "",
                  escrow: str = "") -> Note:
    """The note on a recovery key. created: ISO 8601 in UTC, now where not given; escrow: a JWE."""
    data: Dict[str, Any] = {"name": name, "confirmed": confirmed, "created": created or times.now()}
    if escrow:
        data["escrow"] = escrow
    return Note("recovery", slot, data)


class _Stored(NamedTuple):
    """A note in a header: the place that it has there, and its age; the highest is the newest.

    mark: in luksmeta, the mark of the key that it is about (`Header.marks`).
    """

    place: int
    serial: int
    note: Note
    mark: str = ""


def _newest(stored: Iterable[_Stored]) -> List[Note]:
    by_slot = {found.note.slot: found.note
               for found in sorted(stored, key=lambda found: found.serial)}
    return [by_slot[slot] for slot in sorted(by_slot)]


def _next_serial(stored: Iterable[_Stored]) -> int:
    return 1 + max((found.serial for found in stored), default=0)


def parse_identity(text: str) -> Optional[Identity]:
    """The identity that `str()` wrote, None where `text` is none."""
    match = _IDENTITY.match(text)
    if match is None:
        return None
    identity = Identity(match.group(1), int(match.group(2)), int(match.group(3)))
    return identity if identity.disk < identity.disks else None


class Generation:
    """What differs between the generations: `Luks1` and `Luks2`."""

    programs: Tuple[str, ...] = ()

    def write_identity(self, device: str, identity: Identity) -> None:
        """Marks the freshly formatted `device` as ours."""
        raise NotImplementedError

    def identity(self, device: str, header: Header) -> Optional[Identity]:
        """Whose disk it is, None where it is not ours."""
        raise NotImplementedError

    def write_binding(self, device: str, binding: Binding) -> None:
        """Adds `binding`, whose keyslot exists."""
        raise NotImplementedError

    def bindings(self, device: str, header: Header) -> List[Binding]:
        """The bindings whose keyslot is active, in the order in which they are tried."""
        raise NotImplementedError

    def remove_binding(self, device: str, header: Header, slot: int) -> None:
        """Removes the binding of `slot`, and every one whose keyslot is gone.

        header: as it was before or after the keyslot was destroyed, which comes first: a binding
        without keyslot opens nothing, a keyslot without binding looks like a passphrase.
        """
        raise NotImplementedError

    def notes(self, device: str, header: Header) -> List[Note]:
        """The notes on active keyslots, the newest of each."""
        raise NotImplementedError

    def write_note(self, device: str, header: Header, note: Note) -> None:
        """Adds `note` on an active keyslot, then removes what was noted of that before.

        Raises HeaderFull, with nothing changed.
        """
        raise NotImplementedError

    def remove_note(self, device: str, header: Header, slot: int) -> None:
        """Removes the notes of `slot`, and every one whose keyslot is gone."""
        raise NotImplementedError

    def free_slot(self, device: str, header: Header) -> int:
        """The number of a keyslot that is free, with room for a binding.

        Raises HeaderFull.
        """
        raise NotImplementedError


class Luks1(Generation):
    """LUKS1 and luksmeta."""

    programs = ("cryptsetup", "luksmeta")

    def write_identity(self, device: str, identity: Identity) -> None:
        cryptsetup.luksmeta_init(device)
        cryptsetup.luksmeta_save(device, _IDENTITY_SLOT, _IDENTITY_UUID,
                                 str(identity).encode("ascii"))

    def identity(self, device: str, header: Header) -> Optional[Identity]:
        data = cryptsetup.luksmeta_load(device, _IDENTITY_SLOT, _IDENTITY_UUID)
        return parse_identity(data.decode("ascii", "replace")) if data else None

    def write_binding(self, device: str, binding: Binding) -> None:
        cryptsetup.luksmeta_save(device, binding.slot, _CLEVIS_UUID, binding.jwe.encode("ascii"))

    def bindings(self, device: str, header: Header) -> List[Binding]:
        found = []
        for slot, uuid in sorted(cryptsetup.luksmeta_slots(device).items()):
            if uuid == _CLEVIS_UUID and slot in header.keyslots:
                data = cryptsetup.luksmeta_load(device, slot, uuid)
                if data:
                    found.append(Binding(slot, data.decode("ascii", "replace").strip()))
        return found

    def remove_binding(self, device: str, header: Header, slot: int) -> None:
        for place, uuid in cryptsetup.luksmeta_slots(device).items():
            if uuid == _CLEVIS_UUID and (place == slot or place not in header.keyslots):
                cryptsetup.luksmeta_wipe(device, place, uuid)

    def notes(self, device: str, header: Header) -> List[Note]:
        # cryptsetup knows nothing of luksmeta: a note outlives a key that was destroyed by hand.
        return _newest(found for found in self._stored(device)
                       if header.marks.get(found.note.slot) == found.mark)

    def write_note(self, device: str, header: Header, note: Note) -> None:
        stored = list(self._stored(device))
        content = dict(note.data, kind=note.kind, slot=note.slot, serial=_next_serial(stored),
                       mark=header.marks[note.slot])
        cryptsetup.luksmeta_save(device, self._place(device, note), _NOTE_UUID,
                                 json.dumps(content, sort_keys=True).encode("ascii"))
        self._wipe(device, [found for found in stored if found.note.slot == note.slot])

    def remove_note(self, device: str, header: Header, slot: int) -> None:
        self._wipe(device, [found for found in self._stored(device) if found.note.slot == slot
                            or found.note.slot not in header.keyslots])

    def free_slot(self, device: str, header: Header) -> int:
        taken = cryptsetup.luksmeta_slots(device)
        for slot in range(_IDENTITY_SLOT):
            if slot not in header.keyslots and taken.get(slot, _EMPTY) == _EMPTY:
                return slot
        raise HeaderFull(device, "another keyslot")

    def _stored(self, device: str) -> Iterator[_Stored]:
        for place, uuid in sorted(cryptsetup.luksmeta_slots(device).items()):
            if uuid == _NOTE_UUID:
                try:
                    content = untrusted.parse(cryptsetup.luksmeta_load(device, place, uuid) or b"")
                    kind, slot = content.pop("kind"), number(content.pop("slot"))
                    serial, mark = number(content.pop("serial")), str(content.pop("mark"))
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
                if kind in NOTE_KINDS:
                    yield _Stored(place, serial, Note(kind, slot, content), mark)

    def _place(self, device: str, note: Note) -> int:
        """Where luksmeta has room: beside the keyslot, unless that is to get a binding; else where
        another keyslot's binding is least likely to be."""
        taken = cryptsetup.luksmeta_slots(device)
        free = [place for place in reversed(range(_IDENTITY_SLOT))
                if taken.get(place, _EMPTY) == _EMPTY]
        if note.kind == "recovery" and note.slot in free:
            return note.slot
        for place in free:
            if place != note.slot:
                return place
        raise HeaderFull(device, "a note on keyslot {}".format(note.slot))

    def _wipe(self, device: str, stored: List[_Stored]) -> None:
        for found in stored:
            cryptsetup.luksmeta_wipe(device, found.place, _NOTE_UUID)


class Luks2(Generation):
    """LUKS2 and its tokens."""

    programs = ("cryptsetup",)

    def write_identity(self, device: str, identity: Identity) -> None:
        """Nothing to do: luksFormat wrote label and subsystem."""

    def identity(self, device: str, header: Header) -> Optional[Identity]:
        return parse_identity(header.label) if header.subsystem == SUBSYSTEM else None

    def write_binding(self, device: str, binding: Binding) -> None:
        protected, encrypted_key, iv, ciphertext, tag = clevis.split(binding.jwe)
        cryptsetup.import_token(device, {
            "type": "clevis", "keyslots": [str(binding.slot)],
            "jwe": {"protected": protected, "encrypted_key": encrypted_key, "iv": iv,
                    "ciphertext": ciphertext, "tag": tag}})

    def bindings(self, device: str, header: Header) -> List[Binding]:
        found = []
        for _, token in sorted(header.tokens.items()):
            parts = token.get("jwe")
            if token.get("type") == "clevis" and isinstance(parts, dict):
                jwe = ".".join(str(parts.get(key, "")) for key in
                               ("protected", "encrypted_key", "iv", "ciphertext", "tag"))
                slots = token.get("keyslots")
                found += [Binding(slot, jwe) for slot in header.keyslots
                          if isinstance(slots, list) and str(slot) in slots]
        return found

    def remove_binding(self, device: str, header: Header, slot: int) -> None:
        self._remove(device, header, ["clevis"], slot)

    def notes(self, device: str, header: Header) -> List[Note]:
        return _newest(found for found in self._stored(header)
                       if found.note.slot in header.keyslots)

    def write_note(self, device: str, header: Header, note: Note) -> None:
        stored = list(self._stored(header))
        cryptsetup.import_token(device, dict(
            note.data, type=_NOTE_TYPE + note.kind, keyslots=[str(note.slot)],
            serial=_next_serial(stored)))
        for found in stored:
            if found.note.slot == note.slot:
                cryptsetup.remove_token(device, found.place)

    def remove_note(self, device: str, header: Header, slot: int) -> None:
        self._remove(device, header, [_NOTE_TYPE + kind for kind in NOTE_KINDS], slot)

    def free_slot(self, device: str, header: Header) -> int:
        for slot in range(_LUKS2_KEYSLOTS):
            if slot not in header.keyslots + header.unbound:
                return slot
        raise HeaderFull(device, "another keyslot")

    def _stored(self, header: Header) -> Iterator[_Stored]:
        for place, token in sorted(header.tokens.items()):
            kind = str(token.get("type"))[len(_NOTE_TYPE):]
            try:
                serial, [slot] = number(token["serial"]), map(number, token["keyslots"])
            except (ValueError, KeyError, TypeError):
                continue
            if token.get("type") == _NOTE_TYPE + kind and kind in NOTE_KINDS:
                data = {key: value for key, value in token.items()
                        if key not in ("type", "keyslots", "serial")}
                yield _Stored(place, serial, Note(kind, slot, data))

    def _remove(self, device: str, header: Header, types: List[str], slot: int) -> None:
        """Removes the tokens of `types` for `slot` alone, or for none: cryptsetup takes a destroyed
        keyslot out of all tokens."""
        for place, token in sorted(header.tokens.items()):
            if token.get("type") in types and token.get("keyslots") in ([], [str(slot)]):
                cryptsetup.remove_token(device, place)


GENERATIONS: Dict[int, Generation] = {1: Luks1(), 2: Luks2()}


def traces(device: str) -> Iterator[Identity]:
    """Whose disk `device` is or was, as all say that is left of headers of ours, damaged or not.

    No program is run, for one that fails would tell that the disk is nobody's. Raises DiskFails
    after what can be read.
    """
    # What this cannot read, what follows cannot either.
    with contextlib.suppress(DiskFails):
        for found in remains(device):
            identity = parse_identity(found.label) if found.subsystem == SUBSYSTEM else None
            if identity is not None:
                yield identity
    for _, piece in rawdisk.pieces(device, range(0, _LARGEST_HEADER, _PIECE), _PIECE):
        for place in range(0, len(piece), _BLOCK):
            saved = _SAVED.match(piece, place)
            identity = parse_identity(saved.group().decode("ascii")) if saved else None
            if identity is not None:
                yield identity


def identity_of(device: str) -> Optional[Identity]:
    """Whose disk `device` is. Raises HeaderMissing, HeaderDamaged, DiskFails."""
    header = read(device)
    return GENERATIONS[header.version].identity(device, header)
