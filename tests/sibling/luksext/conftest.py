# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import pytest

import logging

from lib import config
from lib.host import Host
from lib.sr import SR
from lib.vdi import VDI, ImageFormat
from lib.vm import VM

# Package-scoped fixtures have to be imported where they are used, see pkgfixtures.py.
from pkgfixtures import (
    _xfs_config_on_hostA2,
    _xfs_config_on_hostB1,
    hostA2_with_xfsprogs,
    hostB1_with_xfsprogs,
    xfs_sr_on_hostA2,
    xfs_sr_on_hostB1,
)

from typing import Generator

@pytest.fixture(scope='package')
def host_with_luksext(host: Host) -> Host:
    """ A host on which encrypted SRs can be created: it has the package, its tools, and a TPM. """
    doctor = host.ssh_with_result('luksext doctor')
    assert doctor.returncode == 0, f"luksext doctor finds something on {host}: {doctor.stdout}"
    return host

@pytest.fixture(scope='package')
def luksext_sr(host_with_luksext: Host,
               unused_512B_disks: dict[Host, list[Host.BlockDeviceInfo]],
               image_format: ImageFormat
               ) -> Generator[SR, None, None]:
    """ An encrypted SR on first host, which its TPM unlocks. """
    host = host_with_luksext
    sr = host.sr_create('luksext', "LUKSEXT-local-SR-test", {
        'device': '/dev/' + unused_512B_disks[host][0].name,
        'preferred-image-formats': image_format,
    }, verify=True)
    yield sr
    sr.destroy()

@pytest.fixture(scope='module')
def vdi_on_luksext_sr(luksext_sr: SR) -> Generator[VDI, None, None]:
    vdi = luksext_sr.create_vdi('LUKSEXT-local-VDI-test', virtual_size=config.volume_size)
    yield vdi
    vdi.destroy()

@pytest.fixture(scope='module')
def vm_on_luksext_sr(host: Host, luksext_sr: SR, vm_ref: str) -> Generator[VM, None, None]:
    vm = host.import_vm(vm_ref, sr_uuid=luksext_sr.uuid)
    yield vm
    logging.info("<< Destroy VM")
    vm.destroy(verify=True)
