# SPDX-License-Identifier: LGPL-2.1-only
"""bench.goals: which goals are met, by what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench import goals


def cost(seconds: float, programs: int = 1, **tools: float) -> list[dict[str, Any]]:
    return [{"seconds": seconds, "programs": programs,
             "steps": [{"name": name, "begin": 1, "end": 1 + taken}
                       for name, taken in tools.items()]}]


def raw() -> goals.Raw:
    """Each goal is just met."""
    return {
        "ext": {"sr_create": cost(2), "sr_attach": cost(2), "sr_detach": cost(1),
                "sr_scan": cost(2, 6), "vdi_create": cost(3, 2)},
        "luksext": {"sr_create": cost(6.5, clevis=2, cryptsetup=1, mkfs=9),
                    "sr_attach": cost(4, clevis=1.5, cryptsetup=0.5),
                    "sr_detach": cost(1.25, cryptsetup=0.25),
                    "sr_scan": cost(2.1, 6), "vdi_create": cost(3, 2)},
        "by hand": {"sr_attach": cost(7)}}


def met(found: goals.Raw) -> list[bool]:
    return [line.endswith("| yes |") for line in goals.table(found).splitlines()[2:]]


def test_what_is_just_met_is_met():
    assert met(raw()) == [True] * 6


@pytest.mark.parametrize(("number", "kind", "name", "worse"), [
    (0, "luksext", "sr_scan", cost(2.2, 6)),
    (1, "luksext", "vdi_create", cost(3, 3)),
    (2, "luksext", "sr_attach", cost(3.9, clevis=1)),
    (3, "by hand", "sr_attach", cost(6.9)),
    (4, "luksext", "sr_detach", cost(1.3, cryptsetup=0.25)),
    (5, "luksext", "sr_create", cost(6.7, clevis=3)),
])
def test_what_costs_more_is_not(number, kind, name, worse):
    found = raw()
    found[kind][name] = worse
    assert met(found) == [place != number for place in range(6)]
