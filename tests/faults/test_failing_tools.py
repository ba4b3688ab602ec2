# SPDX-License-Identifier: LGPL-2.1-only
"""Tools that are missing, fail, print nonsense or hang, at a plug. tests/unit/test_broken_tools.py
has more of them, with fakes."""

from __future__ import annotations


import pytest

from tests.faults.campaign import Campaign
from tests.faults.survivor import RECOVERED, Survivor, replaced, within

# What becomes of a program; None: it is gone.
SCRIPTS = {
    "missing": None,
    "that fails": "exit 1",
    "that prints nonsense": "cat > /dev/null; head -c 300 /dev/urandom",
    "that hangs": "exec sleep 1000",
}

# The code of the error of a plug, by what becomes of each program. The ext driver waits for one
# that hangs.
CODES = {
    "cryptsetup": {"missing": 6203, "that prints nonsense": 6240, "that hangs": 6205},
    "clevis": {"missing": 6203, "that prints nonsense": 6239, "that hangs": 6238},
    "luksmeta": {"that fails": 6230, "that prints nonsense": 6230},
    "lvchange": {"missing": 6299, "that fails": 6299},
}


@pytest.mark.parametrize("program", CODES)
def test_a_broken_tool(campaign: Campaign, subject: Survivor, luks_version: str,
                       program: str) -> None:
    if program == "luksmeta" and luks_version != "1":
        pytest.skip("LUKS2 needs none")
    for fault, code in CODES[program].items():
        with campaign.trial(f"{program} {fault}", luks_version) as trial:
            if subject.sr.attached:
                subject.unplug()
            with replaced(subject.host, program, SCRIPTS[fault]), within(180):
                error = subject.refused()
            assert error.code == code, error.text
            subject.check()
            trial.outcome = f"plug says {error.code}, {RECOVERED}"
