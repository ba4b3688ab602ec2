# SPDX-License-Identifier: LGPL-2.1-only
"""A page of the docs as a script: its commands, what they show, and what hands do between them.

- An indented block is commands, run in their order.
- A fenced block of the kind `text` is what the block before it shows, `…` being anything. Where
  that is an error the block has to fail, else to succeed. Other fenced blocks are files' contents.
- A paragraph that begins with **By hand:** is done by somebody who stands at the host.
- <name> stands for what is another on every host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"

BY_HAND = "**By hand:** "

_PLACEHOLDER = re.compile(r"<([A-Za-z][A-Za-z -]*)>")
_RECOVERY_KEY = re.compile(r"\b(?:[0-9A-Z]{4}-){6}[0-9A-Z]{4}\b")
_ERROR = ("SR_BACKEND_FAILURE", "error")

# Exit status of the console when all is done and something needs attention.
_ATTENTION = 3


@dataclass
class Block:
    """Commands, and the lines of which each is in what they show."""

    commands: list[str]
    shown: list[str]

    @property
    def name(self) -> str:
        """What it is called in a table: its first command."""
        return self.commands[0]

    @property
    def fails(self) -> bool:
        """Whether it shows an error."""
        return any(word in line for line in self.shown for word in _ERROR)


@dataclass
class Hand:
    """What somebody does at the host, in words."""

    words: str


@dataclass
class Section:
    """What is below a heading, or above the first one but the page's title."""

    page: str
    title: str
    steps: list[Block | Hand]

    @property
    def blocks(self) -> list[Block]:
        return [step for step in self.steps if isinstance(step, Block)]


class DocError(Exception):
    """The page is not what this reader understands, or does not tell the truth."""


def pages() -> list[str]:
    """Every page: those of docs/ by their name, and the README."""
    return ["../README.md", *sorted(path.name for path in DOCS.glob("*.md"))]


def sections(page: str) -> list[Section]:
    """The sections of a page that have steps. Raises DocError."""
    found = [Section(page, "", [])]
    for kind, lines in _parts((DOCS / page).read_text(encoding="utf-8")):
        if kind == "heading":
            found.append(Section(page, lines[0], []))
        elif kind == "commands":
            found[-1].steps.append(Block(_commands(lines), []))
        elif kind == "shown":
            last = found[-1].steps[-1] if found[-1].steps else None
            if not isinstance(last, Block) or last.shown:
                raise DocError(f"{page}: no commands before what is shown: {lines[0]}")
            last.shown = lines
        elif kind == "hand":
            found[-1].steps.append(Hand(" ".join(lines).removeprefix(BY_HAND).rstrip(".")))
    return [section for section in found if section.steps]


def section(page: str, title: str) -> Section:
    """One section by its title. Raises KeyError."""
    return {section.title: section for section in sections(page)}[title]


def placeholders(text: str) -> set[str]:
    """The names that stand for something in `text`."""
    return set(_PLACEHOLDER.findall(text))


def _parts(text: str) -> Iterator[tuple[str, list[str]]]:
    """The parts of a page: their kind and lines."""
    lines = text.splitlines()
    while lines:
        line = lines[0]
        if line.startswith("```"):
            end = lines.index("```", 1)
            yield "shown" if line == "```text" else "file", lines[1:end]
            del lines[:end + 1]
        elif line.startswith("    "):
            yield "commands", [item[4:] for item in _taken(lines, lambda item: item[:4] == "    ")]
        elif line.startswith(("## ", "### ")):
            yield "heading", [lines.pop(0).lstrip("# ")]
        elif line.startswith(BY_HAND):
            yield "hand", _taken(lines, lambda item: item != "")
        else:
            del lines[:1]


def _taken(lines: list[str], wanted: Callable[[str], bool]) -> list[str]:
    """The first of `lines` as long as they are `wanted`, taken out of them."""
    count = next((n for n, line in enumerate(lines) if not wanted(line)), len(lines))
    taken = lines[:count]
    del lines[:count]
    return taken


def _commands(lines: list[str]) -> list[str]:
    """Commands, those that go over several lines joined; comments alone on a line are none."""
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line) for line in joined if line and not line.startswith("#")]


class Reader:
    """Somebody who follows a page: types its commands, keeps what they tell, types keys back.

    run: runs a command (sh) with what is typed, returns its exit status and all that it printed.
    values: what the placeholders stand for, asked for when it is needed. hands: what is done by
    hand, by its words.
    """

    def __init__(
        self,
        run: Callable[[str, str], tuple[int, str]],
        values: Mapping[str, Callable[[], str]],
        hands: Mapping[str, Callable[[], None]],
    ) -> None:
        self._run = run
        self.values = values
        self.hands = hands
        self.keys: list[str] = []
        self.sr = ""

    def follow(self, section: Section, left_out: Mapping[tuple[str, str], str]) -> None:
        """Does all steps but those that are left out. Raises DocError."""
        for step in section.steps:
            if isinstance(step, Hand):
                self.hands[step.words]()
            elif (section.page, step.name) not in left_out:
                self._type(step)

    def _type(self, block: Block) -> None:
        printed = []
        failed = None
        for command in block.commands:
            status, text = self._type_one(command)
            printed.append(text)
            if status and not (command.startswith("luksext ") and status == _ATTENTION):
                failed = DocError(f"`{command}` ended with status {status}:\n{text}")
        if failed and not block.fails:
            raise failed
        if block.fails and not failed:
            raise DocError(f"`{block.name}` shows an error, and there was none:\n{printed}")
        self._compare(block, "".join(printed))

    def _type_one(self, command: str) -> tuple[int, str]:
        typed = self._filled(command)
        status, printed = self._run(typed, self._answer(command))
        self.keys += [key for key in _RECOVERY_KEY.findall(printed) if key not in self.keys]
        if typed.startswith("xe sr-create"):
            self.sr = printed.strip()
        return status, printed

    def _answer(self, command: str) -> str:
        """What is typed at its prompt: the newest recovery key, or the old one if it says so."""
        which = -2 if "# type the old key" in command else -1
        return self.keys[which] + "\n" if self.keys else ""

    def _filled(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            return self.values[match.group(1)]()
        return _PLACEHOLDER.sub(value, text)

    def _compare(self, block: Block, printed: str) -> None:
        rest = " ".join(printed.split())
        for line in block.shown:
            pattern = ".*?".join(map(re.escape, self._filled(" ".join(line.split())).split("…")))
            match = re.search(pattern, rest)
            if not match:
                raise DocError(f"`{block.commands[-1]}` does not show '{line}' but:\n{printed}")
            rest = rest[match.end():]
