# SPDX-License-Identifier: LGPL-2.1-only
"""Life of an SR: which commands the driver gets, in which order, and what the rows become."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import XenAPI

if TYPE_CHECKING:
    from tests.lab.xapi.cli.client import Client
    from tests.unit.lab.xapi_sandbox import Sandbox

pytest_plugins = ("tests.unit.lab.xapi_sandbox",)

#: Commands of one PBD.plug on the pool's master.
PLUG = ["sr_attach", "sr_update", "sr_update"]

FAULT = {"fault": [900, "cannot"], "stderr": "why"}
FAILED = ["SR_BACKEND_FAILURE_900", "", "cannot", "why"]


def test_create_plugs_and_updates_twice(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client, device="/dev/sdb")
    calls = sandbox.calls()
    assert [call["command"] for call in calls] == ["sr_create", *PLUG]
    assert calls[0]["params"]["args"] == ["0"]
    assert sandbox.attached(sr)
    assert client.call("SR.get_physical_size", sr) == "1000000"


def test_rows_exist_during_create(sandbox: Sandbox, client: Client) -> None:
    sandbox.behave(sr_create={"api": [["PBD.get_all_records"], ["SR.get_sm_config", "$sr_ref"]]})
    parameters = (sandbox.host, {"device": "x"}, "0", "sr", "", "FAKE", "", False, {"k": "v"})
    sr = client.call("SR.create", *parameters)
    pbds, sm_config = sandbox.calls()[0]["results"]
    (pbd,) = pbds.values()
    assert pbd["SR"] == sr
    assert pbd["currently_attached"] is False
    assert sm_config == {"k": "v"}
    assert client.call("SR.get_type", sr) == "fake"


def test_what_the_driver_writes_in_create_and_in_attach(sandbox: Sandbox, client: Client) -> None:
    write = [
        ["PBD.set_device_config", "$pbd", {"device": "y"}],
        ["PBD.get_device_config", "$pbd"],
        ["SR.add_to_sm_config", "$sr_ref", "mark", "kept"],
    ]
    sandbox.behave(sr_create={"api": write})
    sr = sandbox.sr(client, device="x")
    create, attach, *_ = sandbox.calls()
    assert create["results"][1] == {"device": "y"}
    assert attach["params"]["device_config"] == {"SRmaster": "true", "device": "x"}
    pbd = sandbox.pbd(sr)
    assert client.call("PBD.get_device_config", pbd) == {"device": "x"}
    assert client.call("SR.get_sm_config", sr) == {"mark": "kept"}
    client.call("PBD.unplug", pbd)
    sandbox.behave(sr_attach={"api": write[:1]})
    client.call("PBD.plug", pbd)
    assert client.call("PBD.get_device_config", pbd) == {"device": "y"}


def test_failed_create_removes_the_rows_only(sandbox: Sandbox, client: Client) -> None:
    sandbox.behave(sr_create=FAULT)
    with pytest.raises(XenAPI.Failure) as failure:
        sandbox.sr(client, device="x", chap_password="secret")
    assert failure.value.details == FAILED
    assert sandbox.commands() == ["sr_create"]
    assert client.call("SR.get_all") == []
    assert client.call("PBD.get_all") == []
    # One of SR.create, one that PBD.create made as a copy.
    assert len(client.call("secret.get_all")) == 2


def test_failed_first_plug_is_ignored(sandbox: Sandbox, client: Client) -> None:
    sandbox.behave(sr_attach=FAULT)
    sr = sandbox.sr(client)
    assert sandbox.commands() == ["sr_create", "sr_attach"]
    assert not sandbox.attached(sr)


def test_failing_update_leaves_the_pbd_attached(sandbox: Sandbox, client: Client) -> None:
    sandbox.behave(sr_update=FAULT)
    sr = sandbox.sr(client)
    assert sandbox.commands() == ["sr_create", "sr_attach", "sr_update"]
    assert sandbox.attached(sr)


def test_plug_and_unplug_do_nothing_twice(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    sandbox.calls()
    client.call("PBD.plug", sandbox.pbd(sr))
    assert sandbox.commands() == ["sr_update"]
    client.call("PBD.unplug", sandbox.pbd(sr))
    client.call("PBD.unplug", sandbox.pbd(sr))
    assert sandbox.commands() == ["sr_detach"]


def test_failed_detach_is_retried(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    sandbox.calls()
    sandbox.behave(sr_detach={"fault": [16, "busy"]})
    with pytest.raises(XenAPI.Failure) as failure:
        client.call("PBD.unplug", sandbox.pbd(sr))
    assert failure.value.details == ["SR_DEVICE_IN_USE"]
    assert sandbox.attached(sr)
    sandbox.behave()
    client.call("PBD.unplug", sandbox.pbd(sr))
    assert sandbox.commands() == ["sr_detach", "sr_detach"]
    assert not sandbox.attached(sr)


def test_destroy_attaches_first(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    client.call("PBD.unplug", sandbox.pbd(sr))
    sandbox.calls()
    sandbox.behave(sr_delete={"api": [["PBD.get_currently_attached", sandbox.pbd(sr)]]})
    client.call("SR.destroy", sr)
    calls = sandbox.calls()
    assert [call["command"] for call in calls] == ["sr_attach", "sr_delete"]
    assert calls[1]["results"] == [True]
    assert client.call("SR.get_all") == []
    assert client.call("PBD.get_all") == []


def test_failed_destroy_detaches_and_keeps_the_rows(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    client.call("PBD.unplug", sandbox.pbd(sr))
    sandbox.calls()
    sandbox.behave(sr_delete={"fault": [39, "not empty"]})
    with pytest.raises(XenAPI.Failure) as failure:
        client.call("SR.destroy", sr)
    assert failure.value.details == ["SR_NOT_EMPTY"]
    assert sandbox.commands() == ["sr_attach", "sr_delete", "sr_detach"]
    assert not sandbox.attached(sr)


def test_destroy_is_refused(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    client.call(
        "VDI.create", {"SR": sr, "name_label": "v", "virtual_size": "1048576", "type": "user"}
    )
    with pytest.raises(XenAPI.Failure, match="SR_HAS_PBD"):
        client.call("SR.destroy", sr)
    client.call("PBD.unplug", sandbox.pbd(sr))
    with pytest.raises(XenAPI.Failure, match="SR_NOT_EMPTY"):
        client.call("SR.destroy", sr)


def test_forget_introduce_and_plug_again(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client, device="x")
    uuid = client.call("SR.get_uuid", sr)
    client.call("PBD.unplug", sandbox.pbd(sr))
    sandbox.calls()
    client.call("SR.forget", sr)
    assert sandbox.commands() == []
    again = client.call("SR.introduce", uuid, "sr", "", "fake", "user", False, {})
    with pytest.raises(XenAPI.Failure, match="SR_UUID_EXISTS"):
        client.call("SR.introduce", uuid, "sr", "", "fake", "user", False, {})
    record = {"host": sandbox.host, "SR": again, "device_config": {"device": "x"}}
    pbd = client.call("PBD.create", record)
    with pytest.raises(XenAPI.Failure, match="PBD_EXISTS"):
        client.call("PBD.create", record)
    client.call("PBD.plug", pbd)
    assert sandbox.commands() == PLUG
    with pytest.raises(XenAPI.Failure, match="PBD is currently attached"):
        client.call("PBD.destroy", pbd)


def test_unknown_type(sandbox: Sandbox, client: Client) -> None:
    with pytest.raises(XenAPI.Failure) as failure:
        sandbox.sr(client, "other")
    assert failure.value.details == ["SR_UNKNOWN_DRIVER", "other"]
    assert client.call("SR.get_all") == []


def test_scan_is_scan_and_update(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    sandbox.calls()
    client.call("SR.scan", sr)
    assert sandbox.commands() == ["sr_scan", "sr_update"]
    client.call("PBD.unplug", sandbox.pbd(sr))
    with pytest.raises(XenAPI.Failure, match="SR_NO_PBDS"):
        client.call("SR.scan", sr)


def test_dirty_srs_are_scanned(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    sandbox.calls()
    sandbox.api.host.scan_all()
    assert sandbox.commands() == []
    client.call("SR.add_to_other_config", sr, "dirty", "")
    sandbox.api.host.scan_all()
    assert sandbox.commands() == ["sr_scan", "sr_update"]
    assert "dirty" not in client.call("SR.get_other_config", sr)


def test_probe_has_no_sr(sandbox: Sandbox, client: Client) -> None:
    text = client.call("SR.probe", sandbox.host, {"device": "x"}, "fake", {"k": "v"})
    (call,) = sandbox.calls()
    assert text == "<SRlist><SR><UUID>1</UUID></SR></SRlist>"
    assert "sr_ref" not in call["params"]
    assert "sr_uuid" not in call["params"]
    assert call["params"]["sr_sm_config"] == {"k": "v"}


def test_boot_tries_twice_then_alerts(sandbox: Sandbox) -> None:
    client = sandbox.client()
    sr = sandbox.sr(client)
    sandbox.behave(sr_attach=FAULT)
    sandbox.calls()
    sandbox.reboot()
    assert sandbox.commands() == ["sr_get_driver_info", "sr_attach", "sr_attach"]
    assert sandbox.log().count("Could not plug in pbd") == 2
    (message,) = sandbox.core.db.records("message").values()
    assert message["name"] == "PBD_PLUG_FAILED_ON_SERVER_START"
    assert (message["priority"], message["cls"], message["body"]) == ("3", "Host", "")
    assert not sandbox.attached(sr)


def test_boot_plugs_one_after_another(sandbox: Sandbox, client: Client) -> None:
    srs = [sandbox.sr(client), sandbox.sr(client)]
    sandbox.calls()
    sandbox.reboot()
    # xapi's own plug has no second update.
    assert sandbox.commands() == ["sr_get_driver_info", *["sr_attach", "sr_update"] * 2]
    assert all(sandbox.attached(sr) for sr in srs)
    assert sandbox.core.db.refs("message") == []
    assert sandbox.config.ready_file.exists()


def test_toolstack_restart_attaches_nothing(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    sandbox.calls()
    sandbox.restart_toolstack()
    assert sandbox.commands() == ["sr_get_driver_info"]
    assert sandbox.attached(sr)


def test_poweroff_stops_at_the_first_failure(sandbox: Sandbox, client: Client) -> None:
    srs = [sandbox.sr(client), sandbox.sr(client)]
    sandbox.calls()
    sandbox.behave(sr_detach=FAULT)
    with pytest.raises(XenAPI.Failure):
        client.call("host.prepare_for_poweroff", sandbox.host)
    assert sandbox.commands() == ["sr_detach"]
    assert all(sandbox.attached(sr) for sr in srs)
    sandbox.behave()
    client.call("host.prepare_for_poweroff", sandbox.host)
    assert sandbox.commands() == ["sr_detach", "sr_detach"]


def test_attach_of_all_srs_is_serialised(sandbox: Sandbox, client: Client) -> None:
    srs = [sandbox.sr(client), sandbox.sr(client)]
    for sr in srs:
        client.call("PBD.unplug", sandbox.pbd(sr))
    # The call below notes whether another attach is under way when it starts.
    sandbox.behave(sr_attach={"api": [["task.get_all_records"]]})
    sandbox.calls()
    tasks = [client.call("Async.PBD.plug", sandbox.pbd(sr)) for sr in srs]
    deadline = time.monotonic() + 10
    while any(client.call("task.get_status", task) == "pending" for task in tasks):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for call in sandbox.calls():
        if call["command"] == "sr_attach":
            labels = [task["name_label"] for task in call["results"][0].values()]
            assert labels.count("sr_attach") == 1
