# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import json

from lib.host import Host
from lib.sr import SR

from typing import Any

KEY_FILE = '/dev/shm/luksext-test-key'

def call(host: Host, sr: SR, verb: str, **args: str) -> dict[str, Any]:
    """ Calls a verb of the plugin for the SR; a key goes by a file, it is on no command line. """
    params = {'sr-uuid': sr.uuid}
    params.update(args)
    if 'key' in args:
        host.create_file(KEY_FILE, params.pop('key'))
        params['key:file'] = KEY_FILE
    try:
        return json.loads(host.call_plugin('luksext', verb, params))
    finally:
        host.ssh(f'rm -f {KEY_FILE}')

def change_pcr(host: Host) -> None:
    """ Extends PCR 16 of the TPM, which starts anew at each boot. """
    host.ssh('tpm2_pcrextend 16:sha256=' + '1'.zfill(64))
