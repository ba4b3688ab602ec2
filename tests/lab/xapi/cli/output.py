# SPDX-License-Identifier: LGPL-2.1-only
"""How xe prints (xen-api: ocaml/xapi-cli-server/cli_printer.ml)."""

from __future__ import annotations

import sys


class Printer:
    """Prints tables and lines; with --minimal first fields only, comma-separated."""

    def __init__(self, minimal: bool) -> None:
        self._minimal = minimal
        self._parts: list[str] = []

    def table(self, rows: list[list[tuple[str, str]]]) -> None:
        """Objects, each as (label, value) pairs."""
        if self._minimal:
            self._parts += [_escaped(row[0][1]) for row in rows if row]
            return
        for row in rows:
            sys.stdout.write(_block(row) + "\n\n\n")

    def line(self, text: str) -> None:
        """One value."""
        if self._minimal:
            self._parts.append(_escaped(text))
        else:
            print(text)

    def finish(self) -> None:
        """Print what --minimal gathered."""
        if self._minimal:
            print(",".join(self._parts))


def _block(row: list[tuple[str, str]]) -> str:
    """Labels right-aligned, but the first."""
    width = 4 + max(len(label) for label, _ in row)
    first, *rest = row
    lines = [
        f"{first[0]:<{width}}: {first[1]}",
        *(f"{label:>{width}}: {text}" for label, text in rest),
    ]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")
