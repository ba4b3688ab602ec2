# SPDX-License-Identifier: LGPL-2.1-only
"""Times as xapi writes them."""

from __future__ import annotations

import datetime


def now() -> str:
    """The present, in UTC, like 20250131T12:00:00Z."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H:%M:%SZ")
