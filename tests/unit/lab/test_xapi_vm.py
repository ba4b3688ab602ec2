# SPDX-License-Identifier: LGPL-2.1-only
"""VMs and the VBDs that lead from them to VDIs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import XenAPI

if TYPE_CHECKING:
    from tests.lab.xapi.cli.client import Client
    from tests.unit.lab.xapi_sandbox import Sandbox

pytest_plugins = ("tests.unit.lab.xapi_sandbox",)


@pytest.fixture
def sr(sandbox: Sandbox, client: Client) -> str:
    return sandbox.sr(client)


@pytest.fixture
def vdi(client: Client, sr: str) -> str:
    record = {"SR": sr, "name_label": "v", "virtual_size": "1048576", "type": "user"}
    return str(client.call("VDI.create", record))


@pytest.fixture
def vm(client: Client) -> str:
    return str(client.call("VM.create", {"name_label": "guest"}))


def connect(client: Client, vm: str, vdi: str, place: str) -> str:
    return str(client.call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": place}))


def test_a_place_in_a_vm_is_taken_once(client: Client, vm: str, vdi: str) -> None:
    vbd = connect(client, vm, vdi, "0")
    with pytest.raises(XenAPI.Failure) as failure:
        connect(client, vm, vdi, "0")
    assert failure.value.details == ["DEVICE_ALREADY_EXISTS", "0"]
    other = connect(client, vm, vdi, "autodetect")
    assert client.call("VBD.get_userdevice", other) == "1"
    assert client.call("VM.get_VBDs", vm) == [vbd, other]


def test_a_read_only_vdi_is_not_connected_for_writing(
    sandbox: Sandbox, client: Client, vm: str, vdi: str
) -> None:
    sandbox.core.db.set("VDI", vdi, "read_only", True)
    with pytest.raises(XenAPI.Failure, match="VDI_READONLY"):
        connect(client, vm, vdi, "0")


def test_a_halted_vm_plugs_nothing(client: Client, vm: str, vdi: str) -> None:
    vbd = connect(client, vm, vdi, "0")
    with pytest.raises(XenAPI.Failure) as failure:
        client.call("VBD.plug", vbd)
    assert failure.value.details == ["VM_BAD_POWER_STATE", vm, "Running", "Halted"]


def test_a_destroyed_vm_takes_its_vbds_along_but_no_vdi(
    client: Client, vm: str, vdi: str
) -> None:
    connect(client, vm, vdi, "0")
    client.call("VM.destroy", vm)
    assert client.call("VBD.get_all") == []
    assert client.call("VDI.get_all") == [vdi]


def test_a_vbd_outlives_a_restart_but_not_its_vdi(
    sandbox: Sandbox, client: Client, sr: str, vm: str, vdi: str
) -> None:
    vbd = connect(client, vm, vdi, "0")
    sandbox.restart_toolstack()
    client = sandbox.client()
    sandbox.api.host.collect_vbds()
    assert client.call("VBD.get_all") == [vbd]
    client.call("PBD.unplug", sandbox.pbd(sr))
    client.call("SR.forget", sr)
    assert client.call("VBD.get_all") == [vbd]
    sandbox.api.host.collect_vbds()
    assert client.call("VBD.get_all") == []


def test_xe_makes_a_vm_with_a_disk(sandbox: Sandbox, client: Client, vdi: str) -> None:
    vm = sandbox.xe("vm-create", "name-label=guest").stdout.strip()
    made = sandbox.xe(
        "vbd-create", f"vm-uuid={vm}", f"vdi-uuid={client.call('VDI.get_uuid', vdi)}", "device=3",
        "bootable=true",
    )
    record = client.call("VBD.get_record", client.ref("VBD", made.stdout.strip()))
    assert (record["userdevice"], record["bootable"], record["mode"]) == ("3", True, "RW")
    assert sandbox.xe("vm-destroy", f"uuid={vm}").returncode == 0
    assert client.call("VBD.get_all") == []
