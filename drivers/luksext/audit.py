# SPDX-License-Identifier: LGPL-2.1-only
"""One line in syslog for each change of a key: who did what, to which SR, and how it ended.

It goes to the facility auth, in the form of the structured data of RFC 5424:
``luksext-audit [luksext verb="…" sr="…" who="…" result="…" slot="…"]``.
"""
import contextlib
import re
import syslog
from typing import Any, Dict, Iterator, Mapping

from luksext.errors import LuksError

# Who it is that does what nobody asked for: what a plug and the health check do besides, and what
# XAPI has the driver do for whoever it knows.
DRIVER = "driver"

# What a line may tell besides; no argument of a verb that is a secret has such a name.
DETAILS = ("slot", "slots", "name", "new-name", "pin", "device", "serial", "hours", "until",
           "force", "host")

_LIMIT = 200
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_SPECIAL = re.compile(r'(["\\\]])')


def record(verb: str, sr_uuid: str, who: str, result: str, **details: object) -> None:
    """Leaves the line.

    who: XAPI's user, or root of dom0. result: "ok", or how it failed, without details of it.
    details: only what `DETAILS` has; raises ValueError for another, whatever the value is.
    """
    for name in details:
        if name not in DETAILS:
            raise ValueError("no detail of an audit: {}".format(name))
    fields = [("verb", verb), ("sr", sr_uuid), ("who", who), ("result", result),
              *((name, details[name]) for name in DETAILS if name in details)]
    line = " ".join('{}="{}"'.format(name, _escaped(value)) for name, value in fields)
    syslog.syslog(syslog.LOG_AUTH | syslog.LOG_NOTICE, "luksext-audit [luksext {}]".format(line))


def details(told: Mapping[str, Any]) -> Dict[str, str]:
    """What of arguments, or of the answer of a verb, a line may tell."""
    found = {name: told[name] for name in DETAILS if told.get(name) not in (None, "", [])}
    return {name: ",".join(str(one) for one in value if one is not None)
            if isinstance(value, list) else str(value) for name, value in found.items()}


@contextlib.contextmanager
def audited(verb: str, sr_uuid: str, given: Mapping[str, Any], who: str) -> Iterator[
        Dict[str, Any]]:
    """Leaves the line, whatever the end of what is done within.

    given: the arguments. What is put into the dictionary that this yields is told too, where it is
    known only at the end; what was given comes first.
    """
    answer: Dict[str, Any] = {}
    result = "ok"
    try:
        yield answer
    except LuksError as error:
        result = "error {}".format(error.code)
        raise
    except BaseException as error:
        result = type(error).__name__
        raise
    finally:
        record(verb, sr_uuid, who, result, **dict(details(answer), **details(given)))


def _escaped(value: object) -> str:
    # RFC 5424, 6.3.3: these three are escaped. A line break must not begin a line of its own.
    return _SPECIAL.sub(r"\\\1", _UNPRINTABLE.sub("?", str(value))[:_LIMIT])
