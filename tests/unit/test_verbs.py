# SPDX-License-Identifier: LGPL-2.1-only
"""verbs: done alone, on all disks or none, backed up, audited; what status tells."""
import contextlib
from types import SimpleNamespace

import pytest

import headers
from fake_luks import Disk
from luksext import backup, keyslots, notes, predict, reencrypt, status, tpm, verbs
from luksext.container import LuksContainer
from luksext.errors import (ArgumentInvalid, BackupMissing, CommandFailed, DeviceIsOurs,
                            HeaderMissing, LastWayIn, NoSuchKey, ReencryptionKeys, TpmLockout,
                            Unsupported, VerbUnknown, WrongRecoveryKey)
from luksext.predict import Prediction
from luksext.reencrypt import Progress
from luksext.repository import Repository

SR = "0b9b0d2a-3c4d-4e5f-8a6b-1c2d3e4f5a6b"
OTHER = "99999999-2222-4333-8444-555555555555"


@pytest.fixture
def lines(audited):
    return audited


@pytest.fixture
def backups(monkeypatch, tmp_path):
    """Backups by their reason, in the place of files of 16 MiB."""
    made = []
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    monkeypatch.setattr(backup, "create", lambda container, reason: made.append(reason))
    monkeypatch.setattr(backup, "is_fresh", lambda container: bool(made))
    monkeypatch.setattr(backup, "list_of", lambda uuid: [])
    for name in ("outdate", "revoked"):
        monkeypatch.setattr(backup, name, lambda container, name=name: made.append(name))
    return made


@pytest.fixture
def bound(disk):
    disk.way = disk.bind(0, "tpm2", {"pcr_ids": "7", "pcr_bank": "sha256"}, b"sealed")
    return disk


def call(disk, called, **given):
    arguments = {key.replace("_", "-"): value for key, value in given.items()}
    verb = verbs.find(called, arguments)
    return verbs.run(verb, Repository(SR, [disk.container()], [None]), arguments, "admin")


def test_a_recovery_key_is_added_confirmed_and_told_once(bound, backups, lines):
    added = call(bound, "recovery-add", name="safe")
    key = added["recovery_key"]
    assert (added["schema"], added["sr_uuid"]) == (1, SR)
    assert backups == ["recovery-add"]
    assert call(bound, "status")["recovery"] == "unconfirmed"
    assert call(bound, "recovery-confirm", key=key.lower())["confirmed"] is True
    told = call(bound, "status")
    assert told["recovery"] == "confirmed"
    assert key not in repr(told)
    assert key not in repr(lines)
    assert lines[0] == ("recovery-add", SR, "admin", "ok", {"name": "safe", "slots": "1"})


def test_a_failure_is_audited_by_its_code(bound, backups, lines):
    with pytest.raises(NoSuchKey):
        call(bound, "recovery-revoke", name="nobody")
    assert lines[0] == ("recovery-revoke", SR, "admin", "error 6287", {"name": "nobody"})


def test_a_line_tells_what_was_not_typed(bound, backups, lines):
    key = call(bound, "recovery-add")["recovery_key"]
    suspended = call(bound, "suspend")
    call(bound, "resume")
    rebound = call(bound, "rebind", force="true", key=key)
    assert [(line[0], line[4]) for line in lines] == [
        ("recovery-add", {"name": "recovery", "slots": "1"}),
        ("suspend", {"slots": "2", "until": suspended["until"]}), ("resume", {"slots": "2"}),
        ("rebind", {"slots": str(rebound["slots"][0]), "force": "true"})]
    assert key not in repr(lines)


def test_a_suspension_that_ends_is_told_with_the_copies_that_it_leaves(bound, backups, lines):
    assert call(bound, "resume") == {"schema": 1, "sr_uuid": SR, "ended": [False], "slots": []}
    call(bound, "suspend", hours="2")
    del backups[:]
    told = call(bound, "resume")
    assert told["ended"] == [True]
    assert "exported" in told["next"]
    assert backups[:2] == ["outdate", "revoked"]


def test_a_key_that_is_revoked_is_in_no_backup_afterwards(bound, backups, lines):
    first = call(bound, "recovery-add", name="first")["recovery_key"]
    second = call(bound, "recovery-rotate", name="first")
    assert second["name"] == "first.2"
    for key in (first, second["recovery_key"]):
        call(bound, "recovery-confirm", key=key)
    del backups[:]
    call(bound, "recovery-revoke", name="first")
    assert backups[:2] == ["outdate", "revoked"]


def test_what_does_not_change_keys_is_neither_audited_nor_backed_up(bound, backups, lines):
    call(bound, "status")
    call(bound, "header-list")
    assert (lines, backups) == ([], [])


def test_the_status_names_what_needs_attention(bound, backups):
    bound.keys[5] = b"of nobody that is known"
    bound.write()
    told = call(bound, "status")
    assert {"LUKS-W001", "LUKS-W005", "LUKS-W007"} <= set(told["alerts"])
    roles = {slot["slot"]: slot["role"] for slot in told["disks"][0]["slots"]}
    assert roles == {0: "binding", 5: "unknown"}
    binding = told["disks"][0]["slots"][0]
    assert binding["policy"] == [{"pin": "tpm2", "pcr_ids": "7", "pcr_bank": "sha256"}]
    assert binding["proof"] is None


def test_a_stale_binding_is_told_after_its_proof(bound, backups):
    assert call(bound, "prove")["ok"] is True
    bound.break_bindings()
    assert call(bound, "prove")["ok"] is False
    assert "LUKS-W003" in call(bound, "status")["alerts"]


def test_a_disk_that_cannot_be_read_is_told_and_hides_no_other(bound, backups):
    sr = Repository(SR, [bound.container(), HeaderMissing("/dev/sdc")], [None, None])
    told = status.of(sr)
    assert told["disks"][1]["error"]["code"] == 6220
    assert "LUKS-W012" in told["alerts"]
    assert status.of(sr._replace(disks=sr.disks[1:]))["recovery"] == "unknown"
    with pytest.raises(HeaderMissing):
        verbs.run(verbs.VERBS["recovery-add"], sr, {}, "admin")


def test_of_a_disk_that_is_missing_nothing_is_said_that_is_not_known(bound, backups):
    """Its keys are what they were: it lacks none, and does not differ from the others."""
    for key in (call(bound, "recovery-add")["recovery_key"], None):
        told = status.of(Repository(SR, [HeaderMissing("/dev/sdc"), bound.container()],
                                    [None, None]))
        recovery, alert = ("unconfirmed", {"LUKS-W002"}) if key else ("confirmed", set())
        assert told["recovery"] == recovery
        assert set(told["alerts"]) == {"LUKS-W012"} | alert
        if key:
            call(bound, "recovery-confirm", key=key)
    told = status.of(Repository(SR, [HeaderMissing("/dev/sdc")], [None]))
    assert (told["recovery"], told["alerts"]) == ("unknown", ["LUKS-W012"])


# Alerts that need more than a header


def test_a_binding_that_the_next_boot_breaks_is_told(bound, backups, monkeypatch):
    for state in ("breaks", "unpredictable", "ok"):
        monkeypatch.setattr(predict, "predict", lambda pin, state=state: Prediction(state, "Why."))
        assert ("LUKS-W004" in call(bound, "status")["alerts"]) == (state == "breaks")


@pytest.mark.parametrize("state, raised", [
    ("interrupted", True), ("stuck", True), ("running", False), ("none", False)])
def test_a_reencryption_that_does_not_go_on_is_told(bound, backups, monkeypatch, state, raised):
    monkeypatch.setattr(reencrypt, "progress", lambda container: Progress(state, 0, 1, "", ""))
    assert ("LUKS-W009" in call(bound, "status")["alerts"]) == raised


@pytest.mark.parametrize("state", ["running", "interrupted", "none"])
def test_what_cannot_be_done_during_a_reencryption_is_not_asked_for(
        bound, backups, monkeypatch, state):
    monkeypatch.setattr(reencrypt, "progress", lambda container: Progress(state, 0, 1, "", ""))
    assert ("LUKS-W001" in call(bound, "status")["alerts"]) == (state == "none")


def test_a_binding_that_cannot_be_tried_is_not_called_stale(bound, backups, monkeypatch):
    def locked_out():
        raise TpmLockout()

    bound.break_bindings()
    monkeypatch.setattr(tpm, "check", locked_out)
    assert call(bound, "prove")["ok"] is False
    told = set(call(bound, "status")["alerts"])
    assert "LUKS-W011" in told and "LUKS-W003" not in told


def test_a_verb_that_does_not_exist_or_is_misused_does_nothing(bound, backups, lines):
    with pytest.raises(VerbUnknown):
        verbs.find("format", {})
    with pytest.raises(ArgumentInvalid):
        call(bound, "unlock", kee="x")
    assert lines == []


def test_handing_out_a_header_is_audited(bound, backups, lines):
    with pytest.raises(BackupMissing):
        call(bound, "header-export", serial="7")
    assert lines[0][0] == "header-export"


def test_a_header_that_changed_is_backed_up_before_it_is_handed_out(
        bound, backups, lines, monkeypatch):
    def create(container, reason):
        backups.append(reason)
        return SimpleNamespace(luks_uuid=container.uuid, serial=2, created="now", reason=reason,
                               sha256="new")

    monkeypatch.setattr(backup, "create", create)
    monkeypatch.setattr(backup, "list_of", lambda uuid: [
        SimpleNamespace(serial=1, reason="plug")])
    monkeypatch.setattr(backup, "export", lambda one: b"%d" % one.serial)
    [told] = call(bound, "header-export")["backups"]
    assert (told["serial"], told["reason"]) == (2, "header-export")


# Who waits for another


class Meanwhile:
    """In the place of the lock: what another console does while this one waits for it."""

    def __init__(self, monkeypatch, done):
        self.done = [done]
        self.lock = verbs.state.locked
        monkeypatch.setattr(verbs.state, "locked", self)

    def __call__(self, name, seconds=30):
        if name == SR and self.done:
            self.done.pop()()
        return self.lock(name, seconds)


def test_what_another_console_did_meanwhile_is_heeded(bound, backups, lines, monkeypatch):
    kept = call(bound, "recovery-add", name="kept")["recovery_key"]
    call(bound, "recovery-confirm", key=kept)
    call(bound, "recovery-add", name="gone")

    def other():
        call(bound, "recovery-revoke", name="gone")
        call(bound, "recovery-add", name="new")

    Meanwhile(monkeypatch, other)
    with pytest.raises(NoSuchKey):
        call(bound, "recovery-revoke", name="gone")
    assert [slot["name"] for slot in call(bound, "status")["disks"][0]["slots"][1:]] == [
        "kept", "new"]


def test_a_header_that_was_lost_meanwhile_keeps_no_other_from_being_mended(
        bound, backups, lines, monkeypatch, restored):
    def lose():
        with open(bound.path, "wb") as disk:
            disk.write(bytes(4096))

    Meanwhile(monkeypatch, lose)
    monkeypatch.setattr(backup, "of_disk", lambda device: ["lost"])
    call(bound, "header-restore", device="/dev/sdc")
    assert restored == ["lost"]
    with pytest.raises(HeaderMissing):
        call(bound, "recovery-add")


# What fails


def test_what_is_refused_leaves_the_backups_as_they_are(bound, backups, lines):
    call(bound, "recovery-add", name="only")
    del backups[:]
    with pytest.raises(LastWayIn):
        call(bound, "recovery-revoke", name="only")
    with pytest.raises(LastWayIn):
        call(bound, "binding-remove")
    assert backups == []


@pytest.mark.parametrize("fresh", [True, False], ids=["backed-up", "stale"])
def test_a_verb_that_fails_half_way_leaves_a_backup_of_what_was_backed_up_before(
        bound, backups, lines, monkeypatch, fresh):
    key = call(bound, "recovery-add", name="first")["recovery_key"]
    call(bound, "recovery-confirm", key=key)
    call(bound, "recovery-add", name="second")
    del backups[:]
    states = [fresh, False]
    monkeypatch.setattr(backup, "is_fresh", lambda container: states.pop(0))
    monkeypatch.setattr(keyslots, "revoke", fail)
    with pytest.raises(CommandFailed):
        call(bound, "recovery-revoke", name="second")
    assert backups == ["outdate"] + ["recovery-revoke"] * fresh
    assert lines[-1][3] == "error 6204"


def fail(*words, **options):
    raise CommandFailed("cryptsetup", 1, "killed")


def test_a_container_whose_uuid_cannot_be_noted_is_opened_all_the_same(
        bound, backups, lines, monkeypatch):
    def refuse(container):
        raise Unsupported("A container of this host is called ''.", "Give it one.")

    monkeypatch.setattr(backup, "is_fresh", refuse)
    assert "was not backed up" in call(bound, "resume")["warnings"][0]


def test_a_key_that_a_disk_needs_is_missed_before_the_first_is_encrypted_anew(
        bound, backups, lines, monkeypatch):
    did = []

    def check(container, typed):
        did.append(("check", typed))
        if len(did) == 2:
            raise ReencryptionKeys(container.device, ["keyslot 1"])

    monkeypatch.setattr(reencrypt, "check", check)
    monkeypatch.setattr(reencrypt, "start", lambda container, typed: did.append("start"))
    monkeypatch.setattr(reencrypt, "progress", lambda container: reencrypt.Progress(
        "running", 0, 1, "", ""))
    for disks in (2, 1):
        sr = Repository(SR, [bound.container()] * disks, [None] * disks)
        with contextlib.suppress(ReencryptionKeys):
            verbs.run(verbs.VERBS["reencrypt"], sr, {"key": "a passphrase of mine"}, "admin")
    assert did == [("check", [b"a passphrase of mine"])] * 3 + ["start"]


# Opened by hand, all or none


@pytest.mark.parametrize("was_open", [False, True], ids=["locked", "first-was-open"])
def test_where_a_disk_does_not_open_those_before_are_closed_again(
        bound, backups, lines, monkeypatch, was_open):
    key = call(bound, "recovery-add")["recovery_key"]
    did = []

    def open_by(container, slot, key, record, flags):
        did.append("open")
        if did.count("open") == 2:
            fail()
        return not was_open

    monkeypatch.setattr(LuksContainer, "open_by", open_by)
    monkeypatch.setattr(LuksContainer, "close", lambda container: did.append("close"))
    sr = Repository(SR, [bound.container()] * 2, [None] * 2)
    with pytest.raises(CommandFailed):
        verbs.run(verbs.VERBS["unlock"], sr, {"key": key}, "admin")
    assert did == ["open", "open"] + ["close"] * (not was_open)


def test_a_key_that_does_not_open_all_disks_opens_none(bound, backups, lines, monkeypatch):
    key = call(bound, "recovery-add")["recovery_key"]
    monkeypatch.setattr(LuksContainer, "open_by", fail)
    known = [bound.container(), bound.container()]
    test = keyslots.test
    monkeypatch.setattr(Repository, "refreshed", lambda sr: sr)
    monkeypatch.setattr(keyslots, "test", lambda container, key: test(
        container, key if container is known[0] else b"another"))
    with pytest.raises(WrongRecoveryKey):
        verbs.run(verbs.VERBS["unlock"], Repository(SR, known, [None] * 2), {"key": key}, "admin")


def test_a_binding_has_to_be_named_where_there_are_several(bound, backups, lines):
    bound.bind(3, "tpm2", {"pcr_ids": "8", "pcr_bank": "sha256"}, b"another")
    with pytest.raises(ArgumentInvalid, match="0, 3"):
        call(bound, "rebind", force="true")


# A header that was lost: without XAPI, nothing but the disk itself tells which

@pytest.fixture
def restored(monkeypatch):
    """The LUKS UUIDs whose backups are restored; every container has one."""
    wanted = []
    monkeypatch.setattr(backup, "is_fresh", lambda container: True)
    monkeypatch.setattr(backup, "list_of", lambda uuid: [
        SimpleNamespace(serial=1, reason="plug"), SimpleNamespace(serial=2, reason=backup.BEFORE)])
    monkeypatch.setattr(backup, "export", lambda found: b"%d" % found.serial)

    def restore(device, content, uuid, force, volume_key, named):
        assert content == b"1"
        wanted.append(uuid)
        return backup.Restored(uuid, 1, [])

    monkeypatch.setattr(backup, "restore", restore)
    return wanted


def restore(sr, device, **given):
    arguments = dict(given, device=device)
    verbs.run(verbs.find("header-restore", arguments), sr, arguments, "admin")


def test_a_lost_header_is_restored_from_what_was_backed_up_of_the_disk(
        disk, monkeypatch, lines, restored):
    here = disk.container()
    sr = Repository(SR, [here], [None])
    for known, expected in ((["lost"], "lost"), ([here.uuid, "lost"], "lost"),
                            ([here.uuid], here.uuid)):
        monkeypatch.setattr(backup, "of_disk", lambda device, known=known: known)
        restore(sr, "/dev/sdc")
        assert restored.pop() == expected


@pytest.mark.parametrize("number", [0, 1])
def test_of_several_readable_disks_the_named_one_is_restored(
        disk, tmp_path, lines, restored, number):
    other = Disk(tmp_path / "sdc", disk.version, OTHER)
    disks = [disk.container(), other.container()]
    sr = Repository(headers.SR, disks, [found.record for found in disks])
    restore(sr, disks[number].device)
    assert restored == [disks[number].uuid]


def test_what_is_on_a_disk_without_a_name_tells_which_backup_is_its(
        disk, lines, restored, monkeypatch):
    monkeypatch.setattr(backup, "of_disk", lambda device: [])
    restore(Repository(headers.SR, [disk.container()], [None]), disk.path)
    assert restored == [headers.UUID]


@pytest.mark.parametrize("typed", [True, False])
def test_that_a_container_was_named_is_handed_on(disk, lines, restored, monkeypatch, typed):
    seen = []
    monkeypatch.setattr(backup, "restore", lambda *words, named: seen.append(named)
                        or backup.Restored("", 1, []))
    monkeypatch.setattr(backup, "of_disk", lambda device: ["lost"])
    restore(Repository(SR, [], []), "/dev/sdc", force="true",
            **({"luks-uuid": "lost"} if typed else {}))
    assert seen == [typed]


def test_the_disk_of_another_sr_is_overwritten_by_no_force(disk, lines, restored):
    with pytest.raises(DeviceIsOurs, match=headers.SR):
        restore(Repository(OTHER, [], []), disk.path, force="true", **{"luks-uuid": "lost"})
    assert restored == []


def test_nothing_is_restored_on_a_guess(disk, monkeypatch, lines, restored):
    sr = Repository(SR, [disk.container()], [None])
    for known in ([], ["one", "another"]):
        monkeypatch.setattr(backup, "of_disk", lambda device, known=known: known)
        with pytest.raises(ArgumentInvalid, match="luks-uuid"):
            restore(sr, "/dev/sdc")
    assert restored == []
