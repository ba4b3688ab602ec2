# SPDX-License-Identifier: LGPL-2.1-only
"""The line that xapi logs for each command of `xe` (xen-api: ocaml/xapi-cli-server/xapi_cli.ml)."""

from __future__ import annotations

from .core import Context, Core


def log_command(core: Core, _context: Context, command: str, parameters: list[list[str]]) -> None:
    """Log a command as xapi would, with what xapi would hide hidden, and nothing else."""
    shown = " ".join(
        f"{key}={'(omitted)' if _hidden(command, key) else text}" for key, text in parameters
    )
    quiet = command.endswith(("help", "-get", "-list"))
    core.log.write("debug" if quiet else "info", "cli", f"xe {command} {shown}")


def _hidden(command: str, key: str) -> bool:
    if "secret" in command.lower() and (key == "value" or "secret" in key.lower()):
        return True
    if command == "host-call-plugin" and key.startswith("args"):
        return True
    return "password" in key.lower() or key == "url"
