# SPDX-License-Identifier: LGPL-2.1-only
"""What somebody can do to a disk that he has in hand: scripts that run in the guest."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.storage.pool import Host, Sr

# Puts another container in the place of one: the same LUKS UUID, cipher, label and version, and a
# binding and a passphrase of the attacker's own. It is made by our package, so all else is as well.
_SWAP = """
import sys
sys.path.insert(0, "/opt/xensource/sm")
from luksext import container, header, options
device = sys.argv[1]
found = container.LuksContainer(device, header.read(device))
identity = found.identity
container.erase_start(device)
wanted = container.prepare(options.parse({
    "device": device, "pin": "null", "luks-version": str(found.header.version)}))
container.format_container(device, found.uuid, identity, wanted, b"known to the attacker")
"""

# Changes both copies of a LUKS2 header as it is told, with right checksums.
_EDIT = """
import hashlib, json, struct, sys
device, change = sys.argv[1:]
with open(device, "r+b") as disk:
    start = disk.read(0x8000)
    for offset in (0, 0x4000):
        binary, area = start[offset:offset + 4096], start[offset + 4096:offset + 0x4000]
        metadata = json.loads(area.split(b"\\0", 1)[0].decode())
        names = {"json": json, "metadata": metadata, "text": None}
        exec(change, names)
        text = names["text"] or json.dumps(metadata).encode()
        area = text.ljust(len(area), b"\\0")
        assert len(area) == 0x3000
        binary = binary[:448] + bytes(64) + binary[512:]
        binary = binary[:448] + hashlib.sha256(binary + area).digest().ljust(64, b"\\0") \\
            + binary[512:]
        disk.seek(offset)
        disk.write(binary + area)
"""

# Puts a sealed key that gives up another key in the place of that of keyslot 0.
_EXCHANGE = """
import json, sys
sys.path.insert(0, "/opt/xensource/sm")
from luksext import clevis, generation, header
device, pin, config = sys.argv[1:]
found = header.read(device)
kind = generation.GENERATIONS[found.version]
jwe = clevis.seal(clevis.Pin(pin, json.loads(config)), clevis.new_key())
kind.remove_binding(device, found, 0)
kind.write_binding(device, generation.Binding(0, jwe))
"""


def swap(host: Host, device: str) -> None:
    """Exchanges the container on `device` for one that looks the same and has a known key."""
    host.machine.run(["python3", "-c", _SWAP, device], timeout=300)


def exchange_binding(host: Host, device: str, pin: str, config: Mapping[str, str]) -> None:
    """Has the binding of `device` ask a pin of the attacker's own."""
    host.machine.run(["python3", "-c", _EXCHANGE, device, pin, json.dumps(config)], timeout=300)


def edit(host: Host, device: str, change: str) -> None:
    """Changes the LUKS2 header of `device` by Python code, which finds `metadata`, or sets `text`
    for bytes that take its place."""
    host.machine.run(["python3", "-c", _EDIT, device, change])


def patch(host: Host, device: str, offset: int, data: bytes) -> None:
    """Writes `data` at `offset` bytes of `device`."""
    host.sh(f"dd of={device} bs=1 seek={offset} conv=notrunc,fsync status=none", input=data)


def opens_by_hand(sr: Sr, passphrase: str) -> bool:
    """Whether cryptsetup takes `passphrase` for the SR's disk."""
    return "yes" in sr.host.sh(
        f"cryptsetup open --test-passphrase {sr.device} && echo yes || true", input=passphrase)
