# SPDX-License-Identifier: LGPL-2.1-only
"""A disk comes back from somebody who wrote to it what he liked (docs/threat-model.md).

Nothing of it is run, nothing hangs, nothing is trusted; and the error names what is wrong.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable

import pytest

from tests.lab.disks import Disk
from tests.storage.attacks import edit, exchange_binding, opens_by_hand, patch, swap
from tests.storage.pool import NOTHING, Host, Sr, XeError, luksext, luksext_error
from tests.storage.tang import URL, Tang

# Minutes of a guest: not in `make test` yet.
pytestmark = pytest.mark.slow

# Seconds, in an emulated guest.
AT_ONCE = 30

# Notes in XAPI what an SR's containers are.
RECORD = """
import sys, XenAPI
session = XenAPI.xapi_local()
session.xenapi.login_with_password("root", "", "1.0", "test")
sr = session.xenapi.SR.get_by_uuid(sys.argv[1])
session.xenapi.SR.remove_from_sm_config(sr, "luks_containers")
session.xenapi.SR.add_to_sm_config(sr, "luks_containers", sys.argv[2])
"""


def refused(sr: Sr) -> XeError:
    """The error of a plug that must fail, and soon, with the disk as it was."""
    disk = next(disk for disk in sr.host.machine.disks.values() if disk.by_id == sr.device)
    before = sr.host.fingerprint(disk)
    begin = time.monotonic()
    error = sr.refused()
    assert time.monotonic() - begin < AT_ONCE
    assert sr.host.fingerprint(disk) == before
    return error


@pytest.fixture
def sr(locked_sr: Sr) -> Sr:
    return locked_sr


def test_a_container_with_a_known_key_in_its_place_is_not_opened(sr: Sr, restored: Disk) -> None:
    uuid = sr.containers()[0]
    swap(sr.host, restored.by_id)
    assert opens_by_hand(sr, "known to the attacker")
    assert uuid in sr.host.sh(f"cryptsetup luksUUID {restored.by_id}")
    error = refused(sr)
    assert error.code == 6242
    assert "another volume key" in error.text
    assert "header-restore" in error.text


def test_a_forged_second_copy_that_cryptsetup_prefers_is_not_opened(
        sr: Sr, restored: Disk, luks_version: str) -> None:
    if luks_version == "1":
        pytest.skip("LUKS1 has one copy of its header")
    host, device = sr.host, restored.by_id
    swap(host, device)
    # The serial number of the forged one gets higher than that of the true one.
    host.sh(f"for n in 1 2 3 4 5 6; do cryptsetup config --priority normal --key-slot 0 {device};"
            f"cryptsetup config --priority prefer --key-slot 0 {device}; done;"
            f"dd if={device} of=/tmp/forged bs=16K skip=1 count=1 status=none;"
            f"dd if=/tmp/header of={device} bs=1M conv=fsync status=none;"
            f"dd if=/tmp/forged of={device} bs=16K seek=1 conv=fsync status=none")
    assert refused(sr).code == 6242


def recovery_key(sr: Sr) -> str:
    """A new one, that was typed back."""
    key = str(json.loads(luksext(sr, "recovery-add", "--name=safe", "--json"))["recovery_key"])
    luksext(sr, "recovery-confirm", key=key)
    return key


def test_an_old_header_with_a_key_that_was_revoked_is_not_opened(
        sr: Sr, restored: Disk) -> None:
    recovery_key(sr)
    luksext(sr, "recovery-add", "--name=leaked")
    sr.host.sh(f"dd if={restored.by_id} of=/tmp/old bs=1M count=16 status=none")
    luksext(sr, "recovery-revoke", "--name=leaked")
    sr.host.sh(f"dd if=/tmp/old of={restored.by_id} bs=1M conv=fsync status=none")
    error = refused(sr)
    assert error.code == 6243
    assert "header-restore" in error.text
    luksext(sr, "header-restore", f"--device={restored.by_id}")
    assert "leaked" not in luksext(sr, "status", "--json")
    sr.plug()
    sr.unplug()


def test_a_binding_to_a_server_of_somebody_else_is_not_renewed(
        host: Host, disk: Disk, luks_version: str, tang: Tang) -> None:
    sr = host.create_unbound_sr(disk, luks_version=luks_version)
    key = recovery_key(sr)
    luksext(sr, "prove")
    sr.unplug()
    exchange_binding(host, disk.by_id, "tang", {"url": URL, "thp": tang.thumbprint()})
    assert refused(sr).code == 6239
    before = host.fingerprint(disk)
    assert "error 6245" in luksext_error(sr, "rebind", key=key)
    assert host.fingerprint(disk) == before
    luksext(sr, "rebind", "--pin=null", key=key)
    sr.plug()
    sr.destroy()


def test_a_volume_key_that_was_never_recorded_is_after_a_plug(sr: Sr, restored: Disk) -> None:
    """As of an SR that was made by an earlier version of the driver."""
    recorded = sr.config("sm-config", "luks_containers")
    old = json.dumps([record[:3] for record in json.loads(recorded)])
    sr.host.machine.run(["python3", "-c", RECORD, sr.uuid, old])
    assert sr.config("sm-config", "luks_containers") == old
    sr.plug()
    sr.unplug()
    assert sr.config("sm-config", "luks_containers") == recorded


LUKS2 = {
    "memory": (6241, "metadata['keyslots']['0']['kdf'] = dict(type='argon2id', time=4, cpus=4,"
                     " memory=2 ** 31, salt='AAAA')"),
    "passes": (6241, "metadata['keyslots']['0']['kdf'] = dict(type='argon2id', time=2 ** 31,"
                     " memory=65536, cpus=4, salt='AAAA')"),
    "iterations": (6241, "metadata['keyslots']['0']['kdf']['iterations'] = 2 ** 32 - 1"),
    "digest": (6241, "metadata['digests']['0']['iterations'] = 2 ** 32 - 1"),
    "null keyslot": (6222, "metadata['keyslots']['0']['area']['encryption'] = 'cipher_null-ecb'"),
    "null segment": (6222, "metadata['segments']['0']['encryption'] = 'cipher_null-ecb'"),
    "shift": (6222, "metadata['segments']['0'].update(offset=str(20 * 2 ** 20), iv_tweak='8192')"),
    "elsewhere": (6222, "metadata['segments']['0']['offset'] = str(20 * 2 ** 20)"),
    "cut": (6222, "metadata['segments']['0']['size'] = str(2 ** 20)"),
    "discards": (6222, "metadata['config']['flags'] = ['allow-discards']"),
    "terminal": (6222, "metadata['segments']['0']['encryption'] = 'aes\\33[2J\\n'"),
    "depth": (6221, "text = b'{\"a\":' * 2000"),
    "twice": (6221, "text = json.dumps(metadata).encode()[:-1] + b', \"tokens\": {}}'"),
    "not a number": (6221, "metadata['config']['x'] = float('nan')"),
    "half a letter": (6222, "metadata['segments']['0']['encryption'] = '\\ud800'"),
    "digits": (6221, "text = b'9' * 12000"),
}


# The others are for the fault campaign and `make storage-all`.
OFTEN = ("memory", "null keyslot", "null segment", "shift", "twice")


@pytest.mark.parametrize("attack", [
    pytest.param(attack, marks=[pytest.mark.slow] * (attack not in OFTEN)) for attack in LUKS2])
def test_a_crafted_luks2_header_is_named(sr: Sr, restored: Disk, luks_version: str,
                                         attack: str) -> None:
    if luks_version == "1":
        pytest.skip("LUKS1 has no JSON")
    code, change = LUKS2[attack]
    edit(sr.host, restored.by_id, change)
    error = refused(sr)
    assert error.code == code
    assert "\33" not in error.text


LUKS1 = {
    "iterations of a keyslot": (6241, 208 + 4, struct.pack(">I", 2 ** 32 - 1)),
    "iterations of the volume key": (6241, 164, struct.pack(">I", 2 ** 32 - 1)),
    "stripes": (6241, 208 + 44, struct.pack(">I", 2 ** 31)),
    "elsewhere": (6222, 104, struct.pack(">I", 40960)),
    "null cipher": (6222, 8, b"cipher_null".ljust(32, b"\0") + b"ecb".ljust(32, b"\0")),
}


@pytest.mark.parametrize("attack", LUKS1)
def test_a_crafted_luks1_header_is_named(sr: Sr, restored: Disk, luks_version: str,
                                         attack: str) -> None:
    if luks_version == "2":
        pytest.skip("of LUKS1")
    code, offset, data = LUKS1[attack]
    patch(sr.host, restored.by_id, offset, data)
    assert refused(sr).code == code


def test_a_foreign_token_does_nothing(sr: Sr, restored: Disk, luks_version: str) -> None:
    if luks_version == "1":
        pytest.skip("LUKS1 has no tokens")
    edit(sr.host, restored.by_id, "metadata['tokens']['9'] = {"
         "'type': 'command', 'keyslots': ['0'], 'command': 'touch /tmp/owned',"
         "'url': 'http://127.0.0.1:9/', 'exec': ['touch', '/tmp/owned']}")
    sr.plug()
    sr.unplug()
    assert sr.host.sh("ls /tmp/owned 2>&1 || true").startswith("ls: cannot access")


def test_two_disks_with_one_uuid_are_both_named(
        sr: Sr, restored: Disk, host: Host, new_disk: Callable[..., Disk]) -> None:
    copy = new_disk("256M")
    elsewhere = new_disk("256M")
    host.sh(f"dd if={restored.by_id} of={copy.by_id} bs=1M conv=fsync status=none")
    pbd = sr.pbd
    host.xe("pbd-destroy", uuid=pbd)
    host.xe("pbd-create", sr_uuid=sr.uuid, host_uuid=host.uuid,
            device_config={"device": elsewhere.by_id})
    error = sr.refused()
    host.xe("pbd-destroy", uuid=sr.pbd)
    host.xe("pbd-create", sr_uuid=sr.uuid, host_uuid=host.uuid,
            device_config={"device": restored.by_id})
    assert error.code == 6224
    for disk in (restored, copy):
        assert host.sh(f"readlink -f {disk.by_id}").strip() in error.text
    assert host.left_open() == NOTHING


def test_a_forged_identity_does_not_make_a_disk_the_srs(
        sr: Sr, restored: Disk, host: Host, new_disk: Callable[..., Disk]) -> None:
    """A disk that says to be the SR's, with another LUKS UUID, while the true one is away."""
    forged = new_disk("256M")
    host.sh(f"dd if={restored.by_id} of={forged.by_id} bs=1M count=16 conv=fsync status=none;"
            f"cryptsetup luksUUID --batch-mode --uuid 11111111-2222-4333-8444-555555555555 "
            f"{forged.by_id};"
            f"dd if=/dev/zero of={restored.by_id} bs=1M count=16 conv=fsync status=none")
    assert sr.refused().code == 6220
