# SPDX-License-Identifier: LGPL-2.1-only
"""The reader of the docs does what a page says, and tells when a page does not tell the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage import doc_commands
from tests.storage.doc_commands import DocError, Hand, Reader, sections

PAGE = """# Page

    first <SR> \\
      --more    # why
    # a comment

```text
it …
done
```

```toml
not = "a command"
```

## Another

**By hand:** press the
button.

    xe fails

```text
SR_BACKEND_FAILURE_6234
```

Text that is indented in a list
  - is text.
"""

KEY = "F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW"


class Shell:
    """Answers commands by their first word, and notes what was typed."""

    def __init__(self) -> None:
        self.typed: list[tuple[str, str]] = []
        self.answers = {"first": (0, "it is\nall done\n"), "xe": (1, "SR_BACKEND_FAILURE_6234\n")}

    def run(self, command: str, typed: str) -> tuple[int, str]:
        self.typed.append((command, typed))
        return self.answers[command.split()[0]]


@pytest.fixture
def shell() -> Shell:
    return Shell()


@pytest.fixture
def pressed() -> list[str]:
    return []


@pytest.fixture
def reader(shell: Shell, pressed: list[str]) -> Reader:
    return Reader(shell.run, {"SR": lambda: "sr-uuid"},
                  {"press the button": lambda: pressed.append("button")})


@pytest.fixture
def follow(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doc_commands, "DOCS", tmp_path)

    def read(text: str, left_out: dict[tuple[str, str], str] | None = None) -> None:
        (tmp_path / "page.md").write_text(text)
        for part in sections("page.md"):
            reader.follow(part, left_out or {})

    return read


def test_a_page_is_followed_in_its_order(follow, shell: Shell, pressed: list[str]) -> None:
    follow(PAGE)
    assert [command for command, _ in shell.typed] == ["first sr-uuid --more # why", "xe fails"]
    assert pressed == ["button"]


def test_its_parts_are_known(follow) -> None:
    follow(PAGE)
    first, second = sections("page.md")
    assert (first.title, second.title) == ("", "Another")
    assert [block.shown for block in first.blocks] == [["it …", "done"]]
    assert second.steps[0] == Hand("press the button")


def test_what_is_left_out_is_not_run(follow, shell: Shell) -> None:
    follow(PAGE, {("page.md", "first <SR> --more # why"): "why not"})
    assert [command for command, _ in shell.typed] == ["xe fails"]


@pytest.mark.parametrize("command, answer", [
    ("first", (0, "something else\n")), ("first", (0, "done, it is\n")),
    ("first", (1, "it is done\n")), ("xe", (0, "fine\n")), ("xe", (1, "another error\n"))])
def test_what_is_not_true_is_told(follow, shell: Shell, command: str,
                                  answer: tuple[int, str]) -> None:
    shell.answers[command] = answer
    with pytest.raises(DocError):
        follow(PAGE)


def test_something_shown_needs_commands_before(follow) -> None:
    with pytest.raises(DocError, match="no commands"):
        follow("```text\nout of nothing\n```\n")


def test_the_newest_key_is_typed_and_the_old_one_where_it_is_asked_for(
        follow, shell: Shell, reader: Reader) -> None:
    new = KEY.replace("F", "G")
    shell.answers.update(make=(0, f"recovery key: {KEY}\n"), luksext=(3, f"recovery key: {new}\n"))
    follow("    make\n    luksext add\n    luksext test   # type the old key\n")
    assert [typed for _, typed in shell.typed] == ["", KEY + "\n", KEY + "\n"]
    assert reader.keys == [KEY, new]


def test_the_uuid_of_a_new_sr_is_kept(follow, shell: Shell, reader: Reader) -> None:
    shell.answers["xe"] = (0, "new-sr\n")
    follow("    xe sr-create type=luksext\n")
    assert reader.sr == "new-sr"
