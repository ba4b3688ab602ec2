# SPDX-License-Identifier: LGPL-2.1-only
"""The API itself: fields, expressions, errors, events, messages, plugins, both protocols."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import XenAPI

from tests.lab.xapi import query
from tests.lab.xapi.errors import ApiError

if TYPE_CHECKING:
    from tests.lab.xapi.cli.client import Client
    from tests.unit.lab.xapi_sandbox import Sandbox

pytest_plugins = ("tests.unit.lab.xapi_sandbox",)


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ('field "SR" = "R"', True),
        ('field "SR" = "S"', False),
        ('field "SR" = "R" andfield "host" = "H"', True),
        ('field "SR" = "R" and field "host" = "I"', False),
        ('(field "SR" = "S") or not field "host" = "I"', True),
        ('field "currently_attached" = "true"', True),
        ("field 'SR' = 'R'", True),
        ("true", True),
        ("not (true and false)", True),
    ],
)
def test_expressions(expression: str, matches: bool) -> None:
    record = {"SR": "R", "host": "H", "currently_attached": True}
    assert query.parse(expression)(record) is matches


@pytest.mark.parametrize("expression", ["", "field", 'field "a" =', 'field "a" = "b" "c"', "x"])
def test_no_expression(expression: str) -> None:
    with pytest.raises(ApiError):
        query.parse(expression)


def test_maps(sandbox: Sandbox, client: Client) -> None:
    sr = client.call("SR.introduce", "", "l", "d", "fake", "", False, {})
    client.call("SR.add_to_other_config", sr, "dirty", "")
    with pytest.raises(XenAPI.Failure) as failure:
        client.call("SR.add_to_other_config", sr, "dirty", "")
    assert failure.value.details == ["MAP_DUPLICATE_KEY", "SR", "other_config", sr, "dirty"]
    client.call("SR.remove_from_other_config", sr, "dirty")
    client.call("SR.remove_from_other_config", sr, "dirty")
    client.call("SR.add_tags", sr, "t")
    client.call("SR.set_name_label", sr, "new")
    record = client.call("SR.get_record", sr)
    assert (record["other_config"], record["tags"], record["name_label"]) == ({}, ["t"], "new")
    assert record["physical_size"] == "-1"


def test_errors(sandbox: Sandbox, client: Client) -> None:
    for method, arguments, details in (
        ("SR.get_record", ("x",), ["HANDLE_INVALID", "SR", "x"]),
        ("SR.get_by_uuid", ("x",), ["UUID_INVALID", "SR", "x"]),
        ("SR.nothing", (), ["MESSAGE_METHOD_UNKNOWN", "SR.nothing"]),
        ("SR.set_type", ("x", "y"), ["MESSAGE_METHOD_UNKNOWN", "SR.set_type"]),
        ("PBD.plug", (), ["MESSAGE_PARAMETER_COUNT_MISMATCH", "PBD.plug", "1", "0"]),
        ("PBD.plug", ("x",), ["HANDLE_INVALID", "PBD", "x"]),
    ):
        with pytest.raises(XenAPI.Failure) as failure:
            client.call(method, *arguments)
        assert failure.value.details == details


def test_session_is_needed(sandbox: Sandbox) -> None:
    with pytest.raises(ApiError, match="SESSION_INVALID"):
        sandbox.api.call("SR.get_all", ["no session"])
    with pytest.raises(ApiError, match="SESSION_INVALID"):
        sandbox.api.call("SR.get_all", [])


def test_state_survives(sandbox: Sandbox, client: Client) -> None:
    uuid = client.call("host.get_uuid", sandbox.host)
    sr = client.call("SR.introduce", "", "l", "d", "fake", "", False, {"k": "v"})
    client.call("SR.add_to_other_config", sr, "a", "b")
    # What was answered is on disk, whatever happens next.
    stored = json.loads(sandbox.config.db_file.read_text())
    assert stored["SR"][sr]["other_config"] == {"a": "b"}
    assert "session" not in stored
    sandbox.reboot()
    assert sandbox.core.db.get("SR", sr, "sm_config") == {"k": "v"}
    assert sandbox.core.db.get("host", sandbox.host, "uuid") == uuid


def test_what_sm_asks_of_the_host(sandbox: Sandbox, client: Client) -> None:
    inventory = sandbox.config.inventory.read_text().splitlines()
    host_uuid, domain_uuid = (line.split("'")[1] for line in inventory[:2])
    host = client.call("host.get_by_uuid", host_uuid)
    (domain,) = client.call("VM.get_all_records_where", f'field "uuid" = "{domain_uuid}"').values()
    assert domain["resident_on"] == host
    (pool,) = client.call("pool.get_all")
    assert client.call("pool.get_master", pool) == host
    metrics = client.call("host.get_record", host)["metrics"]
    assert client.call("host_metrics.get_record", metrics)["live"] is True
    assert list(client.call("host.get_all_records_where", 'field "enabled" = "true"')) == [host]


# Tasks and events ----------------------------------------------------------------------------


def _from(client: Client, token: str, timeout: float, *classes: str) -> dict[str, Any]:
    answer = client.call("event.from", list(classes or ("*",)), token, timeout)
    assert isinstance(answer, dict)
    return answer


def test_events(sandbox: Sandbox, client: Client) -> None:
    start = _from(client, "", 5.0)
    assert {event["class"] for event in start["events"]} >= {"host", "pool", "vm", "sm"}
    assert all(event["operation"] == "add" for event in start["events"])
    sr = client.call("SR.introduce", "", "l", "d", "fake", "", False, {})
    client.call("SR.set_name_label", sr, "new")
    added = _from(client, start["token"], 5.0, "SR")
    (event,) = added["events"]
    assert (event["operation"], event["ref"]) == ("add", sr)
    assert event["snapshot"]["name_label"] == "new"
    client.call("SR.set_name_label", sr, "newer")
    changed = _from(client, added["token"], 5.0, f"sr/{sr}")
    assert [event["operation"] for event in changed["events"]] == ["mod"]
    client.call("SR.forget", sr)
    gone = _from(client, changed["token"], 5.0, "SR")
    assert [event["operation"] for event in gone["events"]] == ["del"]
    assert "snapshot" not in gone["events"][0]
    assert gone["valid_ref_counts"]["task"] == 0


def test_event_from_blocks_until_something_happens(sandbox: Sandbox, client: Client) -> None:
    token = _from(client, "", 0.0)["token"]
    began = time.monotonic()
    assert _from(client, token, 0.2, "SR")["events"] == []
    assert time.monotonic() - began >= 0.2
    other = sandbox.client()
    call = ("SR.introduce", "", "l", "d", "fake", "", False, {})
    threading.Timer(0.2, other.call, call).start()
    assert len(_from(client, token, 10.0, "SR")["events"]) == 1


def test_inject_gives_a_token_from_before(sandbox: Sandbox, client: Client) -> None:
    (pool,) = client.call("pool.get_all")
    token = client.call("event.inject", "pool", pool)
    (event,) = _from(client, token, 5.0)["events"]
    assert (event["class"], event["operation"], event["ref"]) == ("pool", "mod", pool)
    with pytest.raises(XenAPI.Failure, match="EVENT_FROM_TOKEN_PARSE_FAILURE"):
        _from(client, "nonsense", 0.0)


def _finished(client: Client, task: str) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while client.call("task.get_status", task) == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    record = client.call("task.get_record", task)
    assert isinstance(record, dict)
    return record


def test_tasks(sandbox: Sandbox, client: Client) -> None:
    task = client.call("Async.SR.introduce", "", "l", "d", "fake", "", False, {})
    record = _finished(client, task)
    (sr,) = client.call("SR.get_all")
    assert (record["status"], record["result"]) == ("success", f"<value>{sr}</value>")
    failed = _finished(client, client.call("Async.PBD.plug", "x"))
    assert (failed["status"], failed["error_info"]) == ("failure", ["HANDLE_INVALID", "PBD", "x"])
    done = _finished(client, client.call("Async.SR.forget", sr))
    assert (done["status"], done["result"]) == ("success", "")
    client.call("task.destroy", task)
    own = client.call("task.create", "label", "text")
    client.call("task.set_progress", own, 0.5)
    client.call("task.set_status", own, "success")
    client.call("task.cancel", own)
    assert client.call("task.get_status", own) == "success"


# Protocols -----------------------------------------------------------------------------------


def _json_rpc(sandbox: Sandbox, method: str, *params: Any) -> tuple[str, Any]:
    assert sandbox.emulator is not None and sandbox.emulator.server is not None
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.emulator.server.port)
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
    connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = json.loads(answer.read())
    connection.close()
    assert data["id"] == 7
    return str(answer.headers["Content-Type"]), data


def test_json_rpc(sandbox: Sandbox) -> None:
    content_type, answer = _json_rpc(sandbox, "session.login_with_password", "root", "x")
    assert content_type == "application/json"
    session = answer["result"]
    _, methods = _json_rpc(sandbox, "system.listMethods")
    assert "SR.get_all_records" in methods["result"]
    _, hosts = _json_rpc(sandbox, "host_metrics.get_all_records", session)
    (metrics,) = hosts["result"].values()
    assert metrics["last_updated"].endswith("Z")
    _, failed = _json_rpc(sandbox, "SR.get_record", session, "x")
    assert failed["error"] == {"code": 1, "message": "HANDLE_INVALID", "data": ["SR", "x"]}


def test_xml_has_neither_blanks_nor_empty_string_tags(sandbox: Sandbox) -> None:
    assert sandbox.emulator is not None and sandbox.emulator.server is not None
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.emulator.server.port)
    call = "<methodCall><methodName>system.listMethods</methodName><params/></methodCall>"
    connection.request("POST", "/", call, {"Content-Type": "text/xml"})
    text = connection.getresponse().read().decode()
    connection.request("POST", "/", "<nonsense")
    failed = connection.getresponse().read().decode()
    connection.close()
    assert text.startswith("<methodResponse><params><param><value><struct><member>")
    assert "> <" not in text and ">\n" not in text and "<string>" not in text
    assert "XMLRPC_UNMARSHAL_FAILURE" in failed


def test_the_usual_client(sandbox: Sandbox) -> None:
    # What SM does: XenAPI.xapi_local(), which takes the path from the URL.
    path = str(sandbox.config.socket).replace("/", "_")
    session = XenAPI.Session(f"http://{path}/", transport=XenAPI.UDSTransport())
    session.xenapi.login_with_password("root", "", "", "SM")
    assert session.xenapi.host.get_all() == [sandbox.host]
    session.xenapi.session.logout()


# Messages and plugins ------------------------------------------------------------------------


def test_messages(sandbox: Sandbox, client: Client) -> None:
    uuid = client.call("host.get_uuid", sandbox.host)
    message = client.call("message.create", "NAME", 3, "Host", uuid, "body")
    record = client.call("message.get_record", message)
    assert (record["name"], record["priority"], record["body"]) == ("NAME", "3", "body")
    with pytest.raises(XenAPI.Failure, match="UUID_INVALID"):
        client.call("message.create", "NAME", "3", "SR", uuid, "body")
    client.call("message.destroy", message)
    assert client.call("message.get_all") == []


PLUGIN = """
import sys, xmlrpc.client
parameters, function = xmlrpc.client.loads(sys.argv[1])
answers = {
    "ok": {"Status": "Success", "Value": parameters[1].get("k", "")},
    "no": {"Status": "Failure", "ErrorDescription": ["CODE", "p"]},
}
if function == "exit":
    sys.exit(2)
if function == "junk":
    print("junk")
elif function == "fault":
    print(xmlrpc.client.dumps(xmlrpc.client.Fault(5, "text"), "", True))
else:
    answer = answers.get(function, "bare")
    print(xmlrpc.client.dumps((answer,), "", True))
"""


def test_plugins(sandbox: Sandbox, client: Client) -> None:
    sandbox.script(sandbox.config.plugin_dir / "p.py", PLUGIN)
    assert client.call("host.call_plugin", sandbox.host, "p.py", "ok", {"k": "v"}) == "v"
    for plugin, function, details in (
        ("p", "ok", ["XENAPI_MISSING_PLUGIN", "p"]),
        ("p.py", "no", ["CODE", "p"]),
        ("p.py", "fault", ["XENAPI_PLUGIN_FAILURE", "fault", "5", "text"]),
        ("p.py", "exit", ["XENAPI_PLUGIN_FAILURE", "non-zero exit"]),
        ("p.py", "junk", ["XENAPI_PLUGIN_FAILURE", "failed to parse plugin output"]),
        ("p.py", "bare", ["XENAPI_PLUGIN_FAILURE", "unexpected XMLRPC result"]),
    ):
        with pytest.raises(XenAPI.Failure) as failure:
            client.call("host.call_plugin", sandbox.host, plugin, function, {})
        assert failure.value.details[: len(details)] == details
