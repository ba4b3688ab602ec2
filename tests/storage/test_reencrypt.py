# SPDX-License-Identifier: LGPL-2.1-only
"""A new volume key for an SR in use: its VMs go on, a power cut interrupts it, nothing is lost."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pytest

from tests.lab.disks import Disk
from tests.storage.pool import NOTHING, Host, Sr

pytestmark = pytest.mark.slow

PASSPHRASE = "correct horse battery staple"
DATA = random.Random(1).randbytes(1 << 20)

CALL = """
import json, sys
sys.path.insert(0, "/opt/xensource/sm")
from luksext import container, header, reencrypt
from luksext.errors import LuksError
found = container.LuksContainer(sys.argv[1], header.read(sys.argv[1]))
keys = [line.encode() for line in sys.stdin.read().splitlines()]
try:
    print(json.dumps({code}))
except LuksError as error:
    print(json.dumps([error.code, str(error)]))
"""


def call(sr: Sr, code: str, *keys: str) -> list:
    """What the package answers to `code` for the first disk of the SR; an error is its code."""
    answer = sr.host.machine.run(
        ["python3", "-c", CALL.replace("{code}", code), sr.device.split(",")[0]],
        input="\n".join(keys), timeout=300).out
    return json.loads(answer)


def progress(sr: Sr) -> list:
    return call(sr, "reencrypt.progress(found)")


def start(sr: Sr) -> list:
    return call(sr, "reencrypt.start(found, keys)", PASSPHRASE)


def until(sr: Sr, what: Callable[[list], bool], seconds: float = 300) -> list:
    """Waits for a state of the re-encryption; that it never goes back on the way."""
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        found = progress(sr)
        if what(found):
            return found
        assert found[1] >= done
        done = found[1]
        time.sleep(1)
    raise AssertionError(found)


def at_work(found: list) -> bool:
    assert found[0] in ("running", "interrupted"), found
    return found[1] > 0


def ended(found: list) -> bool:
    assert found[0] != "interrupted", found
    return found[0] == "none"


def header_of(sr: Sr) -> tuple[str, list[int]]:
    """What tells the volume key, and the keyslots."""
    volume_key, slots = call(sr, "[found.header.volume_key, found.header.keyslots]")
    return volume_key, slots


def opens(sr: Sr) -> None:
    """The passphrase opens a keyslot, and the binding opens the SR."""
    sr.host.sh(f"cryptsetup open --test-passphrase {sr.device}", input=PASSPHRASE)
    sr.unplug()
    assert sr.host.left_open() == NOTHING
    sr.plug()


@pytest.fixture
def sr(host: Host, new_disk: Callable[..., Disk]) -> Sr:
    return host.create_sr_with_passphrase(new_disk("384M").by_id, PASSPHRASE, pin="null",
                                          discard="true")


def test_data_written_before_and_meanwhile_are_there_afterwards(sr: Sr) -> None:
    before, meanwhile = sr.create_vdi(), sr.create_vdi()
    sr.host.write_vdi(before, DATA)
    old = header_of(sr)
    assert start(sr)[0] == "running"
    until(sr, at_work)
    for number in range(4):
        sr.host.write_vdi(meanwhile, DATA[number:] + DATA[:number])
    sr.plug()
    until(sr, ended)
    key, slots = header_of(sr)
    assert key != old[0]
    assert len(slots) == len(old[1])
    assert sr.host.read_vdi(before)[:len(DATA)] == DATA
    assert sr.host.read_vdi(meanwhile)[:len(DATA)] == DATA[3:] + DATA[:3]
    opens(sr)
    assert sr.host.read_vdi(before)[:len(DATA)] == DATA
    assert "allow_discards" in sr.host.sh("dmsetup table --target crypt")
    sr.destroy_with_vdis()


def test_after_a_power_cut_it_is_plugged_and_goes_on_to_the_end(sr: Sr) -> None:
    vdi = sr.create_vdi()
    sr.host.write_vdi(vdi, DATA)
    old = header_of(sr)
    start(sr)
    until(sr, at_work)
    sr.host.write_vdi(vdi, DATA[::-1])
    sr.host.sh("sync")
    assert progress(sr)[0] == "running"
    sr.host.machine.power_cut()
    sr.host.machine.start()
    assert sr.attached
    assert progress(sr)[1] > 0
    assert sr.host.read_vdi(vdi)[:len(DATA)] == DATA[::-1]
    until(sr, ended)
    assert header_of(sr)[0] != old[0]
    assert sr.host.read_vdi(vdi)[:len(DATA)] == DATA[::-1]
    opens(sr)
    sr.destroy_with_vdis()


def test_an_unplug_interrupts_it_and_only_where_it_began_it_is_opened_again(sr: Sr) -> None:
    old = header_of(sr)
    start(sr)
    until(sr, at_work)
    sr.unplug()
    assert sr.host.left_open() == NOTHING
    assert progress(sr)[0] == "interrupted"
    uuid = sr.containers()[0]
    sr.host.sh(f"rm -r /var/lib/luksext/{uuid}")
    assert sr.refused().code == 6282
    assert call(sr, "reencrypt.accept(found, keys[0])", "not the passphrase")[0] == 6251
    call(sr, "reencrypt.accept(found, keys[0])", PASSPHRASE)
    sr.plug()
    until(sr, ended)
    assert header_of(sr)[0] != old[0]
    opens(sr)
    sr.destroy()


def test_where_it_cannot_be_the_way_is_named(host: Host, sr: Sr,
                                             new_disk: Callable[..., Disk]) -> None:
    before = header_of(sr)
    assert call(sr, "reencrypt.start(found, keys)", "not the passphrase")[0] == 6280
    path = host.sh("command -v cryptsetup").strip()
    host.sh(f"mv {path} {path}.away")
    host.machine.put(path, b"#!/bin/sh\necho cryptsetup 2.0.3\n", 0o755)
    try:
        code, text = start(sr)
    finally:
        host.sh(f"mv {path}.away {path}")
    assert (code, "cryptsetup 2.4.3" in text, "xe vdi-copy" in text) == (6206, True, True)
    sr.unplug()
    assert start(sr)[0] == 6275
    sr.plug()
    assert header_of(sr) == before
    sr.destroy()
    luks1 = host.create_unbound_sr(new_disk(), luks_version="1")
    code, text = start(luks1)
    assert (code, "LUKS1" in text, "xe vdi-copy" in text) == (6206, True, True)
    luks1.destroy()


def test_a_program_that_was_killed_leaves_an_sr_that_the_next_boot_repairs(sr: Sr) -> None:
    vdi = sr.create_vdi()
    sr.host.write_vdi(vdi, DATA)
    sr.host.sh("sync")
    start(sr)
    until(sr, at_work)
    sr.host.sh("kill -9 $(pgrep -x cryptsetup)")
    found = progress(sr)[0]
    if found == "stuck":
        assert call(sr, "reencrypt.resume(found)")[0] == 6283
    sr.host.machine.power_cut()
    sr.host.machine.start()
    assert sr.attached
    until(sr, ended)
    assert sr.host.read_vdi(vdi)[:len(DATA)] == DATA
    opens(sr)
    sr.destroy_with_vdis()
