# SPDX-License-Identifier: LGPL-2.1-only
"""What somebody else wrote: JSON and numbers in headers, notes and arguments, read within bounds.

The json module alone is not enough: it takes NaN and Infinity, which no other program does, and the
last of several members of one name, where others take the first; ends in a RecursionError, and
Python 3.6 converts a number of a million digits, for minutes.
"""
import json
import re
from typing import Any, Dict, List, Tuple, TypeVar, Union

# Characters. The largest that is real, the metadata of a LUKS2 header with 32 keyslots and
# bindings, has a tenth of it; Python needs up to hundred times as many bytes.
LARGEST = 1 << 20

# As many digits as 64 bits have.
_NUMBER = re.compile(r"-?[0-9]{1,20}\Z")

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")

_Tuple = TypeVar("_Tuple")


def parse(text: Union[str, bytes]) -> Any:
    """What the JSON `text` says. bytes: in UTF-8. Raises ValueError, and nothing else."""
    if len(text) > LARGEST:
        raise ValueError("it has more than {} characters".format(LARGEST))
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"),
                          object_pairs_hook=_object, parse_int=number, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def number(value: Any) -> int:
    """`value`, a number or the text of one, as LUKS2 writes those of 64 bits.

    Raises ValueError for anything else: fractions, booleans, digits of other scripts.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not _NUMBER.match(value):
        raise ValueError("no number: {}".format(shown(repr(value), 40)))
    return int(value)


def typed(record: _Tuple) -> _Tuple:
    """The named tuple `record`, made of what was read, once each of its numbers, texts and truths
    is one. Raises TypeError."""
    for name, kind in type(record).__annotations__.items():
        if kind in (int, str, bool) and type(getattr(record, name)) is not kind:
            raise TypeError("{} is not of the type {}".format(name, kind.__name__))
    return record


def shown(value: str, limit: int = 120) -> str:
    """`value` for a person to recognise: escaped, and cut where it has more than `limit`
    characters."""
    if len(value) > limit:
        return "{}... ({} characters)".format(escaped(value[:limit]), len(value))
    return escaped(value)


def escaped(text: str) -> str:
    """`text` in printable ASCII, the rest as Python writes it in a literal.

    XAPI gives drivers and plugins no locale, so Python 3.6 cannot print anything else; and nothing
    in a text shall move the cursor, turn the direction of writing, or begin a line.
    """
    return _UNPRINTABLE.sub(
        lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def _object(members: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("two members have one name")
    return found


def _refuse(name: str) -> None:
    raise ValueError("JSON has no {}".format(name))
