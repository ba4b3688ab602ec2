# SPDX-License-Identifier: LGPL-2.1-only
"""What calls of XAPI cost more than on an ext SR, counted in programs and system calls.

A change that adds to a call has to be wanted: it changes a number here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from tests.bench.meter import Cost
from tests.bench.operations import Calls, Subject
from tests.storage.doc_commands import DOCS
from tests.storage.pool import Host


class More(NamedTuple):
    """What a call may cost more than the same call on ext."""

    programs: int
    syscalls: int


ALLOWED = {
    # cryptsetup close.
    "sr_detach": More(1, 1300),
    # cryptsetup open, dmsetup table, and the eight programs of a clevis-decrypt with the null pin.
    "sr_attach": More(12, 4500),
    # Python reads what of ours says that there is such a driver.
    "sr_scan": More(0, 150),
    "vdi_create": More(0, 120),
}


def costs(calls: Calls, subject: Subject) -> dict[str, Cost]:
    """Those of the calls above, on a new SR."""
    subject.create()
    return {"sr_detach": subject.detach(), "sr_attach": subject.attach(),
            "sr_scan": subject.scan(), **calls.of(subject.sr.create_vdi)}


@pytest.fixture(scope="module")
def both(host: Host) -> tuple[dict[str, Cost], dict[str, Cost]]:
    """The costs on ext, and ours."""
    calls, add = Calls(host), host.machine.add_disk
    return (costs(calls, Subject(calls, [add("plain")], "ext")),
            costs(calls, Subject(calls, [add("encrypted")], "luksext", pin="null")))


@pytest.mark.parametrize("call", ALLOWED)
def test_a_call_costs_no_more_than_it_has_to(
        both: tuple[dict[str, Cost], dict[str, Cost]], call: str) -> None:
    ext, ours = (found[call] for found in both)
    assert ours.programs - ext.programs <= ALLOWED[call].programs, ours.steps
    assert ours.syscalls - ext.syscalls <= ALLOWED[call].syscalls


def test_the_docs_have_these_bounds() -> None:
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    assert {name: More(int(programs), int(calls)) for name, programs, calls in rows} == ALLOWED
