# SPDX-License-Identifier: LGPL-2.1-only
"""VDIs: their commands, their data path, and what goes through it."""

from __future__ import annotations

import errno
import os
import xmlrpc.client
from typing import TYPE_CHECKING

import pytest
import XenAPI

from tests.lab.dom0 import nbd

if TYPE_CHECKING:
    from tests.lab.xapi.cli.client import Client
    from tests.unit.lab.xapi_sandbox import Sandbox

pytest_plugins = ("tests.unit.lab.xapi_sandbox",)

MIB = 1 << 20
OPENED = ["vdi_attach", "vdi_activate"]
CLOSED = ["vdi_deactivate", "vdi_detach"]


@pytest.fixture
def sr(sandbox: Sandbox, client: Client) -> str:
    sr = sandbox.sr(client)
    sandbox.calls()
    return sr


@pytest.fixture
def vdi(sandbox: Sandbox, client: Client, sr: str) -> str:
    record = {"SR": sr, "name_label": "v", "virtual_size": str(MIB), "type": "user"}
    vdi = client.call("VDI.create", record)
    assert sandbox.commands() == ["vdi_create"]
    return str(vdi)


@pytest.fixture
def vbd(sandbox: Sandbox, client: Client, vdi: str) -> str:
    domain = client.call("host.get_control_domain", sandbox.host)
    return str(client.call("VBD.create", {"VM": domain, "VDI": vdi, "mode": "RW"}))


def test_life_of_a_vdi(sandbox: Sandbox, client: Client, vdi: str) -> None:
    snapshot = client.call("VDI.snapshot", vdi)
    clone = client.call("VDI.clone", vdi, {})
    assert sandbox.commands() == ["vdi_snapshot", "vdi_update", "vdi_clone", "vdi_update"]
    assert client.call("VDI.get_snapshot_of", snapshot) == vdi
    assert client.call("VDI.get_snapshots", vdi) == [snapshot]
    assert client.call("VDI.get_is_a_snapshot", clone) is False
    client.call("VDI.resize", vdi, str(2 * MIB))
    assert client.call("VDI.get_virtual_size", vdi) == str(2 * MIB)
    client.call("VDI.destroy", snapshot)
    client.call("VDI.forget", clone)
    assert sandbox.commands() == ["vdi_resize", "vdi_delete"]
    assert client.call("VDI.get_all") == [vdi]


def test_forget_does_not_wait_for_the_scan_that_waits_for_who_forgets(
    sandbox: Sandbox, client: Client, sr: str, vdi: str
) -> None:
    sandbox.behave(sr_scan={"api": [["VDI.forget", vdi]]})
    client.call("SR.scan", sr)
    assert client.call("VDI.get_all") == []


def test_needs_an_attached_sr(sandbox: Sandbox, client: Client, sr: str, vdi: str) -> None:
    client.call("PBD.unplug", sandbox.pbd(sr))
    for call in (("VDI.snapshot", vdi, {}), ("VDI.resize", vdi, "1"), ("VDI.destroy", vdi)):
        with pytest.raises(XenAPI.Failure, match="SR_NO_PBDS"):
            client.call(*call)


def test_data_path(sandbox: Sandbox, client: Client, sr: str, vdi: str, vbd: str) -> None:
    client.call("VBD.plug", vbd)
    calls = sandbox.calls()
    assert [call["command"] for call in calls] == OPENED
    assert calls[0]["params"]["args"] == ["true"]
    host = client.call("host.get_uuid", sandbox.host)
    assert client.call("VDI.get_sm_config", vdi) == {
        "image-format": "vhd",
        f"read-caching-enabled-on-{host}": "false",
        f"read-caching-reason-{host}": "WHY",
    }
    with pytest.raises(XenAPI.Failure) as failure:
        client.call("PBD.unplug", sandbox.pbd(sr))
    assert failure.value.details == ["VDI_IN_USE", vdi]
    client.call("VBD.unplug", vbd)
    assert sandbox.commands() == CLOSED
    assert client.call("VDI.get_sm_config", vdi) == {"image-format": "vhd"}
    client.call("VBD.destroy", vbd)


def test_failed_activation_is_detached(sandbox: Sandbox, client: Client, vbd: str) -> None:
    sandbox.behave(vdi_activate={"fault": [46, "no"]})
    with pytest.raises(XenAPI.Failure, match="SR_BACKEND_FAILURE_46"):
        client.call("VBD.plug", vbd)
    assert sandbox.commands() == [*OPENED, "vdi_detach"]


def test_left_data_path_ends_with_the_unplug(
    sandbox: Sandbox, client: Client, sr: str, vbd: str
) -> None:
    client.call("VBD.plug", vbd)
    sandbox.restart_toolstack()
    sandbox.calls()
    sandbox.client().call("PBD.unplug", sandbox.pbd(sr))
    assert sandbox.commands() == [*CLOSED, "sr_detach"]


# Contents ------------------------------------------------------------------------------------


class Memory:
    """A disk for the lab's NBD server; writing is possible below its limit only."""

    readonly = False

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.data = bytearray(size)
        self._limit = limit

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        if offset + len(data) > self._limit:
            raise OSError(errno.ENOSPC, "full")
        self.data[offset : offset + len(data)] = data


def _transfers(sandbox: Sandbox, client: Client, vdi: str, size: int) -> None:
    """Import less than the VDI has, export all of it, compare."""
    uuid = client.call("VDI.get_uuid", vdi)
    sandbox.core.db.set("VDI", vdi, "virtual_size", size)
    source, sink = sandbox.root / "source", sandbox.root / "sink"
    data = os.urandom(size - MIB // 2)
    source.write_bytes(data)
    for command, path in (("vdi-import", source), ("vdi-export", sink)):
        result = sandbox.xe(command, f"uuid={uuid}", f"filename={path}", "format=raw")
        assert (result.returncode, result.stderr) == (0, "")
        assert sandbox.commands() == [*OPENED, *CLOSED]
    assert sink.read_bytes() == data + bytes(MIB // 2)
    assert sandbox.core.db.refs("VBD") == []
    assert sandbox.core.db.refs("task") == []


def test_contents_through_a_file(sandbox: Sandbox, client: Client, vdi: str) -> None:
    (sandbox.root / "disk").write_bytes(bytes(3 * MIB))
    _transfers(sandbox, client, vdi, 3 * MIB)


def test_contents_through_nbd(sandbox: Sandbox, client: Client, vdi: str) -> None:
    path = sandbox.root / "nbd"
    stop = nbd.listen(path, Memory(3 * MIB, 3 * MIB))
    sandbox.behave(vdi_attach={"raw": _attach_answer(f"nbd:unix:{path}:exportname=x")})
    try:
        _transfers(sandbox, client, vdi, 3 * MIB)
    finally:
        stop()


def _attach_answer(uri: str) -> str:
    return xmlrpc.client.dumps(({"params_nbd": uri, "o_direct": False},), "", True)


def test_failed_transfers(sandbox: Sandbox, client: Client, vdi: str) -> None:
    uuid, path = client.call("VDI.get_uuid", vdi), sandbox.root / "file"

    def fails(command: str) -> str:
        path.write_bytes(bytes(2 * MIB))
        result = sandbox.xe(command, f"uuid={uuid}", f"filename={path}")
        assert result.returncode == 1
        return result.stderr

    assert "the driver gave no disk" in fails("vdi-export")
    assert sandbox.commands() == [*OPENED, *CLOSED]
    (sandbox.root / "disk").write_bytes(bytes(MIB))
    assert "VDI_TOO_SMALL" in fails("vdi-import")
    stop = nbd.listen(sandbox.root / "nbd", Memory(2 * MIB, MIB))
    uri = f"nbd:unix:{sandbox.root}/nbd:exportname=x"
    sandbox.behave(vdi_attach={"raw": _attach_answer(uri)})
    assert "No space left" in fails("vdi-import")
    stop()
    sandbox.behave(vdi_activate={"fault": [46, "no"]})
    assert fails("vdi-export") == "Error code: SR_BACKEND_FAILURE_46\nError parameters: , no, \n"
    assert sandbox.core.db.refs("VBD") == []
