# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import pytest

from lib.commands import SSHCommandFailed
from lib.common import vm_image
from lib.host import Host
from lib.vdi import ImageFormat
from tests.storage import try_to_create_sr_with_missing_device
from tests.storage.luksext import without_program

# Requirements:
# - one XCP-ng host with a TPM 2.0, with luksext installed on all hosts of its pool
# - an additional unused disk on it for the SR

LABEL = "LUKSEXT-local-SR-test"

class TestLUKSEXTSRCreateDestroy:
    """ Without fixtures that make the SR, since making and destroying it is what is tested. """

    def test_create_sr_with_missing_device(self, host_with_luksext: Host) -> None:
        """ Refused in the words of the other local drivers. """
        try_to_create_sr_with_missing_device('luksext', LABEL, host_with_luksext)

    def test_create_sr_without_clevis(self, host_with_luksext: Host,
                                      unused_512B_disks: dict[Host, list[Host.BlockDeviceInfo]]
                                      ) -> None:
        """ The disk is as it was. """
        host = host_with_luksext
        device = '/dev/' + unused_512B_disks[host][0].name
        before = host.ssh(f'set -o pipefail; head -c 16M {device} | sha256sum')
        with without_program(host, 'clevis'), \
                pytest.raises(SSHCommandFailed, match='SR_BACKEND_FAILURE_6203'):
            host.sr_create('luksext', LABEL, {'device': device})
        assert host.ssh(f'set -o pipefail; head -c 16M {device} | sha256sum') == before

    def test_create_sr_on_disk_with_data(self, host_with_luksext: Host,
                                         unused_512B_disks: dict[Host, list[Host.BlockDeviceInfo]]
                                         ) -> None:
        """ Nothing is overwritten unless it is asked for. """
        host = host_with_luksext
        device = '/dev/' + unused_512B_disks[host][0].name
        host.ssh(f'mkfs.ext4 -q -F {device}')
        try:
            with pytest.raises(SSHCommandFailed, match='SR_BACKEND_FAILURE_6213'):
                host.sr_create('luksext', LABEL, {'device': device})
            assert host.ssh(f'blkid -o value -s TYPE {device}') == 'ext4'
        finally:
            host.ssh(f'wipefs -a {device}')

    def test_create_and_destroy_sr(self, host_with_luksext: Host,
                                   unused_512B_disks: dict[Host, list[Host.BlockDeviceInfo]],
                                   image_format: ImageFormat
                                   ) -> None:
        """ The VM import tells here what would break a fixture of the other tests. """
        host = host_with_luksext
        device = '/dev/' + unused_512B_disks[host][0].name
        sr = host.sr_create('luksext', LABEL, {
            'device': device,
            'preferred-image-formats': image_format,
        }, verify=True)
        vm = host.import_vm(vm_image('mini-linux-x86_64-bios'), sr_uuid=sr.uuid)
        vm.destroy(verify=True)
        sr.destroy(verify=True)
        # The header is erased: there are no keys left.
        assert host.ssh_with_result(f'cryptsetup isLuks {device}').returncode != 0
