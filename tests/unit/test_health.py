# SPDX-License-Identifier: LGPL-2.1-only
"""health: each binding is tried without opening the volume, rarely, and the outcome remembered."""
import base64
import calendar
import json
import re
import time

import pytest

import headers
from luksext import health, notes, run, times
from luksext.container import LuksContainer
from luksext.errors import TimeOver
from luksext.header import read
from luksext.health import Proof
from luksext.state import Store

HOUR = 3600


def jwe_of(pin):
    """A sealed key of the form that clevis makes, by `pin`."""
    text = json.dumps({"clevis": {"pin": pin, pin: {}}}).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=") + ".b.c.d.e"


def header_of(**salts):
    """A LUKS2 header with a binding for each keyslot: slot0=salt, slot1=salt …"""
    slots = {int(name[4:]): salt for name, salt in salts.items()}
    content = headers.metadata(slots=sorted(slots), tokens={
        str(slot): headers.binding_token(slot, jwe_of("pin{}".format(slot))) for slot in slots})
    for slot, salt in slots.items():
        content["keyslots"][str(slot)]["kdf"] = {"salt": salt}
    return headers.luks2(content)


@pytest.fixture
def container(programs, tmp_path, monkeypatch):
    """A container with bindings in the slots 0 and 1, which give up their keys."""
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    programs.add("jose")
    programs.add("clevis", "printf the-key")
    programs.add("cryptsetup")
    return with_header(tmp_path, header_of(slot0="a", slot1="b"))


def test_that_the_time_is_over_proves_nothing(container):
    health.prove(container)
    before = health.remembered(container)
    with run.within(0), pytest.raises(TimeOver):
        health.prove(container)
    assert health.remembered(container) == before
    assert [proof.ok for proof in before] == [True, True]


def with_header(folder, content):
    path = folder / "disk"
    path.write_bytes(content)
    return LuksContainer(str(path), read(str(path)))


def at(monkeypatch, now):
    """Sets the clock that proofs are dated by."""
    monkeypatch.setattr(
        times, "now", lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))


def test_each_binding_is_tried_on_its_own_keyslot_and_nothing_is_opened(container, programs):
    proofs = health.prove(container)
    assert [(proof.slot, proof.ok, proof.code, proof.sentence) for proof in proofs] == [
        (0, True, 0, ""), (1, True, 0, "")]
    assert all(re.match(r"20..-..-..T..:..:..Z\Z", proof.at) for proof in proofs)
    tried = programs.calls("cryptsetup")
    assert [argv[argv.index("--key-slot") + 1] for argv in tried] == ["0", "1"]
    assert all("--test-passphrase" in argv for argv in tried)
    assert programs.stdin("cryptsetup") == b"the-key"
    assert {argv[1] for argv in tried} == {"open"}


def test_a_binding_that_does_not_unseal_is_told_with_its_reason(container, programs):
    programs.add("clevis", "exit 1")
    proof = health.prove(container)[0]
    assert (proof.ok, proof.code) == (False, 6238)
    assert "pin0" in proof.sentence
    assert programs.calls("cryptsetup") == []


def test_one_that_fails_does_not_keep_the_others_from_being_tried(container, programs):
    programs.add("cryptsetup", 'case "$*" in *"--key-slot 0"*) exit 2;; esac')
    assert [(proof.ok, proof.code) for proof in health.prove(container)] == [
        (False, 6239), (True, 0)]


def test_a_missing_program_is_told(container, programs):
    (programs.folder / "clevis").unlink()
    assert {proof.code for proof in health.prove(container)} == {6203}


def test_an_unknown_failure_is_told(container, programs):
    programs.add("cryptsetup", "exit 4")
    assert {proof.code for proof in health.prove(container)} == {6204}


def test_a_container_without_binding_has_no_proofs_and_none_is_due_again(container, tmp_path):
    plain = with_header(tmp_path, headers.luks2(headers.metadata(slots=(0,))))
    assert health.due(plain, time.time())
    assert health.prove(plain) == []
    assert not health.due(plain, time.time())


def test_a_proof_tells_no_key(container, tmp_path):
    health.prove(container)
    assert "the-key" not in (tmp_path / "notes" / headers.UUID / "proofs.json").read_text()


# Remembered


def test_proofs_are_remembered_as_they_were(container, programs):
    programs.add("cryptsetup", 'case "$*" in *"--key-slot 0"*) exit 2;; esac')
    proofs = health.prove(container)
    assert health.remembered(container) == proofs
    assert all(isinstance(proof, Proof) for proof in health.remembered(container))


def test_nothing_is_remembered_of_what_was_never_tried(container, programs):
    assert health.remembered(container) == []
    assert programs.order() == []


def test_a_proof_does_not_hold_for_another_key_in_its_keyslot(container, tmp_path):
    proofs = health.prove(container)
    changed = with_header(tmp_path, header_of(slot0="a", slot1="another"))
    assert health.remembered(changed) == proofs[:1]
    gone = with_header(tmp_path, header_of(slot1="b"))
    assert health.remembered(gone) == proofs[1:]


@pytest.mark.parametrize("note", [{}, {"proofs": 7}, {"proofs": [{}]}, {"proofs": [7]},
                                  {"proofs": [{"slot": 0}], "marks": {}}])
def test_a_note_that_is_none_is_forgotten(container, note):
    Store(container.uuid).save("proofs", note)
    assert health.remembered(container) == []
    assert health.due(container, time.time())


# Due


def test_a_proof_is_due_when_there_is_none_and_then_after_six_hours(container, monkeypatch):
    now = calendar.timegm((2026, 1, 1, 0, 0, 0))
    assert health.due(container, now)
    at(monkeypatch, now)
    health.prove(container)
    assert not health.due(container, now)
    assert not health.due(container, now + 6 * HOUR - 1)
    assert health.due(container, now + 6 * HOUR)
    assert health.due(container, now + HOUR, seconds=HOUR)


def test_one_that_failed_is_due_sooner(container, programs, monkeypatch):
    now = calendar.timegm((2026, 1, 1, 0, 0, 0))
    at(monkeypatch, now)
    programs.add("cryptsetup", 'case "$*" in *"--key-slot 1"*) exit 2;; esac')
    health.prove(container)
    assert not health.due(container, now + HOUR / 2 - 1)
    assert health.due(container, now + HOUR / 2)
    assert health.due(container, now + 10, seconds=10)


def test_a_clock_that_was_set_back_makes_a_proof_due(container, monkeypatch):
    now = calendar.timegm((2026, 1, 1, 0, 0, 0))
    at(monkeypatch, now)
    health.prove(container)
    assert health.due(container, now - 1)


@pytest.mark.parametrize("salts", [{"slot0": "a"}, {"slot0": "a", "slot1": "new"},
                                   {"slot0": "a", "slot1": "b", "slot2": "c"}])
def test_a_key_that_came_or_went_makes_a_proof_due(container, tmp_path, salts):
    health.prove(container)
    assert not health.due(container, time.time() + 1)
    assert health.due(with_header(tmp_path, header_of(**salts)), time.time() + 1)


def test_asking_whether_it_is_due_runs_no_program(container, programs):
    health.prove(container)
    before = programs.order()
    health.due(container, time.time())
    health.remembered(container)
    assert programs.order() == before
