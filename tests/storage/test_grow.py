# SPDX-License-Identifier: LGPL-2.1-only
"""A disk grew: one call grows everything on it while the SR is in use, and goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.kills import killed_after
from tests.storage.pool import Host, Sr

MIB = 1 << 20
PATTERN = b"written before anything grew " * 4096

GROW = """
import json, sys
sys.path.insert(0, "/opt/xensource/sm")
from luksext import container, grow, keyslots, lvm
sr = sys.argv[1]
found = sorted(container.all_of(sr), key=lambda disk: disk.identity.disk)
print(json.dumps([grow.grow(disk, keyslots.way_in(disk), lvm.GROUP_PREFIX + sr, sr)
                  for disk in found]))
"""


def grow(sr: Sr) -> list[list[dict[str, int]]]:
    """Sizes before and after, of each disk."""
    names = ("disk", "container", "volume", "filesystem")
    growths = json.loads(sr.host.sh(f"python3 - {sr.uuid}", input=GROW))
    return [[dict(zip(names, sizes, strict=True)) for sizes in growth] for growth in growths]


def is_killed(sr: Sr) -> bool:
    result = sr.host.machine.run(f"python3 - {sr.uuid}", input=GROW, check=False)
    return result.rc in (-9, 137)


@pytest.fixture(scope="module")
def disk(machine: Machine, luks_version: str) -> Disk:
    return machine.add_disk(f"grow{luks_version}", "256M")


@pytest.fixture(scope="module")
def sr(host: Host, disk: Disk, luks_version: str) -> Iterator[Sr]:
    sr = host.create_unbound_sr(disk, luks_version=luks_version)
    yield sr
    sr.destroy()


@pytest.fixture(scope="module")
def vdi(sr: Sr) -> Iterator[str]:
    vdi = sr.create_vdi()
    sr.host.write_vdi(vdi, PATTERN)
    yield vdi
    sr.host.xe("vdi-destroy", uuid=vdi)


def shown_size(sr: Sr) -> int:
    sr.scan()
    return int(sr.host.xe("sr-param-get", uuid=sr.uuid, param_name="physical-size"))


def test_a_disk_that_did_not_grow_changes_nothing(sr: Sr) -> None:
    ((before, after),) = grow(sr)
    assert before == after
    assert after["filesystem"] == after["volume"] > 200 * MIB


def test_everything_grows_while_a_vdi_is_there(
    sr: Sr, disk: Disk, machine: Machine, vdi: str
) -> None:
    shown = shown_size(sr)
    machine.grow_disk(disk.name, "512M")
    ((before, after),) = grow(sr)
    assert before["disk"] == after["disk"] == 512 * MIB
    for part in ("container", "volume", "filesystem"):
        assert 240 * MIB < after[part] - before[part] <= 256 * MIB
    assert after["filesystem"] == after["volume"]
    assert shown_size(sr) - shown > 200 * MIB
    assert sr.host.read_vdi(vdi).startswith(PATTERN)
    sr.unplug()
    sr.plug()
    assert grow(sr) == [[after, after]]
    sr.check_filesystem()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "pattern"),
    [("cryptsetup", "resize*"), ("pvresize", "*"), ("lvextend", "*"), ("resize2fs", "*")],
)
def test_a_kill_at_any_step_leaves_an_sr_that_opens_and_grows_on(
    sr: Sr, disk: Disk, machine: Machine, vdi: str, program: str, pattern: str
) -> None:
    size = disk.path.stat().st_size + 64 * MIB
    machine.grow_disk(disk.name, str(size))
    with killed_after(sr.host, program, pattern):
        assert is_killed(sr)
    sr.unplug()
    sr.plug()
    ((_, after),) = grow(sr)
    assert after["disk"] == size
    assert size - after["filesystem"] < 32 * MIB
    assert sr.host.read_vdi(vdi).startswith(PATTERN)


@pytest.mark.slow
def test_a_striped_sr_grows_when_its_last_disk_has_grown(
    host: Host, machine: Machine, new_disk: Callable[..., Disk]
) -> None:
    one, two = new_disk(), new_disk()
    sr = host.create_unbound_sr(one, two)
    machine.grow_disk(one.name, "384M")
    (_, first), (_, unchanged) = grow(sr)
    assert first["disk"] == 384 * MIB
    assert unchanged["volume"] == first["volume"] < 512 * MIB
    machine.grow_disk(two.name, "384M")
    after = grow(sr)[-1][1]
    assert after["filesystem"] == after["volume"] > 700 * MIB
    sr.unplug()
    sr.plug()
    sr.destroy()
