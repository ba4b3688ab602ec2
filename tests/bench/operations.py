# SPDX-License-Identifier: LGPL-2.1-only
"""What each operation of an SR costs: on luksext, on ext, and in the article's way.

That way: `clevis luks unlock` by hand or by a systemd unit, and an ext SR on the mapping; what
XAPI's calls do not do there, the scripts below do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

from tests.bench import goals, report
from tests.bench.meter import Cost, Meter, Program
from tests.lab.disks import Disk
from tests.lab.xapi.scripts import AS_PROGRAMS
from tests.storage.pool import Host, Sr

LOG = "/var/log/xensource.log"
_DRIVERS = ("LUKSEXTSR", "EXTSR")
_CALLED = re.compile(r"\|sm\] SM (?:luksext|ext) (\w+)")

# The same volume as ours: the defaults of the article's commands differ from host to host.
_BY_HAND = {
    "create": """#!/bin/sh
set -e
head -c 32 /dev/urandom | base64 -w0 >/run/lab/key
cryptsetup luksFormat --batch-mode --type luks2 --cipher aes-xts-plain64 --key-size 512 \\
  --sector-size 512 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/lab/key $1
clevis luks bind -f -d $1 -k /run/lab/key tpm2 '{}'
clevis luks unlock -d $1 -n $2
rm /run/lab/key
""",
    "attach": "#!/bin/sh\nexec clevis luks unlock -d $1 -n $2\n",
    "detach": "#!/bin/sh\nexec cryptsetup close $2\n",
    "delete": "#!/bin/sh\ncryptsetup close $2 && exec cryptsetup erase --batch-mode $1\n",
    "collect": "#!/bin/sh\nexec systemctl start $1\n",
}
_BY_HAND_PATH = "/run/lab/by-hand"

DATA = bytes(range(256)) * 4096

Costs = dict[str, Cost]


class Calls:
    """Measures what `xe` has the drivers of a host do."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._meter = Meter(host.machine)
        self._programs = [f"/opt/xensource/sm/{name}" for name in _DRIVERS] + [_BY_HAND_PATH]
        host.machine.put(str(AS_PROGRAMS), b"")
        # XAPI scans by itself what was plugged: that is none of the calls measured here.
        client = host.client()
        client.call("host.add_to_other_config", client.ref("host", host.uuid),
                    "auto-scan-interval", "86400")
        host.sh("xe-toolstack-restart")

    def of(self, call: Callable[[], object]) -> Costs:
        """The cost of each command of XAPI that `call` led to, by its name; of several of the same
        name, the sum."""
        def logged() -> None:
            self.host.sh(f": >{LOG}")
            call()

        costs = self._meter.costs(logged, self._programs)
        commands = _CALLED.findall(self.host.machine.get(LOG).decode())
        # What the garbage collector asked of XAPI just before the log was emptied is no command.
        early = max(0, len(costs) - len(commands))
        return _summed(zip(commands, costs[early:], strict=False))

    def script(self, step: str, *arguments: str) -> Cost:
        """The cost of a step that is done by hand."""
        self.host.machine.put(_BY_HAND_PATH, _BY_HAND[step].encode(), 0o755)
        [cost] = self._meter.costs(
            lambda: self.host.machine.run([_BY_HAND_PATH, *arguments], timeout=300),
            self._programs)
        return cost


def _summed(costs: Iterable[tuple[str, Cost]]) -> Costs:
    found: Costs = {}
    for name, cost in costs:
        found[name] = found[name] + cost if name in found else cost
    return found


class Subject:
    """An SR of one kind on disks of its own, whose life is measured."""

    def __init__(self, calls: Calls, disks: list[Disk], type: str, **options: str) -> None:
        self._calls = calls
        self._host = calls.host
        self._disks = disks
        self._type = type
        self._options = options
        self.sr: Sr

    def create(self) -> Cost:
        return self._of("sr_create", self._create)

    def attach(self) -> Cost:
        return self._of("sr_attach", self.sr.plug)

    def detach(self) -> Cost:
        return self._of("sr_detach", self.sr.unplug)

    def delete(self) -> Cost:
        """Of an SR that is unplugged."""
        return self._of("sr_delete", lambda: self._host.xe("sr-destroy", uuid=self.sr.uuid))

    def probe(self) -> Cost:
        return self._of("sr_probe", lambda: self._host.xe(
            "sr-probe", type=self._type, host_uuid=self._host.uuid,
            device_config={"device": self._device}))

    def scan(self) -> Cost:
        return self._of("sr_scan", self.sr.scan)

    def collect(self) -> Cost:
        """Of the garbage collector, as systemd starts it, until it has nothing left to do."""
        unit = "SMGC@" + self.sr.uuid.replace("-", r"\x2d")
        return self._calls.script("collect", unit)

    def vdi_operations(self) -> Costs:
        """A VDI from its creation to its end; each command of XAPI by its name."""
        host, made = self._host, []

        def live() -> None:
            vdi = self.sr.create_vdi()
            host.write_vdi(vdi, DATA)
            host.xe("vdi-resize", uuid=vdi, disk_size=str(64 << 20))
            made.append(host.xe("vdi-snapshot", uuid=vdi))
            made.append(host.xe("vdi-clone", uuid=vdi))
            host.read_vdi(vdi)
            for uuid in [*made, vdi]:
                host.xe("vdi-destroy", uuid=uuid)

        return {name: cost for name, cost in self._calls.of(live).items()
                if name.startswith("vdi_")}

    @property
    def _device(self) -> str:
        return ",".join(disk.by_id for disk in self._disks)

    def _create(self) -> None:
        self.sr = self._host.create_sr(*self._disks, type=self._type, **self._options)

    def _of(self, command: str, call: Callable[[], object]) -> Cost:
        return self._calls.of(call)[command]


class ByHand(Subject):
    """An ext SR on a mapping that the article's commands make and open."""

    NAME = "by-hand"

    def __init__(self, calls: Calls, disk: Disk) -> None:
        super().__init__(calls, [disk], "ext")

    def create(self) -> Cost:
        return self._script("create") + super().create()

    def attach(self) -> Cost:
        return self._script("attach") + super().attach()

    def detach(self) -> Cost:
        return super().detach() + self._script("detach")

    def probe(self) -> Cost:
        opened = self._script("attach")
        probed = super().probe()
        # LVM activates what it sees in the mapping by itself.
        self._host.sh(f"vgchange -q -an XSLocalEXT-{self.sr.uuid}")
        return opened + probed + self._script("detach")

    def delete(self) -> Cost:
        """The mapping has to be there for XAPI to delete the SR in it."""
        self._script("attach")
        return super().delete() + self._script("delete")

    @property
    def _device(self) -> str:
        return f"/dev/mapper/{self.NAME}"

    def _create(self) -> None:
        host = self._host
        uuid = host.xe("sr-create", type="ext", name_label="test", host_uuid=host.uuid,
                       content_type="user", device_config={"device": self._device})
        self.sr = Sr(host, uuid, self._device)

    def _script(self, step: str) -> Cost:
        """All of it is one step, under the name of what takes its time."""
        cost = self._calls.script(step, self._disks[0].by_id, self.NAME)
        name = "clevis luks unlock" if step == "attach" else step
        return replace(cost, steps=(Program(name, 0, cost.seconds),))


def life(subject: Subject) -> Costs:
    """The costs of a whole life of an SR, by operation."""
    costs = {"sr_create": subject.create(), "sr_detach": subject.detach(),
             "sr_probe": subject.probe(), "sr_attach": subject.attach(),
             "sr_scan": subject.scan(), **subject.vdi_operations()}
    subject.detach()
    return {**costs, "sr_delete": subject.delete()}


def measure(host: Host, rounds: int) -> dict[str, Any]:
    """The costs of lives of all three kinds in turns, by kind and operation; a first round, in
    which everything is read into memory, is left out."""
    calls = Calls(host)
    found: dict[str, dict[str, list[Any]]] = {}
    for number in range(rounds + 1):
        for place, (kind, make) in enumerate(_KINDS.items()):
            disk = host.machine.add_disk(f"disk{number}-{place}", "256M")
            costs = life(make(calls, disk))
            host.machine.remove_disk(disk.name)
            for name, cost in costs.items() if number else ():
                found.setdefault(kind, {}).setdefault(name, []).append(asdict(cost))
    return found


_KINDS: dict[str, Callable[[Calls, Disk], Subject]] = {
    "ext": lambda calls, disk: Subject(calls, [disk], "ext"),
    "luksext": lambda calls, disk: Subject(calls, [disk], "luksext"),
    "by hand": ByHand}


def shown(raw: dict[str, Any]) -> str:
    """The tables of what was measured."""
    return "\n".join([goals.table(raw), *(_shown(raw, field, name) for field, name in (
        ("seconds", "seconds"), ("cpu_seconds", "seconds on the CPU"),
        ("programs", "programs started"), ("syscalls", "system calls")))])


def _shown(raw: dict[str, Any], field: str, name: str) -> str:
    rows = []
    for operation in raw["ext"]:
        values = {kind: [cost[field] for cost in raw[kind][operation]] for kind in raw}
        rows.append([operation, *(report.spread(values[kind]) for kind in raw),
                     report.ratio(values["luksext"], values["ext"]),
                     report.ratio(values["by hand"], values["luksext"])])
    return report.table([name, *raw, "luksext / ext", "by hand / luksext"], rows)


def attach_bars(raw: dict[str, Any]) -> str:
    """Where the time of an attach goes, as SVG: what is no program is the driver itself."""
    return report.bars("Where the time of sr_attach goes", [
        (kind, _parts(_middle(raw[kind]["sr_attach"]))) for kind in raw])


def _middle(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """The one whose time is the median."""
    return sorted(costs, key=lambda cost: cost["seconds"])[len(costs) // 2]


def _parts(cost: dict[str, Any]) -> list[tuple[str, float]]:
    parts: dict[str, float] = {}
    for step in cost["steps"]:
        parts[step["name"]] = parts.get(step["name"], 0) + step["end"] - step["begin"]
    return [*sorted(parts.items(), key=lambda part: -part[1]),
            ("the driver itself", max(0.0, cost["seconds"] - sum(parts.values())))]
