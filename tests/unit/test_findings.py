# SPDX-License-Identifier: LGPL-2.1-only
"""findings: stable codes, each with a sentence, something to type, and a row in the docs."""
import re

import pytest

import doc_rows
from luksext import alerts
from luksext.findings import FINDINGS, found


def test_codes_are_stable():
    assert {code: finding.name for code, finding in FINDINGS.items()} == {
        "LUKS-D001": "programs missing", "LUKS-D002": "cryptsetup too old",
        "LUKS-D003": "clevis without TPM pin", "LUKS-D010": "no TPM",
        "LUKS-D011": "TPM in lockout", "LUKS-D012": "TPM does not answer",
        "LUKS-D013": "owner hierarchy unusable", "LUKS-D020": "LVM filter",
        "LUKS-D021": "garbage collector not ours", "LUKS-D022": "sm-plugins not kept",
        "LUKS-D023": "SR type not accepted", "LUKS-D024": "a file replaces ours",
        "LUKS-D025": "plugins of the storage manager not taught",
        "LUKS-D026": "file not as installed", "LUKS-D027": "disk in default-storage.conf",
        "LUKS-D028": "default storage not guarded", "LUKS-D029": "not looked at",
        "LUKS-D030": "XAPI not asked",
        "LUKS-D031": "SR type not registered", "LUKS-D032": "features missing",
        "LUKS-D033": "host without the package", "LUKS-D034": "host not asked",
        "LUKS-D035": "versions differ", "LUKS-D036": "SR not plugged"}


@pytest.mark.parametrize("code", sorted(FINDINGS))
def test_a_finding_says_what_is_the_matter_and_what_to_type(code):
    finding = FINDINGS[code]
    assert finding.code == code
    assert not set(alerts.ALERTS) & set(FINDINGS)
    assert len(finding.summary) > 10
    assert re.search(r"\b(xe|yum|systemctl|ls|dmesg|mv|tpm2_\w+|lvmconfig|luksext doctor)\b|"
                     "xe-toolstack-restart", finding.remedy)


@pytest.mark.parametrize("code", sorted(FINDINGS))
def test_it_is_explained_as_alerts_are(code):
    text = alerts.explain(code.lower())
    for part in FINDINGS[code]:
        assert part in text


def test_what_is_found_names_what_it_is_about():
    assert found("LUKS-D036", SR_UUID="the-sr", PBD_UUID="the-pbd") == {
        "code": "LUKS-D036", "name": "SR not plugged",
        "text": "The encrypted SR the-sr is not plugged on this host.",
        "next": "xe pbd-plug uuid=the-pbd"}


def test_a_name_that_looks_like_a_word_to_fill_in_is_kept():
    told = found("LUKS-D034", HOST="REASON", REASON="HOST is down")
    assert "The host REASON of this pool" in told["text"]
    assert told["text"].endswith("HOST is down")


def test_the_docs_have_a_row_for_each_finding_and_no_other():
    rows = doc_rows.rows("doctor.md", "LUKS-D")
    assert [row[0] for row in rows] == sorted(FINDINGS)
    for code, name, meaning, remedy in rows:
        assert name == FINDINGS[code].name
        assert len(meaning) > 20
        assert "`" in remedy
