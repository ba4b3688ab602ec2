# SPDX-License-Identifier: LGPL-2.1-only
"""Times as all notes and answers have them: in UTC, to the second, by ISO 8601."""
import time

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def now() -> str:
    """The time that it is."""
    return after(0)


def after(seconds: int) -> str:
    """The time in that many seconds."""
    return time.strftime(_FORM, time.gmtime(time.time() + seconds))


def read(text: str) -> int:
    """Seconds since 1970. Raises ValueError for what is no such time."""
    import calendar  # takes a while to load, and most calls only write times
    return calendar.timegm(time.strptime(text, _FORM))
