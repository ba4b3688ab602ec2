# SPDX-License-Identifier: LGPL-2.1-only
"""What the lab needs of the host it runs on."""

from __future__ import annotations

import shutil

from .errors import LabError

# Programs, and the Debian package that each comes from.
_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "swtpm": "swtpm",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "tar": "tar",
    "setpriv": "util-linux",
    "make": "make",
    "zstd": "zstd",
}


def requirements() -> list[str]:
    """Return the Debian packages that the lab needs on the host."""
    return sorted(set(_PROGRAMS.values()))


def check() -> None:
    """Raise LabError when a program that the lab needs is not installed."""
    missing = sorted({package for name, package in _PROGRAMS.items() if not shutil.which(name)})
    if missing:
        raise LabError(
            f"The lab needs programs that are missing: apt-get install {' '.join(missing)}"
        )
