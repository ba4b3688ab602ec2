# SPDX-License-Identifier: LGPL-2.1-only
"""The storage manager under the driver, in whatever layout this host has it.

XCP-ng 8.3 keeps it as flat modules in /opt/xensource/sm, version 4 (XCP-ng 9) as the package `sm`.
The layout is chosen here, once; everything else imports from here.
"""
try:
    from sm import SR, SRCommand, cleanup  # type: ignore[import-not-found]
    from sm.core import scsiutil, util, xs_errors  # type: ignore[import-not-found]
    from sm.drivers import EXTSR, FileSR  # type: ignore[import-not-found]
except ImportError:
    import SR  # type: ignore[import-not-found, no-redef]
    import SRCommand  # type: ignore[import-not-found, no-redef]
    import cleanup  # type: ignore[import-not-found, no-redef]
    import EXTSR  # type: ignore[import-not-found, no-redef]
    import FileSR  # type: ignore[import-not-found, no-redef]
    import scsiutil  # type: ignore[import-not-found, no-redef]
    import util  # type: ignore[import-not-found, no-redef]
    import xs_errors  # type: ignore[import-not-found, no-redef]

__all__ = ["EXTSR", "SR", "FileSR", "SRCommand", "cleanup", "scsiutil", "util", "xs_errors"]
