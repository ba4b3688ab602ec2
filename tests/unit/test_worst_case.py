# SPDX-License-Identifier: LGPL-2.1-only
"""How long XAPI waits at worst, with a lock that every SR of the host needs.

Whatever hangs, however many disks and bindings there are: each call has one time for all of it.
"""
import os
import threading
import time
from types import SimpleNamespace

import pytest

import doc_rows
import headers
from luksext import alive, clevis, header, run, tables
from test_driver import SR, created, driver, failure, lab  # noqa: F401  fixtures

HANGS = "exec $helpers/sleep 600"

# Of a fake program: lets a second of `stopped_clock` go by.
TICK = "echo >>${log%/*}/.ticks; "

# Seconds that starting some Python and shell may take besides, on a machine that is busy.
SLACK = 30


@pytest.fixture
def seconds():
    """How long it is since the test began."""
    began = time.monotonic()
    return lambda: time.monotonic() - began


@pytest.fixture
def stopped_clock(lab, monkeypatch):  # noqa: F811
    """Of the time that there is, only what a program ticks away is gone, on a busy machine too."""
    ticks = lab.programs.folder / ".ticks"
    monkeypatch.setattr(run, "time", SimpleNamespace(
        monotonic=lambda: len(ticks.read_text()) if ticks.exists() else 0))


@pytest.fixture
def tang_hangs(lab, monkeypatch):  # noqa: F811
    """An SR of three disks, with four bindings each, whose servers do not answer."""
    made, disks = created(lab, 3)
    for disk in disks:
        found = header.read(disk)
        with open(disk, "r+b") as file:
            file.write(headers.luks2(headers.metadata(
                slots=range(4), volume_key=found.volume_key,
                tokens={str(slot): headers.binding_token(slot) for slot in range(4)}),
                uuid=found.uuid, label=found.label, subsystem=found.subsystem))
    lab.programs.add("clevis", TICK + HANGS)
    monkeypatch.setattr(lab.life, "UNLOCK_SECONDS", 1)
    return made


def test_a_plug_that_cannot_unlock_ends(lab, tang_hangs, stopped_clock, seconds):  # noqa: F811
    text = failure(lab, tang_hangs.attach, SR)
    assert seconds() < 1 + SLACK
    assert "did not end within" in text
    assert "1 seconds were over" in text
    assert lab.open_mappings() == []


def test_all_disks_share_the_time_and_are_closed_in_one_of_their_own(
        lab, monkeypatch, stopped_clock):  # noqa: F811
    made, _ = created(lab, 3)
    before = len(lab.programs.order())
    lab.programs.add("clevis", TICK + "printf key")
    monkeypatch.setattr(lab.life, "UNLOCK_SECONDS", 1)
    first, opened = threading.Lock(), threading.Event()
    unseal, check = clevis.unseal, tables.check

    def checked(*arguments):
        check(*arguments)
        opened.set()

    def unseal_after_the_first_is_open(jwe):
        if first.acquire(blocking=False):
            return b"key"
        assert opened.wait(SLACK)
        return unseal(jwe)

    monkeypatch.setattr(tables, "check", checked)
    monkeypatch.setattr(clevis, "unseal", unseal_after_the_first_is_open)
    assert "1 seconds were over" in failure(lab, made.attach, SR)
    assert lab.programs.order()[before:] == [
        "cryptsetup open", "dmsetup table", "clevis decrypt", "clevis decrypt", "cryptsetup close"]
    assert lab.open_mappings() == []


def test_a_plug_that_unlocked_ends_whatever_is_done_besides(
        lab, monkeypatch, seconds):  # noqa: F811
    made, _ = created(lab)
    monkeypatch.setattr(lab.life, "UPKEEP_SECONDS", 1)

    def hang(*_):
        run.run(["hangs"])

    lab.programs.add("hangs", HANGS)
    upkeep = lab.life._upkeep()
    monkeypatch.setattr(upkeep.started, "note", hang)
    monkeypatch.setattr(upkeep.bindings, "plugged", hang)
    monkeypatch.setattr(upkeep.backup, "follow", hang)
    monkeypatch.setattr(upkeep.bindings, "end_suspend", hang)
    made.attach(SR)
    assert seconds() < 1 + SLACK
    assert lab.mounted


def test_a_probe_ends(lab, monkeypatch, stopped_clock, seconds):  # noqa: F811
    disk = lab.disk("sdb", headers.luks1())
    for name in ("luksmeta", "cryptsetup"):
        lab.programs.add(name, TICK + HANGS)
    monkeypatch.setattr(lab.life, "PROBE_SECONDS", 1)
    assert "did not end" in failure(lab, lab.sr(uuid="", device=disk).probe)
    assert seconds() < 1 + SLACK


def test_disks_that_hang_are_passed_over_and_an_own_one_is_named(
        lab, monkeypatch, seconds):  # noqa: F811
    made, disks = created(lab)
    monkeypatch.setattr(alive, "DEADLINE", 0.3)
    os.unlink(disks[0])
    os.mkfifo(disks[0])
    text = failure(lab, made.attach, SR)
    assert disks[0] + " fails: it does not answer" in text
    assert seconds() < SLACK


def test_an_unplug_ends(lab, monkeypatch, seconds):  # noqa: F811
    made, _ = created(lab)
    made.attach(SR)
    lab.programs.add("cryptsetup", HANGS)
    monkeypatch.setattr(lab.unplug, "CLOSE_SECONDS", 1)
    assert "cryptsetup close" in failure(lab, made.detach, SR)
    assert seconds() < 1 + SLACK


def test_an_unplug_whose_volume_cannot_be_dropped_ends(lab, monkeypatch, seconds):  # noqa: F811
    made, _ = created(lab)
    made.attach(SR)
    lab.fail_at, lab.mounted = "detach", False
    lab.programs.add("dmsetup", HANGS)
    monkeypatch.setattr(lab.unplug, "CLOSE_SECONDS", 1)
    assert "detach failed" in failure(lab, made.detach, SR)
    assert seconds() < 1 + SLACK


def test_a_check_ends(lab, monkeypatch, stopped_clock, seconds):  # noqa: F811
    made, _ = created(lab, 3)
    made.attach(SR)
    lab.programs.add("clevis", TICK + HANGS)
    monkeypatch.setattr(lab.life, "CHECK_SECONDS", 1)
    made.check_sr(SR)
    assert seconds() < 1 + SLACK
    assert any("1 seconds were over" in str(note) for note in lab.notes)


def test_the_times_are_those_of_the_documentation(lab):  # noqa: F811
    life = lab.life
    plugged = life.UNLOCK_SECONDS + life.UPKEEP_SECONDS + run.OVERTIME
    refused = life.UNLOCK_SECONDS + run.OVERTIME + life.CLOSE_SECONDS
    wanted = {"sr_attach": max(plugged, refused),
              "sr_detach": lab.unplug.STOP_SECONDS + lab.unplug.CLOSE_SECONDS,
              "sr_probe": life.PROBE_SECONDS, "check_sr": life.CHECK_SECONDS}
    rows = [*doc_rows.rows("reliability.md", "sr_"), *doc_rows.rows("reliability.md", "check_sr")]
    assert {row[0]: row[1] for row in rows} == {
        name: "{} s".format(seconds) for name, seconds in wanted.items()}
