# SPDX-License-Identifier: LGPL-2.1-only
"""Imitate what SM 3.x expects of dom0's kernel driver blktap, by the kernel's nbd.

SM wants a block device at DEVICES/tapdevN whose major number /proc/devices calls "tapdev", and an
attribute of the device's in sysfs that it can write. Neither can be had by asking the kernel, so
both places are covered: /sys/class by a folder that has one entry more, and in which each class is
bound from the real one, so that devices go on appearing there; /proc/devices by a changed copy.
"""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
from pathlib import Path

from tapdisk import DEVICES

NBD_MAJOR = 43
SYS_CLASS = Path("/sys/class")
CLASS = SYS_CLASS / "blktap2"
SCRATCH = Path("/run/lab/blktap")

_MS_BIND = 0x1000
_MS_REC = 0x4000
_libc = ctypes.CDLL(None, use_errno=True)


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
    classes = SCRATCH / "class"
    (classes / "blktap2").mkdir(parents=True)
    # A folder becomes a mount, as what is mounted below it comes along only from a mount.
    _mount(classes, classes, _MS_BIND)
    for real in SYS_CLASS.iterdir():
        (classes / real.name).mkdir()
        _mount(real, classes / real.name, _MS_BIND)
    _mount(classes, SYS_CLASS, _MS_BIND | _MS_REC)
    devices = SCRATCH / "devices"
    listed = Path("/proc/devices").read_text()
    devices.write_text(listed.replace(f" {NBD_MAJOR} nbd\n", f"{NBD_MAJOR} tapdev\n"))
    _mount(devices, Path("/proc/devices"), _MS_BIND)


def _mount(source: Path, target: Path, flags: int) -> None:
    """mount(2), without a program for each of the many classes."""
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(target))
