# SPDX-License-Identifier: LGPL-2.1-only
"""What has to survive: an SR with a VDI whose content is known. And how programs and disks fail."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.faults.campaign import DataLost
from tests.lab.disks import Disk
from tests.storage.pool import NOTHING, Host, XeError

PATTERN = b"written before anything failed " * 512

#: What a trial says when all came out as it has to.
RECOVERED = "works once it is over"


class Survivor:
    """An SR on one disk that holds a VDI; it is plugged."""

    def __init__(self, host: Host, disk: Disk, **options: str) -> None:
        self.host = host
        self.disk = disk
        self.sr = host.create_sr(disk, **options)
        self.vdi = self.sr.create_vdi()
        host.write_vdi(self.vdi, PATTERN)

    def check(self) -> None:
        """It can be plugged, has its data, and takes new ones. Raises DataLost."""
        self.sr.plug()
        assert self.sr.attached
        # Not through XAPI: attaching and exporting a VDI takes a minute in an emulated guest.
        image = self.host.machine.get(f"{self.sr.mount}/{self.vdi}.vhd")
        if PATTERN not in image:
            raise DataLost("the VDI has not what was written to it")
        self.host.sh(f"dd if=/dev/zero of={self.sr.mount}/new bs=4096 count=16 conv=fsync "
                     f"status=none; rm {self.sr.mount}/new")

    def unplug(self) -> None:
        """It can be unplugged, which leaves nothing behind."""
        self.sr.unplug()
        self.assert_closed()

    def assert_closed(self) -> None:
        left = self.host.left_open()
        assert left == NOTHING, left

    def refused(self) -> XeError:
        """The error of a plug, which leaves nothing behind."""
        return self.sr.refused()

    def check_through_xapi(self) -> None:
        """The VDI reads as it was written, in however many images that is. Raises DataLost."""
        if not self.host.read_vdi(self.vdi).startswith(PATTERN):
            raise DataLost("XAPI does not read what was written to the VDI")

    def destroy(self) -> None:
        self.check_through_xapi()
        self.host.xe("vdi-destroy", uuid=self.vdi)
        self.sr.destroy()


@contextmanager
def replaced(host: Host, program: str, script: str | None) -> Iterator[None]:
    """Within, `program` is a shell script; its first word is the real one's path. None: it is not
    there."""
    path = host.sh(f"command -v {program}").strip()
    # The real program keeps its name: LVM's programs are one, which goes by it.
    host.sh(f"mkdir -p /run/real; mv {path} {path}.away; ln -sf {path}.away /run/real/{program}")
    if script is not None:
        text = f"#!/bin/sh\nreal=/run/real/{program}\n{script}\n"
        host.machine.put(path, text.encode(), 0o755)
    try:
        yield
    finally:
        host.sh(f"mv {path}.away {path}; rm /run/real/{program}")


@contextmanager
def throttled(host: Host, disk: Disk, bytes_per_second: int) -> Iterator[None]:
    """Within, the disk is no faster than that; with 1, it hangs."""
    host.machine.throttle_disk(disk.name, bytes_per_second)
    # QEMU lets a first request pass, however large, and makes the others wait for it.
    # Somebody else may have made that request meanwhile: then this one waits.
    host.sh(f"dd if={disk.by_id} of=/dev/null bs=4096 count=1 iflag=direct status=none "
            ">/dev/null 2>&1 & sleep 2")
    try:
        yield
    finally:
        host.machine.throttle_disk(disk.name, 0)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done within takes no longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"it took {took:.0f} seconds, {seconds:.0f} are allowed"


@contextlib.contextmanager
def survivor(host: Host, disk: Disk, **options: Any) -> Iterator[Survivor]:
    """A survivor for a module."""
    made = Survivor(host, disk, **options)
    yield made
    if not made.sr.attached:
        made.sr.plug()
    made.destroy()
