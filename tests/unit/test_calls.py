# SPDX-License-Identifier: LGPL-2.1-only
"""luksext_calls: what XAPI's plugin answers, of one SR, of a host, and of a pool."""
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fake_xapi import XenAPI, Xapi  # before what imports XenAPI

import headers
import luksext_calls
import luksext_pool
import luksext_xapi
from luksext import inventory
from luksext.errors import ArgumentInvalid, NoTpm

HOSTS = {"A": {"uuid": "uuid-a", "name_label": "a"}, "B": {"uuid": "uuid-b", "name_label": "b"},
         "C": {"uuid": "uuid-c", "name_label": "c"}}


class Failure(Exception):
    """As XenAPIPlugin's."""

    def __init__(self, code, params):
        super().__init__(code, params)
        self.code, self.params = code, params


def answered(call):
    return luksext_calls.answering(Failure, call)(None, {})


def test_an_answer_is_json():
    assert json.loads(answered(lambda session, arguments: {"ok": True})) == {"ok": True}


def test_an_error_of_ours_has_the_code_that_xapi_shows_of_the_driver_too():
    def fail(session, arguments):
        raise NoTpm()

    with pytest.raises(Failure) as caught:
        answered(fail)
    assert caught.value.code == "SR_BACKEND_FAILURE_6232"
    assert "no usable TPM" in caught.value.params[1]


def test_an_error_of_xapi_is_passed_on_as_it_is():
    def fail(session, arguments):
        raise XenAPI.Failure(["HOST_OFFLINE", "ref"])

    with pytest.raises(Failure) as caught:
        answered(fail)
    assert (caught.value.code, caught.value.params) == ("HOST_OFFLINE", ["ref"])


def answer_of(host):
    if host == "A":
        return json.dumps({"schema": 1, "srs": [{"sr_uuid": "s", "name": "n", "type": "ext",
                                                 "encrypted": False, "attached": True}]})
    if host == "B":
        raise XenAPI.Failure(["XENAPI_MISSING_PLUGIN", "luksext"])
    raise XenAPI.Failure(["HOST_OFFLINE", "OpaqueRef:C"])


@pytest.fixture
def session(monkeypatch):
    """A pool of three hosts, of which one has no plugin and one is offline."""
    def local():
        return SimpleNamespace(xenapi=SimpleNamespace(host=SimpleNamespace(
            call_plugin=lambda host, plugin, verb, arguments: answer_of(host))))

    monkeypatch.setattr(luksext_pool.XenAPI, "xapi_local", local, raising=False)
    return SimpleNamespace(_session="S", xenapi=SimpleNamespace(
        host=SimpleNamespace(get_all_records=lambda: HOSTS)))


def test_the_pool_tells_of_every_host_also_of_those_that_cannot_be_asked(session):
    told = {host["host"]: host for host in luksext_calls.CALLS["pool-status"](session, {})["hosts"]}
    assert told["a"]["srs"][0]["sr_uuid"] == "s"
    assert "not installed on this host" in told["b"]["error"]
    assert told["c"]["code"] == "HOST_OFFLINE"


@pytest.mark.parametrize("details, sentence", [
    (["HOST_OFFLINE", "OpaqueRef:C"], "It is down, or its XAPI is"),
    (["CANNOT_CONTACT_HOST", "OpaqueRef:C"], "master cannot reach it"),
    (["HOST_STILL_BOOTING", "OpaqueRef:C"], "XAPI answers HOST_STILL_BOOTING."),
    (["INTERNAL_ERROR", "no host OpaqueRef:1-2 here"], "INTERNAL_ERROR: no host here"),
    (["SR_BACKEND_FAILURE_6232", "", "No TPM."], "SR_BACKEND_FAILURE_6232: No TPM.")])
def test_why_a_host_cannot_be_asked_is_told_without_references(details, sentence):
    told = luksext_pool._why(XenAPI.Failure(details))
    assert sentence in told
    assert "OpaqueRef" not in told


def test_an_sr_that_cannot_be_looked_at_hides_no_other(monkeypatch):
    xapi = Xapi()
    here = xapi.add("host", name_label="a")
    monkeypatch.setattr(luksext_xapi, "this_host", lambda session: here)
    for sr_type, sm_config in (("luksext", {"luks_containers": "scribble"}), ("ext", {})):
        sr = xapi.add("SR", name_label=sr_type, type=sr_type, shared=False, sm_config=sm_config)
        xapi.add("PBD", host=here, SR=sr, currently_attached=True, device_config={"device": "d"})
    broken, plain = luksext_calls.CALLS["status"](xapi, {})["srs"]
    assert (plain["type"], plain["encrypted"]) == ("ext", False)
    assert (broken["name"], broken["attached"], broken["recovery"]) == ("luksext", True, "unknown")
    assert [disk["error"]["code"] for disk in broken["disks"]] == [6284]
    assert broken["alerts"] == ["LUKS-W012"]


def test_a_host_that_never_answers_is_named(session, monkeypatch):
    monkeypatch.setattr(luksext_pool, "_HOST_DEADLINE", 0.05)
    monkeypatch.setattr(luksext_pool, "_ask", lambda *arguments: None)
    told = luksext_calls.CALLS["pool-status"](session, {})["hosts"]
    assert all("did not answer" in host["error"] for host in told)


def test_the_inventory_has_a_line_for_each(session):
    text = luksext_calls.CALLS["pool-csv"](session, {})["csv"]
    assert [line.split(",")[0] for line in text.splitlines()] == [
        inventory.COLUMNS[0], "a", "b", "c"]


def test_every_verb_of_the_console_is_one_of_the_plugin():
    assert set(luksext_calls.verbs.VERBS) < set(luksext_calls.CALLS)


@pytest.mark.parametrize("call", ["encrypt", "encrypt-in-place"])
def test_what_destroys_an_sr_is_confirmed_and_the_new_one_knows_nothing_of_that(
        monkeypatch, tmp_path, call):
    begun = []
    for module in (luksext_calls.luksext_encrypt, luksext_calls.luksext_inplace):
        monkeypatch.setattr(module, "encrypt", lambda session, host, sr_uuid, config: begun.append(
            (sr_uuid, config)) or {})
    monkeypatch.setattr(luksext_calls.luksext_xapi, "this_host", lambda session: "host")
    monkeypatch.setattr(luksext_calls.audit, "record", lambda *words, **details: None)
    monkeypatch.setattr(luksext_calls, "_user", lambda session: "")
    given = {"sr-uuid": headers.SR, "pin": "null", "cipher": "aes-xts-plain64"}
    for confirm in ({}, {"confirm": "false"}):
        with pytest.raises(ArgumentInvalid, match="needs the argument confirm"):
            luksext_calls.CALLS[call](None, dict(given, **confirm))
    assert begun == []
    luksext_calls.CALLS[call](None, dict(given, confirm="true"))
    assert begun == [(headers.SR, {"pin": "null", "cipher": "aes-xts-plain64"})]


def test_the_argument_list_is_hidden_from_other_processes():
    script = ("import luksext_argv\n"
              "luksext_argv.hide()\n"
              "print(open('/proc/self/cmdline').read().strip(chr(0)))\n")
    shown = subprocess.check_output([sys.executable, "-c", script, "a-secret"],
                                    env={"PYTHONPATH": ":".join(sys.path)})
    assert shown.strip() == b""


@pytest.mark.parametrize("call", sorted(luksext_calls.CONVERSIONS))
@pytest.mark.parametrize("sr_uuid", ["", "Local storage", headers.SR + "x"])
def test_an_sr_is_named_by_its_uuid(call, sr_uuid):
    with pytest.raises(ArgumentInvalid, match="xe sr-list"):
        luksext_calls.CALLS[call](None, {"sr-uuid": sr_uuid})
