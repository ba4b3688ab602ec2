# SPDX-License-Identifier: LGPL-2.1-only
"""cryptsetup's re-encryption, on files with LUKS2 headers that say the keys of their keyslots.

FOLDER ARGUMENT…: in FOLDER, the file `die` names the step after which it is to be killed, `version`
what it calls itself. What it writes is what cryptsetup 2.6.1 writes.
"""
import json
import os
import signal
import sys
import time

import headers

MIB = 1 << 20


def main(folder, command, *words):
    """Does what cryptsetup would do; returns its exit status."""
    if command == "--version":
        print("cryptsetup " + (told(folder, "version") or "2.6.1"))
        return 0
    lines = sys.stdin.read().split("\n")
    if command == "luksKillSlot":
        content = read(words[-2])
        remove(content, words[-1])
        write(words[-2], content)
        return 0
    device = next(word for word in words if word.startswith("/"))
    if command == "open":
        slot = words[words.index("--key-slot") + 1] if "--key-slot" in words else None
        return opens(read(device), slot, lines[0])
    if "--init-only" in words:
        return prepare(device, lines, told(folder, "die"))
    return go_on(device, lines[0], told(folder, "die"))


def told(folder, name):
    """What the test wrote to a file of that name."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def read(device):
    with open(device, "rb") as disk:
        return json.loads(disk.read(0x4000)[4096:].split(b"\0", 1)[0].decode())


def write(device, content):
    with open(device, "r+b") as disk:
        disk.write(headers.luks2(content))


def add(content, key, digest, slot=None):
    """Adds a keyslot that `key` opens."""
    slot = slot or str(max(map(int, content["keyslots"])) + 1)
    content["keyslots"][slot] = dict(headers.metadata()["keyslots"]["0"], key=key)
    content["digests"][digest]["keyslots"].append(slot)
    return slot


def remove(content, slot):
    del content["keyslots"][slot]
    for place in list(content["digests"].values()) + list(content["tokens"].values()):
        place["keyslots"] = [other for other in place["keyslots"] if other != slot]


def opens(content, slot, key):
    slots = content["keyslots"]
    in_work = any(entry["type"] == "reencrypt" for entry in slots.values())
    if slot is not None and (in_work or slot not in slots):
        return 1
    return 0 if any(entry.get("key") == key for number, entry in slots.items()
                    if slot in (None, number)) else 2


def prepare(device, lines, die):
    content = read(device)
    old = sorted(content["keyslots"], key=int)
    if [content["keyslots"][slot]["key"] for slot in old] != lines:
        return 2
    content["digests"]["new"] = {"keyslots": [], "segments": [], "digest": "new"}
    for slot, key in zip(old, lines):
        new = add(content, key, "new")
        for token in content["tokens"].values():
            token["keyslots"] += [new] if slot in token["keyslots"] else []
        write(device, content)
        if die == "keyslot":
            os.kill(os.getpid(), signal.SIGKILL)
    advance(content, 0)
    write(device, content)
    return 9 if die == "prepared" else 0


def advance(content, done):
    """Makes the metadata say that `done` bytes have the new volume key."""
    model = headers.in_reencryption(done, 0)
    content["segments"] = model["segments"]
    content["config"] = model["config"]
    content["keyslots"]["31"] = model["keyslots"]["4"]
    for name, digest in (("old", "0"), ("new", "1")):
        content["digests"][name]["segments"] = model["digests"][digest]["segments"]


def go_on(device, key, die):
    content = read(device)
    if opens(content, None, key):
        sys.stderr.write("No key available with this passphrase.\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("\nReencryption interrupted."))
    if die == "never":
        advance(content, 64 * MIB)
        write(device, content)
        time.sleep(60)
    for slot in content["digests"].pop("old")["keyslots"] + ["31"]:
        remove(content, slot)
    content["segments"] = headers.metadata()["segments"]
    content["digests"]["new"]["segments"] = ["0"]
    del content["config"]["requirements"]
    write(device, content)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
