# SPDX-License-Identifier: LGPL-2.1-only
"""console: the verbs as commands; what is shown to people, and the status that it ends with."""
import contextlib
import csv
import io
import json
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import pytest

from luksext import bench, console, doctor, installation, keys, repository, run, status, verbs
from luksext.errors import CommandFailed, LuksError
from luksext.findings import found
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


def test_an_sr_whose_headers_are_lost_is_named_for_their_restoration(calls):
    assert console.main(["header-restore", "--sr-uuid=lost", "--device=/dev/sdb"]) == console.OK
    assert console.main(["header-restore", "--device=/dev/sdb"]) == console.OK
    assert [uuid for _, uuid, _ in calls] == ["lost", SR]


def test_a_key_is_read_from_stdin_and_is_no_argument(calls, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the-key\n")))
    console.main(["unlock", "--key-stdin"])
    assert calls == [("unlock", SR, {"key": "the-key"})]


def test_a_passphrase_on_stdin_may_be_in_any_encoding(calls, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"gr\xfcn\n"), encoding="utf-8"))
    console.main(["unlock", "--key-stdin"])
    ((_, _, given),) = calls
    assert keys.as_typed(given["key"]) == b"gr\xfcn"


@pytest.mark.parametrize("words", [["--key=the-key"], ["--key", "the-key"], ["the-key"],
                                   ["--key-stdin=the-key"], ["--key-stdin", "the-key"]])
def test_a_key_that_is_typed_as_an_argument_is_refused_and_not_repeated(calls, capsys, words):
    with pytest.raises(SystemExit) as end:
        console.main(["unlock", *words])
    assert end.value.code == console.USAGE
    assert "the-key" not in capsys.readouterr().err
    assert calls == []


def test_options_are_typed_in_full(calls):
    with pytest.raises(SystemExit):
        console.main(["binding-remove", "--sl=3"])
    assert calls == []


def test_a_key_that_is_needed_is_asked_for_without_echo(calls, monkeypatch):
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed")
    console.main(["recovery-test"])
    assert calls == [("recovery-test", SR, {"key": "typed"})]


# On a host with one SR, a verb that notes the key that it gets in the file argv[1].
ON_A_TERMINAL = """
import sys
from luksext import console, repository, verbs
from luksext.repository import Repository
repository.all_of_host = lambda: iter([Repository("SR", [], [])])
repository.identified = lambda uuid: Repository(uuid, [], [])
def note(verb, sr, given, who):
    with open(sys.argv[1], "w") as file:
        file.write(given["key"])
    return {}
verbs.run = note
sys.exit(console.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("verb, typed, key", [
    (["unlock"], ["KEY-1\n"], "KEY-1"), (["unlock", "--key-stdin"], ["KEY-1\n"], "KEY-1"),
    (["rebind", "--key-stdin"], ["KEY-1\n"], "KEY-1"), (["rebind", "--key-stdin"], ["\4"], ""),
    (["reencrypt", "--key-stdin"], ["KEY-1\n", "KEY-2\n", "\n"], "KEY-1\nKEY-2"),
    (["reencrypt", "--key-stdin"], ["KEY-1\n", "\4"], "KEY-1")])
def test_a_key_that_is_typed_on_a_terminal_is_asked_for_and_not_shown(tmp_path, verb, typed, key):
    terminal, child = pty.openpty()
    noted = tmp_path / "key"
    # In a session of its own it has no other terminal.
    running = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, str(noted), *verb], stdin=child, stdout=child,
        stderr=child, start_new_session=True,
        env=dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(console.__file__))))
    os.close(child)
    shown = b""
    for line in typed:
        asked = b""
        # Only from then on the terminal shows nothing.
        while not asked.endswith(b": "):
            asked += os.read(terminal, 1000)
        os.write(terminal, line.encode())
        shown += asked
    assert running.wait(timeout=60) == console.OK
    with contextlib.suppress(OSError):
        while True:
            shown += os.read(terminal, 1000)
    os.close(terminal)
    assert noted.read_text() == key
    assert b"key" in shown
    assert b"KEY-1" not in shown and b"KEY-2" not in shown


def test_json_is_what_the_verb_told(calls, capsys):
    console.main(["prove", "--json"])
    assert json.loads(capsys.readouterr().out) == {"slots": [1], "next": "Do that."}


def test_an_error_is_told_with_its_code_and_ends_with_1(calls, monkeypatch, capsys):
    def fail(verb, sr, arguments, who):
        raise LuksError("It failed.", "Do this.")

    monkeypatch.setattr(verbs, "run", fail)
    assert console.main(["prove"]) == console.FAILED
    assert capsys.readouterr().err == "luksext: error 6200: It failed. Do this.\n"


@pytest.mark.parametrize("found, text", [([], "error 6297: This host has no disk"),
                                         (["a", "b"], "error 6298: This host has several")])
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


def test_what_grew_is_shown_disk_by_disk(capsys):
    out = io.StringIO()
    console.show({"sr_uuid": SR, "disks": [{"device": "/dev/sdb", "before": {"container": 1},
                                            "after": {"container": 2}}], "next": "xe sr-scan"}, out)
    assert '"device": "/dev/sdb"' in out.getvalue()
    assert "next: xe sr-scan" in out.getvalue()


def test_an_alert_is_explained(capsys):
    assert console.main(["explain", "LUKS-W003"]) == console.OK
    assert "rebind" in capsys.readouterr().out
    assert console.main(["explain", "LUKS-W999"]) == console.FAILED


# The inventory


@pytest.mark.parametrize("words", [[], ["--sr-uuid=" + SR]], ids=["host", "one-sr"])
def test_the_status_as_csv_is_a_line_a_disk(calls, monkeypatch, capsys, words):
    broken = {"error": {"code": 6220, "text": "no header"}}
    told = dict(STATUS, disks=[DISK, broken], encrypted=True)
    monkeypatch.setattr(status, "of", lambda sr: told)
    monkeypatch.setattr(verbs, "run", lambda verb, sr, arguments, who: told)
    assert console.main(["status", "--csv", *words]) == console.ATTENTION
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["host"], row["sr_uuid"], row["encrypted"], row["device"], row["error"])
            for row in rows] == [(os.uname().nodename, SR, "true", "/dev/sdb", ""),
                                 (os.uname().nodename, SR, "true", "", "no header")]
    assert rows[0]["recovery_keys"] == "safe"


@pytest.mark.parametrize("words", [["status", "--csv", "--json"], ["prove", "--csv"]])
def test_csv_is_for_the_status_alone(calls, words):
    with pytest.raises(SystemExit) as end:
        console.main(words)
    assert end.value.code == console.USAGE
    assert calls == []


# bench


def test_the_speed_of_a_disk_and_of_the_ciphers_is_shown(monkeypatch, capsys):
    told = {"device": "/dev/sdb", "in_use_by": ["the mount /mnt"],
            "disk": {"sequential": 500.1, "random": 30.2},
            "ciphers": [{"cipher": "aes-xts-plain64", "key_bits": 512, "encrypt": 1983.1,
                         "decrypt": 1980.2}],
            "aes_instructions": True, "next": "The defaults do."}
    monkeypatch.setattr(bench, "measure", lambda device: dict(told, device=device))
    assert console.main(["bench", "/dev/sdb"]) == console.OK
    shown = capsys.readouterr().out
    for part in ("/dev/sdb: 500.1 MiB/s", "30.2 MiB/s", "the mount /mnt", "512 bits: 1983.1 MiB/s",
                 "instructions: yes", "The defaults do."):
        assert part in shown


# doctor

@pytest.fixture
def xe(monkeypatch):
    """What `xe host-call-plugin` answers: a text, or an error that it ends with."""
    made = SimpleNamespace(answer="", calls=[])

    def fake_run(argv, deadline):
        made.calls.append(argv)
        if isinstance(made.answer, LuksError):
            raise made.answer
        return SimpleNamespace(stdout=made.answer.encode())

    monkeypatch.setattr(run, "run", fake_run)
    monkeypatch.setattr(installation, "uuid", lambda: "HOST-UUID")
    monkeypatch.setattr(doctor, "examine", lambda: [])
    return made


def test_a_host_in_order_ends_with_0(xe, capsys):
    xe.answer = json.dumps(doctor.report([])) + "\n"
    assert console.main(["doctor"]) == console.OK
    assert "has all that encrypted SRs need" in capsys.readouterr().out
    assert xe.calls == [["xe", "host-call-plugin", "host-uuid=HOST-UUID", "plugin=luksext",
                         "fn=doctor"]]


def test_what_the_plugin_found_is_told_and_ends_with_1(xe, capsys):
    xe.answer = json.dumps(doctor.report([found("LUKS-D031")]))
    assert console.main(["doctor"]) == console.FAILED
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "LUKS-D031: SR type not registered"
    assert "XAPI has no record" in shown[1]
    assert "xe-toolstack-restart" in shown[2]
    assert len(shown) == 3


def test_the_findings_as_json_are_those_of_the_plugin(xe, capsys):
    xe.answer = json.dumps(doctor.report([found("LUKS-D031")]))
    console.main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(xe.answer)


@pytest.mark.parametrize("answer", [CommandFailed("xe", 1, "Connection refused"), "no JSON"])
def test_while_xapi_is_down_the_host_itself_is_examined(xe, monkeypatch, capsys, answer):
    xe.answer = answer
    monkeypatch.setattr(doctor, "examine", lambda: [found("LUKS-D010")])
    assert console.main(["doctor", "--json"]) == console.FAILED
    told = json.loads(capsys.readouterr().out)
    assert [one["code"] for one in told["findings"]] == ["LUKS-D010", "LUKS-D030"]
    assert "REASON" not in told["findings"][1]["text"]


def test_a_finding_is_explained(capsys):
    assert console.main(["explain", "LUKS-D021"]) == console.OK
    assert "systemctl daemon-reload" in capsys.readouterr().out
