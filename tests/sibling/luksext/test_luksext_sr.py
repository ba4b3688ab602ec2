# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import pytest

from lib.commands import SSHCommandFailed
from lib.common import Defer, GiB, wait_for
from lib.host import Host
from lib.sr import SR
from lib.vdi import VDI, ImageFormat
from lib.vm import VM
from tests.storage import (
    MAX_VDI_SIZE,
    CoalesceOperation,
    XVACompression,
    coalesce_integrity,
    full_vdi_write,
    vdi_export_import,
    vdi_is_open,
    xva_export_import,
)
from tests.storage.luksext import without_program

# Requirements:
# - one XCP-ng host with a TPM 2.0, with luksext installed on all hosts of its pool
# - an additional unused disk on it for the SR

@pytest.mark.usefixtures("luksext_sr")
class TestLUKSEXTSR:
    """ Encryption takes nothing from what an ext SR can do. """

    @pytest.mark.quicktest
    def test_quicktest(self, luksext_sr: SR) -> None:
        luksext_sr.run_quicktest()

    def test_vdi_is_not_open(self, vdi_on_luksext_sr: VDI) -> None:
        assert not vdi_is_open(vdi_on_luksext_sr)

    def test_vdi_image_format(self, vdi_on_luksext_sr: VDI, image_format: ImageFormat) -> None:
        made = vdi_on_luksext_sr.get_image_format()
        if made is None:
            pytest.skip("The storage manager of this host does not tell the format of a VDI")
        assert made == image_format

    def test_invalid_vdi_size(self, luksext_sr: SR, image_format: ImageFormat) -> None:
        with pytest.raises(SSHCommandFailed) as caught:
            luksext_sr.create_vdi(virtual_size=MAX_VDI_SIZE[image_format] + 1)
        assert 'VDI Invalid size' in caught.value.stdout

    def test_resize_vdi(self, luksext_sr: SR, defer: Defer) -> None:
        vdi = luksext_sr.create_vdi(virtual_size=1 * GiB)
        defer(vdi.destroy)
        vdi.resize(2 * GiB)
        luksext_sr.scan()
        assert vdi.get_virtual_size() == 2 * GiB

    def test_data_are_on_dm_crypt(self, host: Host, luksext_sr: SR) -> None:
        volume = host.ssh(f'findmnt -n -o SOURCE /run/sr-mount/{luksext_sr.uuid}')
        kinds = host.ssh(f'lsblk --inverse --noheadings --output TYPE {volume}')
        assert 'crypt' in kinds.split()

    def test_unplugged_it_is_closed(self, host: Host, luksext_sr: SR) -> None:
        def mappings() -> set[str]:
            return {line.split()[0] for line in host.ssh('dmsetup ls --target crypt').splitlines()}

        plugged = mappings()
        luksext_sr.unplug_pbds()
        try:
            assert mappings() < plugged
        finally:
            luksext_sr.plug_pbds()
        assert mappings() == plugged

    @pytest.mark.small_vm
    @pytest.mark.big_vm
    def test_start_and_shutdown_VM(self, vm_on_luksext_sr: VM) -> None:
        vm = vm_on_luksext_sr
        vm.start()
        vm.wait_for_os_booted()
        vm.shutdown(verify=True)

    @pytest.mark.small_vm
    @pytest.mark.big_vm
    def test_snapshot(self, vm_on_luksext_sr: VM) -> None:
        vm = vm_on_luksext_sr
        vm.start()
        try:
            vm.wait_for_os_booted()
            vm.test_snapshot_on_running_vm()
        finally:
            vm.shutdown(verify=True)

    @pytest.mark.small_vm
    @pytest.mark.parametrize("vdi_op", ["snapshot", "clone"])
    def test_coalesce(self, storage_test_vm: VM, vdi_on_luksext_sr: VDI, vdi_op: CoalesceOperation,
                      defer: Defer) -> None:
        coalesce_integrity(storage_test_vm, vdi_on_luksext_sr, vdi_op, defer)

    @pytest.mark.small_vm
    @pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
    def test_xva_export_import(self, vm_on_luksext_sr: VM, compression: XVACompression,
                               temp_large_dir: str, defer: Defer) -> None:
        xva_export_import(vm_on_luksext_sr, compression, temp_large_dir, defer)

    @pytest.mark.small_vm
    def test_xva_export_import_with_snapshot(self, vm_on_luksext_sr: VM, temp_large_dir: str,
                                             defer: Defer) -> None:
        xva_export_import(vm_on_luksext_sr, 'zstd', temp_large_dir, defer, with_snapshot=True)

    @pytest.mark.small_vm
    def test_vdi_export_import(self, storage_test_vm: VM, luksext_sr: SR, image_format: ImageFormat,
                               temp_large_dir: str, defer: Defer) -> None:
        vdi_export_import(storage_test_vm, luksext_sr, image_format, temp_large_dir, defer)

    @pytest.mark.small_vm
    @pytest.mark.disk_throughput_intensive
    def test_full_vdi_write(self, storage_test_vm: VM, vdi_on_luksext_sr: VDI,
                            defer: Defer) -> None:
        full_vdi_write(storage_test_vm, vdi_on_luksext_sr, defer)

    # *** tests with reboots (longer tests).

    @pytest.mark.reboot
    @pytest.mark.small_vm
    def test_reboot(self, host: Host, luksext_sr: SR, vm_on_luksext_sr: VM) -> None:
        """ The TPM unlocks the SR, nobody has to type a key. """
        vm = vm_on_luksext_sr
        host.reboot(verify=True)
        wait_for(luksext_sr.all_pbds_attached, "Wait for the encrypted SR to be plugged")
        vm.start()
        vm.wait_for_os_booted()
        vm.shutdown(verify=True)

    @pytest.mark.reboot
    def test_clevis_missing(self, host: Host, luksext_sr: SR) -> None:
        """ Without what unlocks it, the host starts and says why the SR is not plugged. """
        sr = luksext_sr
        with without_program(host, 'clevis'):
            host.reboot(verify=True)
            with pytest.raises(SSHCommandFailed, match='SR_BACKEND_FAILURE_6203'):
                sr.plug_pbds(verify=False)
            assert not sr.all_pbds_attached()
        sr.plug_pbds()
        sr.scan()

    # *** End of tests with reboots
