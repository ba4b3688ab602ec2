# SPDX-License-Identifier: LGPL-2.1-only
"""How costs grow: with the VDIs of an SR, with what the garbage collector has to do, with the disks
of an SR, and with the SRs of a host at boot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple

from tests.bench import report
from tests.bench.operations import DATA, Calls, Subject
from tests.storage.pool import Host, Sr

VDIS = (1, 100, 2000)
DISKS = (1, 2, 4, 8)
SRS = (1, 4, 12, 24)
SNAPSHOTS = 3

_AS_IT_IS = "TPM as it is"
_SLOWER = "TPM + 1 s"

_KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "ext": ("ext", {}), "luksext": ("luksext", {"pin": "null"})}

# A VHD that is empty names itself in no way: a copy under another name is another VDI.
_COPY = """
first=$(ls {mount}/*.vhd | head -n 1)
for number in $(seq {count}); do
  cp --sparse=always $first {mount}/$(cat /proc/sys/kernel/random/uuid).vhd
done
"""


def _with_vdis(host: Host, rounds: int) -> dict[str, Any]:
    calls = Calls(host)
    subjects = {kind: Subject(calls, [host.machine.add_disk(f"vdis-{kind}", "1G")], type, **options)
                for kind, (type, options) in _KINDS.items()}
    found: dict[str, Any] = {kind: {} for kind in subjects}
    for subject in subjects.values():
        subject.create()
        subject.sr.create_vdi()
    there = 1
    for count in VDIS:
        for subject in subjects.values():
            host.sh(_COPY.format(mount=subject.sr.mount, count=count - there), timeout=1200)
            subject.sr.scan()
        there = count
        for _ in range(rounds):
            for kind, subject in subjects.items():
                costs = {"sr_scan": subject.scan(), **subject.vdi_operations(),
                         "sr_detach": subject.detach(), "sr_attach": subject.attach()}
                for name, cost in costs.items():
                    found[kind].setdefault(str(count), {}).setdefault(name, []).append(asdict(cost))
    return found


def _with_garbage(host: Host, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The collector's work after all snapshots of a VDI were destroyed, each with its own data."""
    calls = Calls(host)
    found: dict[str, Any] = {}
    for kind, (type, options) in _KINDS.items():
        subject = Subject(calls, [host.machine.add_disk(f"garbage-{kind}")], type, **options)
        subject.create()
        for _ in range(rounds):
            vdi = subject.sr.create_vdi()
            snapshots = []
            for _ in range(SNAPSHOTS):
                host.write_vdi(vdi, DATA)
                snapshots.append(host.xe("vdi-snapshot", uuid=vdi))
            for uuid in snapshots:
                host.xe("vdi-destroy", uuid=uuid)
            found.setdefault(kind, []).append(asdict(subject.collect()))
            host.xe("vdi-destroy", uuid=vdi)
    return found


def _with_disks(host: Host, rounds: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """sr_attach of an SR on several disks, bound to the TPM as it is, and to a slower one."""
    calls = Calls(host)
    found: dict[str, Any] = {}
    for count in DISKS:
        disks = [host.machine.add_disk(f"of{count}-{number}", "256M") for number in range(count)]
        subject = Subject(calls, disks, "luksext")
        subject.create()
        for _ in range(rounds):
            for name, tpm in ((_AS_IT_IS, nullcontext()), (_SLOWER, _slow_tpm(host))):
                subject.detach()
                with tpm:
                    found.setdefault(str(count), {}).setdefault(name, []).append(
                        asdict(subject.attach()))
        subject.detach()
        subject.delete()
        for disk in disks:
            host.machine.remove_disk(disk.name)
    return found


def _with_srs(host: Host, rounds: int) -> dict[str, Any]:
    """Seconds until the last of several SRs is plugged, one after another as at boot; with the TPM
    as it is, and with one that needs a second longer for each unseal. Measured once: each is the
    sum of many."""
    machine = host.machine
    found: dict[str, Any] = {"ext": {}, "luksext": {}, f"luksext, {_SLOWER}": {}}
    for kind in ("ext", "luksext"):
        srs = [host.create_sr(machine.add_disk(f"boot-{kind}-{number}", "192M"), type=kind)
               for number in range(max(SRS))]
        for sr in srs:
            sr.unplug()
        for count in SRS:
            found[kind][str(count)] = _plug(srs[:count])
            if kind == "luksext":
                with _slow_tpm(host):
                    found[f"luksext, {_SLOWER}"][str(count)] = _plug(srs[:count])
        for sr in srs:
            host.xe("sr-destroy", uuid=sr.uuid)
        for number in range(max(SRS)):
            machine.remove_disk(f"boot-{kind}-{number}")
    return found


@contextmanager
def _slow_tpm(host: Host) -> Iterator[None]:
    """Within, each unseal takes a second longer: what chips on mainboards need."""
    path = host.sh("command -v tpm2_unseal").strip()
    host.sh(f"mv {path} {path}.away")
    host.machine.put(path, f'#!/bin/sh\nsleep 1\nexec {path}.away "$@"\n'.encode(), 0o755)
    try:
        yield
    finally:
        host.sh(f"mv {path}.away {path}")


def _plug(srs: list[Sr]) -> float:
    begin = time.monotonic()
    for sr in srs:
        sr.plug()
    seconds = time.monotonic() - begin
    for sr in srs:
        sr.unplug()
    return seconds


def _shown_vdis(raw: dict[str, Any]) -> str:
    rows = [[count, name, *_beside(raw["ext"][count][name], costs)]
            for count in raw["luksext"] for name, costs in raw["luksext"][count].items()]
    return report.table(["VDIs", "call", "ext, s", "luksext, s", "x ext", "programs more"], rows)


def _shown_garbage(raw: dict[str, list[dict[str, Any]]]) -> str:
    return report.table(["garbage collector", "ext, s", "luksext, s", "x ext", "programs more"], [
        [f"{SNAPSHOTS} snapshots", *_beside(raw["ext"], raw["luksext"])]])


def _beside(ext: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[str]:
    base, taken = ([cost["seconds"] for cost in costs] for costs in (ext, ours))
    more = report.median([cost["programs"] for cost in ours]) \
        - report.median([cost["programs"] for cost in ext])
    return [report.spread(base), report.spread(taken), report.ratio(taken, base), f"{more:g}"]


def _shown_disks(raw: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    return report.table(
        ["disks of the SR", "sr_attach, s", f"with the {_SLOWER}, s", "programs"],
        [[count, *(report.spread([cost["seconds"] for cost in costs[name]])
                   for name in (_AS_IT_IS, _SLOWER)),
          f"{report.median([cost['programs'] for cost in costs[_AS_IT_IS]]):g}"]
         for count, costs in raw.items()])


def _shown_srs(raw: dict[str, dict[str, float]]) -> str:
    counts = list(raw["ext"])
    return report.table(["SRs plugged one after another, s", *counts],
                        [[kind, *(f"{seconds[count]:.1f}" for count in counts)]
                         for kind, seconds in raw.items()])


class Part(NamedTuple):
    """measure: the figures, of a host and the rounds to make. shown: their table."""

    measure: Callable[[Host, int], dict[str, Any]]
    shown: Callable[[dict[str, Any]], str]


PARTS = {"vdis": Part(_with_vdis, _shown_vdis), "garbage": Part(_with_garbage, _shown_garbage),
         "disks": Part(_with_disks, _shown_disks), "srs": Part(_with_srs, _shown_srs)}
