# SPDX-License-Identifier: LGPL-2.1-only
"""A host that left its pool makes its default storage anew: not on an encrypted disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luksext.defaultstorage import FILE
from tests.lab.disks import Disk
from tests.lab.errors import CommandFailed
from tests.storage.pool import Host
from tests.storage.test_doctor import GUARD_DROP_INS, fault, findings

# Seconds of a guest for each, and doctor takes more.
pytestmark = pytest.mark.slow

START = "systemctl start storage-init"


@pytest.fixture
def chosen(host: Host, disk: Disk) -> Iterator[Disk]:
    """A disk that the installer was told to make the default storage on."""
    host.machine.put(FILE, f"PARTITIONS='{disk.by_id}'\nTYPE='ext'\n".encode())
    host.sh("rm -f /var/lib/misc/ran-storage-init")
    yield disk
    host.sh(f"rm -f {FILE} /root/default-storage.conf; systemctl stop storage-init")


@pytest.mark.parametrize("luks", ["1", "2"])
def test_an_encrypted_disk_is_not_overwritten(host: Host, chosen: Disk, luks: str) -> None:
    sr = host.create_unbound_sr(chosen, luks_version=luks)
    vdi = sr.create_vdi()
    sr.forget()
    before = host.fingerprint(chosen)
    with pytest.raises(CommandFailed):
        host.sh(START)
    assert host.fingerprint(chosen) == before
    assert f"{chosen.by_id} is encrypted" in host.sh("cat /var/log/messages")
    (code, told), = findings(host).items()
    assert code == "LUKS-D027"
    host.sh(told["next"])
    assert findings(host) == {}
    again = host.introduce(sr, chosen.by_id)
    again.plug()
    assert host.xe("vdi-list", sr_uuid=sr.uuid, params="uuid", minimal=True) == vdi
    again.destroy_with_vdis()


def test_what_the_guard_says_to_type_has_the_host_go_on(host: Host, chosen: Disk) -> None:
    sr = host.create_unbound_sr(chosen)
    sr.unplug()
    with pytest.raises(CommandFailed) as caught:
        host.sh("/opt/xensource/libexec/luksext-storage-guard")
    host.sh(str(caught.value).split("Type: ")[1].splitlines()[0])
    assert host.sh("ls /var/lib/misc/ran-storage-init")
    sr.plug()
    sr.destroy()


def test_without_the_guard_it_would_be_overwritten(host: Host, chosen: Disk) -> None:
    """What it is there for: the start of the disk is gone, and so is every key."""
    sr = host.create_unbound_sr(chosen)
    sr.forget()
    assert "LUKS" in host.sh(f"head -c 4 {chosen.by_id}")
    with fault(host, f"mkdir -p {GUARD_DROP_INS}; ln -s /dev/null {GUARD_DROP_INS}/luksext.conf",
               f"rm -r {GUARD_DROP_INS}"):
        host.sh(f"{START} || true")
    assert "LUKS" not in host.sh(f"head -c 4 {chosen.by_id} | tr -d '\\0'")
    made = host.xe("sr-list", name_label="Local storage", params="uuid", minimal=True)
    host.xe("pbd-unplug", uuid=host.xe("pbd-list", sr_uuid=made, params="uuid", minimal=True))
    host.xe("sr-destroy", uuid=made)
