# SPDX-License-Identifier: LGPL-2.1-only
"""Options that change how a container is made or opened, and that it shows."""

from __future__ import annotations

import pytest

from tests.lab.disks import Disk
from tests.storage.pool import Host


@pytest.mark.parametrize(("options", "expected"), [
    ({}, "crypt aes-xts-plain64 :64:"),
    ({"key_size": "256", "discard": "true"}, "crypt aes-xts-plain64 :32:"),
    ({"cipher": "serpent-xts-plain64", "discard": "false", "workqueues": "false"},
     "crypt serpent-xts-plain64 :64:"),
], ids=["default", "shorter key, discard", "another cipher, no work queues"])
def test_the_mapping_is_as_asked_for(host: Host, disk: Disk, options: dict[str, str],
                                     expected: str) -> None:
    sr = host.create_unbound_sr(disk, **options)
    table = host.sh(f"dmsetup table luks-{sr.containers()[0]}")
    assert expected in table
    assert ("allow_discards" in table) is (options.get("discard") == "true")
    for queue in ("read", "write"):
        assert (f"no_{queue}_workqueue" in table) is (options.get("workqueues") == "false")
    sr.destroy()


def test_other_keys_are_taken_or_ignored_as_on_ext(host: Host, disk: Disk) -> None:
    sr = host.create_unbound_sr(disk, preferred_image_formats="vhd", whatever="1")
    vdi = sr.create_vdi()
    assert vdi + ".vhd" in host.sh(f"ls {sr.mount}")
    host.xe("vdi-destroy", uuid=vdi)
    sr.destroy()
