# SPDX-License-Identifier: LGPL-2.1-only
"""docs/admin-guide.md has every option and every verb with its arguments, and no other."""
import os
import re

from doc_rows import DOCS, rows
from fake_xapi import XenAPI  # noqa: F401, before what imports XenAPI

import luksext_calls
from luksext import configuration, console, verbs

NAME = re.compile(r"(\*\*)?`([^`]+)`")


def tables():
    """The rows of the guide's options, and of its verbs with their arguments and who needs them."""
    found = rows("admin-guide.md", "")
    with open(os.path.join(DOCS, "admin-guide.md"), encoding="utf-8") as guide:
        first = [line.split("`")[1] for line in guide.read().split("## Verbs")[1].splitlines()
                 if line.startswith("| `")]
    names = [row[0] for row in found]
    assert names[len(names) - len(first):] == first
    return found[:-len(first)], {
        row[0]: {name: bool(needed) for needed, name in NAME.findall(row[1])}
        for row in found[-len(first):]}


def test_every_option_is_in_the_guide():
    described, _ = tables()
    assert [row[0] for row in described] == [name for name, _ in configuration.DESCRIPTIONS]


def on_the_console():
    """The verbs of the console, and the arguments without which their command line is refused."""
    parser = console._parser()._subparsers._group_actions[0]
    return {name: [action.dest for action in verb._actions if action.required]
            for name, verb in parser.choices.items()}


def test_every_verb_is_in_the_guide():
    _, described = tables()
    assert set(described) == set(luksext_calls.CALLS) | set(on_the_console())


def test_every_argument_is_in_the_guide_and_whether_it_is_needed():
    _, described = tables()
    taken = {verb.name: {parameter.name: parameter.required for parameter in verb.parameters}
             for verb in verbs.VERBS.values()}
    for name, (known, _) in luksext_calls.CONVERSIONS.items():
        taken[name] = dict.fromkeys(known, False)
    # As its call insists.
    for name in ("encrypt", "encrypt-in-place"):
        taken[name]["confirm"] = True
    for name, needed in on_the_console().items():
        taken.setdefault(name, dict.fromkeys(needed, True))
    for name in described:
        assert described[name] == taken.get(name, {}), name
