# SPDX-License-Identifier: LGPL-2.1-only
"""A disk with a LUKS header, keys, luksmeta and sealed keys, that takes the programs' arguments.

It stands in the place of `run`, so that hundreds of changes can be cut short at each step: `cut`
kills the caller at a program, `refuse` has one program fail.
"""
import base64
import hashlib
import itertools
import json
import os

import headers
from luksext.container import LuksContainer
from luksext.errors import CommandFailed
from luksext.header import read
from luksext.keyslots import Way
from luksext.run import Result

CLEVIS = "cb6e8904-81ff-40da-a84a-07ab9ab5715e"
IDENTITY = "6b5b6f0e-4c1d-4be1-9d0c-3c8f5f0a5a6e"
LUKSMETA_SLOTS = 8

# Whose disk it says to be.
LABEL = headers.SR + ":0:1"


class Killed(BaseException):
    """The process ends here: no cleaning up can run a program any more."""


def part(value):
    """`value` as one base64url part of a JWE."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Disk:
    """The disk, at `path`. `dead`: sealed keys that are not given up any more."""

    def __init__(self, path, version, uuid=headers.UUID):
        self.path = str(path)
        self.version = version
        self.uuid = uuid
        self.written = None
        self.reset()

    def reset(self):
        """Makes it a disk without keys."""
        self.keys = {}
        self.tokens = {}
        self.luksmeta = {7: (IDENTITY, LABEL.encode())} if self.version == 1 else {}
        self.room = LUKSMETA_SLOTS
        self.sealed = {}
        self.dead = set()
        self.reborn()
        self.write()

    def write(self):
        slots = sorted(self.keys)
        if self.version == 1:
            content = bytearray(headers.luks1(slots=slots, uuid=self.uuid))
            for slot, key in self.keys.items():
                content[216 + 48 * slot:248 + 48 * slot] = hashlib.sha256(key).digest()
        else:
            metadata = headers.metadata(
                slots=slots, tokens={str(n): t for n, t in self.tokens.items()})
            for slot, key in self.keys.items():
                salt = hashlib.sha256(key).hexdigest()[:16]
                metadata["keyslots"][str(slot)]["kdf"]["salt"] = salt
            content = headers.luks2(metadata, uuid=self.uuid, subsystem="luksext", label=LABEL)
        if content != self.written:
            with open(self.path, "wb") as disk:
                disk.write(content)
            self.written = content

    def run(self, argv, stdin=b"", deadline=0, accept=(0,), pipes=(), own_folder=False):
        """As luksext.run.run."""
        if self.killed:
            raise Killed()
        number = len(self.calls)
        self.calls.append(" ".join(argv[:3]))
        if self.cut == (number, "before"):
            self.killed = True
            raise Killed()
        if self.refuse == number:
            raise CommandFailed(" ".join(argv), 1, "refused")
        status, output = self._do(argv, stdin)
        if self.cut == (number, "after"):
            self.killed = True
            raise Killed()
        if status not in accept:
            raise CommandFailed(" ".join(argv), status, "no")
        return Result(status, output, b"")

    def reborn(self):
        """The machine after the cut: programs run again."""
        self.killed, self.cut, self.refuse, self.calls = False, None, None, []
        self.before_adding = lambda: None

    def _do(self, argv, stdin):
        done = getattr(self, "_" + argv[0])(argv[1], list(argv[2:]), stdin)
        self.write()
        return done

    def _cryptsetup(self, command, words, stdin):
        if command == "--version":
            return 0, b"cryptsetup 2.6.1"
        options = dict(zip(words, words[1:]))
        if command == "luksAddKey":
            assert words[-2] == self.path
            with open(words[-1], "rb") as pipe:
                key = pipe.read()
            self.before_adding()
            return self._add_key(int(options["--key-slot"]), stdin, key)
        if command == "luksKillSlot":
            assert words[0] == "--batch-mode"
            del self.keys[int(words[2])]
            for token in self.tokens.values():
                token["keyslots"] = [slot for slot in token["keyslots"] if slot != words[2]]
            return 0, b""
        if command == "open":
            assert "--test-passphrase" in words
            return 0 if self.keys[int(options["--key-slot"])] == stdin else 2, b""
        assert command == "token" and self.version == 2
        if words[0] == "import":
            token = json.loads(stdin.decode())
            assert all(int(slot) in self.keys for slot in token["keyslots"])
            self.tokens[min(set(range(32)) - set(self.tokens))] = token
        else:
            del self.tokens[int(options["--token-id"])]
        return 0, b""

    def _add_key(self, slot, known, key):
        if known not in self.keys.values():
            return 2, b""
        if slot in self.keys:
            return 1, b""
        self.keys[slot] = key
        return 0, b""

    def _luksmeta(self, command, words, stdin):
        assert self.version == 1
        options = dict(zip(words, words[1:]))
        slot, uuid = int(options.get("-s", -1)), options.get("-u")
        if command == "show":
            return 0, "".join("{} {} {}\n".format(
                n, "active" if n in self.keys else "inactive", self.luksmeta.get(n, ["empty"])[0])
                for n in range(LUKSMETA_SLOTS)).encode()
        if command == "save":
            if slot in self.luksmeta:
                return 69, b""
            if len(self.luksmeta) == self.room:
                return 73, b""
            self.luksmeta[slot] = (uuid, stdin)
        elif self.luksmeta.get(slot, [None])[0] != uuid:
            return 65, b""
        elif command == "load":
            return 0, self.luksmeta[slot][1]
        else:
            del self.luksmeta[slot]
        return 0, b""

    def _clevis(self, command, words, stdin):
        if command == "encrypt":
            jwe = self.jwe(words[0], json.loads(words[1]), stdin)
            return 0, jwe.encode()
        jwe = stdin.decode()
        if jwe in self.dead or jwe not in self.sealed:
            return 1, b""
        return 0, self.sealed[jwe]

    def jwe(self, pin, config, key):
        """`key` sealed by `pin`."""
        config = dict(config, jwk_pub="pub", jwk_priv="priv") if pin == "tpm2" else config
        config.pop("pcr_hash", None)
        if "pins" in config:
            config = dict(config, jwe=[self.jwe(name, leaf, key) for name, leaves in
                                       config["pins"].items() for leaf in leaves])
        jwe = "{}.{}.iv.text.tag".format(part({"clevis": {"pin": pin, pin: config}}),
                                         part(os.urandom(6)))
        self.sealed[jwe] = key
        return jwe

    def break_bindings(self):
        """As a firmware update does: what was sealed to PCRs until now is not given up any more."""
        self.dead |= {jwe for jwe in self.sealed
                      if "pcr_ids" in base64.urlsafe_b64decode(jwe.split(".")[0] + "==").decode()}

    def container(self):
        """The container as it is found now."""
        return LuksContainer(self.path, read(self.path))

    def bind(self, slot, pin, config, key):
        """A binding as `create` makes it, in the place of the one that the slot had."""
        self.keys[slot] = key
        jwe = self.jwe(pin, config, key)
        if self.version == 1:
            self.luksmeta[slot] = (CLEVIS, jwe.encode())
        else:
            token = headers.binding_token(slot, jwe)
            free = sorted(set(range(32)) - set(self.tokens))
            place = [number for number, there in self.tokens.items()
                     if (there["type"], there["keyslots"]) == ("clevis", token["keyslots"])]
            self.tokens[(place or free)[0]] = token
        self.write()
        return Way(slot, key)


class Disks:
    """Several disks of one host, whose TPM gives up what was sealed for any of them."""

    def __init__(self, *disks):
        self.disks = disks
        for disk in disks:
            disk.sealed, disk.dead = disks[0].sealed, disks[0].dead

    def run(self, argv, **options):
        """As luksext.run.run."""
        named = [disk for disk in self.disks if disk.path in argv]
        return (named or self.disks)[0].run(argv, **options)


def every_cut(disk, prepare, change, holds):
    """Kills `change` before and after each program that it runs, on a disk made by `prepare` anew
    each time; `holds` tells whether the disk is as it must always be. Returns how many cuts."""
    cuts = 0
    for number in itertools.count():
        for when in ("before", "after"):
            disk.reset()
            prepare()
            disk.reborn()
            disk.cut = (number, when)
            try:
                change()
            except Killed:
                cuts += 1
                disk.reborn()
                assert holds(), "cut {} {}".format(when, number)
            else:
                return cuts
