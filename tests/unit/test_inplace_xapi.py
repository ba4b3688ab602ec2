# SPDX-License-Identifier: LGPL-2.1-only
"""luksext_inplace: an ext SR is unplugged, its disks become containers, then it is adopted."""
import pytest

import headers
from fake_xapi import NULL, Xapi  # before what imports XenAPI
import luksext_adopt
import luksext_inplace
from luksext import devices, inplace
from luksext.errors import InPlaceImpossible, OptionInvalid, SrNotAdoptable

KEY = "the-recovery-key"


class Host:
    """A host with an ext SR, and what was asked of the modules below, in order."""

    def __init__(self, monkeypatch):
        self.xapi = xapi = Xapi()
        self.this = xapi.add("host", uuid="host", name_label="h", local_cache_sr=NULL)
        self.sr = xapi.add("SR", uuid=headers.SR, type="ext", shared=False, VDIs=[])
        self.pbd = xapi.add("PBD", SR=self.sr, host=self.this, currently_attached=True,
                            device_config={"device": "/dev/sdb,/dev/sdc"})
        self.done, self.begun, self.adopting = [], False, False
        for module, name in ((inplace, "check"), (inplace, "begin"), (luksext_adopt, "adopt")):
            monkeypatch.setattr(module, name, getattr(self, name))
        monkeypatch.setattr(inplace, "recovery_key", lambda sr_uuid: KEY)
        monkeypatch.setattr(inplace, "is_begun", lambda sr_uuid: self.begun)
        monkeypatch.setattr(luksext_adopt, "is_begun", lambda sr_uuid: self.adopting)
        monkeypatch.setattr(luksext_adopt, "check_unused",
                            lambda session, sr, record: self.done.append("unused"))
        monkeypatch.setattr(devices, "crypt_mapping_at", lambda path: None)
        monkeypatch.setattr(devices, "lasting_name", lambda path: "/dev/disk/by-id/" + path[-3:])

    def check(self, sr_uuid, paths, pin):
        self.done.append("check")

    def begin(self, sr_uuid, paths, wanted):
        assert not self.xapi.row("PBD", self.pbd)["currently_attached"]
        self.done.append(paths)

    def adopt(self, session, host, sr_uuid, pin, device_config):
        self.done.append(" ".join(["adopt by", pin.name, *device_config]))
        return {"sr_uuid": sr_uuid}

    def encrypt(self, **config):
        return luksext_inplace.encrypt(self.xapi, self.this, headers.SR, config)


@pytest.fixture
def host(monkeypatch, tmp_path):
    monkeypatch.setattr("luksext.run.PRIVATE_DIR", str(tmp_path / "private"))
    return Host(monkeypatch)


def test_it_is_checked_unplugged_encrypted_and_adopted_and_the_key_is_told(host):
    assert host.encrypt(pin="tang", **{"pin-config": '{"url":"http://t","thp":"x"}'})[
        "recovery_key"] == KEY
    assert host.done == ["check", "unused", ["/dev/disk/by-id/sdb", "/dev/disk/by-id/sdc"],
                         "adopt by tang"]


def test_the_sr_gets_the_discard_that_was_wished_for(host):
    host.encrypt(discard="true")
    assert "adopt by tpm2 discard" in host.done


def test_a_call_after_xapi_forgot_the_sr_goes_on(host):
    host.begun = host.adopting = True
    host.xapi.tables["PBD"].clear()
    host.xapi.tables["SR"].clear()
    assert host.encrypt()["recovery_key"] == KEY
    assert host.done == ["adopt by tpm2"]


def test_a_call_after_the_adoption_only_tells_the_key_again(host):
    host.begun = True
    host.xapi.tables["SR"][host.sr]["type"] = "luksext"
    for _ in range(2):
        assert host.encrypt()["recovery_key"] == KEY
    assert host.done == []


@pytest.mark.parametrize("sr_type", ["luksext", "lvm", "nfs"])
def test_another_sr_is_left_alone(host, sr_type):
    host.xapi.tables["SR"][host.sr]["type"] = sr_type
    with pytest.raises(SrNotAdoptable, match="no ext SR"):
        host.encrypt()
    assert host.done == []


def test_an_sr_on_encrypted_devices_is_left_alone(host, monkeypatch):
    monkeypatch.setattr(devices, "crypt_mapping_at", lambda path: "a mapping")
    with pytest.raises(SrNotAdoptable, match="adopt"):
        host.encrypt()
    assert host.done == []


@pytest.mark.parametrize("config, error", [
    ({"luks-version": "1"}, InPlaceImpossible), ({"cipher": "rot13"}, OptionInvalid),
    ({"pin-config": "{"}, OptionInvalid)])
def test_what_cannot_be_is_refused_before_the_sr_is_unplugged(host, config, error):
    with pytest.raises(error):
        host.encrypt(**config)
    assert host.done == []
    assert host.xapi.row("PBD", host.pbd)["currently_attached"]
