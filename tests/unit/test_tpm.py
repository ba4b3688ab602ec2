# SPDX-License-Identifier: LGPL-2.1-only
"""tpm: the state of the TPM is asked of the TPM."""
import time

import pytest

from luksext import run, tpm
from luksext.errors import NoTpm, TpmBroken, TpmLockout


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A node that stands for the TPM's."""
    path = tmp_path / "tpmrm0"
    path.write_text("")
    monkeypatch.setattr(tpm, "DEVICE", str(path))
    return path


def test_without_its_node_there_is_no_tpm(programs, device):
    device.unlink()
    with pytest.raises(NoTpm, match="/dev/tpmrm0 does not exist"):
        tpm.check()


def test_without_tools_a_tpm_that_is_there_counts_as_usable(programs, device):
    tpm.check()


def test_a_tpm_that_accepts_requests_is_usable(programs, device):
    programs.add("tpm2_getcap", "echo 'inLockout:  0'")
    tpm.check()
    assert programs.calls("tpm2_getcap") == [
        ["tpm2_getcap", "-T", "device:" + str(device), "properties-variable"]]


@pytest.mark.parametrize("line", ["inLockout:                 1", "inLockout: set",
                                  "  inLockout:  SET"])
def test_a_tpm_in_lockout_is_told_however_the_tool_prints_it(programs, device, line):
    programs.add("tpm2_getcap", "echo 'TPM2_PT_PERMANENT:'; echo '{}'".format(line))
    with pytest.raises(TpmLockout, match="the key in it is not lost"):
        tpm.check()


@pytest.mark.parametrize("line", ["inLockout: clear", "TPM2_PT_LOCKOUT_COUNTER: 0x1", ""])
def test_other_values_are_no_lockout(programs, device, line):
    programs.add("tpm2_getcap", "echo '{}'".format(line))
    tpm.check()


def test_tools_of_version_3_are_asked_by_their_option(programs, device):
    programs.add("tpm2_getcap", '[ "$3" = -c ] || exit 1; echo inLockout: set')
    with pytest.raises(TpmLockout):
        tpm.check()


def test_a_tpm_that_answers_neither_way_is_broken(programs, device):
    programs.add("tpm2_getcap", """
        [ "$3" = -c ] && echo 'invalid option' >&2 || echo 'ERROR: 0x902' >&2; exit 1""")
    with pytest.raises(TpmBroken, match=r"ERROR: 0x902; .*invalid option\. Check .*cold start"):
        tpm.check()


def test_a_tpm_that_hangs_is_broken(programs, device, monkeypatch):
    monkeypatch.setattr(tpm, "_DEADLINE", 0.3)
    programs.add("tpm2_getcap", "exec $helpers/sleep 60")
    with pytest.raises(TpmBroken, match=r"did not end within 0.3 seconds"):
        tpm.check()


def test_it_is_told_that_power_may_go(device):
    """TPM2_Shutdown(CLEAR): the bytes are those that `tpm2_shutdown --clear` sends."""
    tpm.rest()
    assert device.read_bytes() == bytes.fromhex("80010000000c000001450000")


def test_a_tpm_that_cannot_be_told_that_power_may_go_fails_nothing(device, caplog):
    device.unlink()
    tpm.rest()
    assert "not told that power may go" in caplog.text


def test_a_tpm_that_hangs_is_not_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(tpm, "_shut_down", lambda: time.sleep(600))
    monkeypatch.setattr(tpm, "_REST_SECONDS", 60)
    for seconds in (0.3, -1):
        began = time.monotonic()
        with run.within(seconds):
            tpm.rest()
        assert time.monotonic() - began < 10
    assert caplog.text.count("not told that power may go") == 2


def test_output_that_is_no_text_is_no_lockout(programs, device):
    programs.add("tpm2_getcap", "printf '\\377\\376'")
    tpm.check()
