# SPDX-License-Identifier: LGPL-2.1-only
"""Throughput and latency of files in an SR, luksext beside ext, on disks of the same kind.

`fio` reads and writes a file of the mounted SR past the page cache, as tapdisk does. Both kinds are
measured in turns, so that what else the machine does meets both. Beside them stands what the cipher
alone can do (`cryptsetup benchmark`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.bench import report
from tests.storage.pool import Host, Sr

SIZE = "192M"
SECONDS = 4

#: As fio names them: what is done, with blocks of which size, and how many at a time.
CASES = [(rw, size, depth)
         for rw, size in (("randread", "4k"), ("randwrite", "4k"), ("read", "1m"), ("write", "1m"))
         for depth in (1, 32)]

_CIPHER = re.compile(r"aes-xts\s+(\d+)b\s+([\d.]+) MiB/s\s+([\d.]+) MiB/s")

#: What is compared: a name, the type of the SR, and its options.
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "ext": ("ext", {}),
    "luksext": ("luksext", {"pin": "null"}),
    "luksext, key-size=256": ("luksext", {"pin": "null", "key_size": "256"}),
    "luksext, workqueues=false": ("luksext", {"pin": "null", "workqueues": "false"}),
}


def measure(host: Host, rounds: int) -> dict[str, Any]:
    """For each variant and case, what fio found in each round; what the cipher does alone."""
    srs = {}
    for number, (name, (type, options)) in enumerate(VARIANTS.items()):
        disk = host.machine.add_disk(f"throughput{number}", "384M")
        srs[name] = host.create_sr(disk, type=type, **options)
        _fill(srs[name])
    found: dict[str, Any] = {name: {_label(case): [] for case in CASES} for name in srs}
    for _ in range(rounds):
        for case in CASES:
            for name, sr in srs.items():
                found[name][_label(case)].append(_fio(sr, *case))
    for sr in srs.values():
        host.sh(f"rm {sr.mount}/fio")
        sr.destroy()
    return {"srs": found, "cipher": cipher(host, rounds)}


def cipher(host: Host, rounds: int) -> dict[str, list[list[float]]]:
    """MiB/s of encryption and decryption in memory, by bits of the key."""
    found: dict[str, list[list[float]]] = {}
    for bits in ("256", "512"):
        for _ in range(rounds):
            output = host.sh(f"cryptsetup benchmark --cipher aes-xts --key-size {bits}")
            match = _CIPHER.search(output)
            assert match, output
            found.setdefault(bits, []).append([float(match[2]), float(match[3])])
    return found


def shown(raw: dict[str, Any]) -> str:
    """The tables of what was measured."""
    base = raw["srs"]["ext"]
    rows = []
    for case in base:
        row = [case, _figures(base[case])]
        for name in list(raw["srs"])[1:]:
            row += [_figures(raw["srs"][name][case]),
                    report.ratio(_rates(raw["srs"][name][case]), _rates(base[case]))]
        rows.append([*row, _share(case, raw)])
    head = ["case", "ext"]
    for name in list(raw["srs"])[1:]:
        head += [name, "x ext"]
    head.append("luksext / cipher alone")
    ciphers = [[bits, *(report.spread([pair[way] for pair in pairs]) for way in (0, 1))]
               for bits, pairs in raw["cipher"].items()]
    return (report.table(head, rows)
            + "\nMiB/s, median (least to largest); latency in ms.\n\n"
            + report.table(["bits of key", "aes-xts encrypts, MiB/s", "decrypts"], ciphers))


def _rates(found: list[dict[str, float]]) -> list[float]:
    return [one["mib_per_second"] for one in found]


def _share(case: str, raw: dict[str, Any]) -> str:
    """What luksext has of the rate at which one CPU encrypts, or decrypts what is read."""
    alone = report.median([pair["read" in case] for pair in raw["cipher"]["512"]])
    return f"{report.median(_rates(raw['srs']['luksext'][case])) / alone:.2f}"


def _figures(found: list[dict[str, float]]) -> str:
    return "{}; {:.2f} ms".format(
        report.spread(_rates(found)),
        report.median([one["latency_ms"] for one in found]))


def _label(case: tuple[str, str, int]) -> str:
    return "{} {}, queue depth {}".format(*case)


def _fill(sr: Sr) -> None:
    sr.host.sh(f"dd if=/dev/urandom of={sr.mount}/fio bs=1M count={SIZE[:-1]} conv=fsync",
               timeout=300)


def _fio(sr: Sr, rw: str, size: str, depth: int) -> dict[str, float]:
    output = sr.host.sh(
        f"fio --name=x --filename={sr.mount}/fio --size={SIZE} --direct=1 --ioengine=libaio "
        f"--rw={rw} --bs={size} --iodepth={depth} --time_based --ramp_time=1 --runtime={SECONDS} "
        "--output-format=json", timeout=120)
    job = json.loads(output[output.index("{"):])["jobs"][0]
    found = job["read" if "read" in rw else "write"]
    return {"mib_per_second": found["bw_bytes"] / (1 << 20),
            "latency_ms": found["lat_ns"]["mean"] / 1e6,
            "latency_99_ms": found["clat_ns"]["percentile"]["99.000000"] / 1e6,
            "cpu_percent": job["sys_cpu"] + job["usr_cpu"]}
