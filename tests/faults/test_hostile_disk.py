# SPDX-License-Identifier: LGPL-2.1-only
"""Disks that somebody crafted, and disks that are not for us: each is refused by a named error, and
is the same byte for byte afterwards (docs/threat-model.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.faults.campaign import Campaign
from tests.lab.disks import Disk
from tests.storage.attacks import edit, patch, swap
from tests.storage.pool import Host, Sr, XeError
from tests.storage.test_create_refused import CONTENTS, USES
from tests.storage.test_hostile import LUKS1, LUKS2


@contextmanager
def restored(sr: Sr) -> Iterator[None]:
    """Within, the header of the locked SR may be changed."""
    sr.host.sh(f"dd if={sr.device} of=/tmp/header bs=1M count=16 status=none")
    try:
        yield
    finally:
        sr.host.sh(f"dd if=/tmp/header of={sr.device} bs=1M conv=fsync status=none")


def attacks(luks_version: str) -> dict[str, tuple[int, Callable[[Host, str], None]]]:
    """By what was done to the header: the code of the error, and how it is done."""
    found: dict[str, tuple[int, Callable[[Host, str], None]]] = {
        "another container in its place": (6242, swap)}
    if luks_version == "2":
        for name, (code, change) in LUKS2.items():
            found[name] = code, lambda host, device, change=change: edit(host, device, change)
    else:
        for name, (code, offset, data) in LUKS1.items():
            found[name] = code, lambda host, device, offset=offset, data=data: patch(
                host, device, offset, data)
    return found


def test_crafted_headers(host: Host, disk: Disk, campaign: Campaign, luks_version: str) -> None:
    sr = host.create_unbound_sr(disk, luks_version=luks_version)
    sr.unplug()
    for name, (code, attack) in attacks(luks_version).items():
        with campaign.trial(f"crafted header: {name}", luks_version) as trial, restored(sr):
            attack(host, sr.device)
            before = host.fingerprint(disk)
            error = sr.refused()
            assert error.code == code, error.text
            assert host.fingerprint(disk) == before
            trial.outcome = f"error {code}"
    sr.plug()
    sr.destroy()


def refused(host: Host, disk: Disk, code: int, **options: str) -> str:
    """The outcome of a sr-create that must fail with `code` and change nothing."""
    before = host.fingerprint(disk)
    with pytest.raises(XeError) as caught:
        host.create_sr(disk, **options)
    assert caught.value.code == code, caught.value.text
    assert host.fingerprint(disk) == before
    return f"error {code}"


def test_disks_that_carry_something(host: Host, new_disk: Callable[..., Disk],
                                    campaign: Campaign) -> None:
    for content, script in CONTENTS.items():
        with campaign.trial(f"create on a disk with {content}") as trial:
            disk = new_disk()
            host.sh(script.format(disk.by_id))
            trial.outcome = refused(host, disk, 6213)


def test_disks_in_use(host: Host, new_disk: Callable[..., Disk], campaign: Campaign) -> None:
    for use, (begin, end, _) in USES.items():
        with campaign.trial(f"create by force on a disk in use: {use}") as trial:
            disk = new_disk()
            host.sh(begin.format(disk.by_id))
            try:
                trial.outcome = refused(host, disk, 6212, force="true")
            finally:
                host.sh(end.format(disk.by_id))
