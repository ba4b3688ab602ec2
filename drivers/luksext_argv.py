# SPDX-License-Identifier: LGPL-2.1-only
"""Hides what this process was called with. Nothing else is imported, so that it comes first.

XAPI hands a plugin its arguments as one argument, a recovery key among them, and any user of dom0
can read the arguments of a process.
"""
import ctypes


def hide():
    """Overwrites the argument list; sys.argv keeps its copy.

    The kernel shows the memory between arg_start and arg_end (proc(5), /proc/[pid]/stat).
    """
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rsplit(b")", 1)[1].split()
    start, end = int(fields[45]), int(fields[46])
    ctypes.memset(start, 0, end - start)
