# SPDX-License-Identifier: LGPL-2.1-only
"""One call of a driver: process, XML, answers, rights."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest
import XenAPI

if TYPE_CHECKING:
    from tests.lab.xapi.cli.client import Client
    from tests.unit.lab.xapi_sandbox import Sandbox

pytest_plugins = ("tests.unit.lab.xapi_sandbox",)

ORDER = """
host_ref command args device_config session_ref sr_sm_config sr_ref vdi_type sr_uuid vdi_ref
vdi_location vdi_uuid driver_params vdi_sm_config new_uuid subtask_of vdi_on_boot
vdi_allow_caching local_cache_sr
"""

#: A request of a driver, for lxml. From sm_exec.ml and xMLRPC.ml: no tag for strings.
SCHEMA = """
<grammar xmlns="http://relaxng.org/ns/structure/1.0">
  <start><element name="methodCall">
    <element name="methodName"><text/></element>
    <element name="params"><element name="param"><element name="value">
      <ref name="members"/>
    </element></element></element>
  </element></start>
  <define name="members"><element name="struct"><zeroOrMore><element name="member">
    <element name="name"><text/></element>
    <element name="value"><choice>
      <text/>
      <element name="array"><element name="data"><zeroOrMore>
        <element name="value"><text/></element>
      </zeroOrMore></element></element>
      <element name="struct"><zeroOrMore><element name="member">
        <element name="name"><text/></element><element name="value"><text/></element>
      </element></zeroOrMore></element>
    </choice></element>
  </element></zeroOrMore></element></define>
</grammar>
"""


def test_process(sandbox: Sandbox, client: Client) -> None:
    sandbox.sr(client)
    call = sandbox.calls()[0]
    assert call["argc"] == 2
    assert call["environment"] == {
        "PATH": "/sbin:/usr/sbin:/bin:/usr/bin",
        "ORIGINATOR": "SM",
        # Set by the interpreter itself (PEP 538), not by us.
        **{key: text for key, text in call["environment"].items() if key == "LC_CTYPE"},
    }
    assert call["stdin"] == "/dev/null"
    assert call["cwd"] == "/"
    assert call["leader"]


def test_request_members_and_their_order(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client, device="/dev/sdb")
    vdi = _vdi(sandbox, client, sr)
    client.call("VDI.snapshot", vdi, {"p": "q"})
    calls = {call["command"]: call["params"] for call in sandbox.calls()}
    for params in calls.values():
        assert list(params) == [name for name in ORDER.split() if name in params]
        assert next(iter(params["device_config"])) == "SRmaster"
    assert calls["sr_attach"]["device_config"] == {"SRmaster": "true", "device": "/dev/sdb"}
    assert calls["vdi_create"]["args"] == [
        *["1048576", "v", "", "", "false", "19700101T00:00:00Z", "", "false"]
    ]
    assert calls["vdi_create"]["vdi_sm_config"] == {"s": "t"}
    assert calls["vdi_create"]["vdi_type"] == "user"
    assert calls["vdi_snapshot"]["driver_params"] == {"p": "q"}
    assert calls["vdi_snapshot"]["vdi_on_boot"] == "persist"
    assert calls["vdi_snapshot"]["vdi_allow_caching"] == "false"


def test_request_is_encoded_as_xapi_does(sandbox: Sandbox, client: Client) -> None:
    etree = pytest.importorskip("lxml.etree")
    schema = etree.RelaxNG(etree.fromstring(SCHEMA))
    sandbox.sr(client, device="<&> é", empty="")
    for call in sandbox.calls():
        schema.assertValid(etree.fromstring(call["xml"]))
        assert "<string>" not in call["xml"]
        assert "> <" not in call["xml"] and ">\n<" not in call["xml"]
    assert "<name>device</name><value>&lt;&amp;&gt; é</value>" in call["xml"]
    assert "<name>empty</name><value></value>" in call["xml"]
    assert "<value><array><data/></array></value>" in call["xml"]


def _vdi(sandbox: Sandbox, client: Client, sr: str) -> str:
    record = {"SR": sr, "name_label": "v", "virtual_size": "1048576", "sm_config": {"s": "t"}}
    return str(client.call("VDI.create", record))


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ({"fault": [16, "t"]}, ["SR_DEVICE_IN_USE"]),
        ({"fault": [24, "t"]}, ["VDI_IN_USE"]),
        ({"fault": [38, "t"]}, ["SR_OPERATION_NOT_SUPPORTED", "SR"]),
        ({"fault": [39, "t"]}, ["SR_NOT_EMPTY"]),
        ({"fault": [144, "t"]}, ["VDI_MISSING", "SR", ""]),
        ({"fault": [90, "t"], "stderr": "e"}, ["SR_BACKEND_FAILURE_90", "", "t", "e"]),
        (
            {"exit": 3, "raw": "o", "stderr": "e"},
            ["SR_BACKEND_FAILURE", "non-zero exit", "o\n", "e"],
        ),
        (
            {"signal": "SIGKILL", "stderr": "e"},
            ["SR_BACKEND_FAILURE", "received signal: SIGKILL", "", "e"],
        ),
    ],
)
def test_failures(
    sandbox: Sandbox, client: Client, behaviour: dict[str, Any], expected: list[str]
) -> None:
    sandbox.behave(sr_create={**behaviour, "api": [["SR.get_all"]]})
    with pytest.raises(XenAPI.Failure) as failure:
        sandbox.sr(client)
    sr = sandbox.calls()[0]["results"][0][0]
    assert failure.value.details == [sr if text == "SR" else text for text in expected]


NIL = "<value><nil/></value>"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("junk before<methodResponse/>", "SR_BACKEND_FAILURE"),
        ("", "SR_BACKEND_FAILURE"),
        (
            f"<methodResponse><params><param>{NIL}</param></params></methodResponse>junk",
            "SR_BACKEND_FAILURE",
        ),
        (
            "<methodResponse><params><param><value>text</value></param></params></methodResponse>",
            "INTERNAL_ERROR",
        ),
        ("<methodResponse><params/></methodResponse>", "INTERNAL_ERROR"),
        ("<other/>", "INTERNAL_ERROR"),
    ],
)
def test_only_nil_will_do(sandbox: Sandbox, client: Client, answer: str, code: str) -> None:
    sandbox.behave(sr_create={"raw": answer})
    with pytest.raises(XenAPI.Failure) as failure:
        sandbox.sr(client)
    assert failure.value.details[0] == code


def test_rights_of_the_session(sandbox: Sandbox, client: Client) -> None:
    calls = [
        ["SR.set_physical_size", "$sr_ref", "5"],
        ["PBD.set_device_config", "$pbd", {"SRmaster": "false"}],
        ["session.get_other_config", "$session_ref"],
    ]
    sandbox.behave(sr_create={"api": calls})
    sr = sandbox.sr(client)
    call = sandbox.calls()[0]
    size, config, marks = call["results"]
    assert size == ""
    assert config[0] == "VALUE_NOT_SUPPORTED"
    assert marks == {"_sm_session": sr}
    assert not sandbox.core.db.exists("session", call["params"]["session_ref"])
    assert sandbox.core.db.refs("task") == []


def test_no_rights_outside(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    vdi = _vdi(sandbox, client, sr)
    introduce = (
        *("u", "l", "d", sr, "user", False, False, {}, "loc", {}, {}, True, "1", "1"),
        *("OpaqueRef:NULL", False, "19700101T00:00:00Z", "OpaqueRef:NULL", False),
    )
    for method, *arguments in (
        ["SR.set_physical_size", sr, "5"],
        ["SR.set_virtual_allocation", sr, "5"],
        ["PBD.set_device_config", sandbox.pbd(sr), {}],
        ["VDI.set_managed", vdi, False],
        ["VDI.db_forget", vdi],
        ["VDI.db_introduce", *introduce],
    ):
        with pytest.raises(XenAPI.Failure) as failure:
            client.call(method, *arguments)
        assert failure.value.details == ["PERMISSION_DENIED", ""]


def test_session_of_one_sr_has_no_rights_on_another(sandbox: Sandbox, client: Client) -> None:
    other = sandbox.sr(client)
    sandbox.behave(
        sr_create={"api": [["SR.set_physical_size", other, "5"]]},
        sr_probe={"api": [["SR.set_physical_size", other, "5"]]},
    )
    sandbox.calls()
    sandbox.sr(client)
    client.call("SR.probe", sandbox.host, {}, "fake", {})
    for call in sandbox.calls():
        if call["command"] in ("sr_create", "sr_probe"):
            assert call["results"] == [["PERMISSION_DENIED", ""]]


def test_operations_exclude_each_other(sandbox: Sandbox, client: Client) -> None:
    """A second operation waits for the first: its commands do not mix with those of the first."""
    sr = sandbox.sr(client)
    sandbox.calls()
    tasks = [client.call("Async.SR.scan", sr) for _ in range(3)]
    deadline = time.monotonic() + 10
    while any(client.call("task.get_status", task) == "pending" for task in tasks):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sandbox.commands() == ["sr_scan", "sr_update"] * 3
    assert client.call("SR.get_current_operations", sr) == {}


# Registration --------------------------------------------------------------------------------


def test_driver_becomes_a_row(sandbox: Sandbox, client: Client) -> None:
    (row,) = client.call("SM.get_all_records").values()
    assert row["type"] == "fake"
    assert row["driver_filename"] == str(sandbox.config.sm_dir / "FAKESR")
    assert row["configuration"] == {"device": "the device"}
    assert row["features"]["VDI_RESET_ON_BOOT"] == "2"
    assert "ATOMIC_PAUSE" not in row["features"]
    assert client.call("SR.get_supported_types") == ["fake"]


def test_driver_info_call_has_no_session(idle: Sandbox) -> None:
    idle.start()
    (call,) = idle.calls()
    assert list(call["params"]) == ["host_ref", "command", "args", "device_config"]
    assert call["params"]["device_config"] == {}
    ET.fromstring(call["xml"])


def test_whitelist(idle: Sandbox) -> None:
    idle.install("OTHERSR")
    idle.install("OTHERSR.py")
    (idle.config.conf_dir / "10-all").write_text('sm-plugins = "*"  # every one\n')
    (idle.config.conf_dir / "99-last.rpmsave").write_text(
        "other=1\nsm-plugins=ext\nsm-plugins=Fake\n"
    )
    idle.start()
    assert idle.core.registry.types(idle.host) == ["fake"]
    assert "Skipping SMAPIv1 plugin OTHER: not in sm-plugins whitelist" in idle.log()
    (idle.config.conf_dir / "99-last.rpmsave").unlink()
    idle.restart_toolstack()
    assert idle.core.registry.types(idle.host) == ["fake", "other"]


@pytest.mark.parametrize(
    "behaviour",
    [
        {"raw": "import failed"},
        {"exit": 1},
        {"fault": [1, "no"]},
        {
            "raw": "<methodResponse><params><param><value><struct/></value></param></params>"
            "</methodResponse>"
        },
    ],
)
def test_rejected_driver(idle: Sandbox, behaviour: dict[str, Any]) -> None:
    idle.behave(sr_get_driver_info=behaviour)
    idle.start()
    assert idle.core.registry.types(idle.host) == []
    assert idle.core.db.refs("SM") == []
    assert "Rejecting SM plugin: FAKE because of exception: " in idle.log()


def test_row_goes_with_its_file(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    (sandbox.config.sm_dir / "FAKESR").unlink()
    sandbox.restart_toolstack()
    assert sandbox.core.db.refs("SM") == []
    client = sandbox.client()
    with pytest.raises(XenAPI.Failure) as failure:
        client.call("VDI.create", {"SR": sr, "name_label": "v", "virtual_size": "1048576"})
    assert failure.value.details == ["SR_OPERATION_NOT_SUPPORTED", sr]
