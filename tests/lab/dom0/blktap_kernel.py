# SPDX-License-Identifier: LGPL-2.1-only
"""Imitate what SM 3.x expects of dom0's kernel driver blktap, by the kernel's nbd.

SM wants a block device at DEVICES/tapdevN whose major number /proc/devices calls "tapdev", and an
attribute of the device's in sysfs that it can write. Neither can be had by asking the kernel, so
both places are covered: an overlay over /sys/class, a changed copy over /proc/devices.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from tapdisk import DEVICES

NBD_MAJOR = 43
SYS_CLASS = Path("/sys/class")
CLASS = SYS_CLASS / "blktap2"
SCRATCH = Path("/run/lab/blktap")


def make_device(minor: int) -> Path:
    """Make the device of a minor number; returns its path."""
    if not CLASS.exists():
        _cover()
    device = DEVICES / f"tapdev{minor}"
    DEVICES.mkdir(parents=True, exist_ok=True)
    if not device.exists():
        os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(NBD_MAJOR, minor))
    attributes = CLASS / f"blktap!blktap{minor}"
    attributes.mkdir(exist_ok=True)
    (attributes / "pool").touch()
    return device


def remove_device(minor: int) -> None:
    """Remove the device of a minor number, if there is one."""
    (DEVICES / f"tapdev{minor}").unlink(missing_ok=True)


def _cover() -> None:
    """Load nbd with one minor number per disk, and cover the two places."""
    subprocess.run(["modprobe", "nbd", "max_part=0"], check=True)
    upper, work = SCRATCH / "upper", SCRATCH / "work"
    for folder in (upper / "blktap2", work):
        folder.mkdir(parents=True)
    options = f"lowerdir={SYS_CLASS},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "blktap", str(SYS_CLASS)], check=True)
    devices = SCRATCH / "devices"
    listed = Path("/proc/devices").read_text()
    devices.write_text(listed.replace(f" {NBD_MAJOR} nbd\n", f"{NBD_MAJOR} tapdev\n"))
    subprocess.run(["mount", "--bind", str(devices), "/proc/devices"], check=True)
