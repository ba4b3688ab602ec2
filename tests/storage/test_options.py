# SPDX-License-Identifier: LGPL-2.1-only
"""Options that change how a container is made or opened, and that it shows."""

from __future__ import annotations

import pytest

from tests.lab.disks import Disk
from tests.storage.pool import Host


@pytest.mark.parametrize(("options", "expected"), [
    ({}, "crypt aes-xts-plain64 :64:"),
    ({"key_size": "256"}, "crypt aes-xts-plain64 :32:"),
    ({"cipher": "serpent-xts-plain64"}, "crypt serpent-xts-plain64 :64:"),
])
def test_cipher_and_key_size(host: Host, disk: Disk, options: dict[str, str],
                             expected: str) -> None:
    sr = host.create_unbound_sr(disk, **options)
    assert expected in host.sh(f"dmsetup table luks-{sr.containers()[0]}")
    sr.destroy()


def test_the_image_format_is_chosen_as_on_ext(host: Host, disk: Disk) -> None:
    sr = host.create_unbound_sr(disk, preferred_image_formats="vhd")
    vdi = sr.create_vdi()
    assert vdi + ".vhd" in host.sh(f"ls {sr.mount}")
    host.xe("vdi-destroy", uuid=vdi)
    sr.destroy()


@pytest.mark.parametrize(("discard", "passed"), [("false", False), ("true", True)])
def test_discard_reaches_the_disk_only_when_asked_for(host: Host, disk: Disk, discard: str,
                                                      passed: bool) -> None:
    sr = host.create_unbound_sr(disk, discard=discard)
    mapping = f"luks-{sr.containers()[0]}"
    assert ("allow_discards" in host.sh(f"dmsetup table {mapping}")) is passed
    sr.destroy()
