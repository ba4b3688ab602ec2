# SPDX-License-Identifier: LGPL-2.1-only
"""bench: what a disk and the ciphers of this host can do, and what to choose."""
import os

import pytest

from luksext import bench
from luksext.errors import DeviceMissing, DiskFails

CIPHER = """case "$*" in
*"{fast}"*) echo '{name} {bits}b {rate} MiB/s {rate} MiB/s';;
*aes*) echo '# Tests are approximate using memory only (no storage IO).'
       echo '        aes-xts        512b        90.0 MiB/s       100.0 MiB/s';;
*) exit 1;;
esac"""


@pytest.fixture
def disk(sysfs, monkeypatch, tmp_path):
    """A disk of 8 MiB with a file as its content, which is read without O_DIRECT."""
    path = sysfs.disk("sdb", size=8 << 20)
    with open(path, "wb") as content:
        content.truncate(8 << 20)
    monkeypatch.setattr(os, "O_DIRECT", 0)
    monkeypatch.setattr(bench, "_SECONDS", 0.05)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu aes sse\n")
    monkeypatch.setattr(bench, "_CPUINFO", str(cpuinfo))
    return path


def slower_disk(monkeypatch, rate):
    monkeypatch.setattr(bench, "_read", lambda device, size, scattered: rate * (1 << 20))


def aes_only(programs):
    programs.add("cryptsetup", CIPHER.format(fast="none", name="", bits=0, rate=0))


def test_disk_and_ciphers_are_measured_and_nothing_is_written(disk, programs):
    aes_only(programs)
    told = bench.measure(disk)
    assert told["disk"]["sequential"] > 0
    assert told["disk"]["random"] > 0
    assert told["ciphers"] == [
        {"cipher": "aes-xts-plain64", "key_bits": bits, "encrypt": 90.0, "decrypt": 100.0}
        for bits in (256, 512)]
    assert told["aes_instructions"] is True
    with open(disk, "rb") as content:
        assert content.read() == bytes(8 << 20)
    assert {tuple(call[:2]) for call in programs.calls("cryptsetup")} == {
        ("cryptsetup", "benchmark")}


def test_a_disk_smaller_than_a_piece_is_read_too(disk, programs, sysfs):
    aes_only(programs)
    small = sysfs.disk("sdc", size=4096)
    with open(small, "wb") as content:
        content.truncate(4096)
    assert bench.measure(small)["disk"]["sequential"] > 0


@pytest.mark.parametrize("rate, fast, says", [
    (50, "none", "The defaults do: one CPU"), (500, "none", "nothing is faster"),
    (500, "aes-xts-plain64 --key-size 256", "device-config:cipher=aes-xts-plain64 "
                                            "device-config:key-size=256"),
    (500, "twofish-xts-plain64 --key-size 512", "device-config:cipher=twofish-xts-plain64 "
                                                "device-config:key-size=512")])
def test_the_fastest_is_advised_where_it_matters(disk, programs, monkeypatch, rate, fast, says):
    programs.add("cryptsetup", CIPHER.format(fast=fast, name="x", bits=256, rate=200))
    slower_disk(monkeypatch, rate)
    assert says in bench.measure(disk)["next"]


def test_a_kernel_without_aes_is_told(disk, programs):
    programs.add("cryptsetup", "exit 1")
    told = bench.measure(disk)
    assert told["ciphers"] == []
    assert "no AES-XTS" in told["next"]


def test_a_disk_that_cannot_be_read_is_named(disk, programs, monkeypatch):
    aes_only(programs)

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "readv", fails)
    with pytest.raises(DiskFails, match="Input/output error"):
        bench.measure(disk)


def test_a_path_to_nothing_is_named(disk):
    with pytest.raises(DeviceMissing, match="/dev/absent"):
        bench.measure("/dev/absent")
