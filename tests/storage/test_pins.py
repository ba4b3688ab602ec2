# SPDX-License-Identifier: LGPL-2.1-only
"""Pins other than the plain TPM: tang servers, and thresholds of several pins."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.pool import NOTHING, Host, XeError

PORT = 7500
URL = f"http://127.0.0.1:{PORT}"


class Tang:
    """A tang server in the guest."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.machine.run("mkdir -p /tmp/tang && /usr/libexec/tangd-keygen /tmp/tang")

    def start(self) -> None:
        self.machine.run(
            f"tangd=$(ls /usr/libexec/tangd /usr/lib/tangd 2>/dev/null | head -n 1); "
            f"setsid socat TCP-LISTEN:{PORT},fork,reuseaddr EXEC:\"$tangd /tmp/tang\" "
            f">/dev/null 2>&1 & echo $! >/tmp/tang.pid; "
            f"until curl -sf {URL}/adv >/dev/null; do sleep 0.1; done")

    def stop(self) -> None:
        self.machine.run("kill $(cat /tmp/tang.pid)")

    def thumbprint(self) -> str:
        return self.machine.run("jose jwk thp -a S256 -i $(ls /tmp/tang/*.jwk | while read k; do "
                                "grep -q verify $k && echo $k; done | head -n 1)").out.strip()

    def rotate(self) -> None:
        self.machine.run("rm -f /tmp/tang/*.jwk /tmp/tang/.*.jwk; "
                         "/usr/libexec/tangd-keygen /tmp/tang")


@pytest.fixture
def tang(machine: Machine) -> Iterator[Tang]:
    tang = Tang(machine)
    tang.start()
    yield tang
    machine.run("kill $(cat /tmp/tang.pid); rm -rf /tmp/tang", check=False)


def test_a_tang_server_unlocks(host: Host, disk: Disk, tang: Tang, luks_version: str) -> None:
    config = {"url": URL, "thp": tang.thumbprint()}
    sr = host.create_sr(disk, pin="tang", pin_config=json.dumps(config), luks_version=luks_version)
    sr.unplug()

    tang.stop()
    with pytest.raises(XeError) as caught:
        sr.plug()
    assert caught.value.code == 6236
    assert URL in caught.value.text
    assert host.left_open() == NOTHING

    tang.start()
    sr.plug()
    sr.destroy()


def test_a_tang_server_that_lost_its_keys_is_named(host: Host, disk: Disk, tang: Tang) -> None:
    sr = host.create_sr(disk, pin="tang",
                        pin_config=json.dumps({"url": URL, "thp": tang.thumbprint()}))
    sr.unplug()
    tang.rotate()
    with pytest.raises(XeError) as caught:
        sr.plug()
    assert caught.value.code == 6237
    sr.host.xe("sr-forget", uuid=sr.uuid)


def test_a_tang_server_that_is_down_at_creation(host: Host, disk: Disk, tang: Tang) -> None:
    config = json.dumps({"url": URL, "thp": tang.thumbprint()})
    tang.stop()
    before = host.fingerprint(disk)
    with pytest.raises(XeError) as caught:
        host.create_sr(disk, pin="tang", pin_config=config)
    assert caught.value.code == 6236
    assert host.fingerprint(disk) == before


def test_tpm_or_tang_unlocks_without_the_server(host: Host, disk: Disk, tang: Tang) -> None:
    pins = {"tpm2": {}, "tang": {"url": URL, "thp": tang.thumbprint()}}
    sr = host.create_sr(disk, pin="sss", pin_config=json.dumps({"t": 1, "pins": pins}))
    sr.unplug()
    tang.stop()
    sr.plug()
    sr.destroy()


def test_tpm_and_tang_does_not_unlock_without_the_server(host: Host, disk: Disk,
                                                         tang: Tang) -> None:
    pins = {"tpm2": {"pcr_ids": "7"}, "tang": {"url": URL, "thp": tang.thumbprint()}}
    sr = host.create_sr(disk, pin="sss", pin_config=json.dumps({"t": 2, "pins": pins}))
    sr.unplug()
    tang.stop()
    with pytest.raises(XeError) as caught:
        sr.plug()
    assert caught.value.code == 6238
    assert URL in caught.value.text
    tang.start()
    sr.plug()
    sr.destroy()
