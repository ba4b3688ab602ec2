# SPDX-License-Identifier: LGPL-2.1-only
"""What a LUKS header says, read straight from the disk.

No program is run: a header can be read while the container is locked, in microseconds, on every
version of cryptsetup. Layouts: "LUKS On-Disk Format Specification" 1.2.3 and "LUKS2 On-Disk Format
Specification" 1.1.0. A header is data from a disk that anybody may have written: sizes are bounded,
checksums are verified, and what does not parse is `HeaderDamaged`.
"""
import hashlib
import io
import os
import struct
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from luksext import costs, rawdisk, untrusted
from luksext.devices import SECTOR
from luksext.errors import DiskFails, HeaderDamaged, HeaderMissing
from luksext.untrusted import number

_MAGIC = b"LUKS\xba\xbe"
_MAGIC_SECONDARY = b"SKUL\xba\xbe"
_BINARY_SIZE = 4096

# Where a LUKS2 secondary header may start: the sizes that the specification allows for the first.
_SECONDARY_OFFSETS = tuple(0x4000 << n for n in range(9))

# Where the copies of a LUKS2 header may start, each with its own magic.
_PLACES = ((0, _MAGIC), *((offset, _MAGIC_SECONDARY) for offset in _SECONDARY_OFFSETS))

_LUKS1_KEYSLOT_ENABLED = 0x00AC71F3
_LUKS1_KEYSLOTS = 8

# What cryptsetup 2.4.3 and later require of a reader of a container in re-encryption: to verify the
# metadata by both volume keys (lib/luks2/luks2_json_metadata.c; CVE-2021-4122).
REENCRYPTION = "online-reencrypt-v2"

# cryptsetup writes sha256 (lib/luks2/luks2_disk_metadata.c); the specification allows others.
_CHECKSUMS = ("sha1", "sha256", "sha512")


class Reencryption(NamedTuple):
    """A re-encryption that is not at its end, or an encryption of data that were in clear before.

    done: bytes that have the new volume key, None for all. volume_key: the new one, as in `Header`.
    moved: of an encryption, where the start of the data in clear lies now, in bytes: the header is
    in its place. Else None.
    """

    done: Optional[int]
    volume_key: str
    moved: Optional[int] = None


class Header(NamedTuple):
    """One LUKS header.

    version: 1 or 2. uuid: the container's. label, subsystem: texts, LUKS2 only.
    cipher: as dm-crypt names it. key_bits: size of the volume key in bits.
    sector_size: of the encryption, in bytes. payload_offset: where the data start, in bytes.
    keyslots: the numbers of the active keyslots. keyslot_ciphers: what those are encrypted with.
    tokens: LUKS2 token objects by number. requirements: LUKS2 features that a reader must know.
    volume_key: what tells the volume key from another, and not what it is.
    reencryption: None unless one is unfinished; then keyslots, and those that tokens name, are the
    ones for the new volume key. unbound: keyslots that open nothing (yet).
    marks: by keyslot, what tells its key from another that was in the slot before or comes later.
    excess: what it asks for before a key is tried, and no host should do; "" for nothing.
    unusual: what in the layout of the data cryptsetup never writes, and could show others than
    those that were encrypted; "" for nothing. flags: how LUKS2 is opened, whatever we ask for.
    argon2: keyslots that take memory to try, up to 1 GiB each; of any volume key.
    """

    version: int
    uuid: str
    label: str
    subsystem: str
    cipher: str
    key_bits: int
    sector_size: int
    payload_offset: int
    keyslots: List[int]
    keyslot_ciphers: List[str]
    tokens: Dict[int, Dict[str, Any]]
    requirements: List[str]
    volume_key: str
    reencryption: Optional[Reencryption]
    unbound: List[int]
    marks: Dict[int, str]
    excess: str = ""
    unusual: str = ""
    flags: Tuple[str, ...] = ()
    argon2: Tuple[int, ...] = ()


def read(device: str) -> Header:
    """The header of `device`.

    Raises HeaderMissing where there is none, HeaderDamaged where it cannot be trusted, DiskFails
    where it cannot be read.
    """
    return next(_copies_of(device))


def copies(device: str) -> List[Header]:
    """Every intact copy of the header of `device`, first that of `read`.

    They may differ after a power cut; and cryptsetup, which has more reasons than we to drop a copy
    that is intact, may open by any of them. Raises as `read`.
    """
    return list(_copies_of(device))


def parse(name: str, content: bytes) -> Header:
    """The header in `content`, the start of a disk; errors call it `name`. Raises as `read`."""
    return next(_parsed(name, io.BytesIO(content)))


def _copies_of(device: str) -> Iterator[Header]:
    with rawdisk.opened(device) as disk:
        yield from _parsed(device, disk)


def _parsed(device: str, disk: Any) -> Iterator[Header]:
    start = disk.read(_BINARY_SIZE)
    if start[:6] == _MAGIC and start[6:8] == b"\0\1":
        yield _parse_luks1(device, start)
        return
    found = _luks2_copies(disk)
    if not found and start[:6] == _MAGIC:
        raise HeaderDamaged(device, "neither of its two copies is intact")
    if not found:
        raise HeaderMissing(device)
    for binary, text in found:
        yield _parse_luks2(device, binary, text)


def _mark(salt: bytes) -> str:
    # Each key gets a random salt when it is put into a slot.
    return hashlib.sha256(salt).hexdigest()[:16]


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


def _parse_luks1(device: str, start: bytes) -> Header:
    if len(start) < 592:
        raise HeaderDamaged(device, "it is cut off")
    payload_sectors, key_bytes = struct.unpack(">II", start[104:112])
    cipher = "{}-{}".format(_text(start[8:40]), _text(start[40:72]))
    slots = [slot for slot in range(_LUKS1_KEYSLOTS)
             if struct.unpack_from(">I", start, 208 + 48 * slot)[0] == _LUKS1_KEYSLOT_ENABLED]
    return Header(
        version=1, uuid=_text(start[168:208]), label="", subsystem="", cipher=cipher,
        key_bits=8 * key_bytes, sector_size=SECTOR, payload_offset=SECTOR * payload_sectors,
        keyslots=slots, keyslot_ciphers=[cipher], tokens={}, requirements=[],
        volume_key=start[112:132].hex(), reencryption=None, unbound=[],
        marks={slot: _mark(start[216 + 48 * slot:248 + 48 * slot]) for slot in slots},
        excess=costs.excess_of_luks1(start, slots))


def _luks2_copies(disk: Any) -> List[Tuple[bytes, bytes]]:
    """(binary header, JSON text) of each intact copy. The highest serial number comes first, as
    cryptsetup takes it (lib/luks2/luks2_disk_metadata.c, LUKS2_disk_hdr_read)."""
    found = [_luks2_metadata(disk, offset, magic) for offset, magic in _PLACES]
    return sorted(filter(None, found), key=lambda copy: _serial(copy[0]), reverse=True)


def _serial(binary: bytes) -> int:
    return int(struct.unpack(">Q", binary[16:24])[0])


def _luks2_metadata(disk: Any, offset: int, magic: bytes) -> Optional[Tuple[bytes, bytes]]:
    """(binary header, JSON text) of one copy at `offset`, None where none is intact."""
    disk.seek(offset)
    binary = disk.read(_BINARY_SIZE)
    if binary[:8] != magic + b"\0\2" or len(binary) < _BINARY_SIZE:
        return None
    size = struct.unpack(">Q", binary[8:16])[0]
    if size not in _SECONDARY_OFFSETS or struct.unpack(">Q", binary[256:264])[0] != offset:
        return None
    area = disk.read(size - _BINARY_SIZE)
    algorithm = _text(binary[72:104])
    if algorithm not in _CHECKSUMS:
        return None
    digest = hashlib.new(algorithm)
    digest.update(binary[:448] + bytes(64) + binary[512:])
    digest.update(area)
    checksum = digest.digest()
    if binary[448:448 + len(checksum)] != checksum:
        return None
    return binary, area.split(b"\0", 1)[0]


def _parse_luks2(device: str, binary: bytes, text: bytes) -> Header:
    try:
        metadata = untrusted.parse(text)
        config = metadata.get("config", {})
        requirements = [str(requirement) for requirement in config.get("requirements", {}).get(
            "mandatory", [])]
        segment, current, target = _data_segment(device, metadata, REENCRYPTION in requirements)
        stored = {number(name): slot for name, slot in metadata["keyslots"].items()
                  if slot["type"] != "reencrypt"}
        key_bytes = {number(slot["key_size"]) for slot in stored.values()}
        if len(key_bytes) > 1:
            raise HeaderDamaged(device, "its keyslots are for keys of different sizes")
        unbound = _keyslots_of_others(metadata, target or current)
        keyslots = {name: slot for name, slot in stored.items() if name not in unbound}
        return Header(
            version=2, uuid=_text(binary[168:208]), label=_text(binary[24:72]),
            subsystem=_text(binary[208:256]), cipher=str(segment["encryption"]),
            key_bits=8 * max(key_bytes, default=0), sector_size=number(segment["sector_size"]),
            payload_offset=number(segment["offset"]), keyslots=sorted(keyslots),
            keyslot_ciphers=[str(slot["area"]["encryption"]) for slot in stored.values()],
            tokens={number(name): _without_keyslots(token, unbound)
                    for name, token in metadata["tokens"].items()},
            requirements=requirements, volume_key=str(current.get("digest", "")),
            reencryption=_reencryption(metadata, target) if target else None,
            unbound=sorted(unbound & set(stored)),
            marks={name: _mark(str(slot.get("kdf", {}).get("salt", "")).encode("utf-8"))
                   for name, slot in keyslots.items()},
            excess=costs.excess_of_luks2(metadata), unusual=_unusual(metadata["segments"], segment),
            flags=tuple(str(flag) for flag in config.get("flags", [])),
            argon2=tuple(name for name, slot in sorted(stored.items())
                         if str(slot.get("kdf", {}).get("type")).startswith("argon2")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderDamaged(device, "its metadata cannot be read ({!r})".format(error)) from error


def _data_segment(device: str, metadata: Any, reencrypting: bool) -> Any:
    """The segment of all data, the digest of its volume key, and that of the one to come.

    In re-encryption, cryptsetup keeps what was and what shall be in segments with the flags
    backup-previous and backup-final. Ours differ in nothing but the volume key; or the data were in
    clear before.
    """
    segments = metadata["segments"]
    if not reencrypting:
        if list(segments) != ["0"] or segments["0"]["type"] != "crypt":
            raise HeaderDamaged(device, "it does not describe exactly one encrypted segment")
        if "integrity" in segments["0"]:
            raise HeaderDamaged(device, "its segment has an integrity layer, which ours never have")
        if segments["0"].get("flags"):
            raise HeaderDamaged(device, "its segment is part of a re-encryption that is none")
        return segments["0"], _digest_of(metadata, "0"), None
    flagged = {flag: number for number, segment in segments.items()
               for flag in segment.get("flags", [])}
    before, after = flagged["backup-previous"], flagged["backup-final"]
    if segments[before]["type"] == "linear":
        _check_encryption(device, segments, segments[after])
        return segments[after], {}, _digest_of(metadata, after)
    layout = [dict(segments[number], flags=[]) for number in (before, after)]
    parts = {(segment["type"], segment["encryption"], segment["sector_size"])
             for segment in segments.values()}
    if layout[0] != layout[1] or len(parts) > 1 or layout[0]["type"] != "crypt":
        raise HeaderDamaged(device, "its re-encryption changes more than the volume key")
    return segments[before], _digest_of(metadata, before), _digest_of(metadata, after)


def _check_encryption(device: str, segments: Any, final: Any) -> None:
    """cryptsetup has moved the start of the data in clear to the end of the disk, as much as the
    header takes, and encrypts from the end: all parts are in clear or as they shall be."""
    encrypted = {(segment["encryption"], segment["sector_size"])
                 for segment in segments.values() if segment["type"] == "crypt"}
    if {segment["type"] for segment in segments.values()} != {"linear", "crypt"} \
            or encrypted != {(final["encryption"], final["sector_size"])}:
        raise HeaderDamaged(device, "its encryption makes more than one kind of data")


def _unusual(segments: Any, whole: Any) -> str:
    """cryptsetup numbers the sectors of the data from their start, also in each part of them, and
    has them fill the disk. With other numbers at another place, whatever somebody wrote there, in a
    VM that had our key, would be decrypted as the start of the data."""
    start = number(whole["offset"])
    for name, segment in segments.items():
        if segment["type"] == "crypt" \
                and number(segment["offset"]) != start + SECTOR * number(segment["iv_tweak"]):
            return "iv_tweak {} in segment {}".format(segment["iv_tweak"], name)
    return "" if whole["size"] == "dynamic" else "size {}".format(whole["size"])


def _digest_of(metadata: Any, segment: str) -> Any:
    """The digest of the volume key of `segment`; empty where there is none."""
    found = [digest for digest in metadata["digests"].values() if segment in digest["segments"]]
    if len(found) > 1:
        raise ValueError("several volume keys for one segment")
    return found[0] if found else {}


def _keyslots_of_others(metadata: Any, wanted: Any) -> Any:
    """The keyslots for other volume keys than that of the digest `wanted`."""
    return {number(slot) for digest in metadata["digests"].values() if digest is not wanted
            for slot in digest["keyslots"]}


def _without_keyslots(token: Any, unbound: Any) -> Dict[str, Any]:
    slots = token.get("keyslots")
    if not isinstance(slots, list):
        return dict(token)
    return dict(token, keyslots=[slot for slot in slots if str(slot) not in map(str, unbound)])


def _reencryption(metadata: Any, target: Any) -> Reencryption:
    segments = metadata["segments"]
    done = [segment["size"] for number, segment in segments.items()
            if number in target["segments"] and not segment.get("flags")]
    moved = [number(segment["offset"]) for segment in segments.values()
             if segment.get("flags") == ["backup-moved-segment"]]
    # At the end, one part takes all that there is.
    size = None if "dynamic" in done else sum(map(number, done))
    return Reencryption(size, str(target["digest"]), moved[0] if moved else None)


def payload_size(device: str, header: Header) -> int:
    """Bytes that the open container offers."""
    with open(device, "rb") as disk:
        return disk.seek(0, os.SEEK_END) - header.payload_offset


class Remains(NamedTuple):
    """What a header says that may be damaged: see `Header`. Of LUKS1 that there is or was one."""

    uuid: str
    label: str
    subsystem: str


def remains(device: str) -> Iterator[Remains]:
    """Every header that is or was on `device`, intact or not. Raises DiskFails after those that can
    be read."""
    magics = dict(_PLACES)
    for offset, binary in rawdisk.pieces(device, magics, _BINARY_SIZE):
        if offset == 0 and binary[:8] == _MAGIC + b"\0\1":
            yield Remains(_text(binary[168:208]), "", "")
        elif binary[:8] == magics[offset] + b"\0\2":
            yield Remains(*(_text(binary[start:end]) for start, end in
                            ((168, 208), (24, 72), (208, 256))))


def find(device: str) -> Optional[Header]:
    """The header of `device`, or None where there is none or it cannot be read."""
    try:
        return read(device)
    except (HeaderMissing, HeaderDamaged, DiskFails):
        return None
