# SPDX-License-Identifier: LGPL-2.1-only
"""audit: one line for each change of a key, in a form that nothing breaks out of."""
import syslog

import pytest

import headers
from luksext import audit
from luksext.errors import NoTpm


@pytest.fixture
def lines(monkeypatch):
    """What syslog got: (priority, line)."""
    told = []
    monkeypatch.setattr(audit.syslog, "syslog", lambda *words: told.append(words))
    return told


def test_a_line_tells_who_did_what_to_which_sr_and_how_it_ended(lines):
    audit.record("recovery-revoke", headers.SR, "admin@example", "ok", slot=3, name="safe")
    assert lines == [(
        syslog.LOG_AUTH | syslog.LOG_NOTICE,
        'luksext-audit [luksext verb="recovery-revoke" sr="{}" who="admin@example" result="ok" '
        'slot="3" name="safe"]'.format(headers.SR))]


def test_details_have_one_order(lines):
    audit.record("v", "s", "w", "ok", name="n", slot="1")
    audit.record("v", "s", "w", "ok", slot="1", name="n")
    assert lines[0] == lines[1]


@pytest.mark.parametrize("value, told", [
    ('a"b', 'a\\"b'), ("a\\b", "a\\\\b"), ("a]b", "a\\]b"), ("a\nb\r\0\x1b", "a?b???"),
    ("\u00e4", "?"), ("x" * 300, "x" * 200), ('"] forged [x y="', '\\"\\] forged [x y=\\"')])
def test_a_value_stays_within_its_quotes_and_its_line(lines, value, told):
    audit.record("v", "s", value, "ok", name=value)
    assert lines[0][1] == 'luksext-audit [luksext verb="v" sr="s" who="{0}" result="ok" ' \
                          'name="{0}"]'.format(told)


@pytest.mark.parametrize("name", ["key", "passphrase", "recovery_key", "content", "escrow-jwk",
                                  "password", "pin-config"])
def test_a_detail_that_may_be_a_secret_is_refused_and_not_repeated(lines, name):
    with pytest.raises(ValueError, match=name) as caught:
        audit.record("v", "s", "w", "ok", **{name: "XYZZY"})
    assert "XYZZY" not in str(caught.value)
    assert lines == []


ANSWER = {"recovery_key": "XYZZY", "key": "XYZZY", "slots": [1, None, 3], "name": "safe",
          "until": "", "device": None, "slot": 0, "next": "XYZZY"}


def test_of_an_answer_only_details_are_told():
    assert audit.details(ANSWER) == {"slots": "1,3", "name": "safe", "slot": "0"}


def test_a_line_has_what_was_given_and_what_came_of_it(lines):
    with audit.audited("suspend", "s", {"hours": "2", "name": "given", "key": "XYZZY"},
                       "w") as answer:
        answer.update(ANSWER)
    assert lines[0][1] == 'luksext-audit [luksext verb="suspend" sr="s" who="w" result="ok" ' \
                          'slot="0" slots="1,3" name="given" hours="2"]'


@pytest.mark.parametrize("error, result", [
    (NoTpm(), "error 6232"), (ValueError("XYZZY"), "ValueError"),
    (KeyboardInterrupt(), "KeyboardInterrupt")])
def test_a_failure_is_told_by_its_kind_alone(lines, error, result):
    with pytest.raises(type(error)):
        with audit.audited("v", "s", {"slot": "1"}, "w"):
            raise error
    assert lines == [(syslog.LOG_AUTH | syslog.LOG_NOTICE,
                      'luksext-audit [luksext verb="v" sr="s" who="w" result="{}" '
                      'slot="1"]'.format(result))]


def test_every_detail_is_told(lines):
    audit.record("v", "s", "w", "ok", **dict.fromkeys(audit.DETAILS, "x"))
    assert all('{}="x"'.format(name) in lines[0][1] for name in audit.DETAILS)
