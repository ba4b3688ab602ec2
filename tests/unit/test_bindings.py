# SPDX-License-Identifier: LGPL-2.1-only
"""bindings: a new one is proved before an old one goes, and a kill at any step leaves a way in."""
import datetime

import pytest

import headers
from fake_luks import every_cut
from luksext import backup, bindings, clevis, health, keyslots, tpm
from luksext.clevis import Pin
from luksext.errors import (BindingChanged, BindingHealthy, CommandFailed, KeyRefused, LastWayIn,
                            LuksError, NoTpm, OptionInvalid, ToolMissing,
                            TpmBroken, TpmLockout, TpmRefuses, Unsupported, WrongSlot)
from luksext.keyslots import Way

PASSPHRASE = b"correct horse battery staple"
PCRS = {"pcr_ids": "7", "pcr_bank": "sha256"}
TPM = Pin("tpm2", {"pcr_ids": "7"})
SOON = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=24)).strftime(
    "%Y-%m-%dT%H:%M:%SZ")
PAST = "2001-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def backups(disk, monkeypatch):
    """What is done with the backups, and the keyslots that there are then."""
    done = []
    for name in ("outdate", "revoked"):
        monkeypatch.setattr(backup, name, lambda container, name=name: done.append(
            (name, sorted(disk.keys))))
    return done


def prepared(disk, confirmed=True):
    """A disk with a TPM binding in keyslot 0 and a recovery key in keyslot 1."""
    disk.way = disk.bind(0, "tpm2", PCRS, b"sealed")
    keyslots.add_recovery(disk.container(), disk.way, "safe", PASSPHRASE)
    if confirmed:
        keyslots.confirm(disk.container(), PASSPHRASE)
    return disk


@pytest.fixture
def bound(disk):
    return prepared(disk)


def by_passphrase(disk):
    return keyslots.way_in(disk.container(), PASSPHRASE)


def roles(disk):
    return {slot.number: slot.role for slot in keyslots.slots(disk.container())}


def pins(disk):
    return {slot.number: slot.pin.config for slot in keyslots.slots(disk.container()) if slot.pin}


def opens(disk):
    """Whether some binding opens the disk, and the recovery key does."""
    return keyslots.way_in(disk.container()) and by_passphrase(disk)


# Adding


def test_a_second_binding_opens_the_disk_when_the_first_does_not(bound):
    slot = bindings.add(bound.container(), bound.way, Pin("tang", {"url": "http://t", "thp": "x"}))
    assert roles(bound) == {0: "binding", 1: "recovery", slot: "binding"}
    bound.break_bindings()
    assert keyslots.way_in(bound.container()).slot == slot


def test_a_pin_is_checked_before_anything_is_sealed(bound):
    bound.calls = []
    with pytest.raises(OptionInvalid):
        bindings.add(bound.container(), bound.way, Pin("tpm2", {"pcr_ids": "99"}))
    assert bound.calls == []


def test_a_binding_that_does_not_open_is_taken_back(bound, monkeypatch):
    before = (dict(bound.keys), dict(bound.tokens), dict(bound.luksmeta))
    monkeypatch.setattr(clevis, "unseal", lambda jwe: b"another key")
    with pytest.raises(KeyRefused):
        bindings.add(bound.container(), bound.way, TPM)
    assert (bound.keys, bound.tokens, bound.luksmeta) == before


@pytest.mark.parametrize("change", [
    lambda disk: bindings.add(disk.container(), Way(1, PASSPHRASE), TPM),
    lambda disk: bindings.suspend(disk.container(), Way(1, PASSPHRASE), SOON)])
def test_a_failure_of_any_program_leaves_the_disk_as_it_was(disk, change):
    prepared(disk)
    before = (dict(disk.keys), dict(disk.tokens), dict(disk.luksmeta))
    number, failed = 0, 0
    while True:
        disk.reborn()
        disk.refuse = number
        try:
            change(disk)
        except LuksError:
            failed += 1
            assert (disk.keys, disk.tokens, disk.luksmeta) == before
        if len(disk.calls) <= number:
            break
        disk.reset()
        prepared(disk)
        before = (dict(disk.keys), dict(disk.tokens), dict(disk.luksmeta))
        number += 1
    assert failed >= 4


def test_a_kill_while_adding_leaves_every_way_in(disk):
    assert every_cut(disk, lambda: prepared(disk),
                     lambda: bindings.add(disk.container(), disk.way, TPM),
                     lambda: opens(disk)) >= 8


# Removing


def test_the_last_binding_goes_only_when_forced(bound):
    with pytest.raises(LastWayIn, match=r"--force=true"):
        bindings.remove(bound.container(), 0)
    bindings.remove(bound.container(), 0, force=True)
    assert roles(bound) == {1: "recovery"}
    assert not any("clevis" in str(kept) for kept in bound.tokens.values())
    assert by_passphrase(bound)


def test_a_binding_beside_one_that_does_not_open_is_the_last(bound):
    slot = bindings.add(bound.container(), bound.way, Pin("tpm2", {}))
    bound.break_bindings()
    bindings.remove(bound.container(), 0)
    assert roles(bound) == {1: "recovery", slot: "binding"}
    bound.bind(0, "tpm2", PCRS, b"stale")
    bound.break_bindings()
    with pytest.raises(LastWayIn, match="nobody present"):
        bindings.remove(bound.container(), slot)


@pytest.mark.parametrize("force", [False, True])
def test_without_recovery_key_no_binding_goes(disk, force):
    disk.bind(0, "tpm2", PCRS, b"sealed")
    disk.bind(1, "tpm2", {}, b"too")
    disk.keys[2] = b"of nobody"
    disk.write()
    with pytest.raises(LastWayIn, match="recovery-add"):
        bindings.remove(disk.container(), 0, force)
    assert sorted(disk.keys) == [0, 1, 2]


def test_a_recovery_key_that_nobody_typed_is_not_enough(disk):
    prepared(disk, confirmed=False)
    with pytest.raises(LastWayIn, match="recovery-confirm"):
        bindings.remove(disk.container(), 0, force=True)
    bindings.add(disk.container(), disk.way, Pin("tpm2", {}))
    bindings.remove(disk.container(), 0)


@pytest.mark.parametrize("slot", [1, 5])
@pytest.mark.parametrize("change", [
    lambda container, slot: bindings.remove(container, slot, True),
    lambda container, slot: bindings.rebind(container, slot, Way(0, b"sealed"), force=True)])
def test_only_a_binding_is_removed_or_renewed(bound, slot, change):
    with pytest.raises(WrongSlot):
        change(bound.container(), slot)
    assert sorted(bound.keys) == [0, 1]


def test_a_kill_while_removing_leaves_a_way_in(disk):
    def prepare():
        prepared(disk)
        bindings.add(disk.container(), disk.way, Pin("tpm2", {}))

    assert every_cut(disk, prepare, lambda: bindings.remove(disk.container(), 0),
                     lambda: opens(disk)) >= 4


# Renewing


def test_a_healthy_binding_is_renewed_only_when_forced(bound):
    for pin in (None, TPM, Pin("tpm2", {"pcr_ids": [7]})):
        with pytest.raises(BindingHealthy, match="--force=true"):
            bindings.rebind(bound.container(), 0, bound.way, pin)
    slot = bindings.rebind(bound.container(), 0, bound.way, force=True)
    assert roles(bound) == {1: "recovery", slot: "binding"}
    assert b"sealed" not in bound.keys.values()


@pytest.mark.parametrize("pin", [
    Pin("tpm2", {}), Pin("tpm2", {"pcr_ids": "7,8"}), Pin("tpm2", {"pcr_ids": "7", "key": "rsa"}),
    Pin("tang", {"url": "http://t", "thp": "x"})])
def test_another_policy_needs_no_force(bound, pin):
    slot = bindings.rebind(bound.container(), 0, bound.way, pin)
    found = pins(bound)[slot]
    assert {name: found[name] for name in pin.config} == pin.config
    assert found.get("pcr_ids") == pin.config.get("pcr_ids")


def test_a_stale_binding_is_renewed_by_the_recovery_key_with_its_own_policy(bound):
    bound.break_bindings()
    slot = bindings.rebind(bound.container(), 0, by_passphrase(bound))
    assert keyslots.way_in(bound.container()).slot == slot
    assert pins(bound) == {slot: dict(PCRS, jwk_pub="pub", jwk_priv="priv")}


def test_a_binding_that_cannot_be_sealed_leaves_the_old_one(bound, monkeypatch):
    bound.break_bindings()

    def refuse(pin, key):
        raise TpmRefuses("7")

    monkeypatch.setattr(clevis, "seal", refuse)
    before = dict(bound.keys)
    with pytest.raises(TpmRefuses):
        bindings.rebind(bound.container(), 0, by_passphrase(bound))
    assert bound.keys == before


def test_a_kill_while_renewing_leaves_a_way_in_and_can_be_repeated(disk):
    def prepare():
        prepared(disk)
        disk.break_bindings()

    def holds():
        assert by_passphrase(disk)
        for slot, role in roles(disk).items():
            if role == "binding" and not keyslots.is_proven(disk.container(), slot):
                bindings.rebind(disk.container(), slot, by_passphrase(disk))
        return keyslots.way_in(disk.container())

    assert every_cut(disk, prepare,
                     lambda: bindings.rebind(disk.container(), 0, by_passphrase(disk)),
                     holds) >= 12


def test_a_kill_while_renewing_a_healthy_binding_leaves_one_that_opens(disk):
    assert every_cut(disk, lambda: prepared(disk),
                     lambda: bindings.rebind(disk.container(), 0, disk.way, force=True),
                     lambda: opens(disk)) >= 12


# Suspending


def test_a_suspension_opens_whatever_the_pcrs_are_and_says_until_when(bound):
    slot = bindings.suspend(bound.container(), bound.way, SOON)
    bound.break_bindings()
    assert keyslots.way_in(bound.container()).slot == slot
    [suspended] = [found for found in keyslots.slots(bound.container()) if found.number == slot]
    assert (suspended.role, suspended.name, suspended.until) == ("suspend", "tpm2", SOON)
    assert "pcr_ids" not in suspended.pin.config


def test_ending_a_suspension_renews_what_the_update_broke(bound):
    slot = bindings.suspend(bound.container(), bound.way, SOON)
    bound.break_bindings()
    assert bindings.end_suspend(bound.container()) is True
    assert sorted(roles(bound).values()) == ["binding", "recovery"]
    assert slot not in roles(bound)
    [config] = pins(bound).values()
    assert config["pcr_ids"] == "7"
    assert opens(bound)
    assert bindings.end_suspend(bound.container()) is False


def test_ending_a_suspension_before_the_update_leaves_the_binding_as_it_was(bound):
    before = (dict(bound.keys), dict(bound.tokens), dict(bound.luksmeta))
    bindings.suspend(bound.container(), bound.way, SOON)
    assert bindings.end_suspend(bound.container()) is True
    assert (bound.keys, bound.tokens, bound.luksmeta) == before


def expire(disk, slot, until=PAST):
    container = disk.container()
    container.generation.write_note(disk.path, container.header, bindings.Note(
        "suspend", slot, {"until": until}))


@pytest.mark.parametrize("slot", [0, 1], ids=["binding", "recovery key"])
def test_a_suspension_that_only_the_header_tells_of_changes_nothing(bound, slot):
    expire(bound, slot, SOON)
    bound.break_bindings()
    before = dict(bound.keys)
    assert bindings.end_suspend(bound.container()) is False
    assert bound.keys == before
    assert roles(bound)[slot] == "unknown"


def test_past_its_time_a_suspension_renews_nothing(bound):
    slot = bindings.suspend(bound.container(), bound.way, SOON)
    bound.break_bindings()
    expire(bound, slot)
    assert bindings.end_suspend(bound.container()) is True
    assert roles(bound) == {0: "binding", 1: "recovery"}
    assert not keyslots.is_proven(bound.container(), 0)


def test_a_suspension_that_is_all_that_opens_goes_on(disk):
    prepared(disk, confirmed=False)
    slot = bindings.suspend(disk.container(), disk.way, SOON)
    disk.break_bindings()
    expire(disk, slot)
    with pytest.raises(LastWayIn, match="nothing else is proven"):
        bindings.end_suspend(disk.container())
    assert keyslots.way_in(disk.container()).slot == slot


def test_with_a_suspension_go_the_backups_that_would_bring_it_back(bound, backups):
    slot = bindings.suspend(bound.container(), bound.way, SOON)
    bindings.end_suspend(bound.container())
    assert backups == [("outdate", [0, 1, slot]), ("revoked", [0, 1])]


def test_of_two_suspensions_the_first_goes_with_its_backups(bound, backups):
    first = bindings.suspend(bound.container(), bound.way, SOON)
    second = bindings.suspend(bound.container(), bound.way, SOON)
    assert backups == [("outdate", [0, 1, first, second]), ("revoked", [0, 1, second])]


def test_each_change_is_told_as_soon_as_it_is_made(bound, backups, monkeypatch):
    slot = bindings.suspend(bound.container(), bound.way, SOON)
    bound.break_bindings()
    told = []

    def full(container):
        raise LuksError("No room.", "Make some.")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "outdate", full)
        with pytest.raises(LuksError):
            bindings.end_suspend(bound.container(), lambda *words: told.append(words))
    [renewed] = [number for number, role in roles(bound).items() if role == "binding"]
    assert told == [("rebind", renewed)]
    with monkeypatch.context() as patch:
        patch.setattr(backup, "revoked", full)
        with pytest.raises(LuksError):
            bindings.end_suspend(bound.container(), lambda *words: told.append(words))
    assert told == [("rebind", renewed), ("resume", slot)]
    assert roles(bound) == {1: "recovery", renewed: "binding"}


# A TPM that fails, right after the plug


@pytest.mark.parametrize("error", [TpmBroken("it is silent"), TpmLockout(), NoTpm()],
                         ids=["silent", "lockout", "absent"])
@pytest.mark.parametrize("confirmed", [True, False])
def test_while_the_tpm_does_not_answer_a_suspension_goes_on(disk, monkeypatch, error, confirmed):
    prepared(disk, confirmed)
    slot = bindings.suspend(disk.container(), disk.way, SOON)
    disk.break_bindings()
    stale = set(disk.dead)

    def fail():
        raise error

    for until in (SOON, PAST):
        disk.dead |= set(disk.sealed)
        with monkeypatch.context() as patch:
            patch.setattr(tpm, "check", fail)
            with pytest.raises(type(error)):
                bindings.end_suspend(disk.container())
        assert roles(disk) == {0: "binding", 1: "recovery", slot: "suspend"}
        expire(disk, slot, until)
    expire(disk, slot, SOON)
    disk.dead = stale
    assert bindings.end_suspend(disk.container()) is True
    assert sorted(roles(disk).values()) == ["binding", "recovery"]
    assert opens(disk)


def test_a_tool_that_is_missing_keeps_a_suspension(bound, monkeypatch):
    slot = bindings.suspend(bound.container(), bound.way, SOON)

    def missing(jwe):
        raise ToolMissing("tpm2_unseal", "tpm2-tools")

    monkeypatch.setattr(clevis, "unseal", missing)
    with pytest.raises(ToolMissing):
        bindings.end_suspend(bound.container())
    assert roles(bound)[slot] == "suspend"


@pytest.mark.parametrize("at", range(4))
def test_a_tpm_that_refuses_once_ends_no_suspension_without_renewal(bound, monkeypatch, at):
    bindings.suspend(bound.container(), bound.way, SOON)
    bound.break_bindings()
    asked, unseal = [], clevis.unseal

    def refusing_once(jwe):
        asked.append(jwe)
        if len(asked) == at + 1:
            raise TpmRefuses("")
        return unseal(jwe)

    monkeypatch.setattr(clevis, "unseal", refusing_once)
    assert bindings.end_suspend(bound.container()) is True
    assert opens(bound)


# When it is over


def test_a_suspension_is_over_after_its_time_or_once_it_was_plugged(bound):
    assert not bindings.is_over(bound.container())
    bindings.plugged(bound.container())
    slot = bindings.suspend(bound.container(), bound.way, SOON)
    assert not bindings.is_over(bound.container())
    bindings.plugged(bound.container())
    assert bindings.is_over(bound.container())
    slot = bindings.suspend(bound.container(), bound.way, SOON)
    assert not bindings.is_over(bound.container())
    for until in (PAST, "", "tomorrow"):
        expire(bound, slot, until)
        assert bindings.is_over(bound.container())


def test_a_suspension_whose_tpm_was_cleared_ends(bound):
    bindings.suspend(bound.container(), bound.way, SOON)
    bound.dead |= set(bound.sealed)
    assert bindings.end_suspend(bound.container()) is True
    assert roles(bound) == {0: "binding", 1: "recovery"}


def test_suspending_again_leaves_one_suspension(bound):
    bindings.suspend(bound.container(), bound.way, SOON)
    slot = bindings.suspend(bound.container(), bound.way, SOON)
    assert roles(bound) == {0: "binding", 1: "recovery", slot: "suspend"}
    assert bindings.end_suspend(bound.container()) is True
    assert len(bound.tokens) == (2 if bound.version == 2 else 0)
    assert len(bound.luksmeta) == (3 if bound.version == 1 else 0)


def test_without_pcrs_there_is_nothing_to_suspend(disk):
    way = disk.bind(0, "tpm2", {}, b"sealed")
    with pytest.raises(Unsupported, match="does not break it"):
        bindings.suspend(disk.container(), way, SOON)


def test_a_shared_secret_keeps_all_but_its_pcrs_while_suspended(disk):
    share = disk.jwe("tpm2", PCRS, b"share")
    way = disk.bind(0, "sss", {"t": 1, "p": "x", "jwe": [share]}, b"sealed")
    slot = bindings.suspend(disk.container(), way, SOON)
    assert pins(disk)[slot]["pins"] == {"tpm2": [{}]}


def test_no_kill_makes_a_binding_without_pcrs_look_as_if_it_were_to_stay(disk):
    def holds():
        for slot in keyslots.slots(disk.container()):
            if slot.pin and "pcr_ids" not in slot.pin.config:
                assert slot.role == "suspend"
        return opens(disk)

    assert every_cut(disk, lambda: prepared(disk),
                     lambda: bindings.suspend(disk.container(), disk.way, SOON), holds) >= 10


def test_a_kill_while_ending_a_suspension_leaves_a_way_in_and_can_be_repeated(disk, backups):
    def prepare():
        prepared(disk)
        bindings.suspend(disk.container(), disk.way, SOON)
        disk.break_bindings()
        del backups[:]

    def holds():
        assert opens(disk)
        if "suspend" not in roles(disk).values():
            assert backups, "a backup would bring it back"
        bindings.end_suspend(disk.container())
        assert all(slot.role != "suspend" and (not slot.pin or "pcr_ids" in slot.pin.config)
                   for slot in keyslots.slots(disk.container()))
        return opens(disk)

    assert every_cut(disk, prepare, lambda: bindings.end_suspend(disk.container()), holds) >= 16


def test_a_program_that_fails_on_the_way_is_told(bound):
    bound.refuse = 0
    bound.calls = []
    with pytest.raises((CommandFailed, LuksError)):
        bindings.add(bound.container(), bound.way, TPM)


def test_a_binding_that_somebody_changed_is_not_renewed_as_it_is(disk):
    """Its PCRs, or its server, may be what whoever had the disk in hand wants."""
    prepared(disk)
    health.prove(disk.container())
    weaker = disk.jwe("tpm2", {}, b"sealed")
    if disk.version == 2:
        disk.tokens[0] = headers.binding_token(0, weaker)
    else:
        disk.luksmeta[0] = (disk.luksmeta[0][0], weaker.encode())
    disk.dead.add(weaker)
    disk.write()
    health.prove(disk.container())
    with pytest.raises(BindingChanged):
        bindings.rebind(disk.container(), 0, by_passphrase(disk))
    slot = bindings.rebind(disk.container(), 0, by_passphrase(disk), Pin("tpm2", PCRS))
    assert pins(disk)[slot]["pcr_ids"] == PCRS["pcr_ids"]
