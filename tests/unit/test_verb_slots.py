# SPDX-License-Identifier: LGPL-2.1-only
"""verb_slots: a number that was typed means one key, wherever each disk of the SR has it."""
import pytest

from fake_luks import Disk, Disks
from luksext import backup, clevis, cryptsetup, keys, keyslots, verbs
from luksext.errors import (ArgumentInvalid, BindingChanged, CommandFailed, LastWayIn, NoSuchKey,
                            WrongRecoveryKey)
from luksext.keyslots import Way
from luksext.repository import Repository

SR = "0b9b0d2a-3c4d-4e5f-8a6b-1c2d3e4f5a6b"
OTHER = "99999999-2222-4333-8444-555555555555"
TPM = ("tpm2", {})
PCRS = ("tpm2", {"pcr_ids": "7", "pcr_bank": "sha256"})
TANG = ("tang", {"url": "http://tang"})


@pytest.fixture
def backups(monkeypatch):
    """What was done with header backups, as name and device."""
    done = []
    monkeypatch.setattr(backup, "create", lambda container, reason: done.append(
        (reason, container.device)))
    monkeypatch.setattr(backup, "is_fresh", lambda container: True)
    for name in ("outdate", "revoked"):
        monkeypatch.setattr(backup, name, lambda container, name=name: done.append(
            (name, container.device)))
    return done


@pytest.fixture
def two(disk, tmp_path, monkeypatch, backups, audited):
    """Two disks of one SR, each with the TPM in slot 0 and a confirmed key in slot 1."""
    made = Disks(disk, Disk(tmp_path / "sdc", disk.version, OTHER))
    for module in (cryptsetup, clevis):
        monkeypatch.setattr(module, "run", made.run)
    for number, one in enumerate(made.disks):
        one.bind(0, *TPM, b"sealed %d" % number)
    key = call(made, "recovery-add", name="safe")["recovery_key"]
    call(made, "recovery-confirm", key=key)
    del backups[:]
    return made


def call(made, called, **given):
    arguments = {key.replace("_", "-"): value for key, value in given.items()}
    verb = verbs.find(called, arguments)
    return verbs.run(verb, Repository(SR, [disk.container() for disk in made.disks],
                                      [None] * len(made.disks)), arguments, "admin")


def recovery(disk, slot, name):
    """Another recovery key, in `slot` though others may be free."""
    filled = {number: b"for now" for number in range(slot) if number not in disk.keys}
    disk.keys.update(filled)
    disk.write()
    assert keyslots.add_recovery(
        disk.container(), Way(0, disk.keys[0]), name, name.encode()) == slot
    for number in filled:
        del disk.keys[number]
    disk.write()


def slots(made):
    return [sorted(disk.keys) for disk in made.disks]


# Recovery keys


def test_a_number_means_the_key_of_that_name_on_all_disks(two):
    one, other = two.disks
    recovery(one, 2, "office")
    recovery(other, 3, "office")
    assert call(two, "recovery-revoke", slot="3")["slots"] == [2, 3]
    assert slots(two) == [[0, 1], [0, 1]]
    with pytest.raises(NoSuchKey):
        call(two, "recovery-revoke", slot="3")


@pytest.mark.parametrize("there", ["kept", None], ids=["another-name", "unknown"])
def test_a_number_of_different_keys_revokes_none(two, backups, there):
    one, other = two.disks
    recovery(one, 2, "office")
    recovery(other, 3, "office")
    if there:
        recovery(other, 2, there)
    else:
        other.keys[2] = b"of somebody"
        other.write()
    with pytest.raises(ArgumentInvalid, match=r"keyslot 2 is not the same on .*sdb and .*device"):
        call(two, "recovery-revoke", slot="2")
    assert (slots(two), backups) == ([[0, 1, 2], [0, 1, 2, 3]], [])
    assert call(two, "recovery-revoke", slot="2", device=other.path)["slots"] == [None, 2]
    assert call(two, "recovery-revoke", name="office")["slots"] == [2, 3]
    assert slots(two) == [[0, 1], [0, 1]]


def test_of_unknown_keys_the_number_is_all_that_is_the_same(two):
    one, other = two.disks
    for disk, numbers in ((one, (2, 4)), (other, (2, 5))):
        for number in numbers:
            disk.keys[number] = b"%d" % number
        disk.write()
    assert call(two, "recovery-revoke", slot="4")["slots"] == [4, None]
    assert call(two, "recovery-revoke", slot="2")["slots"] == [2, 2]
    assert slots(two) == [[0, 1], [0, 1, 5]]


def test_a_key_that_one_disk_has_to_keep_is_revoked_on_none(two, backups):
    recovery(two.disks[0], 2, "office")
    keyslots.confirm(two.disks[0].container(), b"office")
    with pytest.raises(LastWayIn, match="sdc"):
        call(two, "recovery-revoke", name="safe")
    assert slots(two) == [[0, 1, 2], [0, 1]]
    assert backups == []


def test_a_disk_that_is_not_of_the_sr_is_told(two):
    with pytest.raises(ArgumentInvalid, match=r"/dev/sdz among.*sdb, .*sdc"):
        call(two, "recovery-revoke", slot="1", device="/dev/sdz")


# Bindings


def test_a_number_means_the_binding_to_the_same_policy_on_all_disks(two):
    one, other = two.disks
    for disk, numbers in ((one, (2, 3)), (other, (3, 4))):
        for number, pin in zip(numbers, (PCRS, TANG)):
            disk.bind(number, *pin, b"%d" % number)
    assert call(two, "binding-remove", slot="2")["slots"] == [2, 3]
    assert slots(two) == [[0, 1, 3], [0, 1, 4]]


def test_a_number_of_different_bindings_removes_none(two, backups):
    one, other = two.disks
    for disk, numbers in ((one, (2, 3)), (other, (3, 2))):
        for number, pin in zip(numbers, (PCRS, TANG)):
            disk.bind(number, *pin, b"%d" % number)
    for verb in ("binding-remove", "rebind"):
        with pytest.raises(ArgumentInvalid, match="keyslot 2 is not the same on"):
            call(two, verb, slot="2")
    assert slots(two) == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert backups == []
    assert call(two, "binding-remove", slot="2", device=other.path)["slots"] == [None, 2]
    assert slots(two) == [[0, 1, 2, 3], [0, 1, 3]]


def test_which_of_two_like_bindings_is_meant_is_not_guessed(two):
    """As a rebind leaves them that was cut short between new and old."""
    one, other = two.disks
    one.bind(2, *TPM, b"new")
    other.bind(2, *TANG, b"tang")
    with pytest.raises(ArgumentInvalid, match="device"):
        call(two, "binding-remove", slot="2")
    one.bind(3, *TPM, b"newer")
    with pytest.raises(ArgumentInvalid, match="device"):
        call(two, "binding-remove", slot="3")
    assert call(two, "binding-remove", slot="3", device=one.path)["slots"] == [3, None]


def test_the_only_binding_of_each_disk_is_removed_if_it_is_the_same(two):
    two.disks[1].bind(0, *TANG, b"tang")
    with pytest.raises(ArgumentInvalid, match="device"):
        call(two, "binding-remove", force="true")
    assert slots(two) == [[0, 1], [0, 1]]


def test_a_binding_that_one_disk_has_to_keep_is_removed_from_none(two, backups):
    two.disks[0].bind(2, *PCRS, b"more")
    with pytest.raises(LastWayIn, match="sdc"):
        call(two, "binding-remove", slot="0")
    assert slots(two) == [[0, 1, 2], [0, 1]]
    assert backups == []


@pytest.mark.parametrize("verb, given", [
    ("binding-remove", {"slot": "2"}), ("rebind", {"slot": "2"}),
    ("rebind", {"slot": "2", "pin": "tpm2", "pin_config": "{\"pcr_ids\": \"8\"}"}),
    ("recovery-revoke", {"slot": "3"})], ids=["remove", "rebind", "another-policy", "revoke"])
def test_what_was_cut_short_after_the_first_disk_is_repeated(two, monkeypatch, verb, given):
    for number, disk in enumerate(two.disks):
        disk.bind(2, *PCRS, b"more %d" % number)
        recovery(disk, 3, "office")
    if verb == "rebind" and "pin" not in given:
        two.disks[0].break_bindings()
    before = slots(two)
    killed = []

    def run(argv, **options):
        if two.disks[1].path in argv and argv[1] in ("luksKillSlot", "luksAddKey") and not killed:
            killed.append(argv)
            raise CommandFailed(" ".join(argv), 1, "killed")
        return two.run(argv, **options)

    for module in (cryptsetup, clevis):
        monkeypatch.setattr(module, "run", run)
    with pytest.raises(CommandFailed):
        call(two, verb, **given)
    assert killed
    assert slots(two)[0] != before[0]
    assert slots(two)[1] == before[1]
    after = slots(two)[0]
    call(two, verb, **given)
    assert [len(found) for found in slots(two)] == [len(after), len(after)]
    assert call(two, "status")["alerts"].count("LUKS-W008") == 0


@pytest.mark.parametrize("wrong", ["key", "binding"])
def test_what_keeps_one_disk_from_being_bound_anew_keeps_all(two, backups, wrong):
    call(two, "prove")
    given = {}
    if wrong == "key":
        given["key"] = keys.generate()
        recovery(two.disks[0], 2, "office")
        two.disks[0].keys[2] = given["key"].encode()
    else:
        # Its keyslot is the same, what opens it is not.
        two.disks[1].bind(0, *TANG, two.disks[1].keys[0])
    before = slots(two)
    with pytest.raises((WrongRecoveryKey, BindingChanged), match="sdc"):
        call(two, "rebind", force="true", **given)
    assert (slots(two), backups) == (before, [])
