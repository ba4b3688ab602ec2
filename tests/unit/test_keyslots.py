# SPDX-License-Identifier: LGPL-2.1-only
"""keyslots: what each is; recovery keys are proved, named, confirmed, and never the last to go."""
import json

import pytest

from fake_luks import every_cut
from luksext import bindings, cryptsetup, keys, keyslots, rollback
from luksext.clevis import Pin
from luksext.errors import (CommandFailed, HeaderFull, LastWayIn, LuksError, MemoryShort,
                            NameRefused, TpmRefuses, WrongRecoveryKey, WrongSlot)
from luksext.keyslots import Way

KEY = b"F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW"
TYPED = b"correct horse battery staple"
ESCROW = "a.b.c.d.e"


@pytest.fixture
def bound(disk):
    """A disk that the TPM opens."""
    disk.way = disk.bind(0, "tpm2", {"pcr_ids": "7", "pcr_bank": "sha256"}, b"sealed")
    return disk


def add(disk, name="safe", key=KEY, escrow=""):
    return keyslots.add_recovery(disk.container(), Way(0, b"sealed"), name, key, escrow)


def by_number(disk):
    return {slot.number: slot for slot in keyslots.slots(disk.container())}


# What a keyslot is


def test_a_new_recovery_key_has_a_name_and_is_not_confirmed(bound):
    number = add(bound, escrow=ESCROW)
    found = by_number(bound)
    assert sorted(found) == [0, number]
    assert (found[0].role, found[0].name, found[0].pin.config["pcr_ids"]) == (
        "binding", "tpm2", "7")
    new = found[number]
    assert (new.role, new.name, new.pin, new.confirmed, new.escrow) == (
        "recovery", "safe", None, False, ESCROW)
    assert new.created.startswith("20") and new.created.endswith("Z")


def test_a_keyslot_without_note_is_unknown(bound):
    bound.keys[3] = TYPED
    bound.write()
    assert by_number(bound)[3].role == "unknown"


@pytest.mark.parametrize("data", [
    {}, {"name": 7, "confirmed": "true", "created": "now", "escrow": "e"},
    {"name": "\x1b[2J", "confirmed": 1, "created": ["x"], "escrow": "a.b.c.d.\n"}])
def test_of_a_note_only_what_has_its_form_counts(bound, data):
    bound.keys[1] = TYPED
    bound.write()
    if bound.version == 1:
        mark = bound.container().header.marks[1]
        bound.luksmeta[1] = ("3f2a7c58-9b1e-4d06-8a77-5e0c1f6b2d94", json.dumps(
            dict(data, kind="recovery", slot=1, serial=1, mark=mark)).encode())
    else:
        bound.tokens[1] = dict(data, type="luksext-recovery", keyslots=["1"], serial=1)
    bound.write()
    assert by_number(bound)[1] == keyslots.Slot(1, "recovery", "", None, False, "", "")


def test_what_was_noted_of_a_key_is_not_told_of_one_that_took_its_place_by_hand(bound):
    confirmed(bound, "kept", TYPED)
    number = confirmed(bound, "safe", KEY)
    bound.run(["cryptsetup", "luksKillSlot", "--batch-mode", bound.path, str(number)])
    bound.keys[number] = b"of somebody else"
    bound.write()
    assert (by_number(bound)[number].role, by_number(bound)[number].confirmed) == (
        "unknown", False)
    keyslots.confirm(bound.container(), b"of somebody else")
    assert by_number(bound)[number].name == "passphrase"
    keyslots.revoke(bound.container(), number)
    assert len(bound.luksmeta if bound.version == 1 else bound.tokens) == 4 - bound.version


# A way in


def test_the_first_binding_that_opens_its_slot_is_a_way_in(bound):
    assert keyslots.way_in(bound.container()) == bound.way
    second = bound.bind(1, "tpm2", {}, b"other")
    bound.break_bindings()
    assert keyslots.way_in(bound.container()) == second
    bound.keys[1] = b"exchanged"
    with pytest.raises(LuksError, match="keyslot 1"):
        keyslots.way_in(bound.container())


def test_a_stale_binding_is_no_way_in_but_a_recovery_key_is(bound):
    number = add(bound)
    bound.break_bindings()
    with pytest.raises(TpmRefuses, match="PCRs 7"):
        keyslots.way_in(bound.container())
    assert keyslots.way_in(bound.container(), KEY) == Way(number, KEY)


def test_a_wrong_recovery_key_is_refused_and_not_repeated(bound):
    add(bound)
    with pytest.raises(WrongRecoveryKey, match="sdb") as refusal:
        keyslots.way_in(bound.container(), TYPED)
    assert TYPED.decode() not in str(refusal.value)


def test_a_key_that_needs_no_memory_is_found_where_another_has_too_little(bound, monkeypatch):
    add(bound, "passphrase", TYPED)
    number = add(bound, "safe")
    opens = cryptsetup.opens

    def short(device, slot, key):
        if bound.keys[slot] == TYPED:
            raise MemoryShort(device)
        return opens(device, slot, key)

    monkeypatch.setattr(cryptsetup, "opens", short)
    assert keyslots.test(bound.container(), KEY).number == number
    with pytest.raises(MemoryShort, match="sdb"):
        keyslots.test(bound.container(), TYPED)


def test_a_typed_key_is_tried_on_recovery_keys_first(bound):
    number = add(bound)
    bound.calls = []
    assert keyslots.test(bound.container(), KEY).number == number
    assert bound.calls.count("cryptsetup open --type") == 1


# Adding


@pytest.mark.parametrize("key, iterations", [(KEY, "1000"), (TYPED, None)])
def test_only_what_a_person_chose_is_stretched(bound, monkeypatch, key, iterations):
    seen = []
    run = bound.run
    monkeypatch.setattr(bound, "run", lambda argv, **kwargs: seen.append(argv) or run(
        argv, **kwargs))
    add(bound, key=key)
    [argv] = [argv for argv in seen if argv[1] == "luksAddKey"]
    options = dict(zip(argv, argv[1:]))
    assert (options["--pbkdf"], options.get("--pbkdf-force-iterations")) == (
        ("pbkdf2", "1000") if iterations else
        ("pbkdf2", None) if bound.version == 1 else ("argon2id", "4"))


@pytest.mark.parametrize("name", ["", "a b", "x" * 33, "caf\xe9", "a\n", "safe"])
def test_a_name_that_is_bad_or_taken_is_refused_with_nothing_done(bound, name):
    add(bound)
    before = dict(bound.keys)
    with pytest.raises(NameRefused):
        add(bound, name, keys.generate().encode())
    assert bound.keys == before


def test_the_names_of_destroyed_keys_are_free_again(bound):
    add(bound, "kept")
    keyslots.take_back(bound.container(), add(bound, "safe", TYPED))
    add(bound, "safe", TYPED)


def test_a_full_header_is_told_and_left_as_it_was(bound):
    limit = 7 if bound.version == 1 else 32
    for number in range(limit - 1):
        add(bound, "key{}".format(number), keys.generate().encode())
    before = dict(bound.keys)
    with pytest.raises(HeaderFull, match="no room for another keyslot"):
        add(bound, "more", TYPED)
    assert bound.keys == before


def test_luksmeta_without_room_takes_the_keyslot_back(bound):
    bound.room = 2
    if bound.version == 1:
        with pytest.raises(HeaderFull):
            add(bound)
        assert bound.keys == {0: b"sealed"}


def test_a_failure_of_any_program_leaves_no_half_made_key(bound):
    add(bound, "warm-up")
    steps = len(bound.calls)
    keyslots.take_back(bound.container(), 1)
    before = (dict(bound.keys), dict(bound.tokens), dict(bound.luksmeta))
    failed = 0
    for number in range(steps):
        bound.reborn()
        bound.refuse = number
        try:
            add(bound)
        except (CommandFailed, LuksError):
            failed += 1
            assert (bound.keys, bound.tokens, bound.luksmeta) == before
        else:
            keyslots.take_back(bound.container(), 1)
    assert failed >= 2


@pytest.mark.parametrize("fill", [
    add, lambda disk: bindings.add(disk.container(), disk.way, Pin("tpm2", {}))],
    ids=["recovery-key", "binding"])
def test_a_slot_that_somebody_else_filled_meanwhile_is_left_to_him(bound, fill):
    bound.before_adding = lambda: bound.keys.setdefault(1, b"of somebody else")
    with pytest.raises(CommandFailed):
        fill(bound)
    assert bound.keys == {0: b"sealed", 1: b"of somebody else"}


# Confirming


def test_a_confirmed_key_stays_so_with_its_name_and_escrow(bound):
    number = add(bound, escrow=ESCROW)
    created = by_number(bound)[number].created
    confirmed = keyslots.confirm(bound.container(), KEY)
    assert by_number(bound)[number] == confirmed
    assert (confirmed.name, confirmed.confirmed, confirmed.escrow, confirmed.created) == (
        "safe", True, ESCROW, created)
    count = len(bound.calls)
    assert keyslots.confirm(bound.container(), KEY) == confirmed
    assert not any("save" in call or "import" in call for call in bound.calls[count:])


def test_a_passphrase_of_which_nothing_was_known_becomes_a_recovery_key(bound):
    bound.keys[4], bound.keys[5] = TYPED, b"another passphrase"
    bound.write()
    assert keyslots.confirm(bound.container(), TYPED).name == "passphrase"
    assert keyslots.confirm(bound.container(), b"another passphrase").name == "passphrase2"
    assert [by_number(bound)[n].role for n in (4, 5)] == ["recovery", "recovery"]


def test_the_key_of_a_binding_is_no_recovery_key(bound):
    with pytest.raises(WrongSlot, match="role binding"):
        keyslots.confirm(bound.container(), b"sealed")


def test_confirming_again_and_again_needs_no_more_room(bound):
    number = add(bound)
    for _ in range(20):
        container = bound.container()
        note = container.generation.notes(bound.path, container.header)[0]
        container.generation.write_note(bound.path, container.header, note)
    assert by_number(bound)[number].name == "safe"
    assert len(bound.luksmeta if bound.version == 1 else bound.tokens) == 3 - (bound.version == 2)


def test_a_kill_while_confirming_leaves_the_key_with_its_name(bound):
    def prepare():
        bound.bind(0, "tpm2", {}, b"sealed")
        add(bound)

    assert every_cut(bound, prepare, lambda: keyslots.confirm(bound.container(), KEY),
                     lambda: by_number(bound)[1].name == "safe") >= 4


def test_of_two_notes_the_newest_counts_until_the_older_is_removed(bound):
    add(bound)
    places = bound.luksmeta if bound.version == 1 else bound.tokens
    old = dict(places)
    keyslots.confirm(bound.container(), KEY)
    places.update({place: old[place] for place in old if place not in places})
    bound.write()
    assert by_number(bound)[1].confirmed
    keyslots.take_back(bound.container(), 1)
    assert len(places) == 2 - (bound.version == 2)


# Revoking


def confirmed(disk, name, key):
    number = add(disk, name, key)
    keyslots.confirm(disk.container(), key)
    return number


def test_a_revoked_key_opens_nothing_and_leaves_no_note(bound):
    confirmed(bound, "kept", TYPED)
    number = confirmed(bound, "leaked", KEY)
    keyslots.revoke(bound.container(), number)
    assert KEY not in bound.keys.values()
    assert [slot.name for slot in keyslots.slots(bound.container())] == ["tpm2", "kept"]


def test_the_last_recovery_key_stays(bound):
    number = confirmed(bound, "only", TYPED)
    bound.keys[5] = b"of nobody"
    bound.write()
    for slot in (number, 5):
        container = bound.container()
        if slot == 5:
            keyslots.revoke(container, slot)
        else:
            with pytest.raises(LastWayIn, match="no recovery key would be left"):
                keyslots.revoke(container, slot)
    assert sorted(bound.keys) == [0, number]


def test_a_confirmed_key_stays_until_another_is_confirmed(bound):
    old = confirmed(bound, "old", TYPED)
    add(bound, "new")
    with pytest.raises(LastWayIn, match="recovery-confirm"):
        keyslots.revoke(bound.container(), old)
    keyslots.confirm(bound.container(), KEY)
    keyslots.revoke(bound.container(), old)
    assert TYPED not in bound.keys.values()


def test_an_unconfirmed_key_goes_only_while_something_is_proven_to_open(bound):
    first, _ = add(bound, "first", TYPED), add(bound, "second")
    bound.break_bindings()
    with pytest.raises(LastWayIn):
        keyslots.revoke(bound.container(), first)
    bound.dead.clear()
    keyslots.revoke(bound.container(), first)
    assert TYPED not in bound.keys.values()


def test_an_old_copy_of_the_header_with_a_revoked_key_is_told(bound):
    number, _ = add(bound, "paper"), add(bound, "other", b"x" * 20)
    with open(bound.path, "rb") as file:
        old = file.read()
    keyslots.confirm(bound.container(), b"x" * 20)
    keyslots.revoke(bound.container(), number)
    assert rollback.revived(bound.container().header) == []
    with open(bound.path, "wb") as file:
        file.write(old)
    assert rollback.revived(bound.container().header) == [number]


@pytest.mark.parametrize("slot, found", [(0, "role binding"), (6, "not in use")])
def test_only_a_recovery_key_is_revoked(bound, slot, found):
    with pytest.raises(WrongSlot, match=found):
        keyslots.revoke(bound.container(), slot)


def test_a_kill_while_revoking_leaves_a_way_in_and_the_rest_can_be_repeated(bound):
    def prepare():
        bound.bind(0, "tpm2", {}, b"sealed")
        confirmed(bound, "kept", TYPED)
        confirmed(bound, "leaked", KEY)

    def holds():
        assert keyslots.way_in(bound.container(), TYPED)
        assert keyslots.way_in(bound.container()).key == b"sealed"
        left = [slot for slot in keyslots.slots(bound.container()) if slot.name == "leaked"]
        for slot in left:
            keyslots.revoke(bound.container(), slot.number)
        add(bound, "leaked", keys.generate().encode())
        return KEY not in bound.keys.values()

    assert every_cut(bound, prepare, lambda: keyslots.revoke(bound.container(), 2), holds) >= 4


def test_a_kill_while_adding_leaves_the_ways_in_that_were_there(bound):
    def prepare():
        bound.bind(0, "tpm2", {}, b"sealed")
        confirmed(bound, "kept", TYPED)

    def holds():
        roles = [slot.role for slot in keyslots.slots(bound.container())]
        assert set(roles) <= {"binding", "recovery", "unknown"}
        return keyslots.way_in(bound.container()).key == b"sealed" and keyslots.way_in(
            bound.container(), TYPED)

    assert every_cut(bound, prepare, lambda: add(bound), holds) >= 4
