# SPDX-License-Identifier: LGPL-2.1-only
"""The command line of xe: a command, then key=value pairs and flags."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Options with a value that say where to connect to and as whom: the lab has one place, no users.
CONNECTION = frozenset({"-s", "-p", "-u", "-pw", "-pwf"})

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class UsageError(Exception):
    """A command line that xe does not take. The text is xe's."""


class CliError(Exception):
    """What xe reports as INTERNAL_ERROR with `Failure: …`."""


@dataclass
class CommandLine:
    """A parsed command line."""

    command: str
    pairs: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def parse(cls, arguments: list[str]) -> CommandLine:
        """Raises UsageError."""
        words = iter(arguments)
        line = cls("")
        for word in words:
            if word in CONNECTION:
                next(words, "")
            elif word.startswith("--"):
                line.pairs.append((word.removeprefix("--"), "true"))
            elif "=" in word:
                key, _, value = word.partition("=")
                line.pairs.append((key, value))
            elif not line.command:
                line.command = word
            else:
                raise UsageError(f"Syntax error: {word}")
        return line

    def has(self, key: str) -> bool:
        """Whether the parameter was given."""
        return any(name == key for name, _ in self.pairs)

    def get(self, key: str, default: str | None = None) -> str:
        """A parameter. Raises UsageError when it is missing and has no default."""
        for name, value in self.pairs:
            if name == key:
                return value
        if default is None:
            raise UsageError(f"Required parameter not found: {key}")
        return default

    def flag(self, key: str) -> bool:
        """A parameter that is true or false."""
        return self.get(key, "false").lower() in ("true", "1", "yes", "y", "t")

    def map(self, key: str) -> dict[str, str]:
        """The pairs given as key:name=value (or, of old, key-name=value)."""
        return {
            name[len(key) + 1 :]: value
            for name, value in self.pairs
            if name.startswith((f"{key}:", f"{key}-")) and len(name) > len(key) + 1
        }

    def others(self, *known: str) -> list[tuple[str, str]]:
        """The pairs whose keys are none of these, and not for xe itself."""
        own = {"minimal", "multiple", "trace", "all", *known}
        return [(key, value) for key, value in self.pairs if key not in own]


def size(text: str) -> str:
    """Bytes, as a decimal string, of a size with or without unit. Raises CliError."""
    for unit, factor in _UNITS.items():
        if text.endswith(unit) and text.removesuffix(unit).isdigit():
            return str(int(text.removesuffix(unit)) * factor)
    if not text.isdigit():
        raise CliError(f"Failed to parse size: {text}")
    return text
