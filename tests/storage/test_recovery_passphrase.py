# SPDX-License-Identifier: LGPL-2.1-only
"""A recovery passphrase given at creation: a keyslot afterwards, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage import leaks
from tests.storage.pool import Host, Sr, XeError

PASSPHRASE = "Zw\u00f6lf Boxk\u00e4mpfer jagen Viktor"


def secrets(host: Host) -> str:
    return host.xe("secret-list", params="uuid", minimal=True)


@pytest.fixture(scope="module")
def secret_of_others(host: Host) -> str:
    return host.xe("secret-create", value="somebody else's password")


@pytest.fixture(scope="module")
def disk_of_sr(machine: Machine, luks_version: str) -> Disk:
    return machine.add_disk(f"passphrase{luks_version}", "256M")


@pytest.fixture(scope="module")
def sr(host: Host, disk_of_sr: Disk, luks_version: str, secret_of_others: str) -> Iterator[Sr]:
    sr = host.create_sr_with_passphrase(disk_of_sr.by_id, PASSPHRASE + "\n",
                                        luks_version=luks_version)
    yield sr
    sr.destroy()


def test_it_opens_the_disk(sr: Sr) -> None:
    assert sr.attached
    sr.host.sh(f"cryptsetup open --test-passphrase --key-slot 1 {sr.device}", input=PASSPHRASE)
    assert sr.config("sm-config", "luks_recovery_key") == "unconfirmed"


def test_it_leaves_xapi_where_secrets_of_others_stay(sr: Sr, secret_of_others: str) -> None:
    assert secrets(sr.host) == secret_of_others
    config = sr.host.xe("pbd-param-get", uuid=sr.pbd, param_name="device-config")
    assert "password" not in config


def test_it_is_found_in_no_log_and_in_no_file(sr: Sr) -> None:
    sr.unplug()
    sr.plug()
    key = sr.host.sh(f"clevis luks pass -d {sr.device} -s 0")
    planted = {"passphrase": PASSPHRASE.encode(), "unsealed key": key.rstrip("\n").encode()}
    assert leaks.in_guest(sr.host, planted) == []
    sr.host.sh("sync")
    assert leaks.in_folder(sr.host.machine, planted) == []


def test_none_given_is_said_once(host: Host, disk: Disk) -> None:
    sr = host.create_unbound_sr(disk)
    assert sr.config("sm-config", "luks_recovery_key") == "none"
    sr.unplug()
    sr.plug()
    alerts = host.xe("message-list", name="LUKS-W001", params="body")
    assert alerts.count(sr.uuid) == 1
    sr.destroy()


@pytest.mark.parametrize("passphrase", ["short", "two\nlines of passphrase", "x" * 513])
def test_a_bad_one_is_refused_and_leaves_xapi_too(host: Host, disk: Disk, passphrase: str) -> None:
    before = host.fingerprint(disk), secrets(host)
    with pytest.raises(XeError) as caught:
        host.create_sr_with_passphrase(disk.by_id, passphrase)
    assert caught.value.code == 6202
    assert passphrase not in caught.value.text
    assert (host.fingerprint(disk), secrets(host)) == before


def test_a_failed_creation_leaves_no_secret(host: Host, disk: Disk) -> None:
    before = secrets(host)
    host.sh(f"mkfs.ext4 -q {disk.by_id}")
    with pytest.raises(XeError):
        host.create_sr_with_passphrase(disk.by_id, PASSPHRASE)
    assert secrets(host) == before
