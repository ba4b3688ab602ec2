# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import pytest

from lib.host import Host
from lib.sr import SR
from lib.vm import VM
from tests.storage import cold_migration_then_come_back, live_storage_migration_then_come_back

# Requirements:
# - hostA1: an XCP-ng host with a TPM 2.0 and luksext, and an unused disk for the SR
# - hostB1: the master of a second pool, with an unused disk
# - from --vm: a VM to import to the encrypted SR

@pytest.mark.small_vm
@pytest.mark.big_vm
class Test:
    def test_cold_crosspool_migration(self, host: Host, hostB1: Host, vm_on_luksext_sr: VM,
                                     xfs_sr_on_hostB1: SR) -> None:
        cold_migration_then_come_back(vm_on_luksext_sr, host, hostB1, xfs_sr_on_hostB1)

    def test_live_crosspool_migration(self, host: Host, hostB1: Host, vm_on_luksext_sr: VM,
                                     xfs_sr_on_hostB1: SR) -> None:
        live_storage_migration_then_come_back(vm_on_luksext_sr, host, hostB1, xfs_sr_on_hostB1)
