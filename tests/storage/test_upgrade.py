# SPDX-License-Identifier: LGPL-2.1-only
"""The package in a guest: upgraded under an SR in use, refused to go while there is one.

The distribution's rpm does it, with the packages as they are built and a database of its own; what
dom0 has of packages is provided by an empty one. Scriptlets run in the guest as on a host.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.disks import Disk
from tests.lab.errors import CommandFailed
from tests.lab.stage import PACKAGES_DIR
from tests.package.dom0 import XCP_NG_8, stand_in
from tests.package.test_rpm import CHECKOUT, build, earlier_checkout
from tests.storage.pool import Host
from tests.storage.test_doctor import FILES, RESTART, findings

# Half a minute of builds, then a guest.
pytestmark = pytest.mark.slow

RPM = "rpm --force-debian --noplugins --dbpath /var/lib/rpm"
DATA = b"written before the upgrade"

# Reads a VDI for as long as it is told to, and stops at the first error.
READER = """
while [ ! -e /run/enough ]; do
    qemu-io -r -f raw -c 'read 0 4096' nbd:unix:{socket}:exportname={vdi} || exit
    touch /run/read
done
touch /run/read-to-the-end
"""
WAIT = "until [ -e {} ]; do sleep 0.1; done"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The package of this checkout, and an earlier one; for the Python of the guest."""
    folder = tmp_path_factory.mktemp("packages")
    checkouts = {"old": earlier_checkout(folder), "new": CHECKOUT}
    site = ("--define", f"python3_sitelib /{PACKAGES_DIR}")
    return {name: build(checkout, folder / name, *site)["xcpng8.3"]
            for name, checkout in checkouts.items()}


@pytest.fixture(scope="module")
def rpm_host(host: Host, packages: dict[str, Path],
             tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host where the earlier package is installed, by rpm."""
    files = {f"root/{name}.rpm": path for name, path in packages.items()}
    files["root/dom0.rpm"] = stand_in(tmp_path_factory.mktemp("dom0"), XCP_NG_8)
    host.machine.put("/run/rpm.tar", archive(files | program("rpm")))
    host.sh(f"tar xf /run/rpm.tar -C /; tar cf /run/staged.tar {FILES}; rm -r {FILES}; "
            f"{RPM} -i /root/dom0.rpm && {RPM} -i /root/old.rpm && {RESTART}", timeout=300)
    yield host
    host.sh(f"tar xf /run/staged.tar -C /; {RESTART}", timeout=300)


def program(name: str) -> dict[str, Path]:
    """A program of this machine with its libraries and rpm's settings, by where they go."""
    path = shutil.which(name)
    assert path, name
    libraries = subprocess.run(["ldd", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = [path, *re.findall(r"(?<= => )/\S+", libraries)]
    settings = [str(path) for path in Path("/usr/lib/rpm").rglob("*") if path.is_file()]
    # Where the guest has links to folders, as /lib is one, the archive must not have folders.
    return {re.sub(r"^/(usr/)?", "usr/", file): Path(file) for file in (*found, *settings)}


def archive(files: dict[str, Path]) -> bytes:
    """A tar of files, by their names in it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, path in files.items():
            tar.add(path.resolve(), name)
    return content.getvalue()


def test_an_upgrade_under_an_sr_in_use(rpm_host: Host, disk: Disk) -> None:
    host = rpm_host
    assert "earlier" in host.sh("cat /opt/xensource/sm/LUKSEXTSR.py")
    sr = host.create_unbound_sr(disk)
    vdi = sr.create_vdi()
    host.write_vdi(vdi, DATA)
    vbd = host.xe("vbd-create", vdi_uuid=vdi, mode="RO")
    host.xe("vbd-plug", uuid=vbd)
    socket = host.sh("ls /run/blktap-control/nbd*.*").strip()
    host.sh(f"( {READER.format(socket=socket, vdi=vdi)} ) > /run/reader.log 2>&1 &")
    before = host.left_open()
    host.sh(f"{WAIT.format('/run/read')}; {RPM} -U /root/new.rpm; rm /run/read; "
            f"{WAIT.format('/run/read')}")
    assert "earlier" not in host.sh("cat /opt/xensource/sm/LUKSEXTSR.py")
    assert host.left_open() == before
    assert sr.attached
    sr.scan()
    host.sh(f"touch /run/enough; {WAIT.format('/run/read-to-the-end')}")
    host.xe("vbd-unplug", uuid=vbd)
    sr.unplug()
    sr.plug()
    assert host.read_vdi(vdi)[:len(DATA)] == DATA
    host.sh(RESTART, timeout=300)
    assert sr.attached
    assert findings(host) == {}
    sr.destroy_with_vdis()


def test_it_does_not_go_while_an_sr_exists(rpm_host: Host, disk: Disk) -> None:
    host = rpm_host
    sr = host.create_unbound_sr(disk)
    sr.unplug()
    for reason in ("XAPI knows it", "the disk tells"):
        if reason == "the disk tells":
            host.sh("mv /var/lib/xcp/xapi /run")
        with pytest.raises(CommandFailed) as caught:
            host.sh(f"{RPM} -e luksext")
        assert sr.uuid in str(caught.value)
    host.sh("mv /run/xapi /var/lib/xcp")
    sr.plug()
    sr.destroy()
    host.sh(f"{RPM} -e luksext && {RESTART}", timeout=300)
    assert host.xe("sm-list", type="luksext", params="uuid", minimal=True) == ""
    assert host.sh("find / -xdev -name '*luksext*' -not -path '/var/*' -not -path '/lab/*'") == ""
