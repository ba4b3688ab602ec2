# SPDX-License-Identifier: LGPL-2.1-only
"""luksext-needed: the package stays while an SR of its type exists, in XAPI or on a disk."""
import os
import subprocess

import pytest

PROGRAM = os.path.join(os.path.dirname(__file__), "..", "..", "libexec", "luksext-needed")
SR = "0b9b0d2a-3c4d-4e5f-8a6b-1c2d3e4f5a6b"
STATUS = "SR {}: recovery key none\\n  /dev/sdb: LUKS2 U, aes 512 bits, locked\\n".format(SR)


@pytest.fixture
def needed(tmp_path):
    """Runs the program with an `xe` and a `luksext` of these scripts: (needed?, what it says)."""
    def run(xe, luksext="exit 9"):
        for name, script in (("xe", xe), ("luksext", luksext)):
            (tmp_path / name).write_text("#!/bin/sh\n{}\n".format(script))
            (tmp_path / name).chmod(0o755)
        ended = subprocess.run(["sh", PROGRAM], stderr=subprocess.PIPE, env={
            "PATH": "{}:{}".format(tmp_path, os.environ["PATH"])})
        assert ended.returncode in (0, 1)
        return ended.returncode == 0, ended.stderr.decode()
    return run


def test_an_sr_anywhere_in_the_pool_needs_it(needed):
    stays, text = needed('[ "$1 $2" = "sr-list type=luksext" ] && echo {},another'.format(SR))
    assert stays
    assert SR in text and "another" in text and "xe sr-destroy" in text


def test_where_xapi_knows_none_the_disks_are_not_asked(needed):
    assert needed("true", "printf '{}'".format(STATUS)) == (False, "")


def test_where_xapi_is_down_the_disks_tell(needed):
    stays, text = needed("exit 1", "printf '{}'; exit 3".format(STATUS))
    assert stays
    assert SR in text.split("\n")[1]


def test_without_xapi_and_without_disks_it_may_go(needed):
    assert needed("exit 1", "echo 'No disk of an encrypted SR is in this host.'") == (False, "")
