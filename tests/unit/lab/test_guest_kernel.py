# SPDX-License-Identifier: LGPL-2.1-only
"""Taking a kernel apart, and making an initramfs."""

import gzip
import lzma
import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from tests.lab import kernel
from tests.lab.errors import LabError

VMLINUX = b"\x7fELF" + os.urandom(5000)


def bzimage(payload: bytes, setup_sectors: int = 4, offset: int = 0x123) -> bytes:
    """Return an image that is laid out as the x86 boot protocol says."""
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, offset, len(payload))
    return bytes(setup) + b"\x90" * offset + payload + b"what follows"


def with_size(stream: bytes) -> bytes:
    """Return a payload as the kernel's build makes it for all methods but gzip."""
    return stream + struct.pack("<I", len(VMLINUX))


def test_extracts_xz() -> None:
    payload = with_size(lzma.compress(VMLINUX, check=lzma.CHECK_CRC32))
    assert kernel.extract_vmlinux(bzimage(payload)) == VMLINUX


def test_extracts_gzip() -> None:
    assert kernel.extract_vmlinux(bzimage(gzip.compress(VMLINUX))) == VMLINUX


@pytest.mark.parametrize("command", [["zstd", "-qc"], ["lz4", "-lqc"]])
def test_extracts_by_a_program(command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    stream = subprocess.run(command, input=VMLINUX, capture_output=True, check=True).stdout
    assert kernel.extract_vmlinux(bzimage(with_size(stream))) == VMLINUX


def test_refuses_what_is_no_kernel() -> None:
    with pytest.raises(LabError, match="no bzImage"):
        kernel.extract_vmlinux(b"MZ" + bytes(2000))


def test_refuses_unknown_packing() -> None:
    with pytest.raises(LabError, match="not known"):
        kernel.extract_vmlinux(bzimage(b"\x5d\x00\x00 lzma, or whatever"))


DEPENDENCIES = """\
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio.ko
kernel/net/9p/9pnet.ko:
kernel/fs/netfs/netfs.ko.xz:
kernel/drivers/md/dm-mod.ko:
kernel/drivers/virtio/virtio.ko:
"""


def test_loads_what_a_module_needs_before_it_and_once() -> None:
    assert kernel.load_order(DEPENDENCIES, ["9pnet_virtio", "9p", "dm_mod"]) == [
        "kernel/drivers/virtio/virtio.ko",
        "kernel/net/9p/9pnet.ko",
        "kernel/net/9p/9pnet_virtio.ko",
        "kernel/fs/netfs/netfs.ko.xz",
        "kernel/fs/9p/9p.ko",
        "kernel/drivers/md/dm-mod.ko",
    ]


def test_a_module_that_is_not_there_is_built_in() -> None:
    assert kernel.load_order(DEPENDENCIES, ["tpm_crb"]) == []


def test_takes_a_signature_off() -> None:
    signature = os.urandom(300)
    closing = struct.pack(">8xI", len(signature)) + b"~Module signature appended~\n"
    assert kernel.without_signature(VMLINUX + signature + closing) == VMLINUX


def test_leaves_an_unsigned_module_alone() -> None:
    assert kernel.without_signature(VMLINUX) == VMLINUX


def test_archive_has_what_was_put_in(tmp_path: Path) -> None:
    archive = kernel.cpio(
        [
            ("bin", stat.S_IFDIR | 0o755, b""),
            ("bin/one", stat.S_IFREG | 0o755, b"x" * 1001),
            ("bin/two", stat.S_IFLNK | 0o777, b"one"),
        ]
    )
    if not shutil.which("cpio"):
        pytest.skip("cpio is not installed")
    subprocess.run(["cpio", "-i", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/two").read_bytes() == b"x" * 1001
    assert stat.S_IMODE((tmp_path / "bin/one").stat().st_mode) == 0o755


def test_archive_is_aligned() -> None:
    archive = kernel.cpio([("a", stat.S_IFREG | 0o644, b"abc")])
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert b"TRAILER!!!" in archive
