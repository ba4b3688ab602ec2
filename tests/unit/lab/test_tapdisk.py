# SPDX-License-Identifier: LGPL-2.1-only
"""The stand-in tapdisk: its image and the NBD server, seen by qemu's client."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DOM0 = Path(__file__).resolve().parents[2] / "lab" / "dom0"
MIB = 1 << 20

needs_qemu = pytest.mark.skipif(
    not shutil.which("qemu-io"), reason="qemu-io is missing: install the package qemu-utils"
)


@pytest.fixture
def dom0(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The modules of the programs, which find each other by name in their folder."""
    names = ("vhd", "nbd", "tapdisk")
    monkeypatch.syspath_prepend(str(DOM0))
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def qemu_io(address: Path, *commands: str, readonly: bool = False) -> str:
    """Run qemu-io on a served disk; returns what it printed."""
    words = [word for command in commands for word in ("-c", command)]
    mode = ["-r"] if readonly else []
    url = f"nbd:unix:{address}:exportname=disk"
    done = subprocess.run(["qemu-io", "-f", "raw", *mode, *words, url], capture_output=True,
                          text=True, check=False, timeout=30)
    return done.stdout + done.stderr


@needs_qemu
def test_vhd_is_read_and_written_through_nbd(dom0: dict[str, ModuleType], tmp_path: Path) -> None:
    path, address = tmp_path / "disk.vhd", tmp_path / "socket"
    dom0["vhd"].create(path, 8 * MIB)
    image = dom0["tapdisk"].Image(f"vhd:{path}", readonly=False)
    stop = dom0["nbd"].listen(address, image)
    output = qemu_io(address, "write -P 0x41 3M 64k", "read -P 0x41 3M 64k", "read -P 0 0 4k")
    assert "wrote 65536/65536" in output
    assert "failed" not in output
    assert dom0["vhd"].read(path, 3 * MIB, 512) == b"A" * 512
    stop()
    assert "Failed to connect" in qemu_io(address, "read 0 512")


@needs_qemu
def test_readonly_image_refuses_writes(dom0: dict[str, ModuleType], tmp_path: Path) -> None:
    path, address = tmp_path / "disk.raw", tmp_path / "socket"
    path.write_bytes(b"r" * MIB)
    image = dom0["tapdisk"].Image(f"aio:{path}", readonly=True)
    stop = dom0["nbd"].listen(address, image)
    assert "failed" not in qemu_io(address, "read -P 0x72 0 64k", readonly=True)
    with pytest.raises(OSError, match="read-only") as raised:
        image.write(0, bytes(512))
    assert raised.value.errno == errno.EROFS
    stop()


def test_paused_image_is_closed_and_makes_readers_wait(
    dom0: dict[str, ModuleType], tmp_path: Path
) -> None:
    path = tmp_path / "disk.vhd"
    dom0["vhd"].create(path, 8 * MIB)
    image = dom0["tapdisk"].Image(f"vhd:{path}", readonly=False)

    def is_open() -> bool:
        links = Path("/proc/self/fd").iterdir()
        return any(os.path.realpath(link) == str(path) for link in links)

    assert is_open()
    image.pause()
    assert not is_open()
    done = threading.Event()

    def read() -> None:
        image.read(0, 512)
        done.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert not done.wait(0.2)
    image.unpause()
    reader.join(5)
    assert done.is_set()


def test_unknown_type_is_refused(dom0: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="qcow2 are not supported"):
        dom0["tapdisk"].Image(f"qcow2:{tmp_path}", readonly=False)
