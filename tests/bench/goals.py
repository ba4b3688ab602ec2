# SPDX-License-Identifier: LGPL-2.1-only
"""What operations were meant to cost, and what they did."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from tests.bench import report

# What seals, unseals, formats, opens and closes: ext has nothing of it.
_TOOLS = ("clevis", "cryptsetup")

Raw = dict[str, dict[str, list[dict[str, Any]]]]


def table(raw: Raw) -> str:
    """The goals, each with its bound and what was measured; raw: costs by kind and operation."""
    return report.table(["goal", "bound", "measured", "met"], [
        [name, f"{sign} {bound}", f"{found:.2f}", "yes" if holds(round(found, 2), bound) else "no"]
        for name, sign, holds, bound, found in _goals(raw)])


def _goals(raw: Raw) -> list[tuple[str, str, Callable[[float, float], bool], float, float]]:
    ext, ours, by_hand = (raw[kind] for kind in ("ext", "luksext", "by hand"))
    hot = [name for name in ext if name == "sr_scan" or name.startswith("vdi_")]
    base, added = _seconds(ext["sr_attach"]), _tools(ours["sr_attach"])
    return [
        ("scan and VDI operations, seconds / ext", "<=", operator.le, 1.02,
         sum(_seconds(ours[name]) for name in hot) / sum(_seconds(ext[name]) for name in hot)),
        ("scan and VDI operations, programs more than ext", "<=", operator.le, 0,
         sum(_programs(ours[name]) - _programs(ext[name]) for name in hot)),
        ("sr_attach / (ext + unseal + open)", "<=", operator.le, 1,
         _seconds(ours["sr_attach"]) / (base + added)),
        ("what `clevis luks unlock` adds to ext's attach / what ours adds", ">=", operator.ge, 2.5,
         (_seconds(by_hand["sr_attach"]) - base) / (_seconds(ours["sr_attach"]) - base)),
        ("sr_detach / (ext + close)", "<=", operator.le, 1,
         _seconds(ours["sr_detach"]) / (_seconds(ext["sr_detach"]) + _tools(ours["sr_detach"]))),
        ("sr_create / (ext + format + bind + proof)", "<=", operator.le, 1.3,
         _seconds(ours["sr_create"]) / (_seconds(ext["sr_create"]) + _tools(ours["sr_create"]))),
    ]


def _seconds(costs: list[dict[str, Any]]) -> float:
    return report.median([cost["seconds"] for cost in costs])


def _programs(costs: list[dict[str, Any]]) -> float:
    return report.median([cost["programs"] for cost in costs])


def _tools(costs: list[dict[str, Any]]) -> float:
    """The seconds of the tools that ext has not."""
    return report.median([
        sum(step["end"] - step["begin"] for step in cost["steps"] if step["name"] in _TOOLS)
        for cost in costs])
