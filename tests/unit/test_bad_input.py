# SPDX-License-Identifier: LGPL-2.1-only
"""Whatever an administrator, XAPI's database or a file of ours says: it is used, or it is one error
that names what is wrong and what to do, before anything is touched."""
import contextlib
import io
import json
import os
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import awkward
import headers
from fake_luks import Disk
from fake_xapi import Xapi  # before what imports XenAPI

import luksext_calls
import luksext_doctor
import luksext_xapi
from luksext import (audit, backup, begun, clevis, configuration, console, container, cryptsetup,
                     health, keys, notes, options, repository, run, started, state, status, tpm,
                     verbs)
from luksext.errors import (ArgumentInvalid, LuksError, OptionInvalid, RecordDamaged,
                            RecoveryKeyInvalid, SecretInvalid)
from luksext.repository import Repository

OPTIONS = [key for key, _ in configuration.DESCRIPTIONS]

# A key as it is printed, and one that differs from it in every place.
KEY = "F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW"


# Options

@given(st.sampled_from(OPTIONS), awkward.TEXTS | awkward.JSON.map(json.dumps))
def test_an_option_is_used_or_named_with_its_value_and_what_is_allowed(key, value):
    try:
        options.parse(dict({"device": "/dev/sdb"}, **{key: value}))
    except OptionInvalid as refusal:
        awkward.check(refusal, "device-config:{}=".format(key), "Allowed: ")


@given(st.sampled_from(["tpm2", "tang", "sss"]), st.dictionaries(
    st.sampled_from(["pcr_ids", "pcr_bank", "hash", "url", "thp", "adv", "t", "pins"]),
    awkward.JSON | st.dictionaries(st.sampled_from(["tpm2", "tang", "sss"]), awkward.JSON)))
def test_the_configuration_of_a_pin_is_completed_or_refused(pin, config):
    try:
        checked = options.parse_pin({"pin": pin, "pin-config": json.dumps(config)})
    except OptionInvalid as refusal:
        awkward.check(refusal, "pin-config", "Allowed: ")
        return
    assert options.check_pin(checked) == checked
    list(clevis.leaves(checked))


def test_an_option_that_no_program_could_be_given_is_refused_by_its_length():
    with pytest.raises(OptionInvalid, match="at most 65536 characters"):
        options.parse_pin({"pin-config": json.dumps({"x": "y" * 65536})})
    with pytest.raises(OptionInvalid, match="at most 999 paths"):
        options.parse_devices({"device": ",".join("/dev/sd{}".format(n) for n in range(1000))})


@pytest.mark.parametrize("device", ["/dev/..", "/dev/../sda", "/dev/x/..", "/dev/sda/../../x"])
def test_a_device_does_not_lead_out_of_dev(device):
    with pytest.raises(OptionInvalid, match="device-config:device"):
        options.parse_devices({"device": device})
    with pytest.raises(OptionInvalid, match="device-config:device"):
        options.parse_devices({})


# Recovery keys, as people mistype them

def slips(key):
    """Every slip of a finger: one character wrong, missing, doubled or too many, two swapped."""
    for place in range(len(key)):
        before, after = key[:place], key[place + 1:]
        yield before + after
        yield before + 2 * key[place] + after
        for other in string.ascii_uppercase + string.digits:
            yield before + other + after
            yield before + other + key[place:]
        if after:
            yield before + after[0] + key[place] + after[1:]


def meaning(text):
    """What of a text counts in a recovery key."""
    return text.replace("-", "").upper().replace("O", "0").replace("I", "1").replace("L", "1")


def test_every_slip_is_refused_with_a_hint_or_changes_nothing():
    refused = 0
    for text in slips(KEY):
        if meaning(text) == meaning(KEY):
            assert keys.parse(text) == KEY
            continue
        with pytest.raises(RecoveryKeyInvalid, match="character") as refusal:
            keys.parse(text)
        awkward.check(refusal.value)
        assert text not in str(refusal.value)
        refused += 1
    assert refused > 2000


@given(awkward.TEXTS)
def test_whatever_is_typed_for_a_key_is_bytes_or_refused_and_never_repeated(text):
    for read in (keys.to_passphrase, keys.as_typed):
        try:
            assert isinstance(read(text), bytes)
        except (RecoveryKeyInvalid, SecretInvalid) as refusal:
            awkward.check(refusal)
            assert len(text) < 8 or text not in str(refusal)


@pytest.mark.parametrize("locale", ["utf-8", "ascii"])
def test_a_passphrase_beyond_ascii_opens_also_where_there_is_no_locale(locale):
    typed = "Zw\u00f6lf Boxk\u00e4mpfer".encode("utf-8")
    assert keys.as_typed(typed.decode(locale, "surrogateescape") + "\n") == typed


def test_two_ways_to_write_a_letter_are_two_passphrases_as_for_cryptsetup():
    assert keys.as_typed("Zw\u00f6lf Zw\u00f6lf") != keys.as_typed("Zwo\u0308lf Zwo\u0308lf")


# What XAPI noted

@given(awkward.TEXTS | awkward.JSON.map(json.dumps)
       | st.lists(st.tuples(st.just(headers.UUID) | awkward.TEXTS, awkward.TEXTS, awkward.JSON),
                  max_size=3).map(json.dumps))
def test_records_are_containers_or_damaged(text):
    try:
        found = luksext_xapi.records({"luks_containers": text})
    except RecordDamaged as damage:
        awkward.check(damage, "luks_containers", "remove_from_sm_config")
        return
    for record in found:
        assert len(record.uuid) == 36
        assert isinstance(record.cipher, str)
        assert type(record.key_bits) is int


@given(st.text(max_size=4))
def test_what_is_no_uuid_leads_to_no_mapping_of_somebody_else(uuid):
    with pytest.raises(RecordDamaged):
        luksext_xapi.records({"luks_containers": json.dumps([[uuid, headers.CIPHER, 512]])})


# Verbs

BACKUP = backup.Backup(headers.UUID, 2, 1, 0, "", "", 0, "", 0, "", {}, "")


@pytest.fixture(scope="module", params=[1, 2], ids=["luks1", "luks2"])
def luks(request, tmp_path_factory):
    """A disk with a binding and two recovery keys, and no host around it."""
    folder = tmp_path_factory.mktemp("luks")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(folder / "sdb", request.param)
        for module in (cryptsetup, clevis):
            patch.setattr(module, "run", disk.run)
        patch.setattr(clevis, "check_tools", lambda pin: None)
        patch.setattr(clevis, "require", lambda *programs: None)
        patch.setattr(tpm, "check", lambda: None)
        patch.setattr(audit, "record", lambda *words, **details: None)
        patch.setattr(notes, "FOLDER", str(folder / "notes"))
        patch.setattr(run, "PRIVATE_DIR", str(folder / "private"))
        patch.setattr("luksext.contents.kinds", lambda device: [])
        patch.setattr(container, "all_containers", lambda: iter([disk.container()]))
        for name, double in (("create", lambda *words: BACKUP), ("is_fresh", lambda found: True),
                             ("outdate", lambda found: None), ("revoked", lambda found: None)):
            patch.setattr(backup, name, double)
        yield disk


def furnish(disk):
    """Makes it the disk that it was before the example."""
    disk.reset()
    disk.bind(0, "tpm2", {"pcr_ids": "7", "pcr_bank": "sha256"}, b"sealed")
    disk.keys[1] = b"of nobody that is known"
    disk.write()
    return Repository(headers.SR, [disk.container()], [None])


def contents(disk):
    return dict(disk.keys), dict(disk.tokens), dict(disk.luksmeta)


ARGUMENTS = sorted({parameter.name for verb in verbs.VERBS.values()
                    for parameter in verb.parameters})
# Encrypting anew and growing need a host; these are refused long before.
VERBS = sorted(set(verbs.VERBS) - {"grow", "reencrypt", "reencrypt-resume", "reencrypt-accept"})


@given(st.sampled_from(VERBS), st.dictionaries(
    st.sampled_from(ARGUMENTS) | awkward.TEXTS, awkward.TEXTS, max_size=3))
def test_a_verb_is_done_or_is_one_clear_error_with_nothing_changed(luks, name, arguments):
    sr = furnish(luks)
    before = contents(luks)
    try:
        verbs.run(verbs.find(name, arguments), sr, arguments, "admin")
    except LuksError as error:
        awkward.check(error)
        assert contents(luks) == before
        assert_no_secret(arguments, error)


@given(st.data())
def test_an_argument_of_each_verb_that_is_no_use_is_named(luks, data):
    verb = verbs.VERBS[data.draw(st.sampled_from(VERBS))]
    arguments = {parameter.name: data.draw(awkward.TEXTS) for parameter in verb.parameters}
    sr = furnish(luks)
    try:
        verbs.run(verbs.find(verb.name, arguments), sr, arguments, "admin")
    except LuksError as error:
        awkward.check(error)
        assert_no_secret(arguments, error)
        if isinstance(error, ArgumentInvalid):
            assert verb.name in str(error)


def assert_no_secret(arguments, error):
    """That an error does not repeat what was typed for a key, but where it was given for something
    else too, or is a word of any text."""
    start = arguments.get("key", "")[:12]
    elsewhere = [text for name, value in arguments.items() for text in (name, value)
                 if name != "key"]
    assert len(start) < 12 or any(start in text for text in elsewhere) or start not in str(error)


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "key"] + ["sr-uuid", "x"])
@pytest.mark.parametrize("typed", [KEY, KEY.lower(), KEY.replace("-", " ")])
def test_a_key_in_the_place_of_another_argument_is_told_to_nobody(luks, name, typed):
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "record", lambda *words, **details: told.append((words, details)))
        for verb in VERBS:
            with pytest.raises(ArgumentInvalid) as refusal:
                verbs.run(verbs.find(verb, {name: typed}), furnish(luks), {name: typed}, "admin")
            told.append(str(refusal.value))
        for call in ("adopt", "encrypt"):
            with pytest.raises(Failure) as failure:
                luksext_calls.answering(Failure, luksext_calls.CALLS[call])(None, {name: typed})
            told.append(failure.value.params)
    assert typed not in repr(told)


@pytest.mark.parametrize("given_arguments", [
    {}, {"name": ""}, {"slot": ""}, {"name": "", "slot": ""}, {"name": "x", "slot": "1"}], ids=str)
def test_no_key_is_revoked_by_no_name(luks, given_arguments):
    """A keyslot of which nothing is known has no name either."""
    sr = furnish(luks)
    before = contents(luks)
    with pytest.raises(ArgumentInvalid, match="which key is meant"):
        verbs.run(verbs.VERBS["recovery-revoke"], sr, given_arguments, "admin")
    assert contents(luks) == before


# The console

@contextlib.contextmanager
def terminal(typed=""):
    """A terminal of a host without a locale; what was printed on it."""
    with pytest.MonkeyPatch.context() as patch:
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        err = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(sys, "stdin", io.TextIOWrapper(
            io.BytesIO(typed.encode("utf-8", "surrogatepass"))))
        patch.setattr("getpass.getpass", lambda prompt: typed)
        yield lambda: [stream.flush() or stream.buffer.getvalue().decode("ascii")
                       for stream in (out, err)]


WORDS = (st.sampled_from([*verbs.VERBS, "explain", "--json", "--help", "--sr-uuid"])
         | st.sampled_from(ARGUMENTS).map("--{}".format)
         | st.tuples(st.sampled_from(ARGUMENTS), awkward.TEXTS).map("--{0[0]}={0[1]}".format)
         | awkward.TEXTS)


@given(st.lists(WORDS, max_size=5), awkward.TEXTS)
def test_the_console_takes_any_words_and_ends_with_its_statuses(luks, words, typed):
    sr = furnish(luks)
    with pytest.MonkeyPatch.context() as patch, terminal(typed) as printed:
        patch.setattr(repository, "all_of_host", lambda: iter([sr]))
        patch.setattr(verbs, "run", lambda verb, sr, arguments, who: {"name": typed, "slots": [1]})
        try:
            ended = console.main(words)
        except SystemExit as end:
            ended = end.code
        out, err = printed()
        assert ended in (console.OK, console.FAILED, console.USAGE, console.ATTENTION)
        assert bool(err) == (ended in (console.FAILED, console.USAGE)), (out, err)


# As long as a header has room for.
@given(awkward.TEXTS.map(lambda text: text[:1000]))
def test_what_a_header_says_is_shown_on_any_terminal(luks, text):
    sr = furnish(luks)
    luks.bind(3, "tang", {"url": text}, b"another")
    sr = sr.refreshed()
    with pytest.MonkeyPatch.context() as patch, terminal() as printed:
        patch.setattr(repository, "all_of_host", lambda: iter([sr]))
        assert console.main(["status"]) == console.ATTENTION
        assert "slot 3: binding" in printed()[0]
        assert "\x1b" not in printed()[0]


# The plugin

class Failure(Exception):
    """As XenAPIPlugin's."""

    def __init__(self, code, params):
        super().__init__(code, params)
        self.code, self.params = code, params


@pytest.fixture(scope="module")
def session():
    xapi = Xapi()
    xapi._session = "OpaqueRef:session"
    xapi.this = xapi.add("host", uuid="host", name_label="h")
    sr = xapi.add("SR", uuid=headers.SR, type="luksext", shared=False, name_label="s",
                  sm_config={})
    xapi.add("PBD", SR=sr, host=xapi.this, currently_attached=True,
             device_config={"device": "/dev/sdb"}, other_config={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(luksext_xapi, "this_host", lambda session: xapi.this)
        patch.setattr(luksext_calls, "_user", lambda session: "admin")
        patch.setattr(luksext_calls, "_publish", lambda *words: None)
        yield xapi


@given(st.sampled_from(sorted(luksext_calls.CALLS)), st.dictionaries(
    st.sampled_from([*ARGUMENTS, *OPTIONS, "sr-uuid", "code"]) | awkward.TEXTS, awkward.TEXTS,
    max_size=4))
def test_a_call_of_the_plugin_is_answered_in_json_or_fails_as_xapi_shows_it(
        luks, session, name, arguments):
    sr = furnish(luks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(luksext_xapi, "repository_of", lambda *words: sr)
        patch.setattr(verbs, "run", lambda *words: {"ok": True})
        patch.setattr(luksext_doctor, "examine", lambda *words: {"ok": True})
        for pool in ("pool-status", "pool-csv"):
            patch.setitem(luksext_calls.CALLS, pool, lambda *words: {"hosts": []})
        call = luksext_calls.answering(Failure, luksext_calls.CALLS[name])
        try:
            json.loads(call(session, arguments))
        except Failure as failure:
            assert failure.code.startswith(("SR_BACKEND_FAILURE_62", "UUID_INVALID"))
            assert all(awkward.is_plain(text) for text in failure.params[1:])
            assert_no_secret(arguments, failure)


@pytest.mark.parametrize("name", ["key", "passphrase", "device", "Pin"])
def test_what_is_no_option_is_not_written_into_xapis_database(session, name):
    call = luksext_calls.answering(Failure, luksext_calls.CALLS["encrypt"])
    with pytest.raises(Failure) as failure:
        call(session, {"sr-uuid": headers.SR, name: "geheim-geheim"})
    assert failure.value.code == "SR_BACKEND_FAILURE_6285"
    assert "geheim" not in str(failure.value.params)


# Files of ours

NOTES = ("proofs", "headers", "reencryption")
FIELDS = ["proofs", "marks", "slot", "ok", "code", "sentence", "at", "minimum", "volume_key",
          "device_size", "since", "before", "after", "unbound", "0", "1"]


@given(st.sampled_from(NOTES), st.binary(max_size=40) | awkward.JSON.map(json.dumps)
       | st.recursive(awkward.JSON, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
           st.sampled_from(FIELDS), inner, max_size=6), max_leaves=12).map(json.dumps))
def test_a_damaged_note_is_an_empty_one(luks, name, content):
    check_with_note(furnish(luks), name,
                    content if isinstance(content, bytes) else content.encode("ascii"))


def check_with_note(sr, name, content):
    """That all who read the note `name` do without it where it says nothing of use."""
    found = sr.containers[0]
    state.forget(found.uuid)
    folder = state.Store(found.uuid).make()
    with open(os.path.join(folder, name + ".json"), "wb") as file:
        file.write(content)
    json.dumps(status.of(sr))
    assert type(health.due(found, 1e9)) is bool
    note = begun.load(found.uuid)
    assert note is None or all(type(slot) is int for slot in note.unbound)
    assert backup._minimum(found.uuid, []) >= 0


# A proof, and what of it is another; by note.
PROOF = {"slot": 0, "ok": True, "code": 0, "sentence": "", "at": "2026-11-24T10:00:00Z"}
DAMAGE = [("headers", {"minimum": wrong}) for wrong in ("1", None, [], {}, 1.5, -1)] + [
    ("proofs", {"marks": wrong, "proofs": [PROOF]}) for wrong in ([], "x", None, {"0": []})] + [
    ("proofs", {"marks": {}, "proofs": [dict(PROOF, **wrong)]}) for wrong in (
        {"slot": "0"}, {"ok": 1}, {"code": []}, {"at": "x"}, {"at": None}, {"more": 1})] + [
    ("proofs", {"proofs": wrong}) for wrong in (1, "x", [1], [[]], {"a": 1}, None)] + [
    ("reencryption", {"since": "", "before": "", "after": "", "unbound": wrong}) for wrong in (
        1, ["x"], [1.5], [True], "1", None)]


@pytest.mark.parametrize("name, note", DAMAGE, ids=str)
def test_a_note_with_one_wrong_value_does_no_harm(luks, name, note):
    check_with_note(furnish(luks), name, json.dumps(note).encode("ascii"))


@given(st.binary(max_size=40) | awkward.JSON.map(json.dumps))
def test_a_damaged_note_on_secure_boot_tells_nothing(luks, content):
    run.make_private(run.PRIVATE_DIR)
    with open(os.path.join(run.PRIVATE_DIR, "secure-boot"), "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode("ascii"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(started.efivars, "available", lambda: True)
        assert isinstance(started.changed(), list)
