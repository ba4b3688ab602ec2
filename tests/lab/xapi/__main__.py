# SPDX-License-Identifier: LGPL-2.1-only
"""Start the emulator: `python3 <this folder>` or `python3 -m <package>`."""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    package = Path(__file__).resolve().parent
    # Run as a folder, the folder itself is on the path and would hide modules of the library.
    sys.path[:] = [str(package.parent), *(p for p in sys.path if p != str(package))]
    sys.exit(importlib.import_module(f"{package.name}.daemon").main())
