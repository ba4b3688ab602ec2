#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for blktap's ``td-util``, by which some releases of SM handle VHDs in files.

``td-util create vhd MIB PATH``, ``td-util snapshot vhd PATH PARENT``,
``td-util query vhd [OPTIONS] PATH``: what vhd-util does, said differently.
"""

from __future__ import annotations

import errno
import sys

import vhd_util


def main(arguments: list[str]) -> int:
    """Run one command line; returns 0 or an errno value."""
    match arguments:
        case ["create", "vhd", size, path]:
            return vhd_util.main(["create", "-n", path, "-s", size])
        case ["snapshot", "vhd", *options, path, parent]:
            return vhd_util.main(["snapshot", *options, "-n", path, "-p", parent])
        case ["query", "vhd", *options, path]:
            return vhd_util.main(["query", *options, "-n", path])
    print(f"td-util: unknown command: {' '.join(arguments)}", file=sys.stderr)
    return errno.EINVAL


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
