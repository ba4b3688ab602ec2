# SPDX-License-Identifier: LGPL-2.1-only
"""These tests are another suite's: its fixtures are not here."""

collect_ignore = ["luksext"]
