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
    sr = host.create_unbound_sr(machine.add_disk("citizen", "256M"))
    yield sr
    sr.destroy()


@pytest.fixture(scope="module")
def ext_sr(host: Host, machine: Machine) -> Iterator[Sr]:
    sr = host.create_sr(machine.add_disk("ext", "256M"), type="ext")
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
                   "sector-size", "discard", "workqueues", "recovery_password"):
        assert f"{option}:" in listed


def test_resize(sr: Sr, vdi: str) -> None:
    sr.host.xe("vdi-resize", uuid=vdi, disk_size=str(2 * VDI_SIZE))
    assert sr.host.xe("vdi-param-get", uuid=vdi,
                      param_name="virtual-size") == str(2 * VDI_SIZE)


def test_a_vdi_beyond_the_largest_size_is_refused(sr: Sr) -> None:
    with pytest.raises(XeError) as caught:
        sr.create_vdi(1 << 50)
    assert caught.value.code == 79  # VDISize


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
    sr.host.check_srs()
    assert "Traceback" not in sr.host.sh("tail -n 50 /var/log/SMlog")


def test_read_caching_is_as_on_ext(sr: Sr, ext_sr: Sr) -> None:
    def caching(of: Sr) -> list[str]:
        """What XAPI notes of an attached VDI: whether it is cached, and if not, why."""
        host = of.host
        vdi = of.create_vdi()
        vbd = host.xe("vbd-create", vm_uuid=host.xe("vm-list", params="uuid", minimal=True),
                      vdi_uuid=vdi, device="0")
        host.xe("vbd-plug", uuid=vbd)
        config = host.xe("vdi-param-get", uuid=vdi, param_name="sm-config")
        host.xe("vbd-unplug", uuid=vbd)
        host.xe("vbd-destroy", uuid=vbd)
        host.xe("vdi-destroy", uuid=vdi)
        return re.findall(r"read-caching[^;]*", config)
    on_ext = caching(ext_sr)
    assert any(note.endswith(": true") for note in on_ext)
    assert caching(sr) == on_ext


_EVENT = "/sys/kernel/tracing/events/sched/sched_process_exec/enable"


def programs(host: Host, operation: Callable[[], object]) -> list[str]:
    """The programs that run while XAPI does `operation`, as the kernel traces them."""
    host.sh("mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; "
            f"echo > /sys/kernel/tracing/trace; echo 1 > {_EVENT}")
    operation()
    trace = host.sh(f"echo 0 > {_EVENT}; cat /sys/kernel/tracing/trace")
    found = [path.rsplit("/", 1)[-1] for path in re.findall(r"filename=(\S+)", trace)]
    # The first commands of the two shells above.
    return sorted(name for name in found if name not in ("cat", "sh", "true"))


@pytest.fixture
def idle_collector(sr: Sr, ext_sr: Sr) -> Iterator[None]:
    """Has the garbage collector do nothing, for its programs come whenever it gets to them."""
    for of in (sr, ext_sr):
        wait_for_gc(of)
    folder = "/etc/systemd/system/SMGC@.service.d"
    lines = r"[Service]\nExecStart=\nExecStart=/usr/bin/true\n"
    sr.host.sh(f"mkdir -p {folder}; printf '{lines}' > {folder}/zz-idle.conf")
    yield
    sr.host.sh(f"rm {folder}/zz-idle.conf")


@pytest.mark.usefixtures("idle_collector")
def test_vdi_operations_run_no_program_more_than_on_ext(sr: Sr, ext_sr: Sr) -> None:
    def by_operation(of: Sr) -> dict[str, list[str]]:
        host = of.host
        vdi = ""

        def create() -> None:
            nonlocal vdi
            vdi = of.create_vdi()

        counted = {"vdi-create": programs(host, create)}
        for operation, action in {
            "sr-scan": of.scan,
            "vdi-resize": lambda: host.xe("vdi-resize", uuid=vdi, disk_size=str(2 * VDI_SIZE)),
            "vdi-write": lambda: host.write_vdi(vdi, b"data"),
            "vdi-destroy": lambda: host.xe("vdi-destroy", uuid=vdi),
            "sr-update": lambda: host.xe("sr-update", uuid=of.uuid),
        }.items():
            counted[operation] = programs(host, action)
        return counted
    host_scans = "auto-scan-interval"
    sr.host.xe("host-param-add", uuid=sr.host.uuid, param_name="other-config",
               **{host_scans: "3600"})
    on_ext, on_luksext = by_operation(ext_sr), by_operation(sr)
    assert all(on_ext[operation] for operation in ("vdi-create", "vdi-write")), on_ext
    for operation, names in on_luksext.items():
        assert len(names) <= len(on_ext[operation]), (operation, names, on_ext[operation])


# The garbage collector may still look at the mount for a moment.
_UMOUNT = "until umount {mount}; do sleep 1; done"


@pytest.mark.parametrize("undone", [
    _UMOUNT,
    _UMOUNT + "; vgchange -an {vg}",
    _UMOUNT + "; vgchange -an {vg} && cryptsetup close {mapping}",
], ids=["unmounted", "inactive", "closed"])
def test_unplug_completes_from_every_state(sr: Sr, undone: str) -> None:
    names = {"mount": sr.mount, "vg": f"XSLocalEXT-{sr.uuid}",
             "mapping": f"luks-{sr.containers()[0]}"}
    sr.host.sh(undone.format(**names))
    sr.unplug()
    assert sr.uuid not in str(sr.host.left_open())
    assert names["mapping"] not in str(sr.host.left_open())
    sr.plug()


def test_the_serial_number_of_the_disk_is_recorded(sr: Sr) -> None:
    """Other SRs refuse the disk by it; the ext driver alone would record none of the mapping."""
    serial = sr.host.sh(f"/usr/lib/udev/scsi_id -g --device {sr.device}").strip()
    assert sr.config("sm-config", "devserial") == f"scsi-{serial}"


def test_stock_ext_goes_on_as_before(ext_sr: Sr, new_disk: Callable[..., Disk]) -> None:
    uuid = ext_sr.create_vdi()
    ext_sr.host.xe("vdi-destroy", uuid=uuid)
    wait_for_gc(ext_sr)
    assert images(ext_sr) == set()
