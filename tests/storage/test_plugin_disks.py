# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs for disks that are there already, through XAPI's plugin."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.lab.disks import Disk
from tests.storage.pool import NOTHING, Host, Sr, XeError
from tests.storage.test_plugin import call, call_host

PASSPHRASE = "by hand"


@pytest.mark.slow
def test_a_disk_encrypted_by_hand_is_adopted(host: Host, disk: Disk) -> None:
    host.sh(f"cryptsetup luksFormat -q --type luks2 --sector-size 512 --pbkdf pbkdf2 "
            f"--pbkdf-force-iterations 1000 {disk.by_id}", input=PASSPHRASE)
    uuid = host.sh(f"cryptsetup luksUUID {disk.by_id}").strip()
    host.sh(f"cryptsetup open {disk.by_id} luks-{uuid}", input=PASSPHRASE)
    mapping = f"/dev/mapper/luks-{uuid}"
    plain = host.xe("sr-create", host_uuid=host.uuid, type="ext", content_type="user",
                    name_label="by hand", device_config={"device": mapping})
    sr = Sr(host, plain, mapping)
    vdi = sr.create_vdi()
    host.xe("vdi-param-set", uuid=vdi, name_label="root of web")
    adopted = call(sr, "adopt", key=PASSPHRASE)
    assert adopted["sr_uuid"] == sr.uuid
    assert host.xe("sr-param-get", uuid=sr.uuid, param_name="type") == "luksext"
    assert host.xe("vdi-param-get", uuid=vdi, param_name="name-label") == "root of web"
    sr.unplug()
    assert host.left_open() == NOTHING
    sr.plug()
    status = call(sr, "status")
    assert status["recovery"] == "confirmed"
    assert "binding" in [slot["role"] for slot in status["disks"][0]["slots"]]
    host.xe("vdi-destroy", uuid=vdi)
    sr.destroy()


@pytest.mark.slow
def test_an_empty_sr_is_encrypted_and_one_with_a_vdi_is_not(host: Host, disk: Disk) -> None:
    plain = host.create_sr(disk, type="ext")
    vdi = plain.create_vdi()
    with pytest.raises(XeError) as caught:
        call(plain, "encrypt", pin="null", confirm="true")
    assert caught.value.code == 6273
    assert vdi in caught.value.text
    host.xe("vdi-destroy", uuid=vdi)
    uuid = json.loads(call_host(host, "encrypt", sr_uuid=plain.uuid, pin="null",
                                confirm="true"))["sr_uuid"]
    sr = Sr(host, uuid, disk.by_id)
    assert host.xe("sr-param-get", uuid=uuid, param_name="type") == "luksext"
    assert sr.attached
    sr.destroy()


def test_an_sr_grows_with_its_disk(host: Host, new_disk: Callable[..., Disk]) -> None:
    disk = new_disk("256M")
    sr = host.create_unbound_sr(disk)
    host.machine.grow_disk(disk.name, "384M")
    grown = call(sr, "grow")["disks"][0]
    assert grown["after"]["filesystem"] > grown["before"]["filesystem"] + (100 << 20)
    sr.destroy()
