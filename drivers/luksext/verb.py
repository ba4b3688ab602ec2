# SPDX-License-Identifier: LGPL-2.1-only
"""What a verb is: the administrator's words, the same for XAPI's plugin and for the console.

Arguments are texts, as XAPI's plugins get them. A verb returns a dictionary that is JSON.
"""
import os
import re
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

from luksext.errors import ArgumentInvalid
from luksext.keys import is_key
from luksext.repository import Repository
from luksext.untrusted import shown

Arguments = Mapping[str, str]

# As Linux has it (PATH_MAX, limits.h), without the zero at the end.
_LONGEST_PATH = 4095


class Parameter(NamedTuple):
    """One argument of a verb.

    secret: it is a key. The console reads it from stdin or the terminal, nothing logs it.
    several: it may be several keys, one a line.
    """

    name: str
    help: str
    required: bool = False
    secret: bool = False
    several: bool = False


class Verb(NamedTuple):
    """One thing that an administrator can do to an SR.

    audited: it makes, uses or hands out keys: it is done alone, audited, and headers that changed
    are backed up. mends: it is for an SR of which disks may have lost their headers.
    """

    name: str
    help: str
    parameters: Tuple[Parameter, ...]
    run: Callable[[Repository, Arguments], Dict[str, Any]]
    audited: bool = True
    mends: bool = False


RECOVERY_KEY = Parameter(
    "key", "a recovery key, to act with where no binding gives up its key", secret=True)
# The arguments that are keys or passphrases, by name.
_SECRETS = (RECOVERY_KEY.name, "recovery_password")

FORCE = Parameter("force", "true: do it although it was refused, for the reason that was given")


def check(verb: Verb, arguments: Arguments, common: Sequence[str]) -> None:
    """Raises ArgumentInvalid for an argument that `verb` does not know or needs and has not.

    common: names that the caller itself takes, such as sr-uuid.
    """
    check_names(verb.name, arguments,
                [*common, *(parameter.name for parameter in verb.parameters)])
    for parameter in verb.parameters:
        if parameter.required and not arguments.get(parameter.name):
            raise ArgumentInvalid(verb.name, "needs the argument " + parameter.name,
                                  parameter.help)
    truth(verb.name, arguments, FORCE.name)


def check_names(verb: str, arguments: Arguments, known: Sequence[str]) -> None:
    """Raises ArgumentInvalid for an argument that is not one of `known`, or that is a recovery key
    in the place of something else, which would be told in errors and in the audit."""
    for name, value in arguments.items():
        if name not in _SECRETS and (is_key(name) or is_key(value)):
            raise ArgumentInvalid(verb, "got a recovery key where none belongs",
                                  "a key as the argument key, which nothing repeats")
        if name not in known:
            # Its value may be a key under a mistyped name: it is not repeated.
            raise ArgumentInvalid(verb, "does not know the argument " + shown(name),
                                  ", ".join(known))


def truth(verb: str, arguments: Arguments, name: str) -> bool:
    """A yes or no. Raises ArgumentInvalid."""
    value = arguments.get(name, "false")
    if value not in ("true", "false"):
        raise ArgumentInvalid(verb, _not(name, value), "true or false")
    return value == "true"


def number(verb: str, arguments: Arguments, name: str, lowest: int, highest: int) -> Optional[int]:
    """A number from `lowest` to `highest`; None where it is not given. Raises ArgumentInvalid."""
    value = arguments.get(name)
    if value is None:
        return None
    if not re.match(r"[0-9]{1,18}\Z", value) or not lowest <= int(value) <= highest:
        raise ArgumentInvalid(verb, _not(name, value),
                              "a number from {} to {}".format(lowest, highest))
    return int(value)


def path(verb: str, arguments: Arguments, name: str) -> Optional[str]:
    """A path; None where it is not given. Raises ArgumentInvalid."""
    value = arguments.get(name)
    if value is not None and (not value or "\0" in value or len(value) > _LONGEST_PATH
                              or not _is_name(value)):
        raise ArgumentInvalid(
            verb, _not(name, value), "a path of at most {} characters; through XAPI on XCP-ng 8.3, "
            "of ASCII alone".format(_LONGEST_PATH))
    return value


def _is_name(path: str) -> bool:
    """Whether the kernel can be asked for it: without a locale, Python 3.6 encodes ASCII only."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _not(name: str, value: str) -> str:
    return "cannot use {}={}".format(name, shown(value))
