# SPDX-License-Identifier: LGPL-2.1-only
"""The stand-in vhd-util: images as SM makes them, cross-checked with qemu where it is there."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOM0 = Path(__file__).resolve().parents[2] / "lab" / "dom0"
MIB = 1 << 20
BLOCK = 2 * MIB

needs_qemu = pytest.mark.skipif(
    not shutil.which("qemu-img") or not shutil.which("qemu-io"),
    reason="qemu-img and qemu-io are missing: install the package qemu-utils",
)


def vhd_util(*arguments: object, code: int = 0) -> str:
    """Run the program; returns its output once its exit code is as expected."""
    done = subprocess.run(
        [sys.executable, str(DOM0 / "vhd_util.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def data_of(path: Path, offset: int, length: int) -> bytes:
    """What a VM reads from an image."""
    return subprocess.run(
        [sys.executable, str(DOM0 / "vhd_io.py"), "read", str(path), str(offset), str(length)],
        capture_output=True,
        check=True,
    ).stdout


def write(path: Path, offset: int, data: bytes) -> None:
    """Write as a VM does."""
    command = [sys.executable, str(DOM0 / "vhd_io.py"), "write", str(path), str(offset)]
    subprocess.run(command, input=data, check=True)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An empty image of 8 MiB."""
    path = tmp_path / "base.vhd"
    vhd_util("create", "--debug", "-n", path, "-s", 8)
    return path


@pytest.fixture
def child(base: Path, tmp_path: Path) -> Path:
    """A child of the image, which has data by then."""
    write(base, 0, b"base" * 128)
    path = tmp_path / "child.vhd"
    vhd_util("snapshot", "--debug", "-n", path, "-p", base)
    return path


def test_query_prints_what_sm_asks_for_in_its_order(base: Path, child: Path) -> None:
    lines = vhd_util("query", "--debug", "-vsafp", "-n", child).splitlines()
    assert lines == ["8", str(child.stat().st_size), str(base), "hidden: 0", "0"]
    assert vhd_util("query", "-vsafpub", "-n", base).splitlines()[2].endswith("has no parent")
    assert vhd_util("query", "-d", "-n", child) == "chain depth: 2\n"
    assert vhd_util("query", "-S", "-n", child) == "8\n"


def test_hidden_is_set_and_cleared(base: Path) -> None:
    vhd_util("set", "-n", base, "-f", "hidden", "-v", 1)
    assert vhd_util("query", "-f", "-n", base) == "hidden: 1\n"
    vhd_util("set", "-n", base, "-f", "hidden", "-v", 0)
    assert vhd_util("query", "-f", "-n", base) == "hidden: 0\n"


def test_child_shows_the_parents_data_under_its_own(base: Path, child: Path) -> None:
    write(child, 1024, b"c" * 512)
    assert data_of(child, 0, 2048) == b"base" * 128 + bytes(512) + b"c" * 512 + bytes(512)
    assert data_of(base, 0, 2048) == b"base" * 128 + bytes(1536)


def test_coalesce_merges_only_the_childs_sectors(base: Path, child: Path) -> None:
    write(child, 512, b"c" * 1024)
    write(child, BLOCK * 2, b"d" * 512)
    assert vhd_util("coalesce", "--debug", "-n", child) == "Coalesced 3 sectors\n"
    assert data_of(base, 0, 2048) == b"base" * 128 + b"c" * 1024 + bytes(512)
    assert data_of(base, BLOCK * 2, 1024) == b"d" * 512 + bytes(512)


def test_coalesce_into_a_raw_parent(tmp_path: Path) -> None:
    raw = tmp_path / "base.raw"
    raw.write_bytes(b"r" * 4 * MIB)
    child = tmp_path / "child.vhd"
    vhd_util("snapshot", "-n", child, "-p", raw, "-m")
    write(child, BLOCK + 512, b"c" * 512)
    vhd_util("coalesce", "-n", child)
    assert raw.read_bytes()[BLOCK:BLOCK + 1536] == b"r" * 512 + b"c" * 512 + b"r" * 512


def test_relinked_image_reads_through_its_new_parent(base: Path, child: Path) -> None:
    other = base.with_name("other.vhd")
    vhd_util("create", "-n", other, "-s", 8)
    write(other, 0, b"o" * 512)
    vhd_util("modify", "--debug", "-p", other, "-n", child)
    assert vhd_util("query", "-p", "-n", child).strip() == str(other)
    assert data_of(child, 0, 512) == b"o" * 512


def test_snapshot_of_an_empty_child_skips_it(base: Path, child: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.vhd"
    vhd_util("snapshot", "-n", second, "-p", child)
    assert vhd_util("query", "-p", "-n", second).strip() == str(base)
    vhd_util("snapshot", "-n", second, "-p", child, "-e")
    assert vhd_util("query", "-p", "-n", second).strip() == str(child)


def test_moved_chain_still_finds_its_parent(child: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (child, child.with_name("base.vhd")):
        path.rename(moved / path.name)
    assert vhd_util("query", "-p", "-n", moved / "child.vhd").strip() == str(moved / "base.vhd")


def test_missing_parent_fails_only_when_it_is_checked(base: Path, child: Path) -> None:
    base.unlink()
    vhd_util("query", "-p", "-n", child, code=errno.ENOENT)
    assert vhd_util("query", "-pu", "-n", child).strip() == str(base)


def test_scan_line(base: Path, child: Path) -> None:
    lines = vhd_util("scan", "-f", "-m", base.parent / "*.vhd").splitlines()
    size = child.stat().st_size
    assert lines[1] == f"vhd={child} capacity={8 * MIB} size={size} hidden=0 parent={base}"
    assert lines[0].endswith("parent=none")
    assert vhd_util("scan", "-f", "-a", "-m", child).splitlines() == lines[::-1]
    assert vhd_util("scan", "-f", "-m", base.parent / "none*") == ""


def test_scan_of_a_broken_image(base: Path) -> None:
    base.write_bytes(bytes(4096))
    vhd_util("scan", "-f", "-m", base, code=errno.EINVAL)
    assert f"vhd={base} scan-error=" in vhd_util("scan", "-f", "-c", "-m", base)


def test_resize_keeps_the_data(base: Path) -> None:
    write(base, 0, b"base" * 128)
    journal = base.with_name(".journal")
    vhd_util("resize", "-s", 5000, "-n", base, "-j", journal)
    assert not journal.exists()
    assert vhd_util("query", "-v", "-n", base) == "5000\n"
    write(base, 4999 * MIB, b"e" * 512)
    assert data_of(base, 0, 512) == b"base" * 128
    assert data_of(base, 4999 * MIB, 512) == b"e" * 512
    vhd_util("check", "-n", base)
    vhd_util("resize", "-s", 4, "-n", base, "-j", journal, code=errno.EINVAL)
    vhd_util("revert", "-n", base, "-j", journal)
    assert vhd_util("query", "-v", "-n", base) == "5000\n"
    vhd_util("resize", "-f", "-s", 9000, "-n", base, code=errno.EINVAL)


def test_repair_brings_a_lost_footer_back(base: Path) -> None:
    os.truncate(base, base.stat().st_size - 512)
    vhd_util("query", "-v", "-n", base, code=errno.EINVAL)
    assert vhd_util("query", "-vb", "-n", base) == "8\n"
    vhd_util("repair", "-n", base)
    vhd_util("check", "-n", base)


def test_read_and_key_and_killed_data(base: Path, child: Path) -> None:
    assert re.match(r"Disk type\s+: Differencing hard disk", vhd_util("read", "-p", "-n", child))
    assert "decoded name : ./base.vhd" in vhd_util("read", "-p", "-n", child)
    assert re.match(r"Disk type\s+: Dynamic hard disk", vhd_util("read", "-p", "-n", base))
    assert vhd_util("read", "-B", "-n", child) == "\0"
    assert vhd_util("key", "-p", "-n", base) == "none\n"
    vhd_util("modify", "-z", "-n", base)
    assert data_of(child, 0, 512) == bytes(512)


@needs_qemu
def test_qemu_reads_what_we_write(base: Path) -> None:
    write(base, MIB, b"\x5a" * 2 * MIB)
    command = ["qemu-io", "-f", "vpc", "-c", "read -P 0x5a 1M 2M", "-c", "read -P 0 0 1M", base]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Pattern verification failed" not in done.stdout


@needs_qemu
def test_we_read_what_qemu_writes(tmp_path: Path) -> None:
    path = tmp_path / "qemu.vhd"
    make = ["qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on", str(path), "16M"]
    subprocess.run(make, check=True)
    fill = ["qemu-io", "-f", "vpc", "-c", "write -P 0x51 3M 2M", str(path)]
    subprocess.run(fill, check=True, stdout=subprocess.DEVNULL)
    assert vhd_util("query", "-v", "-n", path) == "16\n"
    assert data_of(path, 3 * MIB - 512, 1024) == bytes(512) + b"\x51" * 512


def test_td_util_says_the_same(base: Path, tmp_path: Path) -> None:
    def td_util(*arguments: object) -> str:
        command = [sys.executable, str(DOM0 / "td_util.py"), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    made, child = tmp_path / "made.vhd", tmp_path / "child.vhd"
    td_util("create", "vhd", 16, made)
    td_util("snapshot", "vhd", child, made)
    assert td_util("query", "vhd", "-vpf", child) == f"16\n{made}\nhidden: 0\n"
