# SPDX-License-Identifier: LGPL-2.1-only
"""pcrs: the values of PCRs now, and the policy that a sealed key is tied to."""
import base64

import pytest

import eventlogs
from luksext import pcrs, tpm
from luksext.errors import CommandFailed, ToolMissing, TpmBroken
from luksext.pcrs import Policy, PolicyUnknown

A, B = b"a" * 32, b"b" * 32


@pytest.fixture(autouse=True)
def sysfs(tmp_path, monkeypatch):
    """The folder that the kernel shows PCRs in, empty."""
    monkeypatch.setattr(pcrs, "_SYSFS", str(tmp_path / "tpm0"))
    return tmp_path / "tpm0"


def test_a_key_that_depends_on_no_pcr_has_no_policy():
    assert pcrs.policy_of(eventlogs.sealed("sha256", {})) is None


@pytest.mark.parametrize("bank", ["sha1", "sha256"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_policy_is_fulfilled_by_the_values_that_it_was_made_of(bank, algorithm):
    pin = eventlogs.sealed(bank, {7: A, 16: B}, algorithm)
    policy = pcrs.policy_of(pin)
    assert (policy.bank, policy.numbers, policy.algorithm) == (bank, [7, 16], algorithm)
    assert pcrs.policy_digest(policy, {16: B, 7: A}) == policy.digest
    assert pcrs.policy_digest(policy, {16: A, 7: B}) != policy.digest


@pytest.mark.parametrize("pcr_ids", ["16,7", " 7 , 16", ["7", "16"], [7, 16], "7,16,7", "7,16,"])
def test_pcrs_are_read_in_every_form_that_clevis_takes(pcr_ids):
    pin = eventlogs.tpm2_pin(b"p" * 32, pcr_ids=pcr_ids, pcr_bank="sha256")
    assert pcrs.policy_of(pin) == Policy("sha256", [7, 16], "sha256", b"p" * 32)


def test_a_key_without_a_bank_is_of_sha1_as_clevis_7_makes_it():
    assert pcrs.policy_of(eventlogs.tpm2_pin(b"p" * 20, "sha1", pcr_ids="7")) \
        == Policy("sha1", [7], "sha1", b"p" * 20)


def public(blob):
    """A public part of these bytes."""
    return base64.urlsafe_b64encode(blob).decode().rstrip("=")


GOOD = base64.urlsafe_b64decode(eventlogs.tpm2_pin(b"p" * 32).config["jwk_pub"] + "==")


@pytest.mark.parametrize("change, reason", [
    ({"pcr_ids": "x"}, "PCRs cannot be read"),
    ({"pcr_ids": "24"}, "PCRs cannot be read"),
    ({"pcr_ids": "-1"}, "PCRs cannot be read"),
    ({"pcr_ids": {"7": 1}}, "PCRs cannot be read"),
    ({"pcr_ids": ""}, "do not belong together"),
    ({"jwk_pub": eventlogs.tpm2_pin(b"").config["jwk_pub"]}, "do not belong together"),
    ({"policy_pubkey_path": "/etc/key"}, "by whoever signs"),
    ({"jwk_pub": ""}, "cannot be read"),
    ({"jwk_pub": "!"}, "cannot be read"),
    ({"jwk_pub": "A"}, "cannot be read"),
    ({"jwk_pub": None}, "cannot be read"),
    ({"jwk_pub": public(GOOD[:-1])}, "not as clevis makes it"),
    ({"jwk_pub": public(GOOD[:3] + b"\1" + GOOD[4:])}, "not as clevis makes it"),
    ({"jwk_pub": public(GOOD[:5] + b"\x7f" + GOOD[6:])}, "not as clevis makes it"),
    ({"jwk_pub": public(GOOD[:10] + b"\xff" + GOOD[11:])}, "not as clevis makes it"),
], ids=str)
def test_a_key_that_is_not_as_clevis_makes_it_has_no_known_policy(change, reason):
    pin = eventlogs.tpm2_pin(b"p" * 32, pcr_ids="7", pcr_bank="sha256")
    with pytest.raises(PolicyUnknown, match=reason):
        pcrs.policy_of(pin._replace(config=dict(pin.config, **change)))


@pytest.mark.parametrize("policy, reason", [
    (Policy("md5", [7], "sha256", b""), "bank is not known"),
    (Policy("sha256", [7], "whirl", b""), "whirl is not known")])
def test_what_this_python_cannot_compute_is_told(policy, reason):
    with pytest.raises(PolicyUnknown, match=reason):
        pcrs.policy_digest(policy, {7: A})


def test_values_come_from_the_kernel_where_it_shows_them(programs, sysfs):
    programs.add("tpm2_pcrread", "exit 1")
    (sysfs / "pcr-sha256").mkdir(parents=True)
    (sysfs / "pcr-sha256" / "7").write_text("AB" * 32 + "\n")
    assert pcrs.read("sha256", [7]) == {7: b"\xab" * 32}
    assert programs.calls("tpm2_pcrread") == []


def test_values_come_from_the_tools_elsewhere(programs):
    programs.add("tpm2_pcrread", "printf '  sha256:\\n    7 : 0xAB01\\n    16: 0xcd02\\n'")
    assert pcrs.read("sha256", [7, 16]) == {7: b"\xab\1", 16: b"\xcd\2"}
    assert programs.calls("tpm2_pcrread") == [
        ["tpm2_pcrread", "-T", "device:" + tpm.DEVICE, "sha256:7,16"]]


def test_values_come_from_the_tools_of_version_3(programs):
    programs.add("tpm2_pcrlist", "printf 'sha256 :\\n  7  : ab01\\n'")
    assert pcrs.read("sha256", [7]) == {7: b"\xab\1"}
    assert programs.calls("tpm2_pcrlist") == [
        ["tpm2_pcrlist", "-T", "device:" + tpm.DEVICE, "-L", "sha256:7"]]


def test_a_value_that_the_tools_do_not_print_is_missing(programs):
    programs.add("tpm2_pcrread", "printf '  sha256:\\n    7 : 0x\\n'")
    with pytest.raises(TpmBroken, match="no PCR bank sha256"):
        pcrs.read("sha256", [7])


def test_tools_that_fail_or_are_missing_are_told(programs):
    with pytest.raises(ToolMissing, match="tpm2-tools"):
        pcrs.read("sha256", [7])
    programs.add("tpm2_pcrread", "echo broken >&2; exit 1")
    with pytest.raises(CommandFailed, match="broken"):
        pcrs.read("sha256", [7])
