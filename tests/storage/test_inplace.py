# SPDX-License-Identifier: LGPL-2.1-only
"""A plaintext ext SR is encrypted where it is, with its VDIs, while they are in use again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.lab.disks import Disk
from tests.storage.kills import killed_after
from tests.storage.pool import NOTHING, Host, Sr, XeError
from tests.storage.test_plugin import call_host
from tests.storage.test_reencrypt import at_work, ended, progress, until

pytestmark = pytest.mark.slow

DATA = random.Random(2).randbytes(1 << 20)


def encrypt(sr: Sr) -> dict:
    return json.loads(call_host(sr.host, "encrypt-in-place", sr_uuid=sr.uuid, confirm="true",
                                pin="null"))


class Content(NamedTuple):
    """A VDI with known data, and the checksum of a file at the end of the filesystem."""

    vdi: str
    checksum: str


def fill(sr: Sr) -> Content:
    """Leaves something at the end of the filesystem, which has to be moved to shrink it."""
    vdi = sr.create_vdi()
    sr.host.write_vdi(vdi, DATA)
    mount = f"/run/sr-mount/{sr.uuid}"
    checksum = sr.host.sh(f"""
        fallocate -l $(( $(df --output=avail -B1 {mount} | tail -n 1) - (60 << 20) )) {mount}/low
        head -c 12M /dev/urandom >{mount}/high
        rm {mount}/low
        sync
        md5sum <{mount}/high
    """)
    return Content(vdi, checksum)


def whole(sr: Sr, content: Content) -> None:
    """The SR is an encrypted one, its data are what they were, and its filesystem is sound."""
    host = sr.host
    assert host.xe("sr-param-get", uuid=sr.uuid, param_name="type") == "luksext"
    assert host.read_vdi(content.vdi)[:len(DATA)] == DATA
    assert host.sh(f"md5sum </run/sr-mount/{sr.uuid}/high") == content.checksum


def sound(sr: Sr, content: Content) -> None:
    """Nothing is in clear any more, binding and recovery key open, the filesystem is whole."""
    assert "linear" not in sr.host.sh(f"cryptsetup luksDump {sr.device}")
    sr.unplug()
    assert sr.host.left_open() == NOTHING
    sr.plug()
    whole(sr, content)
    status = json.loads(call_host(sr.host, "status", sr_uuid=sr.uuid))
    assert [slot["role"] for slot in status["disks"][0]["slots"]] == ["recovery", "binding"]
    sr.check_filesystem()


@pytest.fixture
def plain(host: Host, new_disk: Callable[..., Disk]) -> Sr:
    return host.create_sr(new_disk("256M"), type="ext")


def test_data_stay_and_all_of_them_are_encrypted_while_in_use(plain: Sr) -> None:
    content = fill(plain)
    with pytest.raises(XeError) as caught:
        call_host(plain.host, "encrypt-in-place", sr_uuid=plain.uuid)
    assert caught.value.code == 6285
    assert plain.host.xe("sr-param-get", uuid=plain.uuid, param_name="type") == "ext"
    key = encrypt(plain)["recovery_key"]
    assert encrypt(plain)["recovery_key"] == key
    whole(plain, content)
    until(plain, at_work)
    plain.host.write_vdi(content.vdi, DATA)
    until(plain, ended)
    sound(plain, content)
    plain.host.sh(f"cryptsetup open --test-passphrase {plain.device}", input=key)
    with pytest.raises(XeError) as caught:
        encrypt(plain)
    assert caught.value.code == 6271
    plain.destroy_with_vdis()


def test_several_disks_are_encrypted_also_where_it_was_interrupted_between_them(
        host: Host, new_disk: Callable[..., Disk]) -> None:
    sr = host.create_sr(new_disk("256M"), new_disk("256M"), type="ext")
    content = fill(sr)
    with killed_after(host, "cryptsetup", "reencrypt*--init-only*"), pytest.raises(XeError):
        encrypt(sr)
    encrypt(sr)
    whole(sr, content)
    for device in sr.device.split(","):
        part = Sr(host, sr.uuid, device)
        until(part, ended)
        assert "linear" not in host.sh(f"cryptsetup luksDump {device}")
    sr.unplug()
    assert host.left_open() == NOTHING
    sr.plug()
    whole(sr, content)
    sr.destroy_with_vdis()


def test_power_cuts_while_it_works_lose_nothing(plain: Sr) -> None:
    content = fill(plain)
    encrypt(plain)
    for _ in range(2):
        before = until(plain, at_work)[1]
        plain.host.machine.power_cut()
        plain.host.machine.start()
        assert plain.attached
        whole(plain, content)
        after = progress(plain)
        assert after[0] == "none" or after[1] >= before
    until(plain, ended)
    sound(plain, content)
    plain.destroy_with_vdis()


STEPS = [("fallocated", "losetup", "--find*"), ("shrunk", "resize2fs", "/dev/mapper*"),
         ("hidden", "lvrename", "*shrinking"), ("merging", "dmsetup", "create*shrinking*"),
         ("reduced", "lvreduce", "*"), ("named", "lvrename", "*-shrinking*"),
         ("disk", "pvresize", "*"), ("header", "cryptsetup", "reencrypt*--init-only*")]


@pytest.mark.parametrize(("program", "pattern"), [step[1:] for step in STEPS],
                         ids=[step[0] for step in STEPS])
@pytest.mark.parametrize("reboots", [False, True], ids=["killed", "power-cut"])
def test_interrupted_at_any_step_the_next_call_goes_on(plain: Sr, program: str, pattern: str,
                                                       reboots: bool) -> None:
    host = plain.host
    content = fill(plain)
    with killed_after(host, program, pattern), pytest.raises(XeError):
        encrypt(plain)
    if reboots:
        host.machine.power_cut()
        host.machine.start()
    encrypt(plain)
    whole(plain, content)
    until(plain, ended)
    sound(plain, content)
    plain.destroy_with_vdis()
