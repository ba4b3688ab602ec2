# SPDX-License-Identifier: LGPL-2.1-only
"""luksext_upkeep: what a plug and the health check find, end, and tell, without being asked."""
import time
from types import SimpleNamespace

import pytest

import headers
import luksext_upkeep
from luksext import audit, backup, begun, bindings, health, keyslots, reencrypt, run, state, tpm
from luksext.begun import Begun
from luksext.errors import TpmBroken
from luksext.repository import Repository
from test_bindings import SOON, expire, prepared, roles
from test_xapi_notes import SR, Xapi

HOUR = 3600


class Lab:
    """A plugged SR of one disk, XAPI, and what is done with backups."""

    def __init__(self, disk, monkeypatch, lines):
        self.disk, self.lines, self.xapi = disk, lines, Xapi()
        self.backups, self.outdated = [], False
        self.now = time.time()
        for name in ("outdate", "revoked"):
            monkeypatch.setattr(backup, name,
                                lambda container, name=name: self.backups.append(name))
        monkeypatch.setattr(backup, "create",
                            lambda container, reason: self.backups.append(reason))
        monkeypatch.setattr(backup, "is_fresh", lambda container: True)
        monkeypatch.setattr(backup, "is_outdated", lambda uuid: self.outdated)
        monkeypatch.setattr(backup, "list_of", lambda uuid: [SimpleNamespace(created="")])
        monkeypatch.setattr(luksext_upkeep, "time", SimpleNamespace(time=lambda: self.now))

    @property
    def sr(self):
        return Repository(SR, [self.disk.container()], [None])

    def check(self):
        """The codes of the messages that XAPI has after a check."""
        luksext_upkeep.check(self.xapi, "ref", self.sr)
        return sorted(message["name"] for message in self.xapi.messages.values())

    def plug(self):
        luksext_upkeep.after_unlock(self.xapi, "ref", self.sr)

    def told(self):
        """The verbs and details in the lines of the audit since this was asked last."""
        assert all(line[1:4] == (SR, audit.DRIVER, "ok") for line in self.lines)
        told = [(line[0], line[4]) for line in self.lines]
        del self.lines[:]
        return told


@pytest.fixture
def lab(disk, monkeypatch, tmp_path, audited):
    monkeypatch.setattr(run, "PRIVATE_DIR", str(tmp_path / "private"))
    return Lab(prepared(disk), monkeypatch, audited)


@pytest.fixture
def suspended(lab):
    lab.slot = bindings.suspend(lab.disk.container(), lab.disk.way, SOON)
    return lab


def silent():
    raise TpmBroken("it is silent")


def test_a_plug_follows_a_volume_key_of_another_host(lab):
    state.Store(headers.UUID).save("headers", {"volume_key": "old"})
    lab.plug()
    assert "revoked" in lab.backups


# Alerts


def test_a_stale_binding_is_found_when_its_proof_is_due_told_once_and_withdrawn_when_cured(lab):
    assert lab.check() == []
    lab.disk.break_bindings()
    lab.now += health.INTERVAL / 2
    assert lab.check() == []
    lab.now += health.INTERVAL
    assert lab.check() == ["LUKS-W003"]
    [told] = lab.xapi.messages
    lab.now += health.INTERVAL
    assert lab.check() == ["LUKS-W003"]
    assert [told] == list(lab.xapi.messages)
    assert lab.xapi.sm_config["luks_alerts"] == "LUKS-W003"
    lab.disk.dead.clear()
    lab.now += HOUR
    assert lab.check() == []
    assert lab.xapi.sm_config["luks_alerts"] == ""
    assert lab.told() == []


# A suspension that is over


def test_past_its_time_a_check_ends_a_suspension(suspended):
    assert suspended.check() == ["LUKS-W006"]
    expire(suspended.disk, suspended.slot)
    assert suspended.check() == []
    assert roles(suspended.disk) == {0: "binding", 1: "recovery"}
    assert suspended.backups == ["outdate", "revoked"]
    assert suspended.told() == [
        ("resume", {"slot": str(suspended.slot), "device": suspended.disk.path})]


def test_past_its_time_it_ends_although_the_binding_is_stale_which_is_told(suspended):
    suspended.disk.break_bindings()
    expire(suspended.disk, suspended.slot)
    assert suspended.check() == ["LUKS-W003"]
    assert roles(suspended.disk) == {0: "binding", 1: "recovery"}


def test_a_suspension_that_is_all_that_opens_is_told_and_goes_on(disk, lab):
    disk.reset()
    prepared(disk, confirmed=False)
    slot = bindings.suspend(disk.container(), disk.way, SOON)
    disk.break_bindings()
    expire(disk, slot)
    assert {"LUKS-W002", "LUKS-W003", "LUKS-W006"} <= set(lab.check())
    assert keyslots.way_in(disk.container()).slot == slot


def test_a_plug_renews_what_the_update_broke_ends_the_suspension_and_tells_both(suspended):
    suspended.disk.break_bindings()
    suspended.plug()
    [slot] = [slot for slot, role in roles(suspended.disk).items() if role == "binding"]
    assert sorted(roles(suspended.disk)) == sorted([1, slot])
    device = suspended.disk.path
    assert suspended.told() == [("rebind", {"slot": str(slot), "device": device}),
                                ("resume", {"slot": str(suspended.slot), "device": device})]
    suspended.plug()
    assert suspended.told() == []


def test_what_a_plug_could_not_end_the_next_check_does(suspended, monkeypatch):
    """A TPM that is silent right after the firmware was updated: without the suspension, the next
    boot would need the recovery key."""
    stale = set()
    suspended.disk.break_bindings()
    stale |= suspended.disk.dead
    suspended.disk.dead |= set(suspended.disk.sealed)
    with monkeypatch.context() as patch:
        patch.setattr(tpm, "check", silent)
        suspended.plug()
        suspended.check()
    assert roles(suspended.disk)[suspended.slot] == "suspend"
    suspended.disk.dead = stale
    suspended.check()
    assert sorted(roles(suspended.disk).values()) == ["binding", "recovery"]
    assert keyslots.way_in(suspended.disk.container())
    assert [verb for verb, _ in suspended.told()] == ["rebind", "resume"]


def test_a_check_changes_no_keys_while_somebody_else_does_and_does_not_wait(suspended, monkeypatch):
    expire(suspended.disk, suspended.slot)
    begun.save(headers.UUID, Begun("2031-01-01T00:00:00Z", "before", "", []))
    settled = []
    monkeypatch.setattr(reencrypt, "settle", lambda container: settled.append(container) or True)
    began = time.monotonic()
    with state.locked(SR):
        suspended.check()
    assert time.monotonic() - began < 20
    assert (roles(suspended.disk)[suspended.slot], settled) == ("suspend", [])
    suspended.check()
    assert suspended.slot not in roles(suspended.disk)
    assert len(settled) == 1
    assert [verb for verb, _ in suspended.told()] == ["reencrypt-settle", "resume"]


def test_where_nothing_was_begun_a_check_takes_no_lock(lab, monkeypatch):
    def locked(*_):
        raise AssertionError("it would keep an administrator waiting")

    monkeypatch.setattr(luksext_upkeep.state, "locked", locked)
    assert lab.check() == []


# A re-encryption


def test_what_settles_a_reencryption_is_told_and_has_the_lock_of_the_sr(lab, monkeypatch):
    begun.save(headers.UUID, Begun("2031-01-01T00:00:00Z", "before", "", []))
    names, locked = [], state.locked
    monkeypatch.setattr(state, "locked", lambda name, seconds=30: names.append(name) or locked(
        name, seconds))
    lab.check()
    assert begun.load(headers.UUID) is None
    assert lab.told() == [("reencrypt-settle", {"device": lab.disk.path})]
    begun.save(headers.UUID, Begun("2031-01-01T00:00:00Z", "before", "", []))
    lab.plug()
    assert ("reencrypt-settle", {"device": lab.disk.path}) in lab.told()
    for place in [place for place, name in enumerate(names) if name.startswith("reencrypt-")]:
        assert SR in names[:place]


# Backups


def test_backups_that_hold_a_key_that_is_gone_are_destroyed_by_whoever_comes_next(lab):
    lab.xapi.sm_config["luks_recovery_key"] = "confirmed"
    for come in (lab.check, lab.plug):
        lab.outdated = False
        come()
        assert lab.backups == []
        lab.outdated = True
        come()
        assert len(lab.backups) == 1
        del lab.backups[:]


# In place


def test_the_recovery_key_of_an_encryption_in_place_is_kept_until_its_end(lab):
    store = state.Store(SR)
    for come in (lab.check, lab.plug):
        store.save("in-place", {"jwe": "sealed"})
        begun.save(headers.UUID, Begun("2031-01-01T00:00:00Z", "before", "", []))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reencrypt, "settle", lambda container: False)
            patch.setattr(reencrypt, "resume", lambda container: None)
            come()
        assert store.load("in-place")
        begun.forget(headers.UUID)
        come()
        assert not store.load("in-place")


def test_with_an_sr_that_is_erased_go_all_its_notes(lab):
    for uuid in (SR, headers.UUID):
        state.Store(uuid).save("note", {"a": 1})
    luksext_upkeep.forget(SR, [lab.disk.container().record])
    assert state.known() == []
