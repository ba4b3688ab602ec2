# SPDX-License-Identifier: LGPL-2.1-only
"""Passwords: what becomes a secret, and what the log shows. As in xapi, leaks included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import XenAPI

if TYPE_CHECKING:
    from tests.lab.xapi.cli.client import Client
    from tests.unit.lab.xapi_sandbox import Sandbox

pytest_plugins = ("tests.unit.lab.xapi_sandbox",)


def _values(client: Client) -> list[str]:
    records = client.call("secret.get_all_records").values()
    return sorted(record["value"] for record in records)


def test_password_becomes_a_secret(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client, luks_password="hunter2", passphrase="plain")
    config = client.call("PBD.get_device_config", sandbox.pbd(sr))
    assert set(config) == {"luks_password_secret", "passphrase"}
    secret = client.call("secret.get_by_uuid", config["luks_password_secret"])
    assert client.call("secret.get_value", secret) == "hunter2"
    # The one that SR.create made stays; the PBD has a copy of its own.
    assert _values(client) == ["hunter2", "hunter2"]
    seen = sandbox.calls()[0]["params"]["device_config"]
    assert seen["luks_password_secret"] == config["luks_password_secret"]
    assert "hunter2" not in sandbox.log()


def test_secret_of_a_pbd_ends_with_it(sandbox: Sandbox, client: Client) -> None:
    mine = client.call("secret.create", {"value": "mine", "other_config": {}})
    uuid = client.call("secret.get_uuid", mine)
    sr = sandbox.sr(client, luks_password_secret=uuid)
    copy = client.call("PBD.get_device_config", sandbox.pbd(sr))["luks_password_secret"]
    assert copy != uuid
    client.call("PBD.unplug", sandbox.pbd(sr))
    client.call("PBD.destroy", sandbox.pbd(sr))
    assert client.call("secret.get_all") == [mine]


def test_missing_secret(sandbox: Sandbox, client: Client) -> None:
    with pytest.raises(XenAPI.Failure, match="UUID_INVALID"):
        sandbox.sr(client, luks_password_secret="no such")


def test_destroy_cleans_sm_config(sandbox: Sandbox, client: Client) -> None:
    sr = sandbox.sr(client)
    uuid = client.call("secret.get_uuid", client.call("secret.create", {"value": "x"}))
    client.call("SR.add_to_sm_config", sr, "k_password_secret", uuid)
    client.call("PBD.unplug", sandbox.pbd(sr))
    client.call("SR.destroy", sr)
    assert client.call("secret.get_all") == []


def test_probe_leaves_its_secret(sandbox: Sandbox, client: Client) -> None:
    client.call("SR.probe", sandbox.host, {"password": "x"}, "fake", {})
    assert _values(client) == ["x"]


def test_driver_may_set_a_password_too(sandbox: Sandbox, client: Client) -> None:
    sandbox.behave(sr_attach={"api": [["PBD.set_device_config", "$pbd", {"password": "late"}]]})
    sr = sandbox.sr(client)
    assert list(client.call("PBD.get_device_config", sandbox.pbd(sr))) == ["password_secret"]
    assert "PBD.set_device_config: PBD = " in sandbox.log()
    assert "late" not in sandbox.log()


def test_log_masks_what_is_called_password(sandbox: Sandbox, client: Client) -> None:
    sandbox.sr(client, my_passwords="masked", key="shown")
    log = sandbox.log()
    assert "my_passwords:(omitted); key:shown" in log or "key:shown; my_passwords:(omitted)" in log
    assert "masked" not in log


def test_failed_call_is_dumped_unmasked(sandbox: Sandbox, client: Client) -> None:
    sandbox.behave(sr_create={"fault": [900, "t"]})
    with pytest.raises(XenAPI.Failure):
        sandbox.sr(client, my_passwords="dumped")
    assert "Got failure: checking for redirect, call was: -> SR.create(" in sandbox.log()
    assert "my_passwords:S(dumped)" in sandbox.log()


def test_sm_config_is_logged(sandbox: Sandbox, client: Client) -> None:
    client.call("SR.probe", sandbox.host, {}, "fake", {"k": "visible"})
    log = sandbox.log()
    assert "SR.probe sm_config=[ k = visible ]" in log
    assert "SM fake sr_probe sm_config=[k=visible]" in log


def test_commands_of_xe_are_masked(sandbox: Sandbox, client: Client) -> None:
    def log(command: str, **pairs: str) -> str:
        client.call("lab.log_cli", command, [list(pair) for pair in pairs.items()])
        return sandbox.log().splitlines()[-1].partition("xe ")[2]

    assert log("sr-create", **{"device-config:Password": "a"}) == (
        "sr-create device-config:Password=(omitted)"
    )
    assert log("sr-create", **{"device-config:passphrase": "a"}) == (
        "sr-create device-config:passphrase=a"
    )
    assert log("secret-create", value="a") == "secret-create value=(omitted)"
    assert log("host-call-plugin", fn="f", **{"args:key": "a"}) == (
        "host-call-plugin fn=f args:key=(omitted)"
    )


def test_plugin_arguments_are_not_logged(sandbox: Sandbox, client: Client) -> None:
    with pytest.raises(XenAPI.Failure):
        client.call("host.call_plugin", sandbox.host, "none", "f", {"key": "unseen"})
    assert "plugin = 'none'; fn = 'f' args = [ 'hidden' ]" in sandbox.log()
    assert "unseen" not in sandbox.log()
