#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Read and write the data of a VHD as a VM would, through its whole chain.

``vhd-io read PATH OFFSET LENGTH`` prints the bytes; ``vhd-io write PATH OFFSET`` writes its input.
Offset and length are bytes, whole sectors of 512.
"""

import sys
from pathlib import Path

import vhd


def main(arguments: list[str]) -> None:
    """Run one command line."""
    verb, path, offset, *length = arguments
    if verb == "read":
        sys.stdout.buffer.write(vhd.read(Path(path), int(offset), int(length[0])))
    elif verb == "write":
        vhd.write(Path(path), int(offset), sys.stdin.buffer.read())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
