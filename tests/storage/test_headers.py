# SPDX-License-Identifier: LGPL-2.1-only
"""Header backups: a header area that was overwritten comes back, and no revoked key with it.

The package is called as the verbs call it, in the guest, by small scripts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.pool import Host, Sr

pytestmark = pytest.mark.slow

DATA = b"what the VM wrote " * 100
PASSPHRASE = "correct horse battery staple"
LEAKED = "known to somebody who left"
FILE = "/root/header"

SCRIPT = """
import json
import sys
from luksext import backup, header, health
from luksext.container import LuksContainer
from luksext.errors import LuksError

def container(device):
    return LuksContainer(device, header.read(device))

def save(device, path):
    with open(path, "wb") as file:
        file.write(backup.export(backup.create(container(device), "test")))

def damage(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))

def restore(device, path, luks_uuid="", force=False, named=False):
    with open(path, "rb") as file:
        return backup.restore(device, file.read(), luks_uuid, force, named=named)._asdict()

try:
    print(json.dumps(EXPRESSION))
except LuksError as error:
    print(json.dumps({"code": error.code, "text": str(error)}))
"""


def call(host: Host, expression: str) -> Any:
    """The value of a Python expression in the guest, which must not fail."""
    value = _evaluate(host, expression)
    assert not isinstance(value, dict) or "code" not in value, value["text"]
    return value


def refused(host: Host, expression: str) -> Any:
    """The code and text of the LuksError that a Python expression in the guest raises."""
    value = _evaluate(host, expression)
    assert "code" in value, value
    return value


def _evaluate(host: Host, expression: str) -> Any:
    script = SCRIPT.replace("EXPRESSION", expression)
    return json.loads(host.sh("PYTHONPATH=/opt/xensource/sm python3 -", input=script))


def lose(host: Host, disk: Disk) -> None:
    host.sh(f"dd if=/dev/zero of={disk.by_id} bs=1M count=16 conv=fsync status=none")


@pytest.fixture(scope="module")
def shared_disk(machine: Machine) -> Disk:
    return machine.add_disk("headers", "256M")


@pytest.fixture(scope="module")
def sr(host: Host, shared_disk: Disk, luks_version: str) -> Iterator[Sr]:
    """A locked SR with a recovery passphrase."""
    sr = host.create_sr_with_passphrase(shared_disk.by_id, PASSPHRASE, pin="null",
                                        luks_version=luks_version)
    sr.unplug()
    yield sr
    sr.plug()
    sr.destroy()


@pytest.fixture
def saved(sr: Sr, shared_disk: Disk) -> Disk:
    """The SR's disk; a backup of its header is in FILE."""
    call(sr.host, f"save('{shared_disk.by_id}', '{FILE}')")
    return shared_disk


def test_from_total_loss_all_comes_back(sr: Sr, saved: Disk) -> None:
    host = sr.host
    sr.plug()
    vdi = sr.create_vdi()
    host.write_vdi(vdi, DATA)
    sr.unplug()
    before = host.fingerprint(saved)
    lose(host, saved)
    assert sr.refused().code == 6220
    assert call(host, f"restore('{saved.by_id}', '{FILE}', '{sr.containers()[0]}')")[
        "revived"] == []
    assert host.fingerprint(saved) == before
    sr.plug()
    assert host.read_vdi(vdi).startswith(DATA)
    host.sh(f"cryptsetup open --test-passphrase --key-slot 1 {saved.by_id}", input=PASSPHRASE)
    host.xe("vdi-destroy", uuid=vdi)
    sr.unplug()


def test_a_backup_is_kept_on_the_host_for_root_alone(sr: Sr, saved: Disk) -> None:
    folder = f"/var/lib/luksext/{sr.containers()[0]}/headers"
    modes = sr.host.sh(f"stat -c %a /var/lib/luksext {folder} {folder}/*").split()
    assert modes[:2] == ["700", "700"]
    assert set(modes[2:]) == {"600"}
    assert call(sr.host, f"backup.is_fresh(container('{saved.by_id}'))") is True


def test_cryptsetup_itself_reads_and_restores_the_file(sr: Sr, saved: Disk) -> None:
    host = sr.host
    assert host.sh(f"cryptsetup luksUUID {FILE}").strip() == sr.containers()[0]
    lose(host, saved)
    host.sh(f"cryptsetup luksHeaderRestore --batch-mode {saved.by_id} "
            f"--header-backup-file {FILE}")
    host.sh(f"cryptsetup open --test-passphrase --key-slot 1 {saved.by_id}", input=PASSPHRASE)
    call(host, f"restore('{saved.by_id}', '{FILE}')")


def test_an_open_container_keeps_its_header(sr: Sr, saved: Disk) -> None:
    sr.plug()
    error = refused(sr.host, f"restore('{saved.by_id}', '{FILE}', '', True)")
    sr.unplug()
    assert error["code"] == 6212
    assert "/dev/mapper/luks-" in error["text"]


def test_a_damaged_file_is_refused(sr: Sr, saved: Disk) -> None:
    host = sr.host
    call(host, f"damage('{FILE}', 1000000)")
    before = host.fingerprint(saved)
    assert refused(host, f"restore('{saved.by_id}', '{FILE}', '', True)")["code"] == 6262
    host.sh(f"truncate -s 1M {FILE}")
    assert refused(host, f"restore('{saved.by_id}', '{FILE}', '', True)")["code"] == 6262
    assert host.fingerprint(saved) == before


def test_a_backup_of_another_disk_is_refused(sr: Sr, saved: Disk, luks_version: str,
                                             new_disk: Callable[..., Disk]) -> None:
    host, other = sr.host, new_disk("256M")
    host.sh(f"cryptsetup luksFormat --batch-mode --type luks{luks_version} --pbkdf pbkdf2 "
            f"--pbkdf-force-iterations 1000 --align-payload 32768 --key-file - {other.by_id}",
            input=PASSPHRASE)
    call(host, f"save('{other.by_id}', '{FILE}.other')")
    before = host.fingerprint(saved)
    error = refused(host, f"restore('{saved.by_id}', '{FILE}.other', '', True)")
    assert error["code"] == 6263
    assert sr.containers()[0] in error["text"]
    assert host.fingerprint(saved) == before
    # Both lost: the record of XAPI, and without it the names of the disks, tell them apart.
    lose(host, other)
    recorded = refused(host, f"restore('{other.by_id}', '{FILE}', '{'1' * 8}-x', True)")
    named = refused(host, f"restore('{other.by_id}', '{FILE}')")
    assert (recorded["code"], named["code"]) == (6263, 6263)
    assert f"{other.wwn:x}" in named["text"]


def test_a_disk_that_was_formatted_by_mistake_gets_its_header_back(
        sr: Sr, saved: Disk, luks_version: str) -> None:
    host, uuid = sr.host, sr.containers()[0]
    host.sh(f"cryptsetup luksFormat --batch-mode --type luks{luks_version} --pbkdf pbkdf2 "
            f"--pbkdf-force-iterations 1000 --align-payload 32768 --key-file - {saved.by_id}",
            input=PASSPHRASE)
    assert sr.refused().code == 6222
    for how in ("False, True", "True, False"):
        assert refused(host, f"restore('{saved.by_id}', '{FILE}', '{uuid}', {how})")[
            "code"] == 6263
    call(host, f"restore('{saved.by_id}', '{FILE}', '{uuid}', True, True)")
    sr.plug()
    sr.unplug()


def test_a_backup_that_is_older_than_a_revocation(sr: Sr, saved: Disk) -> None:
    host, device = sr.host, saved.by_id
    add = ("cryptsetup luksAddKey --batch-mode --key-slot 5 --pbkdf pbkdf2 "
           f"--pbkdf-force-iterations 1000 --key-file /run/old {device} /run/new")
    for path, passphrase in (("/run/old", PASSPHRASE), ("/run/new", LEAKED)):
        host.sh(f"cat > {path}", input=passphrase)
    host.sh(f"{add}; rm /run/old /run/new")
    call(host, f"save('{device}', '{FILE}')")
    host.sh(f"cryptsetup luksKillSlot --batch-mode {device} 5")
    call(host, f"backup.revoked(container('{device}'))")
    assert len(call(host, f"backup.list_of('{sr.containers()[0]}')")) == 1
    lose(host, saved)
    error = refused(host, f"restore('{device}', '{FILE}')")
    assert error["code"] == 6264
    assert "keyslots 5 too" in error["text"]
    assert sr.refused().code == 6220
    assert call(host, f"restore('{device}', '{FILE}', '', True)")["revived"] == [5]
    host.sh(f"cryptsetup open --test-passphrase --key-slot 5 {device}",
            input=LEAKED)
    sr.plug()
    sr.unplug()
    host.sh(f"cryptsetup luksKillSlot --batch-mode {device} 5")
    call(host, f"backup.revoked(container('{device}'))")


def damage_binding(host: Host, device: str, luks_version: str) -> None:
    """Changes one character of the sealed key in the header."""
    if luks_version == "1":
        kind = "cb6e8904-81ff-40da-a84a-07ab9ab5715e"
        host.sh(f"luksmeta load -d {device} -s 0 -u {kind} > /run/jwe && "
                f"luksmeta wipe -f -d {device} -s 0 -u {kind}")
        jwe = host.sh("cat /run/jwe").strip()
        jwe = jwe[:-8] + ("A" if jwe[-8] != "A" else "B") + jwe[-7:]
        host.sh(f"luksmeta save -d {device} -s 0 -u {kind}", input=jwe)
    else:
        token = json.loads(host.sh(f"cryptsetup token export --token-id 0 {device}"))
        tag = token["jwe"]["tag"]
        token["jwe"]["tag"] = ("A" if tag[0] != "A" else "B") + tag[1:]
        host.sh(f"cryptsetup token remove --token-id 0 {device}")
        host.sh(f"cryptsetup token import {device}", input=json.dumps(token))


def test_proofs_tell_what_would_not_unlock(host: Host, disk: Disk, luks_version: str) -> None:
    device = disk.by_id
    sr = host.create_sr(disk, luks_version=luks_version,
                        pin_config=json.dumps({"pcr_ids": "16"}))
    sr.unplug()

    def prove() -> Any:
        proofs = call(host, f"health.prove(container('{device}'))")
        assert call(host, f"health.remembered(container('{device}'))") == proofs
        assert host.left_open() == {"mappings": "", "mounts": ""}
        [[slot, ok, code, sentence, _, may_pass]] = proofs
        assert slot == 0 and ok == (code == 0) == (sentence == "") and not may_pass
        return code

    assert prove() == 0
    host.machine.extend_pcr(16)
    assert prove() == 6234
    host.sh("tpm2_pcrreset 16")
    assert prove() == 0
    call(host, f"save('{device}', '{FILE}')")
    damage_binding(host, device, luks_version)
    assert prove() in (6234, 6238)
    call(host, f"restore('{device}', '{FILE}')")
    assert prove() == 0
    host.machine.clear_tpm()
    assert prove() == 6234
    host.xe("sr-forget", uuid=sr.uuid)
