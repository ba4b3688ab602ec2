# SPDX-License-Identifier: LGPL-2.1-only
"""The commands that call one method of the API, as a table, and the two that move data.

An entry names the method, how each of its arguments comes from the command line, and the class
of the object whose uuid is printed, if the method makes one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import Client
from .output import Printer
from .parameters import CliError, CommandLine, size

Argument = Callable[[Client, CommandLine], Any]

FILE_SUFFIX = "-filename"


@dataclass(frozen=True)
class Call:
    """A command that calls one method."""

    method: str
    required: str
    arguments: tuple[Argument, ...]
    #: Class of the object that the method makes.
    makes: str = ""

    def run(self, client: Client, line: CommandLine, printer: Printer) -> None:
        """Call, and print what came back. Raises UsageError, CliError, XenAPI.Failure."""
        for key in self.required.split():
            line.get(key)
        values = [argument(client, line) for argument in self.arguments]
        result = client.call(self.method, *values)
        if self.makes:
            printer.line(client.call(f"{self.makes}.get_uuid", result))
        elif result:
            printer.line(result)


def _ref(cls: str, key: str = "uuid") -> Argument:
    return lambda client, line: client.ref(cls, line.get(key))


def _text(key: str, default: str | None = None) -> Argument:
    return lambda client, line: line.get(key, default)


def _size(key: str, default: str | None = None) -> Argument:
    return lambda client, line: size(line.get(key, default))


def _flag(key: str) -> Argument:
    return lambda client, line: line.flag(key)


def _map(key: str) -> Argument:
    return lambda client, line: line.map(key)


def _constant(value: Any) -> Argument:
    return lambda client, line: value


def _record(**fields: Argument) -> Argument:
    return lambda client, line: {name: argument(client, line) for name, argument in fields.items()}


def _map_with_files(key: str) -> Argument:
    """K-filename=F gives K the contents of the file F."""

    def read(_client: Client, line: CommandLine) -> dict[str, str]:
        return dict(_from_file(name, text) for name, text in line.map(key).items())

    return read


def _from_file(name: str, text: str) -> tuple[str, str]:
    if not name.endswith(FILE_SUFFIX):
        return name, text
    try:
        return name.removesuffix(FILE_SUFFIX), Path(text).read_text(encoding="utf-8")
    except OSError:
        sys.stderr.write(f"File not found: {text}")
        raise CliError("File not found") from None


def _plugin_arguments(_client: Client, line: CommandLine) -> dict[str, str]:
    """args:K:file=F gives K the contents of the file F."""
    arguments = {}
    for name, text in line.map("args").items():
        if name.endswith(":file"):
            name, text = _from_file(name.removesuffix(":file") + FILE_SUFFIX, text)
        arguments[name] = text
    return arguments


def _host(client: Client, line: CommandLine) -> str:
    """host-uuid, or the only host."""
    if line.has("host-uuid"):
        return client.ref("host", line.get("host-uuid"))
    hosts: list[str] = client.call("host.get_all")
    return hosts[0]


def _messages(client: Client, line: CommandLine) -> list[str]:
    uuids = line.get("uuids") if line.has("uuids") else line.get("uuid")
    return [client.ref("message", uuid) for uuid in uuids.split(",")]


def _control_domain(client: Client, line: CommandLine) -> Any:
    if line.has("vm-uuid"):
        return client.ref("VM", line.get("vm-uuid"))
    return client.call("host.get_control_domain", _host(client, line))


CALLS = {
    "sr-create": Call(
        "SR.create",
        "name-label type",
        (
            _host,
            _map_with_files("device-config"),
            _size("physical-size", "0"),
            _text("name-label"),
            _text("name-description", ""),
            _text("type"),
            _text("content-type", ""),
            _flag("shared"),
            _map("sm-config"),
        ),
        "SR",
    ),
    "sr-introduce": Call(
        "SR.introduce",
        "name-label type uuid",
        (
            _text("uuid"),
            _text("name-label"),
            _text("name-description", ""),
            _text("type"),
            _text("content-type", ""),
            _flag("shared"),
            _map("sm-config"),
        ),
        "SR",
    ),
    "sr-probe": Call(
        "SR.probe",
        "type",
        (_host, _map("device-config"), _text("type"), _map("sm-config")),
    ),
    "sr-scan": Call("SR.scan", "uuid", (_ref("SR"),)),
    "sr-update": Call("SR.update", "uuid", (_ref("SR"),)),
    "sr-forget": Call("SR.forget", "uuid", (_ref("SR"),)),
    "sr-destroy": Call("SR.destroy", "uuid", (_ref("SR"),)),
    "pbd-create": Call(
        "PBD.create",
        "host-uuid sr-uuid",
        (
            _record(
                host=_ref("host", "host-uuid"),
                SR=_ref("SR", "sr-uuid"),
                device_config=_map("device-config"),
                other_config=_constant({}),
            ),
        ),
        "PBD",
    ),
    "pbd-plug": Call("PBD.plug", "uuid", (_ref("PBD"),)),
    "pbd-unplug": Call("PBD.unplug", "uuid", (_ref("PBD"),)),
    "pbd-destroy": Call("PBD.destroy", "uuid", (_ref("PBD"),)),
    "vdi-create": Call(
        "VDI.create",
        "sr-uuid name-label virtual-size",
        (
            _record(
                SR=_ref("SR", "sr-uuid"),
                name_label=_text("name-label"),
                name_description=_constant(""),
                virtual_size=_size("virtual-size"),
                type=_text("type", "user"),
                sharable=_flag("sharable"),
                read_only=_constant(False),
                other_config=_constant({}),
                xenstore_data=_constant({}),
                sm_config=_map("sm-config"),
            ),
        ),
        "VDI",
    ),
    "vdi-snapshot": Call("VDI.snapshot", "uuid", (_ref("VDI"), _map("driver-params")), "VDI"),
    "vdi-clone": Call("VDI.clone", "uuid", (_ref("VDI"), _map("driver-params")), "VDI"),
    "vdi-resize": Call("VDI.resize", "uuid disk-size", (_ref("VDI"), _size("disk-size"))),
    "vdi-update": Call("VDI.update", "uuid", (_ref("VDI"),)),
    "vdi-destroy": Call("VDI.destroy", "uuid", (_ref("VDI"),)),
    "vdi-forget": Call("VDI.forget", "uuid", (_ref("VDI"),)),
    "vm-create": Call("VM.create", "name-label", (_record(name_label=_text("name-label")),), "VM"),
    "vm-destroy": Call("VM.destroy", "uuid", (_ref("VM"),)),
    "vbd-create": Call(
        "VBD.create",
        "vdi-uuid",
        (
            _record(
                VM=_control_domain,
                VDI=_ref("VDI", "vdi-uuid"),
                userdevice=_text("device", "autodetect"),
                bootable=_flag("bootable"),
                unpluggable=_constant(True),
                empty=_constant(False),
                other_config=_constant({}),
                qos_algorithm_type=_constant(""),
                qos_algorithm_params=_constant({}),
                mode=lambda client, line: line.get("mode", "RW").upper(),
            ),
        ),
        "VBD",
    ),
    "vbd-plug": Call("VBD.plug", "uuid", (_ref("VBD"),)),
    "vbd-unplug": Call("VBD.unplug", "uuid", (_ref("VBD"),)),
    "vbd-destroy": Call("VBD.destroy", "uuid", (_ref("VBD"),)),
    "secret-create": Call(
        "secret.create",
        "value",
        (_record(value=_text("value"), other_config=_map("other-config")),),
        "secret",
    ),
    "secret-destroy": Call("secret.destroy", "uuid", (_ref("secret"),)),
    "message-create": Call(
        "message.create",
        "name priority body",
        (_text("name"), _text("priority"), _constant("Host"), _text("host-uuid"), _text("body")),
        "message",
    ),
    "message-destroy": Call("message.destroy_many", "", (_messages,)),
    "task-cancel": Call("task.cancel", "uuid", (_ref("task"),)),
    "host-call-plugin": Call(
        "host.call_plugin",
        "host-uuid plugin fn",
        (_ref("host", "host-uuid"), _text("plugin"), _text("fn"), _plugin_arguments),
    ),
    "pool-join": Call(
        "pool.join",
        "master-address master-username master-password",
        (_text("master-address"), _text("master-username"), _text("master-password")),
    ),
    "pool-eject": Call("pool.eject", "host-uuid", (_ref("host", "host-uuid"),)),
    "host-prepare-for-poweroff": Call("host.prepare_for_poweroff", "", (_host,)),
}


def vdi_import(client: Client, line: CommandLine, _printer: Printer) -> None:
    """vdi-import uuid= filename= format=raw"""
    vdi, path = client.ref("VDI", line.get("uuid")), Path(line.get("filename"))
    _assert_raw(line)
    with open(path, "rb") as file:
        client.send(vdi, file, path.stat().st_size)


def vdi_export(client: Client, line: CommandLine, _printer: Printer) -> None:
    """vdi-export uuid= filename= format=raw"""
    vdi, path = client.ref("VDI", line.get("uuid")), Path(line.get("filename"))
    _assert_raw(line)
    with open(path, "wb") as file:
        client.fetch(vdi, file)


def _assert_raw(line: CommandLine) -> None:
    if line.get("format", "raw") != "raw":
        raise CliError("the lab's xe knows format=raw only")


TRANSFERS = {"vdi-import": vdi_import, "vdi-export": vdi_export}
