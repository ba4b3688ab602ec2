# SPDX-License-Identifier: LGPL-2.1-only
"""The program xe."""

from __future__ import annotations

import sys

import XenAPI  # type: ignore[import-untyped]

from .client import Client
from .commands import CALLS, TRANSFERS
from .output import Printer
from .parameters import CliError, CommandLine, UsageError
from .records import find
from .sentences import explain


def main(arguments: list[str]) -> int:
    """Run one command. Returns 0, or 1 after an error, which is printed as xe prints it."""
    try:
        line = CommandLine.parse(arguments)
        client = Client()
        try:
            printer = Printer(line.flag("minimal"))
            client.call("lab.log_cli", line.command, [list(pair) for pair in line.pairs])
            _run(client, line, printer)
            printer.finish()
        finally:
            client.close()
    except XenAPI.Failure as failure:
        code, *parameters = failure.details
        return _fail(explain(code, _readable(parameters)))
    except CliError as problem:
        return _fail(explain("INTERNAL_ERROR", [f"Failure: {problem}"]))
    except UsageError as problem:
        return _fail([str(problem), "For usage run: 'xe help'"])
    except OSError as problem:
        return _fail([f"Error: {problem}"])
    return 0


def _run(client: Client, line: CommandLine, printer: Printer) -> None:
    found = find(line.command)
    if found is not None:
        shape, action = found
        action(client, shape, line, printer)
    elif line.command in CALLS:
        CALLS[line.command].run(client, line, printer)
    elif line.command in TRANSFERS:
        TRANSFERS[line.command](client, line, printer)
    else:
        raise UsageError(f"Unknown command: {line.command}")


def _readable(parameters: list[str]) -> list[str]:
    """References as uuid (name), where the object still exists."""
    if not any(text.startswith("OpaqueRef:") for text in parameters):
        return parameters
    client = Client()
    try:
        return [_name_of(client, text) for text in parameters]
    finally:
        client.close()


def _name_of(client: Client, text: str) -> str:
    for cls in ("SR", "VDI", "host", "VM", "PBD", "VBD") if text.startswith("OpaqueRef:") else ():
        try:
            record = client.call(f"{cls}.get_record", text)
        except XenAPI.Failure:
            continue
        label = record.get("name_label")
        return f"{record['uuid']} ({label})" if label is not None else str(record["uuid"])
    return text


def _fail(lines: list[str]) -> int:
    sys.stderr.write("\n".join(lines) + "\n")
    return 1
