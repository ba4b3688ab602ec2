# SPDX-License-Identifier: LGPL-2.1-only
"""typing, with the names that Python 3.6 lacks."""
from typing import *  # noqa: F403

try:
    from typing import override
except ImportError:
    def override(method):
        """Mark a method that replaces an inherited one."""
        return method
