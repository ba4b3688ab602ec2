# SPDX-License-Identifier: LGPL-2.1-only
"""LUKS headers to parse: made up ones with valid checksums, and real ones.

Layouts: "LUKS On-Disk Format Specification" 1.2.3, "LUKS2 On-Disk Format Specification" 1.1.0.
"""
import base64
import gzip
import hashlib
import json
import os
import struct

UUID = "11111111-2222-4333-8444-555555555555"
SR = "0a1b2c3d-0000-4000-8000-0123456789ab"
CIPHER = "aes-xts-plain64"
PAYLOAD = 16 << 20


# A key sealed by a pin called "any"; only its header has content.
JWE = base64.urlsafe_b64encode(b'{"clevis":{"pin":"any","any":{}}}').decode("ascii").rstrip(
    "=") + ".b.c.d.e"


def real(version):
    """The start of a header that cryptsetup 2.6.1 wrote, with the options of `luks_format`.

    It has the UUID, cipher and payload offset above; LUKS2 the label of the first of one disks of
    the SR, and a clevis token.
    """
    seed = os.path.join(os.path.dirname(__file__), "seeds", "luks{}.gz".format(version))
    with gzip.open(seed) as packed:
        return packed.read()


def luks1(uuid=UUID, cipher="aes", mode="xts-plain64", key_bytes=64, payload_sectors=32768,
          slots=(0,), volume_key=b"", iterations=(1000, 1000), stripes=4000):
    """A LUKS1 header in 4 KiB. iterations: of the volume key, and of each keyslot."""
    header = b"LUKS\xba\xbe" + struct.pack(
        ">H32s32s32sII20s32sI40s", 1, cipher.encode(), mode.encode(), b"sha256", payload_sectors,
        key_bytes, volume_key, bytes(32), iterations[0], uuid.encode())
    for slot in range(8):
        state = 0x00AC71F3 if slot in slots else 0x0000DEAD
        header += struct.pack(">II32sII", state, iterations[1], bytes(32), 8 + 512 * slot, stripes)
    return header.ljust(4096, b"\0")


def binding_token(slot=0, jwe=JWE):
    """A token as `clevis luks bind` writes it."""
    keys = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    return {"type": "clevis", "keyslots": [str(slot)], "jwe": dict(zip(keys, jwe.split(".")))}


def metadata(slots=(0,), tokens=None, cipher=CIPHER, keyslot_cipher=CIPHER, key_bytes=64,
             requirements=None, sector_size=512, offset=PAYLOAD, iv_tweak=0, size="dynamic",
             flags=None, volume_key="", **kdf):
    """The JSON part of a LUKS2 header, as an object. kdf: costs of all keyslots."""
    config = {"json_size": "12288", "keyslots_size": "16744448"}
    if flags is not None:
        config["flags"] = flags
    if requirements is not None:
        config["requirements"] = {"mandatory": requirements}
    return {
        "keyslots": {str(slot): {
            "type": "luks2", "key_size": key_bytes,
            "area": {"type": "raw", "offset": "32768", "size": "258048",
                     "encryption": keyslot_cipher, "key_size": 64}, "kdf": dict(kdf)}
            for slot in slots},
        "tokens": tokens if tokens is not None else {},
        "segments": {"0": {"type": "crypt", "offset": str(offset), "size": size,
                           "iv_tweak": str(iv_tweak), "encryption": cipher,
                           "sector_size": sector_size}},
        "digests": {"0": {"type": "pbkdf2", "keyslots": [str(slot) for slot in slots],
                          "segments": ["0"], "iterations": 1000, "digest": volume_key}},
        "config": config}


def in_reencryption(done, hot):
    """The JSON part of a LUKS2 header in re-encryption, of which `done` bytes are at their end and
    `hot` bytes in work: as cryptsetup 2.6.1 writes it. Keyslot 0 becomes keyslot 2.
    """
    content = metadata(slots=(0, 2), requirements=["online-reencrypt-v2"],
                       tokens={"0": dict(binding_token(), keyslots=["0", "2"])})
    content["keyslots"]["4"] = {
        "type": "reencrypt", "key_size": 1, "mode": "reencrypt", "direction": "forward",
        "area": {"type": "checksum", "offset": "1064960", "size": "15712256", "hash": "sha256",
                 "sector_size": 512}}
    whole = content["segments"]["0"]
    parts = [("new", 0, done, {}), ("both", done, hot, {"flags": ["in-reencryption"]}),
             ("old", done + hot, 1 << 30 if done + hot else 0, {})]
    segments = [(key, dict(whole, offset=str(PAYLOAD + start), iv_tweak=str(start // 512),
                           size=str(size), **flags))
                for key, start, size, flags in parts if size] or [("old", dict(whole))]
    segments += [("old", dict(whole, flags=["backup-previous"])),
                 ("new", dict(whole, flags=["backup-final"]))]
    content["segments"] = {str(number): segment for number, (_, segment) in enumerate(segments)}

    def of(name):
        return [str(number) for number, (key, _) in enumerate(segments) if key in (name, "both")]

    content["digests"] = {
        "0": {"keyslots": ["0"], "segments": of("old"), "digest": "old"},
        "1": {"keyslots": ["2"], "segments": of("new"), "digest": "new"},
        "2": {"keyslots": ["4"], "segments": [], "digest": "metadata"}}
    return content


DATA = 992 << 20


def in_encryption(done):
    """The JSON part of a LUKS2 header of a disk of 1 GiB that is being encrypted where it is, of
    which `done` bytes are encrypted, None for all: as cryptsetup 2.6.1 writes it.
    """
    content = metadata(requirements=["online-reencrypt-v2"])
    whole = content["segments"]["0"]
    moved = {"type": "linear", "offset": str(PAYLOAD + DATA), "size": str(PAYLOAD)}
    parts = [moved]
    if done is None:
        parts = [whole]
    elif done < DATA - PAYLOAD:
        parts.append({"type": "linear", "offset": str(PAYLOAD), "size": str(DATA - PAYLOAD - done)})
    if done:
        parts.append(dict(whole, offset=str(PAYLOAD + DATA - done), size=str(done),
                          iv_tweak=str((DATA - done) // 512)))
    parts += [
        {"type": "linear", "offset": "0", "size": str(DATA), "flags": ["backup-previous"]},
        dict(whole, flags=["backup-final"]), dict(moved, flags=["backup-moved-segment"])]
    content["segments"] = {str(number): part for number, part in enumerate(parts)}
    content["keyslots"]["1"] = {
        "type": "reencrypt", "key_size": 1, "mode": "encrypt", "direction": "backward",
        "area": {"type": "datashift", "offset": "290816", "size": "4096",
                 "shift_size": str(PAYLOAD)}}
    content["digests"] = {
        "0": {"keyslots": ["0"], "digest": "new", "segments": [
            str(number) for number, part in enumerate(parts) if part["type"] == "crypt"]},
        "1": {"keyslots": ["1"], "segments": [], "digest": "metadata"}}
    return content


def luks2_copy(text, offset=0, size=0x4000, claimed=None, uuid=UUID, label="", subsystem="",
               digest="sha256", serial=1):
    """One of the two copies of a LUKS2 header, with the JSON `text`."""
    magic = b"LUKS\xba\xbe" if offset == 0 else b"SKUL\xba\xbe"
    binary = magic + struct.pack(
        ">HQQ48s32s64s40s48sQ", 2, size if claimed is None else claimed, serial, label.encode(),
        digest.encode(), bytes(64), uuid.encode(), subsystem.encode(), offset)
    binary = binary.ljust(4096, b"\0")
    area = text.ljust(size - 4096, b"\0")
    try:
        summed = hashlib.new(digest, binary + area).digest()
    except (ValueError, TypeError):
        summed = b""
    return binary[:448] + summed.ljust(64, b"\0") + binary[512:] + area


def luks2(content=None, **fields):
    """Both copies of a LUKS2 header; `content`: the metadata, as an object or as its bytes."""
    if content is None:
        content = metadata()
    size = fields.pop("size", 0x4000)
    return luks2_of(content, content, size, **fields)


def luks2_of(first, second, size=0x4000, serials=(1, 1), **fields):
    """A LUKS2 header of two copies that may differ, and the serial numbers of both."""
    texts = [content if isinstance(content, bytes) else json.dumps(content).encode("utf-8")
             for content in (first, second)]
    return (luks2_copy(texts[0], 0, size, serial=serials[0], **fields)
            + luks2_copy(texts[1], size, size, serial=serials[1], **fields))


def ours(index=0, count=1, jwe=JWE, volume_key="", **fields):
    """A LUKS2 header of the SR, bound to `jwe`."""
    return luks2(metadata(tokens={"0": binding_token(0, jwe)}, volume_key=volume_key),
                 subsystem="luksext",
                 label="{}:{}:{}".format(SR, index, count), **fields)
