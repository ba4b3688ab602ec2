# SPDX-License-Identifier: LGPL-2.1-only
"""A recovery passphrase given at creation: a keyslot afterwards, and nowhere else."""

from __future__ import annotations

import pytest

from tests.lab.disks import Disk
from tests.storage.pool import Host, XeError

PASSPHRASE = "Zw\u00f6lf Boxk\u00e4mpfer jagen Viktor"


def secrets(host: Host) -> str:
    return host.xe("secret-list", params="uuid", minimal=True)


def test_it_opens_the_disk_and_leaves_xapi(host: Host, disk: Disk, luks_version: str) -> None:
    sr = host.create_sr_with_passphrase(disk.by_id, PASSPHRASE + "\n",
                                        luks_version=luks_version)
    assert sr.attached
    host.sh(f"cryptsetup open --test-passphrase --key-slot 1 {disk.by_id}", input=PASSPHRASE)
    assert secrets(host) == ""
    assert "password" not in host.xe("pbd-param-get", uuid=sr.pbd, param_name="device-config")
    assert sr.config("sm-config", "luks_recovery_key") == "unconfirmed"
    sr.destroy()


def test_none_given_is_said_once(host: Host, disk: Disk) -> None:
    sr = host.create_sr(disk)
    assert sr.config("sm-config", "luks_recovery_key") == "none"
    sr.unplug()
    sr.plug()
    alerts = host.xe("message-list", name="LUKS-W001", params="body")
    assert alerts.count(sr.uuid) == 1
    sr.destroy()


@pytest.mark.parametrize("passphrase", ["short", "two\nlines of passphrase", "x" * 513])
def test_a_bad_one_is_refused_and_leaves_xapi_too(host: Host, disk: Disk, passphrase: str) -> None:
    before = host.fingerprint(disk)
    with pytest.raises(XeError) as caught:
        host.create_sr_with_passphrase(disk.by_id, passphrase)
    assert caught.value.code == 6202
    assert passphrase not in caught.value.text
    assert secrets(host) == ""
    assert host.fingerprint(disk) == before


def test_a_failed_creation_leaves_no_secret(host: Host, disk: Disk) -> None:
    host.sh(f"mkfs.ext4 -q {disk.by_id}")
    with pytest.raises(XeError):
        host.create_sr_with_passphrase(disk.by_id, PASSPHRASE)
    assert secrets(host) == ""


def test_secrets_of_others_stay(host: Host, disk: Disk) -> None:
    other = host.xe("secret-create", value="somebody else's password")
    sr = host.create_sr_with_passphrase(disk.by_id, PASSPHRASE)
    assert secrets(host) == other
    sr.destroy()


def test_it_is_found_in_no_log_and_in_no_file(host: Host, disk: Disk) -> None:
    sr = host.create_sr_with_passphrase(disk.by_id, PASSPHRASE)
    sr.unplug()
    sr.plug()
    key = host.sh(f"clevis luks pass -d {disk.by_id} -s 0")
    for secret in (PASSPHRASE, key):
        found = host.sh("grep -rlF -f - /var/log /var/lib /run /tmp /etc /dev/shm 2>/dev/null "
                        "|| true", input=secret + "\n").split()
        assert found == [], found
    sr.destroy()
    raw = disk.path.read_bytes()
    assert PASSPHRASE.encode() not in raw
    assert key.encode() not in raw
