# SPDX-License-Identifier: LGPL-2.1-only
"""The whole life of an encrypted SR, on both generations of LUKS."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.pool import NOTHING, Host, Sr, XeError

PATTERN = b"written by a VM, not to be found on the disk " * 1024


@pytest.fixture(scope="module")
def disk(machine: Machine) -> Disk:
    return machine.add_disk("life", "256M")


@pytest.fixture(scope="module")
def sr(host: Host, disk: Disk, luks_version: str) -> Iterator[Sr]:
    sr = host.create_unbound_sr(disk, luks_version=luks_version)
    yield sr
    for vdi in host.xe("vdi-list", sr_uuid=sr.uuid, params="uuid", minimal=True).split(","):
        if vdi:
            host.xe("vdi-destroy", uuid=vdi)
    sr.destroy()


@pytest.fixture
def plugged(sr: Sr) -> Sr:
    if not sr.attached:
        sr.plug()
    return sr


def test_create_leaves_the_sr_plugged_with_a_size(plugged: Sr) -> None:
    assert plugged.attached
    size = int(plugged.host.xe("sr-param-get", uuid=plugged.uuid, param_name="physical-size"))
    used = int(plugged.host.xe("sr-param-get", uuid=plugged.uuid,
                               param_name="physical-utilisation"))
    assert size > 150 << 20
    assert used > 0


def test_the_filesystem_lies_on_a_luks_mapping(plugged: Sr, luks_version: str) -> None:
    tree = plugged.host.sh(f"lsblk --noheadings --output TYPE {plugged.device}").split()
    assert tree == ["disk", "crypt", "lvm"]
    dump = plugged.host.sh(f"cryptsetup luksDump {plugged.device}")
    assert dump.split("Version:")[1].split()[0] == luks_version


def test_no_plaintext_reaches_the_disk(plugged: Sr, disk: Disk) -> None:
    vdi = plugged.create_vdi()
    plugged.host.write_vdi(vdi, PATTERN)
    plugged.unplug()
    plugged.host.sh("sync")
    assert b"written by a VM" not in disk.path.read_bytes()
    plugged.plug()
    assert plugged.host.read_vdi(vdi).startswith(PATTERN)
    plugged.host.xe("vdi-destroy", uuid=vdi)


def test_unplug_leaves_nothing_open(plugged: Sr) -> None:
    plugged.unplug()
    assert plugged.host.left_open() == NOTHING
    assert not plugged.attached


def test_unplug_and_plug_again_are_no_errors_when_repeated(plugged: Sr) -> None:
    plugged.plug()
    plugged.unplug()
    plugged.unplug()
    assert plugged.host.left_open() == NOTHING


def test_probe_finds_the_locked_sr(plugged: Sr) -> None:
    plugged.unplug()
    listing = plugged.host.xe("sr-probe", type="luksext", host_uuid=plugged.host.uuid,
                              device_config={"device": plugged.device})
    (found,) = ElementTree.fromstring(listing).findall("SR")
    assert found.findtext("UUID") == plugged.uuid
    assert found.findtext("Devlist") == plugged.device
    assert int(found.findtext("size")) == (256 - 16) << 20
    assert plugged.host.left_open() == NOTHING


def test_scan_of_an_unplugged_sr_fails_and_keeps_its_vdis(plugged: Sr) -> None:
    vdi = plugged.create_vdi()
    plugged.unplug()
    with pytest.raises(XeError):
        plugged.scan()
    assert plugged.host.xe("vdi-list", sr_uuid=plugged.uuid, minimal=True) == vdi
    plugged.plug()
    plugged.host.xe("vdi-destroy", uuid=vdi)


def test_a_forgotten_sr_comes_back_with_its_data(plugged: Sr, disk: Disk) -> None:
    host = plugged.host
    vdi = plugged.create_vdi()
    host.write_vdi(vdi, PATTERN)
    plugged.unplug()
    before = host.fingerprint(disk)
    host.xe("sr-forget", uuid=plugged.uuid)
    assert host.fingerprint(disk) == before
    host.introduce(plugged, plugged.device)
    plugged.plug()
    assert host.read_vdi(vdi).startswith(PATTERN)
    host.xe("vdi-destroy", uuid=vdi)


def test_a_container_opened_by_hand_is_taken_as_it_is(plugged: Sr) -> None:
    host = plugged.host
    plugged.unplug()
    host.sh(f"clevis luks pass -d {plugged.device} -s 0 | "
            f"cryptsetup open --key-file - {plugged.device} opened-by-hand")
    plugged.plug()
    assert plugged.attached
    plugged.unplug()
    assert host.left_open() == NOTHING


def test_destroy_refuses_an_sr_with_vdis(plugged: Sr) -> None:
    vdi = plugged.create_vdi()
    plugged.unplug()
    with pytest.raises(XeError, match="not empty"):
        plugged.host.xe("sr-destroy", uuid=plugged.uuid)
    assert plugged.host.left_open() == NOTHING
    plugged.plug()
    plugged.host.xe("vdi-destroy", uuid=vdi)


def test_clevis_itself_reads_our_binding_until_destroy_erases_every_keyslot(
        host: Host, machine: Machine, luks_version: str) -> None:
    disk = machine.add_disk(f"destroyed{luks_version}", "256M")
    sr = host.create_sr(disk, luks_version=luks_version)
    assert host.sh(f"clevis luks list -d {disk.by_id}").startswith("0: tpm2")
    key = host.sh(f"clevis luks pass -d {disk.by_id} -s 0")
    opens = f"cryptsetup open --test-passphrase --key-slot 0 --key-file - {disk.by_id}"
    host.sh(opens, input=key)
    header = disk.path.read_bytes()[: 16 << 20]
    sr.destroy()
    assert sr.uuid not in str(host.left_open())
    assert host.xe("sr-list", uuid=sr.uuid, minimal=True) == ""
    after = disk.path.read_bytes()[: 16 << 20]
    assert header != after
    assert after == bytes(16 << 20)
    assert machine.run(opens, input=key, check=False).rc != 0
    machine.remove_disk(disk.name)
