# SPDX-License-Identifier: LGPL-2.1-only
"""What a fault campaign keeps of its trials, and the table that it ends with.

    def test_something(campaign: Campaign, trials: int, luks_version: str) -> None:
        for _ in range(trials):
            with campaign.trial("disk pulled while plugged", luks_version) as trial:
                ...
                trial.outcome = "error 6210, plugs again once the disk is back"
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pytest

#: The name that a trial, or a dictionary of versions, has in the report of its test.
TRIAL = "trial"
VERSIONS = "versions"

FAILED = "FAILED: "


class DataLost(AssertionError):
    """Bytes that a VDI had confirmed are not there any more."""


@dataclass
class Trial:
    """One fault that was tried. `luks` is "1", "2", or "-" where no container has a part in it.

    `outcome` is for the trial to set: what was seen, in words that are the same for all trials that
    ended alike, for they share a row of the table.
    """

    fault: str
    luks: str
    outcome: str = ""
    lost: bool = False

    @property
    def failed(self) -> bool:
        return self.lost or self.outcome.startswith(FAILED)


class Campaign:
    """Records the trials of one test.

    A trial that fails is a row, and fails the test once all its trials were made: hundreds are not
    given up for the first.
    """

    def __init__(self, properties: list[tuple[str, Any]]) -> None:
        """`properties` is where pytest reports what a test left, from other processes too."""
        self._properties = properties
        self._failures: list[str] = []
        self._count = 0

    @contextmanager
    def trial(self, fault: str, luks: str = "-") -> Iterator[Trial]:
        """Try `fault`; any exception within is a failure, DataLost a loss of data.

        Notes of the exception (add_note) are in the table too.
        """
        trial = Trial(fault, luks)
        try:
            yield trial
            assert trial.outcome, "the trial has no outcome"
        # What pytest itself raises, such as for an error that did not come, is no Exception.
        except (Exception, pytest.fail.Exception) as error:
            trial.outcome = FAILED + _first_line(error)
            trial.lost = isinstance(error, DataLost)
            self._failures.append(f"{fault}, LUKS {luks}:\n{traceback.format_exc()}")
        finally:
            # In the end of a run that is interrupted, too.
            trial.outcome = trial.outcome or FAILED + "interrupted"
            self._count += 1
            self._properties.append((TRIAL, asdict(trial)))

    def check(self) -> None:
        """Raise AssertionError when a trial failed, or none was made."""
        assert self._count, "no trial was made"
        if self._failures:
            raise AssertionError(
                f"{len(self._failures)} of {self._count} trials failed\n\n"
                + "\n\n".join(self._failures))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "; ".join([*getattr(error, "__notes__", []), lines[0][:200]])


def trials_in(properties: Iterable[tuple[str, Any]]) -> list[Trial]:
    """The trials that a test reported."""
    return [Trial(**value) for name, value in properties if name == TRIAL]


def table(trials: Iterable[Trial]) -> str:
    """The table in markdown: a row for each outcome of a fault, with how often it was seen."""
    counts = Counter((trial.fault, trial.luks, trial.outcome, trial.lost) for trial in trials)
    rows = [("fault", "LUKS", "times tried", "outcome", "data lost"), ("---",) * 5]
    rows += [(fault, luks, str(count), outcome, "YES" if lost else "no")
             for (fault, luks, outcome, lost), count in sorted(counts.items())]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def report(trials: list[Trial], about: Mapping[str, str]) -> str:
    """The whole report in markdown: what the run was `about`, such as versions, and the table."""
    facts = [f"- {name}: {value}" for name, value in about.items()]
    failed = sum(trial.failed for trial in trials)
    facts.append(f"- trials: {len(trials)}, failed: {failed}, "
                 f"data lost: {sum(trial.lost for trial in trials)}")
    return "\n".join([*facts, "", table(trials), ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
