# SPDX-License-Identifier: LGPL-2.1-only
"""A full citizen of the storage manager: what ext can, luksext can, at the same cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.pool import VDI_SIZE, Host, Sr, XeError


@pytest.fixture(scope="module")
def sr(host: Host, machine: Machine) -> Iterator[Sr]:
    sr = host.create_sr(machine.add_disk("citizen", "512M"))
    yield sr
    sr.destroy()


@pytest.fixture(scope="module")
def ext_sr(host: Host, machine: Machine) -> Iterator[Sr]:
    sr = host.create_sr(machine.add_disk("ext", "512M"), type="ext")
    yield sr
    sr.destroy()


@pytest.fixture
def vdi(sr: Sr) -> Iterator[str]:
    uuid = sr.create_vdi()
    yield uuid
    sr.host.xe("vdi-destroy", uuid=uuid)


def images(sr: Sr) -> set[str]:
    """The UUIDs of the image files in the SR."""
    return {name.split(".")[0] for name in sr.host.sh(f"ls {sr.mount}").split()
            if name.endswith(".vhd")}


def wait_for_gc(sr: Sr) -> None:
    """Run the garbage collector as systemd does when the driver kicks it; wait for its end."""
    unit = "SMGC@" + sr.uuid.replace("-", r"\x2d")
    sr.host.sh(f"systemctl start '{unit}'", timeout=300)


def test_the_sm_record_offers_what_ext_offers(host: Host) -> None:
    def features(sr_type: str) -> set[str]:
        listed = host.xe("sm-list", type=sr_type, params="features", minimal=True)
        return set(re.split(r"[;,]\s*", listed))
    assert features("luksext") == features("ext")


def test_the_configuration_explains_every_option(host: Host) -> None:
    listed = host.xe("sm-list", type="luksext", params="configuration")
    for option in ("device", "force", "pin", "pin-config", "luks-version", "cipher", "key-size",
                   "sector-size", "discard", "recovery_password"):
        assert f"{option}:" in listed


def test_resize(sr: Sr, vdi: str) -> None:
    sr.host.xe("vdi-resize", uuid=vdi, disk_size=str(2 * VDI_SIZE))
    assert sr.host.xe("vdi-param-get", uuid=vdi,
                      param_name="virtual-size") == str(2 * VDI_SIZE)


def test_a_vdi_beyond_the_largest_size_is_refused(sr: Sr) -> None:
    with pytest.raises(XeError, match="VDI Invalid size"):
        sr.create_vdi(1 << 50)


def test_garbage_collection_coalesces_a_deleted_snapshot(sr: Sr, vdi: str) -> None:
    before = images(sr)
    snapshot = sr.host.xe("vdi-snapshot", uuid=vdi)
    assert len(images(sr) - before) == 2  # the snapshot, and the hidden parent of both
    sr.host.xe("vdi-destroy", uuid=snapshot)
    wait_for_gc(sr)
    assert images(sr) == before


def test_clone(sr: Sr, vdi: str) -> None:
    clone = sr.host.xe("vdi-clone", uuid=vdi)
    assert clone in images(sr)
    sr.host.xe("vdi-destroy", uuid=clone)
    wait_for_gc(sr)


def test_on_slave_is_open_knows_the_type(sr: Sr, vdi: str) -> None:
    sr_ref = sr.host.sh(
        "python3 -c \"import XenAPI; s = XenAPI.xapi_local(); s.login_with_password('root', '', "
        f"'1.0', 'test'); print(s.xenapi.SR.get_by_uuid('{sr.uuid}'))\"").strip()
    answer = sr.host.xe("host-call-plugin", host_uuid=sr.host.uuid, plugin="on-slave",
                        fn="is_open", **{"args:vdiUuid": vdi, "args:srRef": sr_ref})
    assert answer == "False"


def test_the_health_check_passes(sr: Sr) -> None:
    sr.host.sh("f=/opt/xensource/sm/sr_health_check.py; [ -e $f ] || "
               "f=/usr/libexec/sm/sr_health_check; python3 $f")
    assert "Traceback" not in sr.host.sh("tail -n 50 /var/log/SMlog")


def test_read_caching_is_as_on_ext(sr: Sr, ext_sr: Sr) -> None:
    def caching(of: Sr) -> dict[str, str]:
        uuid = of.create_vdi()
        of.host.read_vdi(uuid)
        config = of.host.xe("vdi-param-get", uuid=uuid, param_name="sm-config")
        of.host.xe("vdi-destroy", uuid=uuid)
        return {key: value for key, value in
                (item.split(": ", 1) for item in config.split("; ") if ": " in item)
                if key.startswith("read-caching")}
    assert caching(sr)
    assert caching(sr) == caching(ext_sr)


# Counts the programs that a driver call starts: execve of the driver itself included.
_COUNT = ("strace -f -qq -e trace=execve -o /tmp/trace -p $(cat /run/lab/xapi.pid) & "
          "tracer=$!; sleep 2; {command} >/dev/null; kill -INT $tracer; wait $tracer; "
          "grep -c 'execve(.* = 0' /tmp/trace")


@pytest.mark.parametrize("operation", ["vdi-create", "vdi-snapshot", "vdi-resize", "sr-scan",
                                       "vdi-destroy"])
def test_an_operation_runs_no_program_more_than_on_ext(sr: Sr, ext_sr: Sr, operation: str) -> None:
    def programs(of: Sr) -> list[str]:
        uuid = of.create_vdi()
        command = {
            "vdi-create": f"xe vdi-create sr-uuid={of.uuid} name-label=x type=user "
                          f"virtual-size={VDI_SIZE}",
            "vdi-snapshot": f"xe vdi-snapshot uuid={uuid}",
            "vdi-resize": f"xe vdi-resize uuid={uuid} disk-size={2 * VDI_SIZE}",
            "sr-scan": f"xe sr-scan uuid={of.uuid}",
            "vdi-destroy": f"xe vdi-destroy uuid={uuid}",
        }[operation]
        of.host.sh(_COUNT.format(command=command), timeout=300)
        trace = of.host.sh("cat /tmp/trace")
        left = of.host.xe("vdi-list", sr_uuid=of.uuid, params="uuid", minimal=True)
        for each in filter(None, left.split(",")):
            of.host.xe("vdi-destroy", uuid=each)
        return sorted(match.rsplit("/", 1)[-1].replace("LUKSEXTSR", "SR").replace("EXTSR", "SR")
                      for match in re.findall(r'execve\("([^"]+)".* = 0', trace))
    on_ext = programs(ext_sr)
    assert on_ext, "the trace saw nothing"
    assert len(programs(sr)) <= len(on_ext)


def test_stock_ext_goes_on_as_before(ext_sr: Sr, new_disk: Callable[..., Disk]) -> None:
    uuid = ext_sr.create_vdi()
    ext_sr.host.xe("vdi-destroy", uuid=uuid)
    wait_for_gc(ext_sr)
    assert images(ext_sr) == set()
