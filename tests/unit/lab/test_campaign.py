# SPDX-License-Identifier: LGPL-2.1-only
"""The record that a fault campaign keeps of its trials."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.campaign import Campaign, DataLost, report, table, trials_in


@pytest.fixture
def properties() -> list[tuple[str, Any]]:
    return [("of another", "kind")]


@pytest.fixture
def campaign(properties: list[tuple[str, Any]]) -> Campaign:
    return Campaign(properties)


def test_trials_that_ended_alike_are_one_row(campaign: Campaign,
                                             properties: list[tuple[str, Any]]) -> None:
    for outcome in ("plugs again", "plugs again", "error 6210"):
        with campaign.trial("disk pulled", "2") as trial:
            trial.outcome = outcome
    campaign.check()
    assert table(trials_in(properties)).splitlines()[2:] == [
        "| disk pulled | 2 | 1 | error 6210 | no |",
        "| disk pulled | 2 | 2 | plugs again | no |",
    ]


def test_a_failure_is_a_row_and_fails_the_test_at_its_end(
        campaign: Campaign, properties: list[tuple[str, Any]]) -> None:
    with campaign.trial("power cut", "1"):
        raise ValueError("does not boot\nmore of it")
    with campaign.trial("power cut", "1") as trial:
        trial.outcome = "plugged after boot"
    with pytest.raises(AssertionError, match="1 of 2 trials failed") as failure:
        campaign.check()
    assert "more of it" in str(failure.value)
    assert "| power cut | 1 | 1 | FAILED: does not boot | no |" in table(trials_in(properties))


def test_an_error_that_did_not_come_is_a_failure_too(
        campaign: Campaign, properties: list[tuple[str, Any]]) -> None:
    with campaign.trial("power cut"):
        with pytest.raises(ValueError):
            pass
    assert "DID NOT RAISE" in trials_in(properties)[0].outcome


def test_lost_data_is_told_apart(campaign: Campaign, properties: list[tuple[str, Any]]) -> None:
    with campaign.trial("power cut", "1"):
        error = DataLost("the VDI reads otherwise")
        error.add_note("after 3 s")
        raise error
    assert "| FAILED: after 3 s; the VDI reads otherwise | YES |" in table(trials_in(properties))
    assert "- trials: 1, failed: 1, data lost: 1" in report(trials_in(properties), {})


def test_a_trial_without_outcome_is_a_failure(campaign: Campaign) -> None:
    with campaign.trial("nothing"):
        pass
    with pytest.raises(AssertionError, match="no outcome"):
        campaign.check()


def test_a_campaign_without_trials_is_a_failure(campaign: Campaign) -> None:
    with pytest.raises(AssertionError, match="no trial"):
        campaign.check()


def test_an_interrupted_trial_is_a_row(campaign: Campaign,
                                       properties: list[tuple[str, Any]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        with campaign.trial("power cut"):
            raise KeyboardInterrupt
    assert [trial.failed for trial in trials_in(properties)] == [True]


def test_the_report_says_what_ran(campaign: Campaign, properties: list[tuple[str, Any]]) -> None:
    with campaign.trial("a|b") as trial:
        trial.outcome = "fine"
    text = report(trials_in(properties), {"kernel": "6.1"})
    assert text.startswith("- kernel: 6.1\n- trials: 1, failed: 0, data lost: 0\n")
    assert "| a\\|b | - | 1 | fine | no |" in text
