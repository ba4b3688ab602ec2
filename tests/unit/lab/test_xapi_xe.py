# SPDX-License-Identifier: LGPL-2.1-only
"""The command xe: parameters, output, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.xapi.cli import commands
from tests.lab.xapi.cli.parameters import CliError, CommandLine, UsageError, size
from tests.lab.xapi.cli.records import ACTIONS, find
from tests.lab.xapi.cli.sentences import explain

if TYPE_CHECKING:
    from tests.unit.lab.xapi_sandbox import Sandbox

pytest_plugins = ("tests.unit.lab.xapi_sandbox",)


def _ok(sandbox: Sandbox, *arguments: str) -> str:
    result = sandbox.xe(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.removesuffix("\n")


def test_life_of_an_sr(sandbox: Sandbox) -> None:
    key_file = sandbox.root / "key"
    key_file.write_text("from a file")
    host = _ok(sandbox, "host-list", "--minimal")
    sr = _ok(
        sandbox,
        *("sr-create", "type=fake", "name-label=a, b", f"host-uuid={host}", "physical-size=1GiB"),
        *("device-config:device=/dev/sdb", f"device-config:k-filename={key_file}", "sm-config:s=t"),
    )
    create = sandbox.calls()[0]["params"]
    assert create["args"] == [str(1 << 30)]
    assert create["device_config"]["k"] == "from a file"
    assert _ok(sandbox, "sr-list", "type=fake", "params=name-label", "--minimal") == "a\\, b"
    assert _ok(sandbox, "sr-param-get", f"uuid={sr}", "param-name=sm-config", "param-key=s") == "t"
    pbd = _ok(sandbox, "pbd-list", f"sr-uuid={sr}", "currently-attached=true", "--minimal")
    assert _ok(sandbox, "pbd-list", f"sr-uuid={sr}", "params=host-uuid", "--minimal") == host
    vdi = _ok(sandbox, "vdi-create", f"sr-uuid={sr}", "name-label=v", "virtual-size=1MiB")
    _ok(sandbox, "vdi-destroy", f"uuid={vdi}")
    _ok(sandbox, "sr-scan", f"uuid={sr}")
    _ok(sandbox, "sr-param-set", f"uuid={sr}", "name-label=new", "other-config:auto-scan=true")
    assert _ok(sandbox, "sr-list", "other-config:auto-scan=true", "--minimal") == sr
    _ok(sandbox, "sr-param-remove", f"uuid={sr}", "param-name=other-config", "param-key=auto-scan")
    _ok(sandbox, "sr-param-add", f"uuid={sr}", "param-name=other-config", "x=y")
    assert _ok(sandbox, "sr-param-get", f"uuid={sr}", "param-name=other-config") == "x: y"
    busy = sandbox.xe("sr-destroy", f"uuid={sr}")
    assert busy.returncode == 1
    assert busy.stderr == (
        "The SR is still connected to a host via a PBD. It cannot be destroyed or forgotten.\n"
        f"sr: {sr} (new)\n"
    )
    _ok(sandbox, "pbd-unplug", f"uuid={pbd}")
    _ok(sandbox, "sr-destroy", f"uuid={sr}")
    assert _ok(sandbox, "sr-list", "--minimal") == ""


def test_reattach(sandbox: Sandbox) -> None:
    host = _ok(sandbox, "host-list", "--minimal")
    uuid = "11111111-2222-3333-4444-555555555555"
    assert "<UUID>1</UUID>" in _ok(sandbox, "sr-probe", "type=fake", "device-config:device=x")
    assert _ok(sandbox, "sr-introduce", f"uuid={uuid}", "type=fake", "name-label=a") == uuid
    pbd = _ok(
        sandbox, "pbd-create", f"host-uuid={host}", f"sr-uuid={uuid}", "device-config:device=x"
    )
    _ok(sandbox, "pbd-plug", f"uuid={pbd}")
    shown = _ok(sandbox, "pbd-param-list", f"uuid={pbd}").splitlines()
    assert shown[0] == f"uuid ( RO)                  : {pbd}"
    assert "         device-config (MRO): device: x" in shown
    assert "    currently-attached ( RO): true" in shown
    _ok(sandbox, "host-prepare-for-poweroff")
    assert _ok(sandbox, "pbd-param-get", f"uuid={pbd}", "param-name=currently-attached") == "false"
    _ok(sandbox, "sr-forget", f"uuid={uuid}")


def test_lists(sandbox: Sandbox) -> None:
    secret = _ok(sandbox, "secret-create", "value=x")
    assert sandbox.xe("secret-list").stdout == (
        f"uuid ( RO)     : {secret}\n    value ( RW): x\n\n\n"
    )
    assert "fake" in _ok(sandbox, "sm-list", "params=type", "--minimal")
    assert "VDI_CREATE: 1" in _ok(sandbox, "sm-list", "params=features")
    host = _ok(sandbox, "host-list", "--minimal")
    _ok(sandbox, "message-create", "name=N", "priority=3", "body=b", f"host-uuid={host}")
    message = _ok(sandbox, "message-list", "name=N", "class=Host", "--minimal")
    _ok(sandbox, "message-destroy", f"uuid={message}")
    assert _ok(sandbox, "message-list", "--minimal") == ""
    assert _ok(sandbox, "task-list", "--minimal") == ""


def test_error_that_the_api_does_not_know(sandbox: Sandbox) -> None:
    text = "The request is missing the device parameter"
    sandbox.behave(sr_create={"fault": [90, text]})
    failed = sandbox.xe("sr-create", "type=fake", "name-label=a")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.strip() == (
        f"Error code: SR_BACKEND_FAILURE_90\nError parameters: , {text},"
    )
    assert "xe sr-create type=fake name-label=a" in sandbox.log()


def test_usage_errors(sandbox: Sandbox) -> None:
    for arguments, text in (
        (["sr-forget"], "Required parameter not found: uuid"),
        (["sr-nothing"], "Unknown command: sr-nothing"),
        (["sr-list", "nothing=1"], "Error code: Missing parameter"),
        (["sr-forget", "uuid=x"], "The uuid you supplied was invalid.\ntype: SR\nuuid: x"),
    ):
        failed = sandbox.xe(*arguments)
        # Without any SR there is nothing to filter.
        if arguments != ["sr-list", "nothing=1"]:
            assert failed.returncode == 1
            assert failed.stderr.startswith(text)


def test_command_line() -> None:
    line = CommandLine.parse(["-s", "host", "x", "--force", "a=b=c", "m:k=v", "m-l=w"])
    assert (line.command, line.get("a"), line.flag("force")) == ("x", "b=c", True)
    assert line.map("m") == {"k": "v", "l": "w"}
    with pytest.raises(UsageError):
        CommandLine.parse(["x", "y"])


def test_sizes() -> None:
    assert [size(text) for text in ("5", "1KiB", "2GiB")] == ["5", "1024", str(2 << 30)]
    with pytest.raises(CliError):
        size("many")


def test_sentences() -> None:
    assert explain("SR_NOT_EMPTY", []) == [
        "The SR operation cannot be performed because the SR is not empty."
    ]
    assert explain("PERMISSION_DENIED", ["a", "b"])[1:] == ["message: a", "<extra>: b"]
    assert explain("UUID_INVALID", ["SR"])[1:] == ["type: SR", "uuid: <unknown>"]


def test_every_command_has_its_place() -> None:
    named = [*commands.CALLS, *commands.TRANSFERS]
    assert not [name for name in named if find(name)]
    assert all(find(f"sr-{action}") for action in ACTIONS)
