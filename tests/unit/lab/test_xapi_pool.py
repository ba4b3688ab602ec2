# SPDX-License-Identifier: LGPL-2.1-only
"""Pools of two hosts: what runs where, and what becomes of the rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import XenAPI

if TYPE_CHECKING:
    from tests.lab.xapi.cli.client import Client
    from tests.unit.lab.xapi_sandbox import Sandbox

pytest_plugins = ("tests.unit.lab.xapi_sandbox",)

PLUG = ["sr_attach", "sr_update"]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start_member(other: Sandbox) -> None:
    """Start the emulator of a member; wait until the master has plugged its PBDs."""
    other.start()
    wait_for(other.config.ready_file.exists)


def join(sandbox: Sandbox, other: Sandbox) -> str:
    """`other` joins the pool of `sandbox`; returns its reference there."""
    own = other.client()
    own.call("pool.join", sandbox.address, "root", "")
    assert other.restart_wanted.wait(10)
    other.stop()
    start_member(other)
    uuid = next(line.split("'")[1] for line in other.config.inventory.read_text().splitlines()
                if line.startswith("INSTALLATION_UUID"))
    return sandbox.core.db.by_uuid("host", uuid)


def test_join_takes_the_rows_along_and_plugs_after_the_restart(
    sandbox: Sandbox, client: Client, other: Sandbox
) -> None:
    own = other.client()
    sr = other.sr(own, device="x")
    own.call("SR.add_to_sm_config", sr, "mark", "kept")
    vdi = own.call("VDI.create", {"SR": sr, "name_label": "v", "virtual_size": "1048576",
                                  "type": "user"})
    vdi_uuid = own.call("VDI.get_uuid", vdi)
    sr_uuid, pbd_uuid = own.call("SR.get_uuid", sr), own.call("PBD.get_uuid", other.pbd(sr))
    other.calls()
    host = join(sandbox, other)
    assert other.commands() == ["sr_detach", "sr_get_driver_info", *PLUG]
    moved = sandbox.core.db.by_uuid("SR", sr_uuid)
    record = client.call("SR.get_record", moved)
    assert (record["type"], record["shared"], record["sm_config"]) == (
        "fake", False, {"mark": "kept"})
    (pbd,) = record["PBDs"]
    assert client.call("PBD.get_host", pbd) == host
    assert client.call("PBD.get_uuid", pbd) != pbd_uuid
    assert client.call("PBD.get_device_config", pbd) == {"device": "x"}
    assert client.call("PBD.get_currently_attached", pbd)
    assert client.call("host.get_enabled", host)
    assert record["VDIs"] == [sandbox.core.db.by_uuid("VDI", vdi_uuid)]


def test_a_pbd_that_names_a_secret_is_lost_when_a_host_joins(
    sandbox: Sandbox, client: Client, other: Sandbox
) -> None:
    own = other.client()
    sr_uuid = own.call("SR.get_uuid", other.sr(own, device="x", chap_password="secret"))
    join(sandbox, other)
    sr = sandbox.core.db.by_uuid("SR", sr_uuid)
    assert client.call("SR.get_PBDs", sr) == []
    assert "secret" in [row["value"] for row in sandbox.core.db.records("secret").values()]


@pytest.fixture
def member(sandbox: Sandbox, other: Sandbox) -> str:
    """`other` is a member of the pool of `sandbox`: its reference."""
    host = join(sandbox, other)
    other.calls()
    sandbox.calls()
    return host


def create(client: Client, host: str) -> str:
    """An SR on a host."""
    return str(client.call("SR.create", host, {"device": "x"}, "0", "sr", "", "fake", "user",
                           False, {}))


def test_a_driver_runs_on_the_host_of_its_sr(
    sandbox: Sandbox, client: Client, other: Sandbox, member: str
) -> None:
    other.behave(sr_attach={"api": [["host.get_uuid", "$host_ref"]]})
    create(client, member)
    calls = other.calls()
    assert [call["command"] for call in calls] == ["sr_create", "sr_attach", "sr_update",
                                                   "sr_update"]
    assert calls[1]["results"] == [client.call("host.get_uuid", member)]
    assert calls[1]["params"]["host_ref"] == member
    assert sandbox.calls() == []
    client.call("SR.probe", member, {"device": "x"}, "fake", {})
    assert other.commands() == ["sr_probe"]


def test_a_plugin_runs_on_the_host_that_is_asked(
    sandbox: Sandbox, client: Client, other: Sandbox, member: str
) -> None:
    for host in (sandbox, other):
        host.script(host.config.plugin_dir / "where", (
            "import xmlrpc.client\n"
            "print(xmlrpc.client.dumps(({'Status': 'Success', "
            f"'Value': '{host.root}'}},), methodresponse=True))\n"))
    told = [client.call("host.call_plugin", host, "where", "any", {})
            for host in (sandbox.host, member)]
    assert told == [str(sandbox.root), str(other.root)]
    (other.config.plugin_dir / "where").unlink()
    with pytest.raises(XenAPI.Failure, match="XENAPI_MISSING_PLUGIN"):
        client.call("host.call_plugin", member, "where", "any", {})


def test_a_member_serves_its_own_clients_and_sends_others_to_the_master(
    sandbox: Sandbox, client: Client, other: Sandbox, member: str
) -> None:
    assert member in other.client().call("host.get_all")
    from tests.lab.xapi.cli.client import Client as Elsewhere
    with pytest.raises(XenAPI.Failure) as caught:
        Elsewhere(other.address)
    assert caught.value.details == ["HOST_IS_SLAVE", sandbox.address]


def test_hosts_attach_at_the_same_time(
    sandbox: Sandbox, client: Client, other: Sandbox, member: str
) -> None:
    srs = [create(client, host) for host in (sandbox.host, member)]
    for sr in srs:
        client.call("PBD.unplug", sandbox.pbd(sr))
    for host in (sandbox, other):
        host.behave(sr_attach={"wait_for": str(sandbox.root / "go")})
    tasks = [client.call("Async.PBD.plug", sandbox.pbd(sr)) for sr in srs]
    wait_for(lambda: "sr_attach" in str(sandbox.calls()))
    wait_for(lambda: "sr_attach" in str(other.calls()))
    (sandbox.root / "go").touch()
    for task in tasks:
        wait_for(lambda task=task: client.call("task.get_status", task) == "success")


def test_a_member_without_the_driver_takes_the_row_of_all(
    sandbox: Sandbox, client: Client, other: Sandbox, member: str
) -> None:
    sr = create(client, sandbox.host)
    other.stop()
    (other.config.sm_dir / "FAKESR").unlink()
    start_member(other)
    assert client.call("SM.get_all") == []
    with pytest.raises(XenAPI.Failure, match="SR_OPERATION_NOT_SUPPORTED"):
        client.call("VDI.create", {"SR": sr, "name_label": "v", "virtual_size": "1048576",
                                   "type": "user"})
    sandbox.restart_toolstack()
    assert len(sandbox.core.db.refs("SM")) == 1


def test_a_new_feature_waits_until_every_host_has_offered_it(
    sandbox: Sandbox, other: Sandbox, member: str
) -> None:
    def features() -> dict[str, Any]:
        (row,) = sandbox.core.db.records("SM").values()
        return dict(row["features"])

    for host in (other, sandbox):
        driver = host.config.sm_dir / "FAKESR"
        driver.write_text(driver.read_text().replace('"SR_PROBE",', '"SR_PROBE", "SR_TRIM",'))
    other.stop()
    start_member(other)
    assert "SR_TRIM" not in features()
    sandbox.restart_toolstack()
    assert "SR_TRIM" in features()


def test_a_host_that_is_away_is_named(
    sandbox: Sandbox, client: Client, other: Sandbox, member: str
) -> None:
    other.stop()
    with pytest.raises(XenAPI.Failure) as caught:
        client.call("host.call_plugin", member, "where", "any", {})
    assert caught.value.details == ["CANNOT_CONTACT_HOST", member]
    sandbox.restart_toolstack()
    with pytest.raises(XenAPI.Failure) as caught:
        sandbox.client().call("host.call_plugin", member, "where", "any", {})
    assert caught.value.details == ["HOST_OFFLINE", member]


def test_a_member_boots_alone_and_its_table_is_empty_then(
    sandbox: Sandbox, client: Client, other: Sandbox, member: str
) -> None:
    here, there = create(client, sandbox.host), create(client, member)
    other.stop()
    other.calls()
    sandbox.calls()
    start_member(other)
    assert other.commands() == ["sr_get_driver_info"]
    other.stop()
    other.config.attached_file.unlink()
    start_member(other)
    assert other.commands() == ["sr_get_driver_info", *PLUG]
    assert sandbox.attached(here)
    assert sandbox.attached(there)
    assert sandbox.calls() == []


def test_eject_forgets_and_leaves_a_host_that_knows_nothing(
    sandbox: Sandbox, client: Client, other: Sandbox, member: str
) -> None:
    sr, kept = create(client, member), create(client, sandbox.host)
    other.behave(sr_detach={"fault": [900, "busy"]})
    with pytest.raises(XenAPI.Failure, match="SR_BACKEND_FAILURE_900"):
        client.call("pool.eject", member)
    assert sandbox.attached(sr)
    other.behave()
    other.config.storage_init_mark.parent.mkdir(parents=True)
    other.config.storage_init_mark.touch()
    client.call("pool.eject", member)
    assert "sr_delete" not in other.commands()
    assert client.call("SR.get_all") == [kept]
    assert client.call("host.get_all") == [sandbox.host]
    assert other.restart_wanted.wait(10)
    other.stop()
    other.start()
    assert not other.config.storage_init_mark.exists()
    assert other.client().call("SR.get_all") == []
    assert len(other.client().call("host.get_all")) == 1
    with pytest.raises(XenAPI.Failure, match="Cannot_eject_master"):
        client.call("pool.eject", sandbox.host)
