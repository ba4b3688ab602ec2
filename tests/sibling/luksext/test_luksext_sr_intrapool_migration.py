# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import pytest

from lib.host import Host
from lib.sr import SR
from lib.vm import VM
from tests.storage import cold_migration_then_come_back, live_storage_migration_then_come_back

# Requirements:
# - hostA1: an XCP-ng host with a TPM 2.0 and luksext, and an unused disk for the SR
# - hostA2: a second member of the pool, with an unused disk, and luksext too
# - from --vm: a VM to import to the encrypted SR

@pytest.mark.small_vm
@pytest.mark.big_vm
class Test:
    def test_cold_intrapool_migration(self, host: Host, hostA2: Host, vm_on_luksext_sr: VM,
                                     xfs_sr_on_hostA2: SR) -> None:
        cold_migration_then_come_back(vm_on_luksext_sr, host, hostA2, xfs_sr_on_hostA2)

    def test_live_intrapool_migration(self, host: Host, hostA2: Host, vm_on_luksext_sr: VM,
                                     xfs_sr_on_hostA2: SR) -> None:
        live_storage_migration_then_come_back(vm_on_luksext_sr, host, hostA2, xfs_sr_on_hostA2)
