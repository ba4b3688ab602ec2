# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import pytest

import json

from lib.host import Host
from lib.sr import SR
from tests.storage.luksext.recovery import call

from typing import Generator

@pytest.fixture(scope='package')
def pcr_bound_sr(host_with_luksext: Host,
                 unused_512B_disks: dict[Host, list[Host.BlockDeviceInfo]]
                 ) -> Generator[SR, None, None]:
    """ An encrypted SR that the TPM unlocks as long as PCR 16 is what it was. """
    host = host_with_luksext
    sr = host.sr_create('luksext', "LUKSEXT-local-SR-test", {
        'device': '/dev/' + unused_512B_disks[host][0].name,
        'pin-config': json.dumps({'pcr_ids': '16'}),
    }, verify=True)
    yield sr
    sr.destroy()

@pytest.fixture(scope='package')
def recovery_key(host: Host, pcr_bound_sr: SR) -> str:
    """ A recovery key of the SR that was typed back. """
    key = call(host, pcr_bound_sr, 'recovery-add', name='test')['recovery_key']
    call(host, pcr_bound_sr, 'recovery-confirm', key=key)
    return key
