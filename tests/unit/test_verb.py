# SPDX-License-Identifier: LGPL-2.1-only
"""verb: arguments are checked before anything is done, and a secret is never repeated."""
import pytest

from luksext import verb
from luksext.errors import ArgumentInvalid
from luksext.verb import FORCE, RECOVERY_KEY, Parameter, Verb

VERB = Verb("rebind", "replace", (Parameter("slot", "its number", required=True), RECOVERY_KEY,
                                  FORCE), lambda sr, arguments: {})


def refused(arguments):
    with pytest.raises(ArgumentInvalid) as caught:
        verb.check(VERB, arguments, ["sr-uuid"])
    return str(caught.value)


def test_what_the_verb_and_its_caller_take_is_accepted():
    verb.check(VERB, {"sr-uuid": "u", "slot": "1", "key": "k", "force": "true"}, ["sr-uuid"])


def test_an_unknown_argument_is_named_without_its_value_for_it_may_be_a_key():
    text = refused({"slot": "1", "kez": "SECRET"})
    assert "kez" in text
    assert "SECRET" not in text
    assert "sr-uuid, slot, key, force" in text


@pytest.mark.parametrize("arguments", [{}, {"slot": ""}])
def test_a_missing_argument_is_named_with_what_it_is(arguments):
    text = refused(arguments)
    assert "needs the argument slot" in text
    assert "its number" in text


@pytest.mark.parametrize("value", ["yes", "1", "TRUE", ""])
def test_force_is_true_or_false(value):
    assert "true or false" in refused({"slot": "1", "force": value})


@pytest.mark.parametrize("value", ["-1", "32", "1.5", "", "a", "²", "1" * 5000])
def test_a_number_out_of_range_is_refused(value):
    with pytest.raises(ArgumentInvalid, match="from 0 to 31"):
        verb.number("rebind", {"slot": value}, "slot", 0, 31)


def test_a_number_that_is_not_given_is_none():
    assert verb.number("rebind", {}, "slot", 0, 31) is None
    assert verb.number("rebind", {"slot": "31"}, "slot", 0, 31) == 31
