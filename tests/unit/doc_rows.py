# SPDX-License-Identifier: LGPL-2.1-only
"""The tables of codes in the docs."""
import os
import re

DOCS = os.path.join(os.path.dirname(__file__), "..", "..", "docs")


def rows(name, prefix):
    """The cells of each row of docs/`name` whose code begins with `prefix`, the code first."""
    with open(os.path.join(DOCS, name), encoding="utf-8") as file:
        found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                 for line in file if line.startswith("| `" + prefix)]
    return [[row[0].strip("`"), *row[1:]] for row in found]
