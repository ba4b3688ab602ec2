# SPDX-License-Identifier: LGPL-2.1-only
"""Cold boots: disks renumbered, power cut, the TPM gone, the disk in another host."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.disks import Disk
from tests.lab.errors import LabError
from tests.lab.machine import Machine
from tests.storage.conftest import real_sm
from tests.storage.pool import NOTHING, Host, Sr, XeError

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def disks(machine: Machine) -> list[Disk]:
    return [machine.add_disk(f"boot{number}", "256M") for number in range(4)]


@pytest.fixture(scope="module")
def sr(host: Host, disks: list[Disk]) -> Iterator[Sr]:
    """An SR over two disks that are named as an administrator may: by /dev/sdX."""
    names = [host.sh(f"readlink -f {disk.by_id}").strip() for disk in disks[1:3]]
    sr = host.create_sr_with_passphrase(",".join(names), PASSPHRASE)
    yield sr
    sr.destroy()


@pytest.fixture(scope="module", autouse=True)
def luks1_sr(host: Host, disks: list[Disk]) -> Iterator[Sr]:
    """Another SR on the same host, of the older generation, also by its name of the day."""
    name = host.sh(f"readlink -f {disks[0].by_id}").strip()
    sr = host.create_sr_with_passphrase(name, PASSPHRASE, luks_version="1")
    yield sr
    sr.destroy()


def messages(host: Host, name: str) -> list[str]:
    listed = host.xe("message-list", params="uuid", name=name, minimal=True)
    return listed.split(",") if listed else []


def test_an_sr_whose_creation_a_power_cut_interrupted_is_not_plugged_and_can_be_destroyed(
        host: Host, disks: list[Disk]) -> None:
    """Before any disk gets another name: XAPI's record of an SR has the name of that day, by which
    no other SR is made on a disk."""
    known = host.xe("sr-list", params="uuid", minimal=True)
    # After the power cut it is the real one again: the root filesystem is in memory.
    host.machine.put(host.sh("command -v mkfs.ext4").strip(),
                     b"#!/bin/sh\ntouch /run/hangs\nexec sleep 600\n", 0o755)

    def create() -> None:
        with contextlib.suppress(XeError, LabError, OSError):
            host.create_sr(disks[3])

    creation = threading.Thread(target=create)
    creation.start()
    host.sh("until [ -e /run/hangs ]; do sleep 0.2; done")
    host.machine.power_cut()
    creation.join()
    host.machine.start()
    [uuid] = set(host.xe("sr-list", params="uuid", minimal=True).split(",")) - set(known.split(","))
    with pytest.raises(XeError) as caught:
        Sr(host, uuid, disks[3].by_id).plug()
    assert caught.value.code == 6291
    host.xe("sr-destroy", uuid=uuid)
    host.create_sr(disks[3]).destroy()
    [told] = messages(host, "PBD_PLUG_FAILED_ON_SERVER_START")
    host.xe("message-destroy", uuid=told)


def test_it_is_plugged_after_a_boot_with_the_disks_renumbered(
        sr: Sr, luks1_sr: Sr, disks: list[Disk]) -> None:
    machine = sr.host.machine
    vdi = sr.create_vdi()
    machine.shutdown()
    machine.order_disks([disk.name for disk in reversed(disks)])
    machine.start()
    assert sr.attached
    assert luks1_sr.attached
    assert sr.host.xe("vdi-list", sr_uuid=sr.uuid, minimal=True) == vdi
    assert messages(sr.host, "PBD_PLUG_FAILED_ON_SERVER_START") == []
    sr.host.xe("vdi-destroy", uuid=vdi)


def test_it_is_plugged_after_a_power_cut(sr: Sr, luks1_sr: Sr) -> None:
    """In the middle of the activation of a VDI: the storage manager's note of that is gone."""
    vdi = sr.create_vdi()
    client = sr.host.client()
    client.call("VDI.add_to_sm_config", client.ref("VDI", vdi), "activating", "True")
    sr.host.sh("sync")
    sr.host.machine.power_cut()
    sr.host.machine.start()
    assert sr.attached
    assert luks1_sr.attached
    assert "activating" not in sr.host.xe("vdi-param-get", uuid=vdi, param_name="sm-config")
    assert vdi in sr.host.xe("vdi-list", sr_uuid=sr.uuid, minimal=True)
    sr.host.xe("vdi-destroy", uuid=vdi)


def test_an_orderly_shutdown_closes_everything(sr: Sr) -> None:
    sr.host.xe("host-prepare-for-poweroff")
    assert sr.host.left_open() == NOTHING


def test_without_its_tpm_the_host_boots_and_raises_the_alert(sr: Sr) -> None:
    machine = sr.host.machine
    machine.shutdown()
    machine.remove_tpm()
    machine.start()
    assert not sr.attached
    assert len(messages(sr.host, "PBD_PLUG_FAILED_ON_SERVER_START")) == 1
    with pytest.raises(XeError) as caught:
        sr.plug()
    assert caught.value.code == 6232
    assert "/dev/tpmrm0" in caught.value.text
    machine.shutdown()
    machine.insert_tpm()
    machine.start()
    assert sr.attached


def test_with_another_tpm_the_recovery_passphrase_opens_it(sr: Sr) -> None:
    host = sr.host
    host.machine.shutdown()
    host.machine.swap_tpm()
    host.machine.start()
    assert not sr.attached
    with pytest.raises(XeError) as caught:
        sr.plug()
    assert caught.value.code == 6234
    for uuid in sr.containers():
        host.sh(f"cryptsetup open /dev/disk/by-uuid/{uuid} luks-{uuid}", input=PASSPHRASE)
    sr.plug()
    assert sr.attached
    host.machine.shutdown()
    host.machine.swap_tpm()
    host.machine.start()
    assert sr.attached


def test_a_missing_disk_is_named(sr: Sr, disks: list[Disk]) -> None:
    machine = sr.host.machine
    sr.unplug()
    uuid = sr.containers()[1]
    machine.remove_disk(disks[2].name)
    with pytest.raises(XeError) as caught:
        sr.plug()
    machine.insert_disk(disks[2])
    assert caught.value.code in (6210, 6222)
    assert uuid in caught.value.text
    assert sr.uuid not in str(sr.host.left_open())
    sr.plug()


def test_disks_moved_to_another_host_open_there_with_the_passphrase(
        sr: Sr, disks: list[Disk], tmp_path: Path) -> None:
    sr.unplug()
    devices = ",".join(disk.by_id for disk in disks[1:3])
    with Machine("other", tmp_path / "other", sm=real_sm(), memory_mib=768) as other_machine:
        for disk in disks[1:3]:
            sr.host.machine.move_disk(disk.name, other_machine)
        other_machine.start()
        other = Host(other_machine)
        moved = other.introduce(sr, devices)
        with pytest.raises(XeError) as caught:
            moved.plug()
        assert caught.value.code == 6234
        for disk in disks[1:3]:
            uuid = other.sh(f"cryptsetup luksUUID {disk.by_id}").strip()
            other.sh(f"cryptsetup open {disk.by_id} luks-{uuid}", input=PASSPHRASE)
        moved.plug()
        assert moved.attached
        moved.unplug()
        for disk in disks[1:3]:
            other_machine.move_disk(disk.name, sr.host.machine)
    sr.plug()
