# SPDX-License-Identifier: LGPL-2.1-only
"""The storage manager under the driver, in whatever layout this host has it.

XCP-ng 8.3 keeps it as flat modules in /opt/xensource/sm, version 4 (XCP-ng 9) as the package `sm`.
The layout is chosen here, once; everything else imports from here.

The storage manager knows SR types by lists in its own code. `teach_gc` makes the garbage collector
of the running process know ours, without a change to a file of the storage manager.
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

SR_TYPE = "luksext"

__all__ = ["EXTSR", "SR", "SR_TYPE", "FileSR", "SRCommand", "cleanup", "scsiutil", "teach_gc",
           "util", "xs_errors"]


def teach_gc(module) -> None:
    """Makes `module`, an imported cleanup, treat our SR type as the file-based ext.

    `cleanup.normalizeType` raises for types that it does not list; the collector then neither
    removes hidden VDIs nor coalesces, and sr-destroy fails. It is looked up at each call, so
    replacing it in the module is enough. Teaching twice does nothing.
    """
    stock = module.normalizeType
    if getattr(stock, "knows_luksext", False):
        return

    def normalize_type(sr_type):
        return stock("ext" if sr_type == SR_TYPE else sr_type)

    normalize_type.knows_luksext = True  # type: ignore[attr-defined]
    module.normalizeType = normalize_type
