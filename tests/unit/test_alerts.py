# SPDX-License-Identifier: LGPL-2.1-only
"""alerts: stable codes, each with a text, a command to type, and a row in the docs."""
import re

import pytest

import doc_rows
from luksext import alerts
from luksext.alerts import ALERTS
from luksext.errors import AlertUnknown


def documented():
    """(code, name, priority, cause, remedy) of each row of the docs."""
    return doc_rows.rows("alerts.md", "LUKS-W")


def test_codes_are_stable():
    assert {code: alert.name for code, alert in ALERTS.items()} == {
        "LUKS-W001": "no recovery key", "LUKS-W002": "recovery key unconfirmed",
        "LUKS-W003": "binding stale", "LUKS-W004": "binding breaks at next boot",
        "LUKS-W005": "no fresh header backup", "LUKS-W006": "bindings suspended",
        "LUKS-W007": "unknown keyslot", "LUKS-W008": "disks differ in their keys",
        "LUKS-W009": "re-encryption unfinished",
        "LUKS-W011": "binding cannot be tried", "LUKS-W012": "disk missing or unreadable"}


@pytest.mark.parametrize("code", sorted(ALERTS))
def test_an_alert_says_what_is_the_matter_and_what_to_type(code):
    alert = ALERTS[code]
    assert alert.code == code
    assert re.match(r"LUKS-W[0-9]{3}\Z", code)
    assert alert.summary.endswith(".") and "SR" in alert.summary
    assert re.search(r"luksext [a-z]+(-[a-z]+)* --sr-uuid=SR_UUID", alert.remedy)
    assert 1 <= alert.priority <= 5


@pytest.mark.parametrize("code", sorted(ALERTS))
def test_explaining_tells_all_of_it(code):
    text = alerts.explain(code)
    alert = ALERTS[code]
    for part in (code, alert.name, alert.summary, alert.remedy):
        assert part in text
    assert alerts.explain(code.lower()) == text


def test_an_unknown_code_is_answered_with_those_that_there_are():
    with pytest.raises(AlertUnknown, match=r"LUKS-W099.*LUKS-W001, LUKS-W002"):
        alerts.explain("LUKS-W099")


def test_the_docs_have_a_row_for_each_alert_and_no_other():
    rows = documented()
    assert [row[0] for row in rows] == sorted(ALERTS)
    for code, name, priority, cause, remedy in rows:
        assert name == ALERTS[code].name
        assert priority == str(ALERTS[code].priority)
        assert len(cause) > 20
        assert "`luksext " in remedy


def test_the_docs_name_the_commands_that_the_alert_names():
    for code, _, _, _, remedy in documented():
        named = set(re.findall(r"luksext ([a-z-]+)", ALERTS[code].remedy))
        assert named == set(re.findall(r"`luksext ([a-z-]+)", remedy)), code
