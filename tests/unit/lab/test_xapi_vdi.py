# SPDX-License-Identifier: LGPL-2.1-only
"""VDIs: their commands, their data path, and the reader of VHD chains behind it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import XenAPI

from tests.lab.xapi.vhd import Vhd, VhdError

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


# VHD -----------------------------------------------------------------------------------------


def _image(path: Path, size: int = 8 * MIB) -> Path:
    """An empty dynamic VHD with blocks of 2 MiB."""
    block = 2 * MIB
    blocks = size // block
    footer = bytearray(512)
    struct.pack_into(">8sIIQ", footer, 0, b"conectix", 2, 0x10000, 512)
    struct.pack_into(">QQ", footer, 40, size, size)
    struct.pack_into(">I", footer, 60, 3)
    header = bytearray(1024)
    struct.pack_into(
        ">8sQQIII", header, 0, b"cxsparse", (1 << 64) - 1, 1536, 0x10000, blocks, block
    )
    table = (b"\xff" * 4 * blocks).ljust(512, b"\xff")
    path.write_bytes(bytes(footer) + bytes(header) + table + bytes(footer))
    return path


def _child(path: Path, parent: Path) -> Path:
    """An empty differencing VHD on a parent in the same folder."""
    data = bytearray(_image(path).read_bytes())
    for footer in (0, len(data) - 512):
        struct.pack_into(">I", data, footer + 60, 4)
    name = parent.name.encode("utf-16-be")
    data[512 + 64 : 512 + 64 + len(name)] = name
    path.write_bytes(bytes(data))
    return path


def test_vhd_keeps_what_was_written(tmp_path: Path) -> None:
    image = _image(tmp_path / "a.vhd")
    data = os.urandom(3 * MIB)
    with Vhd(image, writable=True) as vhd:
        vhd.write(MIB, data)
    with Vhd(image) as vhd:
        assert vhd.size == 8 * MIB
        assert vhd.read(MIB, 3 * MIB) == data
        assert vhd.read(0, MIB) == bytes(MIB)
        assert len(vhd.read(7 * MIB, 4 * MIB)) == MIB


def test_vhd_reads_through_its_parents(tmp_path: Path) -> None:
    parent = _image(tmp_path / "parent.vhd")
    with Vhd(parent, writable=True) as vhd:
        vhd.write(0, b"p" * MIB)
    child = _child(tmp_path / "child.vhd", parent)
    with Vhd(child, writable=True) as vhd:
        vhd.write(512, b"c" * 512)
    with Vhd(child) as vhd:
        assert vhd.read(0, 2048) == b"p" * 512 + b"c" * 512 + b"p" * 1024
    with Vhd(parent) as vhd:
        assert vhd.read(0, 2048) == b"p" * 2048


def test_vhd_refuses(tmp_path: Path) -> None:
    other = tmp_path / "x"
    other.write_bytes(bytes(4096))
    with pytest.raises(VhdError):
        Vhd(other)
    with Vhd(_image(tmp_path / "a.vhd"), writable=True) as vhd, pytest.raises(VhdError):
        vhd.write(8 * MIB, bytes(512))


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_vhd_and_qemu_agree(tmp_path: Path) -> None:
    image, raw = tmp_path / "a.vhd", tmp_path / "raw"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size", str(image), "8M"], check=True
    )
    data = os.urandom(3 * MIB)
    with Vhd(image, writable=True) as vhd:
        vhd.write(MIB, data)
    subprocess.run(
        ["qemu-img", "convert", "-f", "vpc", "-O", "raw", str(image), str(raw)], check=True
    )
    assert raw.read_bytes()[: 8 * MIB] == bytes(MIB) + data + bytes(4 * MIB)


def test_import_and_export(sandbox: Sandbox, client: Client, sr: str, vdi: str) -> None:
    folder = sandbox.config.sr_mount / client.call("SR.get_uuid", sr)
    folder.mkdir(parents=True)
    uuid = client.call("VDI.get_uuid", vdi)
    _image(folder / f"{uuid}.vhd")
    source, sink = sandbox.root / "source", sandbox.root / "sink"
    source.write_bytes(os.urandom(3 * MIB))
    sandbox.core.db.set("VDI", vdi, "virtual_size", 8 * MIB)
    assert (
        sandbox.xe("vdi-import", f"uuid={uuid}", f"filename={source}", "format=raw").returncode == 0
    )
    assert sandbox.commands() == [*OPENED, *CLOSED]
    assert (
        sandbox.xe("vdi-export", f"uuid={uuid}", f"filename={sink}", "format=raw").returncode == 0
    )
    assert sink.read_bytes() == source.read_bytes() + bytes(5 * MIB)
    assert "lab tapdisk on" in sandbox.log()
    assert sandbox.core.db.refs("VBD") == []
    sandbox.behave(vdi_activate={"fault": [46, "no"]})
    failed = sandbox.xe("vdi-export", f"uuid={uuid}", f"filename={sink}")
    assert failed.returncode == 1
    assert failed.stderr == "Error code: SR_BACKEND_FAILURE_46\nError parameters: , no, \n"
