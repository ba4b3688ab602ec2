# SPDX-License-Identifier: LGPL-2.1-only
"""What people, programs and attackers type into fields that were meant for something else."""
import re

from hypothesis import strategies as st

SHELL = ["; reboot", "$(reboot)", "`reboot`", "| tee /etc/passwd", "&& reboot", "> /dev/sda", "'",
         '"', "\\", "*", "~root", "${IFS}", "-rf", "--force", "#", "!", "a b", "%s%n", "{0}"]
UNICODE = ["Zw\u00f6lf", "Zwo\u0308lf", "\u05d0\u05d1\u05d2", "\u202egnp.exe", "\u200b", "\ufeff",
           "\u0661\u0662", "\uff11", "\u0130", "\u017f", "\ud83d", "\udcff", "\U0001f511", "\x85"]
CONTROL = ["\n", "\r\n", "\t", "\0", "\x1b[2J", "\x7f", "a\nb", "true\n", "\x08"]
LONG = ["x" * 300, "9" * 5000, "/dev/" + "a" * 5000, "{" * 3000, "\u00e9" * 20000]
ALMOST = ["", " ", "true ", "True", "TRUE", "1", "0", "yes", "null", "None", "NaN", "-1", "1e9",
          "0x10", "512 ", "..", "/dev/..", "/dev//sda", "/dev/sda,", "[]", "{}", '{"t":1}']

# st.text() has no surrogates; a console and a header may.
TEXTS = (st.sampled_from(SHELL + UNICODE + CONTROL + LONG + ALMOST) | st.text(max_size=60)
         | st.text(st.characters(whitelist_categories=("Cc", "Cf", "Cs", "Mn", "Nd", "Zl", "Zs")),
                   max_size=20))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2 ** 63, 2 ** 64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8)


def is_plain(text):
    """Whether `text` is one line that every terminal, log and XML document takes."""
    return re.match(r"[\x20-\x7e]*\Z", text) is not None


def check(error, *named):
    """That the LuksError is of use to a person: plain, short, with a remedy, naming `named`."""
    text = str(error)
    assert is_plain(text), text
    assert len(text) < 4100, len(text)
    assert error.sentence.endswith("."), text
    assert len(error.remedy) > 10, text
    for name in named:
        assert name in text, (name, text)
