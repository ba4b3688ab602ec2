# SPDX-License-Identifier: LGPL-2.1-only
"""What is done, and said, when the header of a disk is not as it should be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.disks import Disk
from tests.storage.pool import Host, Sr


@pytest.fixture
def sr(locked_sr: Sr) -> Sr:
    return locked_sr


def test_a_zeroed_header_is_named_and_nothing_is_formatted(sr: Sr, restored: Disk) -> None:
    sr.host.sh(f"dd if=/dev/zero of={restored.by_id} bs=1M count=16 conv=fsync status=none")
    before = sr.host.fingerprint(restored)
    error = sr.refused()
    assert error.code == 6220
    assert "luksext header-restore" in error.text
    assert sr.host.fingerprint(restored) == before


def test_a_damaged_header_is_named(sr: Sr, restored: Disk, luks_version: str) -> None:
    if luks_version == "1":
        sr.host.sh(f"printf '\\377' | dd of={restored.by_id} bs=1 seek=170 conv=notrunc,fsync")
        expected = {6221, 6222}
    else:
        for offset in (5000, 0x4000 + 5000):
            sr.host.sh(f"printf '\\377' | dd of={restored.by_id} bs=1 seek={offset} conv=fsync")
        expected = {6221}
    assert sr.refused().code in expected


def test_a_damaged_first_copy_of_the_header_still_opens(sr: Sr, restored: Disk,
                                                        luks_version: str) -> None:
    if luks_version == "1":
        pytest.skip("LUKS1 has one copy of its header")
    sr.host.sh(f"printf '\\377' | dd of={restored.by_id} bs=1 seek=5000 conv=fsync")
    sr.plug()
    sr.unplug()


def test_another_container_in_its_place_is_not_opened(sr: Sr, restored: Disk) -> None:
    sr.host.sh(f"cryptsetup luksUUID --batch-mode --uuid "
               f"11111111-2222-3333-4444-555555555555 {restored.by_id}")
    assert sr.refused().code == 6222


def test_a_container_without_binding(sr: Sr, restored: Disk, luks_version: str) -> None:
    if luks_version == "1":
        sr.host.sh(f"luksmeta wipe -f -d {restored.by_id} -s 0")
    else:
        sr.host.sh(f"cryptsetup token remove --token-id 0 {restored.by_id}")
    error = sr.refused()
    assert error.code == 6230
    assert "cryptsetup open" in error.text


def test_a_foreign_disk_named_for_the_sr(host: Host, sr: Sr, new_disk: Callable[..., Disk]) -> None:
    """The recorded container is found on its own disk, wherever device-config points to."""
    other = new_disk("256M")
    host.xe("pbd-destroy", uuid=sr.pbd)
    host.xe("pbd-create", sr_uuid=sr.uuid, host_uuid=host.uuid,
            device_config={"device": other.by_id})
    sr.plug()
    sr.unplug()
