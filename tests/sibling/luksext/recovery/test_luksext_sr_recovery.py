# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import pytest

from lib.commands import SSHCommandFailed
from lib.common import wait_for
from lib.host import Host
from lib.sr import SR
from tests.storage.luksext.recovery import call, change_pcr

# Requirements:
# - one XCP-ng host with a TPM 2.0, with luksext installed on all hosts of its pool
# - an additional unused disk on it for the SR
# PCR 16 of the TPM is extended; it is for tests, and starts anew at each boot.

@pytest.mark.complex_prerequisites
class TestLUKSEXTSRRecovery:
    def test_status_tells_that_there_is_a_recovery_key(self, host: Host, pcr_bound_sr: SR,
                                                       recovery_key: str) -> None:
        assert call(host, pcr_bound_sr, 'status')['recovery'] == 'confirmed'
        assert pcr_bound_sr.param_get('sm-config', 'luks_recovery_key') == 'confirmed'

    def test_recovery_key_when_the_tpm_refuses(self, host: Host, pcr_bound_sr: SR,
                                               recovery_key: str) -> None:
        sr = pcr_bound_sr
        sr.unplug_pbds()
        change_pcr(host)
        with pytest.raises(SSHCommandFailed, match='SR_BACKEND_FAILURE_6234'):
            sr.plug_pbds(verify=False)
        call(host, sr, 'unlock', key=recovery_key)
        sr.plug_pbds()
        assert not call(host, sr, 'prove')['ok']
        call(host, sr, 'rebind', key=recovery_key)
        assert call(host, sr, 'prove')['ok']
        sr.unplug_pbds()
        sr.plug_pbds()

    def test_header_is_restored(self, host: Host, pcr_bound_sr: SR, recovery_key: str) -> None:
        sr = pcr_bound_sr
        device = call(host, sr, 'status')['disks'][0]['device']
        sr.unplug_pbds()
        host.ssh(f'dd if=/dev/zero of={device} bs=1M count=16 conv=fsync')
        with pytest.raises(SSHCommandFailed, match='SR_BACKEND_FAILURE_6220'):
            sr.plug_pbds(verify=False)
        call(host, sr, 'header-restore', device=device)
        sr.plug_pbds()
        wait_for(sr.all_pbds_attached, "Wait for the SR to be plugged")

    @pytest.mark.reboot
    def test_tpm_refuses_at_boot(self, host: Host, pcr_bound_sr: SR, recovery_key: str) -> None:
        """ Bound to what PCR 16 is not at a start: the SR waits for its recovery key. """
        sr = pcr_bound_sr
        change_pcr(host)
        call(host, sr, 'rebind', key=recovery_key)
        host.reboot(verify=True)
        with pytest.raises(SSHCommandFailed, match='SR_BACKEND_FAILURE_6234'):
            sr.plug_pbds(verify=False)
        assert not sr.all_pbds_attached()
        call(host, sr, 'unlock', key=recovery_key)
        sr.plug_pbds()
        call(host, sr, 'rebind', key=recovery_key)
        host.reboot(verify=True)
        wait_for(sr.all_pbds_attached, "Wait for the encrypted SR to be plugged")
