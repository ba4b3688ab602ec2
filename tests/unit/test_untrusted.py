# SPDX-License-Identifier: LGPL-2.1-only
"""untrusted: what others wrote is read within bounds, or is a ValueError; errors can be printed."""
import json
import time
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import awkward
from luksext import untrusted
from luksext.errors import LuksError
import contextlib


@given(awkward.JSON)
def test_json_is_read_as_it_was_written(value):
    written = json.dumps(value)
    for text in (written, written.encode("utf-8")):
        assert untrusted.parse(text) == json.loads(written)


@given(awkward.TEXTS | st.binary())
def test_whatever_is_no_json_is_a_value_error(text):
    with contextlib.suppress(ValueError):
        untrusted.parse(text)


@pytest.mark.parametrize("text", [
    "NaN", "[Infinity]", "-Infinity", "[" * 500000, '{"a":' * 100000, "9" * 1000000,
    "[-" + "9" * 21 + "]", '{"a": 1, "a": 2}', '[{"x": {"a": 1, "b": 2, "a": 1}}]',
    "x" * (untrusted.LARGEST + 1), b"\xff", b"\xff\xfe[\0]\0"],
    ids=["nan", "inf", "-inf", "deep", "deep objects", "digits", "21 digits", "twice",
         "twice inside", "large", "no utf-8", "utf-16"])
def test_what_only_python_takes_or_takes_long_is_refused_at_once(text):
    begin = time.process_time()
    with pytest.raises(ValueError):
        untrusted.parse(text)
    assert time.process_time() - begin < 1


@given(st.integers(-2 ** 63, 2 ** 64 - 1))
def test_a_number_is_one_also_as_a_text(value):
    assert untrusted.number(value) == untrusted.number(str(value)) == value


@pytest.mark.parametrize("value", [
    "", " 1", "1 ", "+1", "1\n", "0x1", "1_000", "1.0", 1.0, float("inf"), True, None, [], {},
    "\u0661", "\u00b2", "\uff11", "9" * 21, b"1"])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError):
        untrusted.number(value)


class Record(NamedTuple):
    text: str
    size: int
    right: bool
    any: list


def test_a_record_has_its_types():
    right = Record("a", 1, True, None)
    assert untrusted.typed(right) is right
    for wrong in ({"text": 1}, {"size": "1"}, {"size": True}, {"right": 1}, {"text": None}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            untrusted.typed(right._replace(**wrong))


@given(awkward.TEXTS, awkward.TEXTS)
def test_every_error_is_one_line_that_any_terminal_and_xml_takes(sentence, remedy):
    error = LuksError(sentence, remedy)
    assert awkward.is_plain(str(error))
    assert untrusted.escaped(str(error)) == str(error)


def test_what_is_too_long_is_shown_by_its_start_and_its_length():
    assert untrusted.shown("ab\u202e" + "x" * 500, 4) == "ab\\u202ex... (503 characters)"
    assert untrusted.shown("short") == "short"
    text = str(LuksError("start" + "x" * 10 ** 6 + "end.", "remedy"))
    assert len(text) < 2100
    assert text.startswith("start")
    assert text.endswith("end. remedy")
