# SPDX-License-Identifier: LGPL-2.1-only
"""console: the verbs as commands; what is shown to people, and the status that it ends with."""
import io
import json

import pytest

from luksext import console, repository, status, verbs
from luksext.errors import LuksError
from luksext.repository import Repository

SR = "0b9b0d2a-3c4d-4e5f-8a6b-1c2d3e4f5a6b"
DISK = {"device": "/dev/sdb", "luks_uuid": "U", "luks_version": 2, "cipher": "aes-xts-plain64",
        "key_bits": 512, "open": "/dev/mapper/luks-U", "header_backup": "2026-11-24T10:00:00Z",
        "header_backup_fresh": True,
        "slots": [
            {"slot": 0, "role": "binding", "pin": "tpm2",
             "policy": [{"pin": "tpm2", "pcr_ids": "7", "pcr_bank": "sha256"}],
             "proof": {"ok": False, "code": 6234, "text": "The TPM refuses.", "at": "T"},
             "next_boot": {"state": "unpredictable", "reason": "no event log"}},
            {"slot": 1, "role": "recovery", "name": "safe", "confirmed": True},
            {"slot": 2, "role": "unknown"}]}
STATUS = {"sr_uuid": SR, "recovery": "confirmed", "alerts": ["LUKS-W003"], "disks": [DISK]}


@pytest.fixture
def calls(monkeypatch):
    """Notes each call of a verb, on a host with one SR; the verb tells what `told` has."""
    made = []
    sr = Repository(SR, [], [])
    monkeypatch.setattr(repository, "all_of_host", lambda: iter([sr]))
    monkeypatch.setattr(repository, "identified", lambda uuid: sr._replace(uuid=uuid))
    monkeypatch.setattr(
        verbs, "run", lambda verb, sr, arguments, who: made.append(
            (verb.name, sr.uuid, dict(arguments))) or {"slots": [1], "next": "Do that."})
    return made


def test_a_verb_is_run_on_the_only_sr_of_the_host(calls, capsys):
    assert console.main(["binding-remove", "--slot=3", "--force=true"]) == console.OK
    assert calls == [("binding-remove", SR, {"slot": "3", "force": "true"})]
    assert "next: Do that." in capsys.readouterr().out


def test_a_key_is_read_from_stdin_and_is_no_argument(calls, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the-key\n"))
    console.main(["unlock", "--key-stdin"])
    assert calls == [("unlock", SR, {"key": "the-key"})]
    with pytest.raises(SystemExit):
        console.main(["unlock", "--key=the-key"])


def test_a_key_that_is_needed_is_asked_for_without_echo(calls, monkeypatch):
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed")
    console.main(["recovery-test"])
    assert calls == [("recovery-test", SR, {"key": "typed"})]


def test_json_is_what_the_verb_told(calls, capsys):
    console.main(["prove", "--json"])
    assert json.loads(capsys.readouterr().out) == {"slots": [1], "next": "Do that."}


def test_an_error_is_told_with_its_code_and_ends_with_1(calls, monkeypatch, capsys):
    def fail(verb, sr, arguments, who):
        raise LuksError("It failed.", "Do this.")

    monkeypatch.setattr(verbs, "run", fail)
    assert console.main(["prove"]) == console.FAILED
    assert capsys.readouterr().err == "luksext: error 6200: It failed. Do this.\n"


@pytest.mark.parametrize("found, text", [([], "no disk"), (["a", "b"], "--sr-uuid")])
def test_without_a_uuid_there_has_to_be_one_sr(calls, monkeypatch, capsys, found, text):
    monkeypatch.setattr(repository, "all_of_host",
                        lambda: iter([Repository(uuid, [], []) for uuid in found]))
    assert console.main(["prove"]) == console.FAILED
    assert text in capsys.readouterr().err
    assert calls == []


def test_the_status_of_a_host_names_what_needs_attention_and_ends_with_3(
        calls, monkeypatch, capsys):
    monkeypatch.setattr(status, "of", lambda sr: STATUS)
    assert console.main(["status"]) == console.ATTENTION
    shown = capsys.readouterr().out
    for text in ("SR " + SR, "/dev/sdb: LUKS2", "open", "slot 0: binding tpm2",
                 "does not open (The TPM refuses.)", "next boot unpredictable",
                 "slot 1: recovery key safe, confirmed", "slot 2: unknown key",
                 "LUKS-W003", "luksext rebind --sr-uuid=" + SR):
        assert text in shown


def test_a_disk_that_cannot_be_read_is_shown_with_the_reason(capsys):
    broken = dict(STATUS, disks=[{"error": {"code": 6220, "text": "no header"}}], alerts=[])
    out = io.StringIO()
    console.show({"srs": [broken]}, out)
    assert "disk not readable: no header" in out.getvalue()


def test_an_alert_is_explained(capsys):
    assert console.main(["explain", "LUKS-W003"]) == console.OK
    assert "rebind" in capsys.readouterr().out
    assert console.main(["explain", "LUKS-W999"]) == console.FAILED
