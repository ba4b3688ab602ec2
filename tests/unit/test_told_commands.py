# SPDX-License-Identifier: LGPL-2.1-only
"""Commands that errors, alerts, findings, menus and the docs tell to type are there."""
import ast
import glob
import os
import re

import pytest

from doc_rows import DOCS
from fake_xapi import XenAPI  # noqa: F401, before what imports XenAPI

import luksext_calls
from luksext import console, verbs

ROOT = os.path.join(DOCS, "..")
PAGES = [os.path.join(ROOT, "README.md"), *sorted(glob.glob(os.path.join(DOCS, "*.md")))]
SOURCES = sorted(path for folder in ("drivers", "xsconsole")
                 for path in glob.glob(os.path.join(ROOT, folder, "**", "*.py"), recursive=True))

ON_THE_CONSOLE = re.compile(r"(?<![\w=/.-])luksext ([a-z]+(?:-[a-z]+)*)(?![\w=])"
                            r"((?: --[a-z-]+(?:=\S*)?)*)")
THROUGH_XAPI = re.compile(r"\bfn=([a-z]+(?:-[a-z]+)*)((?: args:\S+)*)")

# What follows the name where it is no command.
PROSE = {"at", "authors", "does", "is", "needs", "on", "they"}


def texts(path):
    """The paragraphs and commands of a page, or the texts in a program, each on one line."""
    with open(path, encoding="utf-8") as file:
        content = file.read()
    if path.endswith(".py"):
        # Before Python 3.8 a text is a Str, whose value is called s.
        found = [node.value if hasattr(node, "value") else getattr(node, "s", None)
                 for node in ast.walk(ast.parse(content))]
    else:
        found = re.split(r"\n\s*\n|\n    ", content.replace("\\\n", ""))
    return [re.sub(r"\s+", " ", text) for text in found if isinstance(text, str)]


def told(pattern, paths):
    """(first word, all that follows it, page or program) of each command that is told."""
    return [(*match.groups(), os.path.relpath(path, ROOT))
            for path in paths for text in texts(path) for match in pattern.finditer(text)]


@pytest.mark.parametrize("paths", [PAGES, SOURCES], ids=["docs", "texts"])
def test_a_command_of_the_console_has_that_verb_and_its_options(paths):
    known = console._parser()._subparsers._group_actions[0].choices
    commands = [command for command in told(ON_THE_CONSOLE, paths) if command[0] not in PROSE]
    assert len(commands) > 20
    for verb, rest, where in commands:
        assert verb in known, (where, verb)
        options = re.findall(r" (--[a-z-]+)", rest)
        for option in options:
            assert option in known[verb]._option_string_actions, (where, verb, option)
        # Without options, it is the name of a verb.
        for action in known[verb]._actions if options else ():
            assert not action.required or set(action.option_strings) & set(options), (
                where, verb, rest, action.dest)


def test_a_call_of_the_plugin_has_that_function_and_its_arguments():
    taken = {verb.name: [parameter.name for parameter in verb.parameters]
             for verb in verbs.VERBS.values()}
    taken.update((name, known) for name, (known, _) in luksext_calls.CONVERSIONS.items())
    calls = told(THROUGH_XAPI, PAGES + SOURCES)
    assert len(calls) > 5
    for name, rest, where in calls:
        assert name in luksext_calls.CALLS, (where, name)
        for argument in re.findall(r" args:([\w-]+)", rest):
            assert argument in ["sr-uuid", *taken.get(name, ())], (where, name, argument)
