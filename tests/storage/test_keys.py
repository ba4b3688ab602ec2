# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery keys and bindings over the life of a disk, by the package itself, in dom0."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab import image
from tests.lab.disks import Disk
from tests.storage.pool import Host
from tests.storage.tang import URL, Tang

# One of ours, which is not stretched: an emulated guest takes long for that.
PASSPHRASE = "F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW"
SR = "0a1b2c3d-0000-4000-8000-0123456789ab"

# What every script of a test begins with. Scripts are read from stdin, and the keys in them.
_PRELUDE = """
import json, os, sys
sys.path.insert(0, "/opt/xensource/sm")
from luksext import bindings, container, creation, escrow, generation, keys, keyslots, options, run
from luksext.clevis import Pin
from luksext.cryptsetup import Flags
from luksext.errors import LuksError
from luksext.header import read

def found():
    return container.LuksContainer(device, read(device))

def by_passphrase(text=None):
    return keyslots.way_in(found(), keys.to_passphrase(text or passphrase))

def told(slot):
    return [slot.number, slot.role, slot.name, slot.confirmed]

def code(do, *arguments):
    try:
        do(*arguments)
    except LuksError as error:
        return error.code
    return 0

def make(pin, config, version, passphrase=None):
    chosen = options.parse({"device": device, "pin": pin, "pin-config": json.dumps(config),
                            "luks-version": version})
    creation.make(device, generation.Identity(sr, 0, 1), container.prepare(chosen),
                  passphrase and keys.to_passphrase(passphrase))
"""

Script = Callable[..., Any]


@pytest.fixture
def dom0(host: Host, disk: Disk) -> Script:
    """Runs a script with the package, on a fresh disk; what it puts into `answer`.

    Its names are those of the package's modules and what is given by keyword.
    """
    def run(script: str, **values: Any) -> Any:
        values = dict(values, device=disk.by_id, sr=SR, passphrase=PASSPHRASE)
        text = _PRELUDE + f"globals().update({values!r})\n{script}\nprint(json.dumps(answer))\n"
        return json.loads(host.sh("python3 -", input=text, timeout=900).splitlines()[-1])

    return run


def jose(*arguments: str, input: str = "") -> str:
    """jose on this side of the lab, which has nothing that the guest has but its packages."""
    root = image.obtain().root
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return subprocess.run(
        [root / "usr/lib64/ld-linux-x86-64.so.2", "--library-path", libraries,
         root / "usr/bin/jose", *arguments], input=input, check=True, text=True,
        stdout=subprocess.PIPE).stdout


# Recovery keys


def test_a_recovery_key_is_added_confirmed_and_revoked(host: Host, disk: Disk, dom0: Script,
                                                       luks_version: str) -> None:
    dom0('make("null", {}, version, passphrase); answer = None', version=luks_version)
    made = dom0("""
key = keys.generate()
number = keyslots.add_recovery(found(), keyslots.way_in(found()), "safe", key.encode())
answer = {"key": key, "slots": [told(slot) for slot in keyslots.slots(found())]}
""")
    key = made["key"]
    assert made["slots"] == [[0, "binding", "null", False], [1, "recovery", "passphrase", False],
                             [2, "recovery", "safe", False]]

    host.sh(f"cryptsetup open --test-passphrase {disk.by_id}", input=key)
    typed = key.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    answer = dom0("""
mistyped = ("1" if typed[0] == "o" else "o") + typed[1:]
answer = {"tested": told(keyslots.test(found(), keys.to_passphrase(typed))),
          "mistyped": code(keys.to_passphrase, mistyped),
          "another": code(by_passphrase, keys.generate()),
          "confirmed": told(keyslots.confirm(found(), keys.to_passphrase(typed)))}
keyslots.confirm(found(), keys.to_passphrase(passphrase))
answer["both"] = [told(slot) for slot in keyslots.slots(found())]
keyslots.revoke(found(), 2)
answer["revoked"] = code(by_passphrase, typed)
answer["last"] = code(keyslots.revoke, found(), 1)
answer["left"] = [told(slot) for slot in keyslots.slots(found())]
""", typed=typed)
    assert answer == {
        "tested": [2, "recovery", "safe", False], "mistyped": 6250, "another": 6251,
        "confirmed": [2, "recovery", "safe", True],
        "both": [[0, "binding", "null", False], [1, "recovery", "passphrase", True],
                 [2, "recovery", "safe", True]],
        "revoked": 6251, "last": 6252,
        "left": [[0, "binding", "null", False], [1, "recovery", "passphrase", True]]}
    assert host.machine.run(f"cryptsetup open --test-passphrase {disk.by_id}", input=key,
                            check=False).rc == 2
    assert host.sh(f"clevis luks pass -d {disk.by_id} -s 0")


@pytest.mark.slow
def test_a_passphrase_by_hand_is_unknown_until_it_is_confirmed(host: Host, disk: Disk,
                                                               dom0: Script,
                                                               luks_version: str) -> None:
    dom0('make("null", {}, version); answer = None', version=luks_version)
    host.sh(f"clevis luks pass -d {disk.by_id} -s 0 >/run/key; printf %s '{PASSPHRASE}' >/run/new; "
            "cryptsetup luksAddKey -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "
            f"--key-file /run/key {disk.by_id} /run/new; rm /run/key /run/new")
    assert dom0("""
answer = [told(slot) for slot in keyslots.slots(found())]
keyslots.confirm(found(), keys.to_passphrase(passphrase))
answer += [told(slot) for slot in keyslots.slots(found())]
""") == [[0, "binding", "null", False], [1, "unknown", "", False],
         [0, "binding", "null", False], [1, "recovery", "passphrase", True]]


@pytest.mark.slow
def test_an_escrowed_key_opens_elsewhere(dom0: Script, luks_version: str, tmp_path: Path) -> None:
    template = '{"alg":"ECDH-ES+A256KW"}'
    private = jose("jwk", "gen", "-i", template)
    public = jose("jwk", "pub", "-i", "-", input=private)
    (tmp_path / "private.jwk").write_text(private)
    dom0('make("null", {}, version); answer = None', version=luks_version)
    answer = dom0("""
key = keys.generate()
keyslots.add_recovery(found(), keyslots.way_in(found()), "safe", key.encode(),
                      escrow.seal(key.encode(), json.loads(public)))
answer = {"key": key, "escrow": keyslots.slots(found())[1].escrow}
""", public=public)
    assert jose("jwe", "dec", "-i", "-", "-k", str(tmp_path / "private.jwk"),
                input=answer["escrow"]) == answer["key"]

    other = tmp_path / "other.jwk"
    other.write_text(jose("jwk", "gen", "-i", template))
    with pytest.raises(subprocess.CalledProcessError):
        jose("jwe", "dec", "-i", "-", "-k", str(other), input=answer["escrow"])
    assert dom0("""
answer = code(escrow.seal, b"key", json.loads(private))
""", private=private) == 6257


# Bindings


def test_a_binding_is_renewed_after_its_pcrs_changed(host: Host, disk: Disk, dom0: Script,
                                                     luks_version: str) -> None:
    dom0('make("tpm2", {"pcr_ids": "16"}, version, passphrase); answer = None',
         version=luks_version)
    assert dom0("""
answer = [code(bindings.rebind, found(), 0, by_passphrase()), code(keyslots.way_in, found())]
""") == [6253, 0]
    host.machine.extend_pcr(16)
    answer = dom0("""
answer = {"stale": code(keyslots.way_in, found()),
          "slot": bindings.rebind(found(), 0, by_passphrase()),
          "way": keyslots.way_in(found()).slot,
          "slots": [told(slot) for slot in keyslots.slots(found())],
          "pcrs": keyslots.slots(found())[-1].pin.config["pcr_ids"],
          "opened": found().open(None, Flags())}
found().close()
""")
    assert answer == {
        "stale": 6234, "slot": 2, "way": 2, "pcrs": "16", "opened": True,
        "slots": [[1, "recovery", "passphrase", False], [2, "binding", "tpm2", False]]}
    listed = host.sh(f"clevis luks list -d {disk.by_id}").splitlines()
    assert [line.split(":")[0] for line in listed] == ["2"]
    host.machine.run(f"clevis luks unlock -d {disk.by_id} -n by-clevis && "
                     "cryptsetup close by-clevis")


@pytest.mark.slow
def test_a_binding_is_renewed_after_the_tpm_was_cleared(host: Host, dom0: Script,
                                                        luks_version: str) -> None:
    dom0('make("tpm2", {}, version, passphrase); answer = None', version=luks_version)
    host.machine.clear_tpm()
    assert dom0("""
answer = {"stale": code(keyslots.way_in, found())}
answer["slot"] = bindings.rebind(found(), 0, by_passphrase())
answer["way"] = keyslots.way_in(found()).slot
""") == {"stale": 6234, "slot": 2, "way": 2}


@pytest.mark.slow
def test_a_suspension_lets_one_change_of_the_pcrs_pass(host: Host, dom0: Script,
                                                       luks_version: str) -> None:
    dom0('make("tpm2", {"pcr_ids": "16"}, version, passphrase); answer = None',
         version=luks_version)
    until = "2999-12-31T23:59:59Z"
    assert dom0("""
bindings.suspend(found(), keyslots.way_in(found()), until)
answer = [told(slot) + [slot.until] for slot in keyslots.slots(found())]
""", until=until)[-1] == [2, "suspend", "tpm2", False, until]
    host.machine.extend_pcr(16)
    assert dom0("""
answer = {"opened": found().open(None, Flags()), "by": keyslots.way_in(found()).slot}
answer["ended"] = bindings.end_suspend(found())
found().close()
answer["slots"] = [told(slot) for slot in keyslots.slots(found())]
answer["again"] = [bindings.end_suspend(found()), found().open(None, Flags())]
found().close()
""") == {"opened": True, "by": 2, "ended": True, "again": [False, True],
         "slots": [[1, "recovery", "passphrase", False], [3, "binding", "tpm2", False]]}
    host.machine.extend_pcr(16)
    assert dom0("answer = code(keyslots.way_in, found())") == 6234


@pytest.mark.slow
def test_tang_opens_beside_the_tpm_and_follows_the_servers_new_keys(
        host: Host, dom0: Script, tang: Tang, luks_version: str) -> None:
    dom0('make("tpm2", {"pcr_ids": "16"}, version, passphrase); answer = None',
         version=luks_version)
    assert dom0("""
answer = bindings.add(found(), by_passphrase(), Pin("tang", {"url": url, "thp": thp}))
""", url=URL, thp=tang.thumbprint()) == 2
    host.machine.extend_pcr(16)
    tang.rotate()
    assert dom0("""
answer = [keyslots.way_in(found()).slot,
          bindings.rebind(found(), 2, keyslots.way_in(found()), force=True)]
""") == [2, 3]
    host.machine.run("rm /tmp/tang/.*.jwk")
    assert dom0("""
answer = {"way": keyslots.way_in(found()).slot}
bindings.remove(found(), 0)
answer["unconfirmed"] = code(bindings.remove, found(), 3, True)
keyslots.confirm(found(), keys.to_passphrase(passphrase))
answer["unforced"] = code(bindings.remove, found(), 3)
bindings.remove(found(), 3, force=True)
answer["left"] = [told(slot) for slot in keyslots.slots(found())]
""") == {"way": 3, "unconfirmed": 6252, "unforced": 6252,
         "left": [[1, "recovery", "passphrase", True]]}


# Cut short

# What is done, as verb and arguments, and what is made ready for it.
_CHANGES = {
    "rebind": ("rebind", {"force": "true"}, ""),
    "add": ("recovery-add", {"name": "new"}, ""),
    "rotate": ("recovery-rotate", {"name": "passphrase", "new-name": "new"}, ""),
    "confirm": ("recovery-confirm", {"key": PASSPHRASE}, ""),
    "revoke": ("recovery-revoke", {"name": "new"},
               'keyslots.add_recovery(found(), keyslots.way_in(found()), "new", b"another")'),
}


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "arguments", "prepare"), _CHANGES.values(), ids=_CHANGES)
def test_killed_at_every_program_a_change_of_keys_leaves_both_ways_in_and_can_be_repeated(
        dom0: Script, luks_version: str, verb: str, arguments: dict[str, str],
        prepare: str) -> None:
    dom0('make("null", {}, version, passphrase); answer = None', version=luks_version)
    answer = dom0("""
import importlib, pkgutil, luksext
from luksext import repository, verbs

modules = [importlib.import_module("luksext." + each.name)
           for each in pkgutil.iter_modules(luksext.__path__)]
real, programs = run.run, 0

def counted(*arguments, **options):
    global programs
    programs += 1
    if programs > limit:
        os.kill(os.getpid(), 9)
    return real(*arguments, **options)

def change():
    verbs.run(verbs.VERBS[verb], repository.identified(sr, [device]), arguments, "root")

def is_killed():
    child = os.fork()
    if not child:
        for module in modules:
            if getattr(module, "run", None) is real:
                module.run = counted
        try:
            change()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, 9), status
    return status == 9

def slots():
    return [(slot.number, slot.role, slot.name) for slot in keyslots.slots(found())]

def clean():
    for number, role, name in slots():
        if role == "unknown" or name == "new":
            keyslots.revoke(found(), number)
    for number in [number for number, role, _ in slots() if role == "binding"][:-1]:
        bindings.remove(found(), number)

def is_open():
    return bool(keyslots.way_in(found()).key and by_passphrase().key)

limit, killed, kills, opened = 0, True, 0, []
while killed:
    clean()
    exec(prepare)
    killed = is_killed()
    kills += killed
    limit += 1
    opened.append(is_open())
clean()
exec(prepare)
change()
answer = {"kills": kills, "open": all(opened + [is_open()]),
          "roles": sorted(role for _, role, _ in slots())}
""", verb=verb, arguments=arguments, prepare=prepare)
    assert answer["kills"] >= 2
    assert answer["open"]
    assert answer["roles"] == ["binding", "recovery"] + ["recovery"] * (verb in (
        "recovery-add", "recovery-rotate"))
