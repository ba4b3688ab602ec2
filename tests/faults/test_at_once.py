# SPDX-License-Identifier: LGPL-2.1-only
"""Many callers at once, on one host: none waits for ever, and one SR's trouble is only its own."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import XenAPI  # type: ignore[import-untyped]

from tests.faults.campaign import Campaign
from tests.faults.survivor import Survivor, replaced, survivor
from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.pool import Host, Sr, luksext

Call = tuple[str, list[Any]]

# Another command works on the disk; it is in use; it is a disk of an SR.
REFUSALS = [f"SR_BACKEND_FAILURE_{code}" for code in (6260, 6212, 6214)]


@pytest.fixture(scope="module")
def pair(host: Host, machine: Machine) -> Iterator[tuple[Survivor, Survivor]]:
    """Two SRs on one host, of either generation."""
    with survivor(host, machine.add_disk("one", "256M"), pin="null", luks_version="1") as one, \
            survivor(host, machine.add_disk("two", "256M"), pin="null", luks_version="2") as two:
        yield one, two


def ref(host: Host, cls: str, uuid: str) -> str:
    return host.client().ref(cls, uuid)


def at_once(host: Host, calls: list[Call]) -> list[Any]:
    """What each call answers, made in one moment; XenAPI.Failure where that is it."""
    answers: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(place: int, method: str, arguments: list[Any]) -> None:
        client = host.client()
        start.wait()
        try:
            answers[place] = client.call(method, *arguments)
        except XenAPI.Failure as failure:
            answers[place] = failure

    threads = [threading.Thread(target=run, args=(place, *call))
               for place, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive(), "a call does not end"
    return answers


def plug(sr: Sr) -> Call:
    return "PBD.plug", [ref(sr.host, "PBD", sr.pbd)]


def unplug(sr: Sr) -> Call:
    return "PBD.unplug", [ref(sr.host, "PBD", sr.pbd)]


def probe(sr: Sr) -> Call:
    return "SR.probe", [ref(sr.host, "host", sr.host.uuid), {"device": sr.device}, "luksext", {}]


def create(host: Host, disk: Disk) -> Call:
    return "SR.create", [ref(host, "host", host.uuid), {"device": disk.by_id, "pin": "null"}, "0",
                         "new", "", "luksext", "user", False, {}]


def destroy_the_new_one(host: Host, disk: Disk) -> None:
    """There is exactly one, and it works."""
    uuid = host.xe("sr-list", name_label="new", params="uuid", minimal=True)
    new = Sr(host, uuid, disk.by_id)
    new.unplug()
    new.plug()
    assert new.attached
    host.sh(f"dd if=/dev/zero of={new.mount}/new bs=4096 count=16 conv=fsync status=none")
    host.sh(f"rm {new.mount}/new")
    new.destroy()


def assert_no_failure(answers: list[Any]) -> None:
    failures = [answer for answer in answers if isinstance(answer, XenAPI.Failure)]
    assert not failures, failures


def test_plug_unplug_and_probe_from_many_callers(
        campaign: Campaign, pair: tuple[Survivor, Survivor], trials: int,
        chance: random.Random) -> None:
    host = pair[0].host
    for _ in range(trials):
        with campaign.trial("8 callers that plug, unplug and probe two SRs at once") as trial:
            calls = [make(one.sr) for one in pair for make in (plug, plug, unplug, probe)]
            chance.shuffle(calls)
            assert_no_failure(at_once(host, calls))
            for one in pair:
                one.sr.unplug()
            pair[0].assert_closed()
            for one in pair:
                one.check()
            trial.outcome = "all are answered, all data are there"


def test_a_probe_finds_an_sr_that_is_being_plugged(
        campaign: Campaign, pair: tuple[Survivor, Survivor]) -> None:
    one = pair[0]
    with campaign.trial("probe during a plug") as trial:
        one.sr.unplug()
        answers = at_once(one.host, [plug(one.sr), probe(one.sr), probe(one.sr)])
        assert_no_failure(answers)
        assert all(one.sr.uuid in answer for answer in answers[1:])
        one.check()
        trial.outcome = "both are answered, the SR is found"


def test_the_collector_runs_while_the_sr_is_unplugged(
        campaign: Campaign, pair: tuple[Survivor, Survivor], trials: int) -> None:
    one = pair[1]
    unit = "SMGC@" + one.sr.uuid.replace("-", r"\x2d")
    for _ in range(trials):
        with campaign.trial("garbage collection during an unplug") as trial:
            snapshot = one.host.xe("vdi-snapshot", uuid=one.vdi)
            one.host.xe("vdi-destroy", uuid=snapshot)
            collector = threading.Thread(target=one.host.machine.run, kwargs={
                "command": f"systemctl start '{unit}'", "check": False, "timeout": 300})
            collector.start()
            time.sleep(1)
            assert_no_failure(at_once(one.host, [unplug(one.sr)]))
            collector.join()
            assert one.sr.uuid not in str(one.host.left_open())
            one.sr.plug()
            one.check_through_xapi()
            # What was interrupted is done now: the data are in one image again.
            one.host.sh(f"systemctl start '{unit}'", timeout=300)
            one.check()
            trial.outcome = "unplug ends, all data are there"


def test_an_sr_is_destroyed_while_another_is_created(
        campaign: Campaign, pair: tuple[Survivor, Survivor], trials: int,
        new_disk: Callable[..., Disk]) -> None:
    host = pair[0].host
    for _ in range(trials):
        with campaign.trial("SR destroyed while another is created") as trial:
            old, fresh = host.create_unbound_sr(new_disk()), new_disk()
            old.unplug()
            assert_no_failure(at_once(host, [
                create(host, fresh), ("SR.destroy", [ref(host, "SR", old.uuid)]),
                probe(pair[0].sr)]))
            assert host.sh(f"wipefs {old.device}") == ""
            destroy_the_new_one(host, fresh)
            for one in pair:
                one.check()
            trial.outcome = "both are done, no other SR notices"


def test_two_creates_on_one_disk(
        campaign: Campaign, pair: tuple[Survivor, Survivor], trials: int,
        new_disk: Callable[..., Disk]) -> None:
    host = pair[0].host
    for _ in range(trials):
        with campaign.trial("two creates at once on one disk") as trial:
            disk = new_disk()
            answers = at_once(host, [create(host, disk), create(host, disk)])
            refused = [answer for answer in answers if isinstance(answer, XenAPI.Failure)]
            assert len(refused) == 1, answers
            assert refused[0].details[0] in REFUSALS, answers
            destroy_the_new_one(host, disk)
            trial.outcome = "one is made, the other refused"


def test_one_that_cannot_unlock_keeps_another_waiting_for_its_own_time_only(
        campaign: Campaign, pair: tuple[Survivor, Survivor]) -> None:
    host = pair[0].host
    with campaign.trial("plug of an SR while that of another hangs") as trial:
        for one in pair:
            one.sr.unplug()
        # Only who asks first.
        hangs = "mkdir /run/asked && exec sleep 1000; exec $real \"$@\""
        with replaced(host, "clevis", hangs):
            began = time.monotonic()
            answers = at_once(host, [plug(one.sr) for one in pair])
            took = time.monotonic() - began
        host.sh("rmdir /run/asked")
        assert sum(isinstance(answer, XenAPI.Failure) for answer in answers) == 1, answers
        assert took < 180, took
        for one in pair:
            one.check()
        trial.outcome = "it is refused after its time, the other is plugged"


def test_verbs_at_once(campaign: Campaign, pair: tuple[Survivor, Survivor]) -> None:
    one = pair[1]
    with campaign.trial("recovery keys made by four consoles at once", "2") as trial:
        answers: dict[str, str] = {}

        def add(name: str) -> None:
            answers[name] = luksext(one.sr, "recovery-add", f"--name={name}")

        threads = [threading.Thread(target=add, args=(f"key{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made = {name for name, answer in answers.items() if "recovery key: " in answer}
        assert made
        assert all("error 6260" in answers[name] for name in answers.keys() - made), answers
        status = json.loads(luksext(one.sr, "status", "--json"))["disks"][0]
        assert {slot["name"] for slot in status["slots"] if slot["role"] == "recovery"} == made
        assert status["header_backup_fresh"]
        one.sr.unplug()
        one.check()
        trial.outcome = "each is made, or told to wait (6260); the header is backed up"
