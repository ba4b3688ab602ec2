# SPDX-License-Identifier: LGPL-2.1-only
"""The two generations of LUKS headers: where each keeps a clevis binding and whose disk it is.

LUKS2 keeps bindings in tokens, and our identity in label and subsystem. LUKS1 keeps both in
luksmeta. Bindings are written as clevis writes them, so that clevis's own tools read them.
"""
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from luksext import clevis, cryptsetup
from luksext.header import Header, read

SUBSYSTEM = "luksext"

# clevis marks its data in luksmeta with this UUID (clevis-luks-bind).
_CLEVIS_UUID = "cb6e8904-81ff-40da-a84a-07ab9ab5715e"

# Our identity in luksmeta, in the last slot, so that clevis finds the first ones free.
_IDENTITY_UUID = "6b5b6f0e-4c1d-4be1-9d0c-3c8f5f0a5a6e"
_IDENTITY_SLOT = 7
_IDENTITY = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):([0-9]{1,3}):([0-9]{1,3})\Z")


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


GENERATIONS: Dict[int, Generation] = {1: Luks1(), 2: Luks2()}


def identity_of(device: str) -> Optional[Identity]:
    """Whose disk `device` is. Raises HeaderMissing and HeaderDamaged."""
    header = read(device)
    return GENERATIONS[header.version].identity(device, header)
