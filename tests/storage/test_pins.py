# SPDX-License-Identifier: LGPL-2.1-only
"""Pins other than the plain TPM: tang servers, and thresholds of several pins."""

from __future__ import annotations

import json

import pytest

from tests.lab.disks import Disk
from tests.storage.pool import NOTHING, Host, XeError
from tests.storage.tang import URL, Tang


def test_a_tang_server_unlocks_unless_it_is_down_or_lost_its_keys(
        host: Host, disk: Disk, tang: Tang, luks_version: str) -> None:
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
    sr.unplug()

    tang.lose_keys()
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
    assert caught.value.code == 6236
    assert URL in caught.value.text
    tang.start()
    sr.plug()
    sr.destroy()
