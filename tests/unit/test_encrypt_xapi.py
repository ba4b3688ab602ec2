# SPDX-License-Identifier: LGPL-2.1-only
"""luksext_encrypt: an empty ext SR is made anew as an encrypted one, whenever killed."""
import pytest

import headers
from fake_xapi import NULL, SCANNED_VDI, Killed, Xapi  # before what imports XenAPI
import luksext_encrypt
from luksext import devices, notes
from luksext.errors import OptionInvalid, PinRefuses, SrNotAdoptable, SrNotEmpty

DISK = "/dev/sdb"


class Host:
    """A host with an empty ext SR, which is the pool's default."""

    def __init__(self):
        self.xapi = xapi = Xapi()
        self.this = xapi.add("host", uuid="host", name_label="h", local_cache_sr=NULL,
                             suspend_image_sr=NULL, crash_dump_sr=NULL)
        self.sr = xapi.add(
            "SR", uuid=headers.SR, type="ext", shared=False, name_label="Local storage",
            name_description="of h", content_type="user", other_config={"auto-scan": "true"},
            tags=["fast"], sm_config={"devserial": ""})
        self.pbd = xapi.add("PBD", SR=self.sr, host=self.this, currently_attached=True,
                            device_config={"device": DISK}, other_config={})
        self.pool = xapi.add("pool", uuid="pool", default_SR=self.sr, suspend_image_SR=NULL,
                             crash_dump_SR=NULL)

    def encrypt(self, **config):
        return luksext_encrypt.encrypt(self.xapi, self.this, headers.SR, config)

    def check(self):
        (sr,) = self.xapi.tables["SR"]
        row = self.xapi.row("SR", sr)
        assert (row["type"], row["name_label"], row["name_description"]) == (
            "luksext", "Local storage", "of h")
        assert (row["other_config"], row["tags"]) == ({"auto-scan": "true"}, ["fast"])
        assert self.xapi.row("pool", self.pool)["default_SR"] == sr
        (pbd,) = row["PBDs"]
        assert self.xapi.row("PBD", pbd)["device_config"] == {
            "device": "/dev/disk/by-id/x", "pin": "any"}


@pytest.fixture
def host(tmp_path, programs, monkeypatch):
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "state"))
    monkeypatch.setattr(devices, "lasting_name", lambda device: "/dev/disk/by-id/x")
    for name in ("clevis-encrypt-any", "jose", "wipefs", "dmsetup", "dd", "luksmeta"):
        programs.add(name)
    programs.add("cryptsetup", "echo cryptsetup 2.6.1")
    programs.add("clevis", "[ $1 = encrypt ] && echo {} || printf key".format(headers.JWE))
    return Host()


def test_an_empty_sr_is_replaced_with_all_that_it_was(host, tmp_path):
    assert host.encrypt(pin="any") == "new"
    host.check()
    assert not list((tmp_path / "state").rglob("*.json"))


@pytest.mark.parametrize("step", range(1, 8))
def test_a_kill_before_any_change_is_made_good_by_the_next_call(host, step):
    host.xapi.die_before = step
    try:
        host.encrypt(pin="any")
        assert step > host.xapi.changes
    except Killed:
        host.encrypt(pin="any")
    host.check()


def test_the_kills_above_reach_the_last_change(host):
    host.encrypt(pin="any")
    assert 5 <= host.xapi.changes < 8


def test_what_a_power_cut_left_half_made_is_made_again(host):
    """XAPI makes its record of an SR before it calls the driver, which adds what it made."""
    host.xapi.die_before = 3
    with pytest.raises(Killed):
        host.encrypt(pin="any")
    host.xapi.add("SR", uuid="half", type="luksext", sm_config={"luks_replaces": headers.SR},
                  name_label="Local storage")
    host.encrypt(pin="any")
    host.check()


def refused(host, error, match, **config):
    with pytest.raises(error, match=match):
        host.encrypt(**config)
    assert host.xapi.changes == 0
    assert list(host.xapi.tables["SR"]) == [host.sr]


def test_what_is_in_it_is_named_with_how_to_move_it(host):
    for uuid in ("two", "one"):
        host.xapi.add("VDI", **dict(SCANNED_VDI, uuid=uuid, SR=host.sr))
    refused(host, SrNotEmpty, "the VDIs one, two.*vdi-pool-migrate", pin="any")


def test_an_sr_of_another_kind_is_refused(host):
    host.xapi.tables["SR"][host.sr]["type"] = "lvm"
    refused(host, SrNotAdoptable, "of type lvm", pin="any")


def test_what_is_encrypted_already_is_to_be_adopted(host, monkeypatch):
    monkeypatch.setattr(devices, "crypt_mapping_at", lambda path: devices.Mapping("luks-x", "dm-0"))
    refused(host, SrNotAdoptable, "fn=adopt args:sr-uuid=" + headers.SR, pin="any")


def test_a_host_that_cannot_seal_keeps_its_sr(host, programs):
    programs.add("clevis", "exit 1")
    refused(host, PinRefuses, "any", pin="any")


def test_a_bad_option_keeps_the_sr(host):
    refused(host, OptionInvalid, "no-such-pin", pin="no-such-pin")


def test_an_sr_that_nobody_knows_is_refused(host):
    with pytest.raises(SrNotAdoptable, match="knows no SR"):
        luksext_encrypt.encrypt(host.xapi, host.this, "99999999-0000-4000-8000-000000000000", {})
