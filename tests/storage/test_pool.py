# SPDX-License-Identifier: LGPL-2.1-only
"""A pool of three hosts, each a guest with a disk and a TPM of its own.

Drivers and plugins run in the guest of their host; rows are the master's. What the lab does not
show of a pool is in tests/lab/xapi/pool.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import XenAPI

from tests.lab.lan import Lan
from tests.lab.machine import Machine
from tests.lab.xapi.cli.client import Client
from tests.storage.conftest import check_answers, real_sm
from tests.storage.pool import Host, Sr, XeError
from tests.storage.test_doctor import DROP_IN, FILES, RESTART, findings

# Minutes: three guests boot, TPMs seal and unseal.
pytestmark = pytest.mark.slow

NAMES = ("first", "second", "third")
DATA = b"what was written before the host joined"

# A PCR that nothing extends but a test, and a start resets.
BOUND = json.dumps({"pcr_ids": "16"})


@dataclass
class Member:
    """A host of the pool, its SR, and a VDI with DATA in it."""

    host: Host
    sr: Sr
    vdi: str

    @property
    def name(self) -> str:
        return self.host.machine.name


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    folder, lan = tmp_path_factory.mktemp("pool"), Lan()
    machines = [Machine(name, folder / name, sm=real_sm(), cpus=1, memory_mib=768, nic=lan.nic())
                for name in NAMES]
    answers = folder / "first/state/var/log/xapi-answers"
    answers.mkdir(parents=True)
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        for machine in machines:
            stack.enter_context(machine)
            machine.add_disk("local", "256M")
        list(threads.map(Machine.start, machines))
        yield machines
    check_answers(answers)


@pytest.fixture(scope="module")
def alone(machines: list[Machine]) -> list[Member]:
    """The hosts before they join: the SR of the second was made with a recovery passphrase."""
    members = []
    for machine in machines:
        host, disk = Host(machine), machine.disks["local"]
        if machine.name == "second":
            sr = host.create_sr_with_passphrase(disk.by_id, "correct horse battery staple")
        else:
            sr = host.create_sr(disk, pin_config=BOUND)
        vdi = sr.create_vdi()
        host.write_vdi(vdi, DATA)
        members.append(Member(host, sr, vdi))
    return members


@pytest.fixture(scope="module")
def pool(alone: list[Member]) -> list[Member]:
    """The same, all in the pool of the first."""
    first, *others = alone
    for member in others:
        member.host = member.host.join(first.host.machine)
        member.sr = Sr(member.host, member.sr.uuid, member.sr.device)
    return alone


def pool_status(host: Host) -> dict[str, dict[str, Any]]:
    """What a host's plugin tells of all hosts, by their names."""
    told = json.loads(host.xe("host-call-plugin", host_uuid=host.uuid, plugin="luksext",
                              fn="pool-status"))
    return {one["host"]: one for one in told["hosts"]}


def everywhere(master: Host, method: str, srs: list[Sr]) -> dict[str, list[str]]:
    """Calls a method for the PBDs of all SRs at the same time, as Xen Orchestra does; how each
    failed, by the SR's UUID."""
    client = Client(f"127.0.0.1:{master.machine.http_port}")
    tasks = {sr.uuid: client.call(f"Async.{method}", client.ref("PBD", sr.pbd)) for sr in srs}
    failed = {}
    for uuid, task in tasks.items():
        while client.call("task.get_status", task) == "pending":
            time.sleep(0.5)
        if client.call("task.get_status", task) != "success":
            failed[uuid] = client.call("task.get_error_info", task)
    client.close()
    return failed


def test_hosts_join_with_their_srs(pool: list[Member]) -> None:
    master = pool[0].host
    assert len(master.xe("host-list", params="uuid", minimal=True).split(",")) == len(pool)
    for member in pool:
        assert member.sr.attached
        assert len(member.sr.containers()) == 1
        assert master.xe("vdi-list", sr_uuid=member.sr.uuid, params="uuid",
                         minimal=True) == member.vdi
        master.xe("vdi-destroy", uuid=member.sr.create_vdi())
    assert findings(master) == {}


def test_any_host_tells_of_all(pool: list[Member]) -> None:
    for host in (pool[0].host, pool[2].host):
        told = pool_status(host)
        assert sorted(told) == sorted(NAMES)
        for member in pool:
            (sr,) = [one for one in told[member.name]["srs"] if one["encrypted"]]
            assert (sr["sr_uuid"], sr["attached"]) == (member.sr.uuid, True)


def test_all_are_unplugged_and_plugged_at_once_and_one_that_fails_fails_alone(
    pool: list[Member]
) -> None:
    master, third = pool[0].host, pool[2]
    srs = [member.sr for member in pool]
    assert everywhere(master, "PBD.unplug", srs) == {}
    assert [sr.attached for sr in srs] == [False] * 3
    third.host.machine.extend_pcr(16)
    failed = everywhere(master, "PBD.plug", srs)
    assert list(failed) == [third.sr.uuid]
    code, _, text, *_ = failed[third.sr.uuid]
    assert code == "SR_BACKEND_FAILURE_6234"
    assert third.sr.uuid in text
    assert [sr.attached for sr in srs] == [True, True, False]
    third.host.machine.reboot()
    assert third.sr.attached
    assert [sr.attached for sr in srs] == [True] * 3


def test_a_member_without_the_package_takes_the_type_from_all_and_doctor_says_so(
    pool: list[Member]
) -> None:
    first, third = pool[0], pool[2]
    third.host.sh(f"tar czf /run/package.tar {FILES}; rm -r {FILES}; {RESTART}", timeout=300)
    assert first.host.xe("sm-list", type="luksext", params="uuid", minimal=True) == ""
    assert first.sr.attached
    with pytest.raises(XeError):
        first.sr.create_vdi()
    told = findings(first.host)
    assert set(told) == {"LUKS-D031", "LUKS-D033"}
    assert "host third" in told["LUKS-D033"]["text"]
    assert "not installed" in pool_status(first.host)["third"]["error"]
    third.host.sh(f"tar xzf /run/package.tar -C /; rm -f {DROP_IN}; {RESTART}", timeout=300)
    assert findings(first.host) == {}
    first.host.xe("vdi-destroy", uuid=first.sr.create_vdi())
    assert [member.sr.attached for member in pool] == [True] * 3


def test_a_host_that_is_away_is_named_and_the_others_go_on(pool: list[Member]) -> None:
    first, second, third = pool
    third.host.machine.power_cut()
    told = pool_status(first.host)
    assert told["third"]["code"] == "CANNOT_CONTACT_HOST"
    assert told["second"]["srs"][0]["sr_uuid"] == second.sr.uuid
    with pytest.raises(XeError):
        third.sr.unplug()
    second.sr.unplug()
    second.sr.plug()
    third.host.machine.start()
    assert third.sr.attached
    assert "error" not in pool_status(first.host)["third"]


def test_an_ejected_host_forgets_its_sr_and_keeps_the_data(pool: list[Member]) -> None:
    first, second, _ = pool
    alone = second.host.eject()
    assert second.sr.uuid not in first.host.xe("sr-list", params="uuid", minimal=True)
    assert second.name not in first.host.xe("host-list", params="name-label", minimal=True)
    assert alone.xe("sr-list", type="luksext", params="uuid", minimal=True) == ""
    probed = alone.xe("sr-probe", type="luksext", host_uuid=alone.uuid,
                      device_config={"device": second.sr.device})
    assert second.sr.uuid in probed
    sr = alone.introduce(second.sr, second.sr.device)
    sr.plug()
    assert alone.read_vdi(second.vdi)[:len(DATA)] == DATA
    assert findings(alone) == {}


def test_a_verb_on_a_host_without_the_sr_is_refused(pool: list[Member]) -> None:
    third = pool[2]
    with pytest.raises(XenAPI.Failure) as caught:
        client = Client(f"127.0.0.1:{pool[0].host.machine.http_port}")
        client.call("host.call_plugin", client.ref("host", third.host.uuid), "luksext", "prove",
                    {"sr-uuid": pool[0].sr.uuid})
    assert "no PBD on this host" in str(caught.value)
