# SPDX-License-Identifier: LGPL-2.1-only
"""The commands that every class has: list, param-list, param-get, -set, -add, -remove, -clear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .client import Client
from .fields import SHAPES, Object, Shape, Shown, objects, the_object
from .output import Printer
from .parameters import CliError, CommandLine, UsageError

Action = Callable[[Client, Shape, CommandLine, Printer], None]


def _field(item: Object, name: str) -> Shown:
    field = item.shown(name)
    if field is None:
        raise UsageError(f"Error code: Missing parameter\nError parameters: {name}")
    return field


def _list(client: Client, shape: Shape, line: CommandLine, printer: Printer) -> None:
    names = line.get("params", ",".join(shape.listed) or "all")
    found = [
        item
        for item in objects(client, shape)
        if all(_matches(item, key, value) for key, value in line.others("params"))
    ]
    printer.table(
        [
            [(field.label, item.text(field)) for field in _chosen(shape, item, names)]
            for item in found
        ]
    )


def _chosen(shape: Shape, item: Object, names: str) -> list[Shown]:
    if names == "all":
        return list(shape.fields)
    return [_field(item, name) for name in names.split(",")]


def _matches(item: Object, key: str, value: str) -> bool:
    """A filter: name=value, map:key=value or set:contains=value."""
    name, colon, part = key.partition(":")
    field = _field(item, name)
    raw = item.raw(field)
    if colon and isinstance(raw, dict):
        return bool(raw.get(part) == value)
    if colon and part == "contains":
        return value in item.text(field).split("; ")
    return item.text(field) == value


def _param_list(client: Client, shape: Shape, line: CommandLine, printer: Printer) -> None:
    item = the_object(client, shape, line.get("uuid"))
    printer.table([[(field.label, item.text(field)) for field in shape.fields]])


def _param_get(client: Client, shape: Shape, line: CommandLine, printer: Printer) -> None:
    item = the_object(client, shape, line.get("uuid"))
    field = _field(item, line.get("param-name"))
    raw = item.raw(field)
    if not line.has("param-key") or not isinstance(raw, dict):
        printer.line(item.text(field))
        return
    key = line.get("param-key")
    if key not in raw:
        raise CliError(f"Key {key} not found in map")
    printer.line(raw[key])


def _param_set(client: Client, shape: Shape, line: CommandLine, _printer: Printer) -> None:
    ref = client.ref(shape.cls, line.get("uuid"))
    item = the_object(client, shape, line.get("uuid"))
    for key, value in line.others("uuid"):
        name, colon, part = key.partition(":")
        field = _writable(item, name)
        if colon:
            client.call(f"{shape.cls}.remove_from_{field.field}", ref, part)
            client.call(f"{shape.cls}.add_to_{field.field}", ref, part, value)
        elif field.kind in ("map", "set"):
            raise CliError(f"Field '{name}' is a map or set. use the 'name:key=value' syntax.")
        else:
            client.call(f"{shape.cls}.set_{field.field}", ref, _typed(client, field, value))


def _typed(client: Client, field: Shown, text: str) -> Any:
    if field.kind == "bool":
        if text not in ("true", "false"):
            raise CliError(f"Parameter {field.name} must be a boolean (true or false)")
        return text == "true"
    return client.ref(field.path[0][0], text) if field.path else text


def _writable(item: Object, name: str) -> Shown:
    field = _field(item, name)
    if not field.writable:
        raise CliError(f"Field '{name}' is read-only.")
    return field


def _param_add(client: Client, shape: Shape, line: CommandLine, _printer: Printer) -> None:
    ref = client.ref(shape.cls, line.get("uuid"))
    item = the_object(client, shape, line.get("uuid"))
    field = _writable(item, line.get("param-name"))
    if field.kind == "set":
        client.call(f"{shape.cls}.add_{field.field}", ref, line.get("param-key"))
        return
    for key, value in line.others("uuid", "param-name", "param-key"):
        client.call(f"{shape.cls}.add_to_{field.field}", ref, key, value)


def _param_remove(client: Client, shape: Shape, line: CommandLine, _printer: Printer) -> None:
    ref = client.ref(shape.cls, line.get("uuid"))
    item = the_object(client, shape, line.get("uuid"))
    field = _writable(item, line.get("param-name"))
    key = line.get("param-key")
    if key not in item.raw(field):
        where = "the set" if field.kind == "set" else "map"
        raise CliError(f"Key {key} is not in {where}")
    verb = "remove" if field.kind == "set" else "remove_from"
    client.call(f"{shape.cls}.{verb}_{field.field}", ref, key)


def _param_clear(client: Client, shape: Shape, line: CommandLine, _printer: Printer) -> None:
    ref = client.ref(shape.cls, line.get("uuid"))
    item = the_object(client, shape, line.get("uuid"))
    field = _writable(item, line.get("param-name"))
    empty: dict[str, Any] = {"map": {}, "set": []}
    client.call(f"{shape.cls}.set_{field.field}", ref, empty.get(field.kind, ""))


ACTIONS: dict[str, Action] = {
    "list": _list,
    "param-list": _param_list,
    "param-get": _param_get,
    "param-set": _param_set,
    "param-add": _param_add,
    "param-remove": _param_remove,
    "param-clear": _param_clear,
}


def find(command: str) -> tuple[Shape, Action] | None:
    """Class and action of a command like sr-param-get."""
    name, _, action = command.partition("-")
    if name in SHAPES and action in ACTIONS:
        return SHAPES[name], ACTIONS[action]
    return None
