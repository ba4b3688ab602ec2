# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery keys: made at random, written on paper, typed back by a person.

A key is 135 random bits and a check character, in Crockford's base32 (crockford.com/base32.html):
28 characters in seven groups of four. The check character makes a weighted sum over GF(32) zero.
All 28 weights differ and none is zero, so every wrong character and every swap of two is seen.

The keyslot's passphrase is the text exactly as it is printed: `cryptsetup open` takes it by hand.
"""
import os
import re
from typing import List

from luksext.errors import RecoveryKeyInvalid, SecretInvalid
from luksext.options import check_passphrase

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 28
_GROUP = 4

# Crockford's base32 reads these as the digits that they look like.
_LOOKALIKES = str.maketrans("OIL", "011")

# Spaces, and what keyboards and word processors make of a dash.
_SEPARATORS = r"[\s\u2010-\u2015\u2212_-]+"
_GROUPED = re.compile(
    r"\s*[A-Za-z0-9]{{4}}(?:(?:{})?[A-Za-z0-9]{{4}}){{6}}\s*\Z".format(_SEPARATORS))
_SPLIT = re.compile(_SEPARATORS)


def generate() -> str:
    """A new recovery key, such as 0000-0000-0000-0000-0000-0000-0000."""
    values = [byte % 32 for byte in os.urandom(_LENGTH - 1)]
    return _printed("".join(_ALPHABET[value] for value in [*values, _check(values)]))


def parse(text: str) -> str:
    """The recovery key that was typed, as it was printed.

    Case, dashes and spaces do not matter; O is read as 0, I and L as 1.
    Raises RecoveryKeyInvalid, which does not repeat the text.
    """
    typed = _SPLIT.sub("", text).upper().translate(_LOOKALIKES)
    if len(typed) != _LENGTH:
        raise RecoveryKeyInvalid("it has {} characters, not {}".format(len(typed), _LENGTH))
    values = [_ALPHABET.find(character) for character in typed]
    if -1 in values:
        raise RecoveryKeyInvalid("character {} of it is not one that recovery keys have".format(
            values.index(-1) + 1))
    if _check(values[:-1]) != values[-1]:
        raise RecoveryKeyInvalid("a character of it is wrong, or two are swapped")
    return _printed(typed)


def to_passphrase(text: str) -> bytes:
    """What opens the keyslot: a recovery key as it was printed, another passphrase as it was typed.

    One of our keys is known by its seven groups. Typed without any gap, it may be a passphrase of
    somebody else that looks alike, and is taken for ours only where all of it is in one case and
    the check character is right.
    Raises RecoveryKeyInvalid, SecretInvalid.
    """
    if _GROUPED.match(text):
        gaps = len(_SPLIT.split(text.strip())) - 1
        if gaps == _LENGTH // _GROUP - 1:
            return parse(text).encode("ascii")
        if gaps or text in (text.upper(), text.lower()):
            try:
                return parse(text).encode("ascii")
            except RecoveryKeyInvalid:
                pass
    return check_passphrase(text)


def as_typed(text: str) -> bytes:
    """What opens a keyslot that is there: as `to_passphrase`, but a passphrase that somebody chose
    by other rules is taken as it is. Raises RecoveryKeyInvalid."""
    try:
        return to_passphrase(text)
    except SecretInvalid:
        pass
    try:
        # Without a locale, the console gives each byte beyond ASCII as a surrogate (PEP 383).
        return text.rstrip("\n").encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise RecoveryKeyInvalid("it has a character that is none") from None


def is_generated(passphrase: bytes) -> bool:
    """Whether `passphrase` is a recovery key as `generate` prints it: random, not a person's."""
    text = passphrase.decode("ascii", "replace")
    return is_key(text) and parse(text) == text


def is_key(text: str) -> bool:
    """Whether `text` is a recovery key, however it is typed."""
    try:
        parse(text)
    except RecoveryKeyInvalid:
        return False
    return True


def _printed(characters: str) -> str:
    groups = [characters[start:start + _GROUP] for start in range(0, _LENGTH, _GROUP)]
    return "-".join(groups)


def _check(values: List[int]) -> int:
    """The check value of 27 values: the sum of each times a power of the generator, by Horner."""
    total = 0
    for value in values:
        total = _times_generator(total ^ value)
    return total


def _times_generator(value: int) -> int:
    # GF(32) by x^5 + x^2 + 1, which is primitive: the powers of x take all 31 values but zero.
    value <<= 1
    return value ^ 0x25 if value & 0x20 else value
