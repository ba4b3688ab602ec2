# SPDX-License-Identifier: LGPL-2.1-only
"""The host around the driver: what doctor finds; updates of others do not unregister us."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.lab.disks import Disk
from tests.storage.pool import Host, XeError

# Minutes of a guest: not in `make test` yet.
pytestmark = pytest.mark.slow

DROP_IN = "/etc/xapi.conf.d/~luksext.conf"
GC_DROP_INS = "/etc/systemd/system/SMGC@.service.d"
GUARD_DROP_INS = "/etc/systemd/system/storage-init.service.d"
RESTART = "xe-toolstack-restart"


def findings(host: Host) -> dict[str, dict[str, str]]:
    """What doctor finds, by code; that the console says how it ended."""
    ended = host.machine.run("luksext doctor --json", check=False, timeout=300)
    told = json.loads(ended.out)
    assert told["ok"] is (not told["findings"])
    assert ended.rc == (0 if told["ok"] else 1)
    return {one["code"]: one for one in told["findings"]}


@contextmanager
def fault(host: Host, make: str, undo: str) -> Iterator[None]:
    host.sh(make)
    try:
        yield
    finally:
        host.sh(undo)


def test_a_host_in_order_has_no_findings(host: Host) -> None:
    assert findings(host) == {}


def test_xapi_tells_the_same_from_anywhere(host: Host) -> None:
    told = json.loads(host.xe("host-call-plugin", host_uuid=host.uuid, plugin="luksext",
                              fn="doctor"))
    assert told["ok"] is True


# How each is made and undone.
FAULTS = {
    "LUKS-D001": ("mv $(command -v jose) /run/jose", "mv /run/jose /usr/bin/jose"),
    "LUKS-D020": ("sed -i.old 's/filter = .*/filter = [ \"r|.*|\" ]/' /etc/lvm/lvm.conf",
                  "mv /etc/lvm/lvm.conf.old /etc/lvm/lvm.conf"),
    # systemd's way to mask a drop-in: one of the same name that is empty.
    "LUKS-D021": (f"mkdir -p {GC_DROP_INS}; ln -s /dev/null {GC_DROP_INS}/luksext.conf",
                  f"rm -r {GC_DROP_INS}"),
    "LUKS-D028": (f"mkdir -p {GUARD_DROP_INS}; ln -s /dev/null {GUARD_DROP_INS}/luksext.conf",
                  f"rm -r {GUARD_DROP_INS}"),
    "LUKS-D025": ("mv /usr/lib/python3/dist-packages/luksext.pth /run",
                  "mv /run/luksext.pth /usr/lib/python3/dist-packages"),
    "LUKS-D026": ("chmod -x /opt/xensource/libexec/luksext-gc",
                  "chmod +x /opt/xensource/libexec/luksext-gc"),
    "LUKS-D030": ("mv /var/lib/xcp/xapi /var/lib/xcp/xapi.away",
                  "mv /var/lib/xcp/xapi.away /var/lib/xcp/xapi"),
}


def test_faults_are_found_and_no_others_and_the_tpm_is_cured_by_what_is_told(host: Host) -> None:
    host.machine.lock_out_tpm()
    with fault(host, "; ".join(make for make, _ in FAULTS.values()),
               "; ".join(undo for _, undo in FAULTS.values())):
        told = findings(host)
    assert set(told) == {*FAULTS, "LUKS-D011"}
    host.sh(told["LUKS-D011"]["next"].split("or: ")[1])
    assert findings(host) == {}


@pytest.mark.slow
@pytest.mark.parametrize("code, make, undo", [
    ("LUKS-D010", "mv /dev/tpmrm0 /dev/tpm.away", "mv /dev/tpm.away /dev/tpmrm0"),
    ("LUKS-D013", "tpm2_changeauth -c owner secret", "tpm2_changeauth -c owner -p secret"),
], ids=["none", "owner"])
def test_a_tpm_that_cannot_serve(host: Host, code: str, make: str, undo: str) -> None:
    with fault(host, make, undo):
        assert list(findings(host)) == [code]


def test_a_drop_in_that_was_overwritten_is_cured_by_what_is_told(host: Host) -> None:
    host.sh(f"echo 'sm-plugins = ext' > {DROP_IN}")
    told = findings(host)
    assert list(told) == ["LUKS-D023"]
    host.sh(told["LUKS-D023"]["next"])
    assert findings(host) == {}


@pytest.mark.slow
def test_an_sr_that_is_not_plugged_is_plugged_by_what_is_told(host: Host, disk: Disk) -> None:
    sr = host.create_unbound_sr(disk)
    sr.unplug()
    told = findings(host)
    assert list(told) == ["LUKS-D036"]
    host.sh(told["LUKS-D036"]["next"])
    assert sr.attached
    assert findings(host) == {}
    sr.destroy()


# Registration

XAPI_CONF = "sm-dir = /opt/xensource/sm\nsm-plugins=ext nfs iscsi lvm largeblock\n"
LINSTOR = "/etc/xapi.conf.d/99-enable-sm-driver-linstor.conf"


@pytest.fixture
def put(host: Host) -> Iterator[Callable[[str, str], None]]:
    """Writes files as an update does; afterwards they are as before."""
    host.sh("cp -a /etc/xapi.conf /run; cp -a /etc/xapi.conf.d /run")
    yield lambda path, text: host.machine.put(path, text.encode())
    host.sh(f"mv /run/xapi.conf /etc; rm -r /etc/xapi.conf.d; mv /run/xapi.conf.d /etc; {RESTART}",
            timeout=300)


def test_updates_of_xapi_and_linstor_do_not_unregister_the_driver(
    host: Host, disk: Disk, put: Callable[[str, str], None]
) -> None:
    sr = host.create_unbound_sr(disk)
    put("/etc/xapi.conf", XAPI_CONF)
    put(LINSTOR, "sm-plugins=ext nfs linstor\n")
    host.sh(RESTART, timeout=300)
    assert host.xe("sm-list", type="luksext", params="uuid", minimal=True)
    assert sr.attached
    host.xe("vdi-destroy", uuid=sr.create_vdi())
    assert findings(host) == {}
    assert host.sh(f"tail -n 1 {DROP_IN}") == "sm-plugins = ext nfs linstor luksext\n"
    sr.destroy()


@pytest.mark.slow
def test_a_host_that_lost_the_registration_gets_it_back(
    host: Host, put: Callable[[str, str], None]
) -> None:
    put(LINSTOR, "sm-plugins=ext nfs\n")
    with fault(host, "mv /opt/xensource/libexec/luksext-sm-plugins /run",
               "mv /run/luksext-sm-plugins /opt/xensource/libexec"):
        host.sh(f"rm {DROP_IN}; {RESTART}", timeout=300)
        with pytest.raises(XeError, match="driver was not recognised"):
            host.xe("sr-probe", type="luksext", device_config={"device": "/dev/null"},
                    host_uuid=host.uuid)
        assert set(findings(host)) == {"LUKS-D023", "LUKS-D026", "LUKS-D031"}
    host.sh(RESTART, timeout=300)
    assert findings(host) == {}


# What the package has put into dom0, of which an ISO upgrade leaves nothing.
FILES = ("$(find /opt/xensource /etc/xapi.d /etc/xapi.conf.d /usr/sbin /usr/lib/python3"
         "/dist-packages /usr/lib/systemd/system /usr/lib64/xsconsole"
         r" -iname '*luksext*' -not -name '*.service.d')")


@pytest.mark.slow
def test_after_an_upgrade_of_the_host_by_iso_the_documented_way_leads_back(
    host: Host, disk: Disk
) -> None:
    sr = host.create_unbound_sr(disk)
    vdi = sr.create_vdi()
    sr.unplug()
    host.sh(f"tar czf /run/package.tar {FILES}; rm -r {FILES}; {RESTART}", timeout=300)
    with pytest.raises(XeError, match="driver was not recognised"):
        sr.plug()
    host.sh(f"tar xzf /run/package.tar -C /; rm {DROP_IN}; {RESTART}", timeout=300)
    assert findings(host) == {}
    assert sr.attached
    assert host.xe("vdi-list", sr_uuid=sr.uuid, params="uuid", minimal=True) == vdi
    host.xe("vdi-destroy", uuid=vdi)
    sr.destroy()
