# SPDX-License-Identifier: LGPL-2.1-only
"""keys: recovery keys are random, and every slip of the pen or of the fingers is seen."""
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from luksext import keys
from luksext.errors import RecoveryKeyInvalid, SecretInvalid

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
KEY = "F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW"

generated = st.builds(lambda _: keys.generate(), st.integers())


def made_of(values):
    """The key of 27 values: of the 32 texts that it may have, the one that is accepted."""
    text = "".join(ALPHABET[value] for value in values)
    for last in ALPHABET:
        try:
            return keys.parse(text + last)
        except RecoveryKeyInvalid:
            pass
    raise AssertionError("no check character fits")


random_keys = st.lists(st.integers(0, 31), min_size=27, max_size=27).map(made_of)


def test_a_key_is_seven_groups_of_four_without_letters_that_look_like_digits():
    assert re.match(r"([0-9A-HJKMNP-TV-Z]{4}-){6}[0-9A-HJKMNP-TV-Z]{4}\Z", KEY)


def test_two_keys_differ_and_each_character_but_the_last_is_random():
    columns = list(zip(*(keys.generate().replace("-", "") for _ in range(200))))
    assert len(columns) == 28
    assert all(len(set(column)) > 16 for column in columns)


@given(generated)
def test_a_generated_key_is_valid(key):
    assert keys.parse(key) == key
    assert keys.is_generated(key.encode())
    assert keys.to_passphrase(key) == key.encode()


@given(random_keys, st.sampled_from([str.lower, str.upper, str.swapcase]),
       st.sampled_from(["", " ", "-", "--", "\u2013", " - ", "\u2212", "\n"]))
def test_case_and_dashes_do_not_matter(key, case, gap):
    typed = case(key.replace("-", gap)) + "\n"
    assert keys.parse(typed) == key
    assert keys.to_passphrase(typed) == key.encode()


@given(random_keys, st.data())
def test_digits_may_be_typed_as_the_letters_that_they_look_like(key, data):
    typed = "".join(data.draw(st.sampled_from({"0": "0Oo", "1": "1IiLl"}.get(c, c))) for c in key)
    assert keys.parse(typed) == key
    assert keys.to_passphrase(typed) == key.encode()


@given(random_keys)
def test_every_wrong_character_is_seen(key):
    for place, right in enumerate(key):
        for wrong in "" if right == "-" else ALPHABET.replace(right, ""):
            with pytest.raises(RecoveryKeyInvalid, match="a character of it is wrong"):
                keys.parse(key[:place] + wrong + key[place + 1:])


@given(random_keys)
def test_every_swap_of_two_characters_is_seen(key):
    plain = key.replace("-", "")
    for first in range(28):
        for second in range(first + 1, 28):
            if plain[first] != plain[second]:
                swapped = list(plain)
                swapped[first], swapped[second] = swapped[second], swapped[first]
                with pytest.raises(RecoveryKeyInvalid, match="two are swapped"):
                    keys.parse("".join(swapped))


@pytest.mark.parametrize("text, reason", [
    ("", "has 0 characters, not 28"), (KEY[:-1], "has 27"), (KEY + "0", "has 29"),
    ("U" + KEY[1:], "character 1 of it"), (KEY[:-1] + "\u00df", "has 29"),
    (KEY[:2] + "!" + KEY[3:], "character 3 of it"), (KEY[:5] + "\u0663" + KEY[6:], "character 5")])
def test_what_is_wrong_is_told_and_the_text_is_not_repeated(text, reason):
    with pytest.raises(RecoveryKeyInvalid, match=reason) as refusal:
        keys.parse(text)
    assert not text or text not in str(refusal.value)


@given(st.text())
def test_any_text_is_a_key_or_invalid(text):
    try:
        key = keys.parse(text)
    except RecoveryKeyInvalid:
        return
    assert keys.parse(key) == key


def test_a_key_in_groups_with_a_slip_is_no_passphrase_of_somebody_else():
    wrong = ("1" if KEY[0] == "0" else "0") + KEY[1:]
    with pytest.raises(RecoveryKeyInvalid, match="is wrong"):
        keys.to_passphrase(wrong.lower())


@pytest.mark.parametrize("text", [
    "correct horse battery staple", "Zw\u00f6lf Boxk\u00e4mpfer", "x" * 512, "0" * 27,
    "abcdefghijklmnopqrstuvwxyz12", KEY + "-0000", KEY[:-5]])
def test_any_other_passphrase_is_taken_as_it_was_typed(text):
    assert keys.to_passphrase(text) == text.encode("utf-8")
    assert keys.to_passphrase(text + "\n") == text.encode("utf-8")
    assert not keys.is_generated(text.encode("utf-8"))


@given(random_keys)
def test_a_passphrase_in_both_cases_without_gaps_is_somebody_elses(key):
    plain = key.replace("-", "")
    mixed = plain[:14] + plain[14:].lower()
    assume(mixed not in (plain, plain.lower()))
    assert keys.to_passphrase(mixed) == mixed.encode()


@pytest.mark.parametrize("text", ["short", "two\nlines of passphrase", "x" * 513])
def test_a_passphrase_that_cannot_be_used_is_refused(text):
    with pytest.raises(SecretInvalid):
        keys.to_passphrase(text)


def test_only_a_key_as_printed_is_a_generated_one():
    for passphrase in (KEY.lower().encode(), KEY.replace("-", "").encode(), b"\xff" * 34, b""):
        assert not keys.is_generated(passphrase)


def test_to_open_what_is_there_a_passphrase_counts_as_typed():
    assert keys.as_typed("short\n") == b"short"
    made = keys.generate()
    assert keys.as_typed(made.lower()) == made.encode("ascii")
    with pytest.raises(RecoveryKeyInvalid):
        keys.as_typed(made[:-1] + ("0" if made[-1] != "0" else "1"))
