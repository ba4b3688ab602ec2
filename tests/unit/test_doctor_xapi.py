# SPDX-License-Identifier: LGPL-2.1-only
"""luksext_doctor: what XAPI knows of this host and of the others of its pool."""
import json
from types import SimpleNamespace

import pytest

from fake_xapi import XenAPI  # before what imports XenAPI

import luksext_doctor
import luksext_pool
import luksext_xapi
from luksext import VERSION, doctor
from luksext.findings import found

FEATURES = {"VDI_CREATE": "1", "VDI_CLONE": "1"}


class Pool:
    """A pool in order; each attribute is what a test changes."""

    def __init__(self):
        self.sm = {"ext": dict(FEATURES), "luksext": dict(FEATURES)}
        self.versions = {"a": VERSION, "b": VERSION}
        self.pbds = [("here", "luksext", True), ("here", "ext", False), ("other", "luksext", False)]

    @property
    def session(self):
        return SimpleNamespace(_session="S", xenapi=SimpleNamespace(
            SM=SimpleNamespace(get_all_records=lambda: {
                number: {"type": name, "features": features}
                for number, (name, features) in enumerate(self.sm.items())}),
            host=SimpleNamespace(
                get_all_records=lambda: {name: {"uuid": "uuid-" + name, "name_label": name}
                                         for name in self.versions},
                call_plugin=self.call_plugin),
            PBD=SimpleNamespace(get_all_records=lambda: {
                number: {"uuid": "pbd-{}".format(number), "host": host, "SR": number,
                         "currently_attached": attached}
                for number, (host, _, attached) in enumerate(self.pbds)}),
            SR=SimpleNamespace(get_record=lambda number: {
                "uuid": "sr-{}".format(number), "type": self.pbds[number][1]})))

    def call_plugin(self, host, plugin, function, arguments):
        assert (plugin, function) == ("luksext", "version")
        answer = self.versions[host]
        if isinstance(answer, list):
            raise XenAPI.Failure(answer)
        return json.dumps({"schema": 1, "version": answer})

    def the_one(self, code):
        """The finding of that code; there is no other."""
        told = luksext_doctor.examine(self.session)
        assert [one["code"] for one in told["findings"]] == [code]
        assert told["ok"] is False
        return told["findings"][0]


@pytest.fixture
def pool(monkeypatch):
    made = Pool()
    monkeypatch.setattr(doctor, "examine", lambda: [])
    monkeypatch.setattr(luksext_xapi, "this_host", lambda session: "here")
    monkeypatch.setattr(luksext_pool.XenAPI, "xapi_local", lambda: made.session, raising=False)
    return made


def test_a_pool_in_order_has_no_findings(pool):
    assert luksext_doctor.examine(pool.session) == {
        "schema": 1, "version": VERSION, "ok": True, "findings": []}


def test_what_the_host_itself_shows_comes_first(pool, monkeypatch):
    local = found("LUKS-D010")
    monkeypatch.setattr(doctor, "examine", lambda: [local])
    del pool.sm["luksext"]
    codes = [one["code"] for one in luksext_doctor.examine(pool.session)["findings"]]
    assert codes == ["LUKS-D010", "LUKS-D031"]


def test_an_sr_type_that_xapi_does_not_know(pool):
    del pool.sm["luksext"]
    assert "xe-toolstack-restart" in pool.the_one("LUKS-D031")["next"]


def test_features_that_not_every_host_has_offered_yet(pool):
    pool.sm["ext"]["VDI_MIRROR"] = "1"
    assert "VDI_MIRROR" in pool.the_one("LUKS-D032")["text"]


def test_a_host_without_the_package(pool):
    pool.versions["b"] = ["XENAPI_MISSING_PLUGIN", "luksext"]
    told = pool.the_one("LUKS-D033")
    assert "The host b " in told["text"]
    assert told["next"] == "On b: yum install ./luksext-*.rpm ; xe-toolstack-restart"


def test_a_host_that_cannot_be_asked(pool):
    pool.versions["b"] = ["HOST_OFFLINE", "OpaqueRef:b"]
    told = pool.the_one("LUKS-D034")
    assert "could not be asked for the package: It is down" in told["text"]
    assert told["next"].startswith("xe host-list uuid=uuid-b ")


@pytest.mark.parametrize("answer, version", [
    ("0.9.0", "version 0.9.0"),
    (["UNKNOWN_XENAPI_PLUGIN_FUNCTION", "version"], "version an older one")])
def test_a_host_with_another_version(pool, answer, version):
    pool.versions["b"] = answer
    text = pool.the_one("LUKS-D035")["text"]
    assert version in text and VERSION in text


def test_an_encrypted_sr_that_is_not_plugged(pool):
    pool.pbds[0] = ("here", "luksext", False)
    told = pool.the_one("LUKS-D036")
    assert "sr-0" in told["text"]
    assert told["next"] == "xe pbd-plug uuid=pbd-0"
