# SPDX-License-Identifier: LGPL-2.1-only
"""cryptsetup: every option is given; keys travel on stdin or in a pipe, never in an argument."""
import json
import os
from types import SimpleNamespace

import pytest

import headers
from conftest import wait_until_gone
from luksext import cryptsetup
from luksext.cryptsetup import Flags, Format
from luksext.errors import (CommandFailed, HeaderFull, KeyRefused, MemoryShort, ToolBroken,
                            Unsupported)

KEY = b"a-random-key"
PASSPHRASE = b"correct horse battery staple"
WANTED = Format(2, headers.UUID, headers.CIPHER, 512, "label", "luksext")


def option(argv, name):
    """The value after an option."""
    return argv[argv.index(name) + 1]


@pytest.mark.parametrize("output, version", [
    ("cryptsetup 2.0.3", (2, 0, 3)),
    ("cryptsetup 2.6.1 flags: UDEV BLKID KEYRING KERNEL_CAPI", (2, 6, 1)),
    ("cryptsetup 2.8.0-rc1", (2, 8, 0)), ("cryptsetup 2.10.12", (2, 10, 12))])
def test_the_version_is_told_as_numbers(programs, output, version):
    programs.add("cryptsetup", "echo '{}'".format(output))
    assert cryptsetup.version() == version
    assert programs.calls("cryptsetup") == [["cryptsetup", "--version"]]


@pytest.mark.parametrize("script", ["", "echo something else", "printf '\\377\\0'"])
def test_without_a_version_nothing_is_guessed(programs, script):
    programs.add("cryptsetup", script)
    with pytest.raises(ToolBroken, match="cryptsetup --version"):
        cryptsetup.version()


@pytest.mark.parametrize("status", ["exit 3", "kill -9 $$"])
def test_too_little_memory_is_not_said_to_be_a_wrong_key(programs, status):
    programs.add("cryptsetup", status)
    for attempt in (lambda: cryptsetup.opens("/dev/sdb", 1, KEY),
                    lambda: cryptsetup.open_device("/dev/sdb", "luks-x", 1, KEY, Flags()),
                    lambda: cryptsetup.add_passphrase("/dev/sdb", 2, 1, KEY, b"passphrase")):
        with pytest.raises(MemoryShort, match="/dev/sdb"):
            attempt()


@pytest.mark.parametrize("version", [1, 2])
def test_formatting_leaves_nothing_to_defaults_and_asks_nothing(programs, version):
    programs.add("cryptsetup")
    cryptsetup.luks_format("/dev/sdb", WANTED._replace(version=version), 0, KEY)
    argv = programs.calls("cryptsetup")[0]
    assert argv[:3] == ["cryptsetup", "luksFormat", "--batch-mode"]
    assert argv[-1] == "/dev/sdb"
    for name, value in (("--type", "luks{}".format(version)), ("--cipher", "aes-xts-plain64"),
                        ("--key-size", "512"), ("--hash", "sha256"), ("--align-payload", "32768"),
                        ("--uuid", headers.UUID), ("--key-slot", "0"), ("--key-file", "-"),
                        ("--pbkdf", "pbkdf2"), ("--pbkdf-force-iterations", "1000")):
        assert option(argv, name) == value
    assert programs.stdin("cryptsetup") == KEY


def test_only_luks2_has_label_subsystem_and_sector_size(programs):
    programs.add("cryptsetup")
    cryptsetup.luks_format("/dev/sdb", WANTED, 0, KEY)
    cryptsetup.luks_format("/dev/sdb", WANTED._replace(version=1), 0, KEY)
    luks2, luks1 = programs.calls("cryptsetup")
    assert (option(luks2, "--label"), option(luks2, "--subsystem"),
            option(luks2, "--sector-size")) == ("label", "luksext", "512")
    assert not {"--label", "--subsystem", "--sector-size"} & set(luks1)


@pytest.mark.parametrize("version, pbkdf", [
    (1, ["--pbkdf", "pbkdf2", "--iter-time", "2000"]),
    (2, ["--pbkdf", "argon2id", "--pbkdf-memory", "131072", "--pbkdf-parallel", "2",
         "--pbkdf-force-iterations", "4"])])
def test_a_passphrase_is_stretched_and_travels_in_a_pipe(programs, version, pbkdf):
    programs.add("cryptsetup", 'for last; do :; done; $helpers/cat "$last" >$log.passphrase')
    cryptsetup.add_passphrase("/dev/sdb", version, 1, KEY, PASSPHRASE)
    argv = programs.calls("cryptsetup")[0]
    assert argv[:-1] == ["cryptsetup", "luksAddKey", "--batch-mode", "--key-slot", "1",
                         "--key-file", "-", *pbkdf, "/dev/sdb"]
    assert argv[-1].startswith("/dev/fd/")
    assert programs.stdin("cryptsetup") == KEY
    assert (programs.folder / ".cryptsetup.passphrase").read_bytes() == PASSPHRASE


def test_a_random_key_is_not_stretched_and_travels_in_a_pipe(programs):
    programs.add("cryptsetup", 'for last; do :; done; $helpers/cat "$last" >$log.passphrase')
    cryptsetup.add_key("/dev/sdb", 2, KEY, PASSPHRASE)
    argv = programs.calls("cryptsetup")[0]
    assert argv[:-1] == ["cryptsetup", "luksAddKey", "--batch-mode", "--key-slot", "2",
                         "--key-file", "-", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
                         "/dev/sdb"]
    assert programs.stdin("cryptsetup") == KEY
    assert (programs.folder / ".cryptsetup.passphrase").read_bytes() == PASSPHRASE


@pytest.mark.parametrize("status, opens", [(0, True), (2, False)])
def test_a_key_is_tried_without_opening_the_volume(programs, status, opens):
    programs.add("cryptsetup", "exit {}".format(status))
    assert cryptsetup.opens("/dev/sdb", 3, KEY) is opens
    assert programs.calls("cryptsetup") == [
        ["cryptsetup", "open", "--type", "luks", "--key-slot", "3", "--key-file", "-",
         "--test-passphrase", "/dev/sdb"]]
    assert programs.stdin("cryptsetup") == KEY


def test_in_reencryption_a_wrong_key_is_told_by_what_is_said(programs):
    programs.add("cryptsetup", "echo 'No usable keyslot is available.' >&2; exit 1")
    assert cryptsetup.opens("/dev/sdb", None, KEY) is False
    assert "--key-slot" not in programs.calls("cryptsetup")[0]
    programs.add("cryptsetup", "echo 'Device /dev/sdb does not exist.' >&2; exit 1")
    with pytest.raises(CommandFailed, match="does not exist"):
        cryptsetup.opens("/dev/sdb", None, KEY)


@pytest.mark.parametrize("random, pbkdf", [
    (True, ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]),
    (False, ["--pbkdf", "argon2id", "--pbkdf-memory", "131072", "--pbkdf-parallel", "2",
             "--pbkdf-force-iterations", "4"])])
def test_a_reencryption_is_prepared_with_the_keys_of_all_keyslots_as_lines(programs, random, pbkdf):
    programs.add("cryptsetup")
    cryptsetup.reencrypt_init("/dev/sdb", "luks-x", [KEY, PASSPHRASE], random)
    assert programs.calls("cryptsetup") == [
        ["cryptsetup", "reencrypt", "--batch-mode", "--init-only", "--resilience", "checksum",
         "--resilience-hash", "sha256", "--hotzone-size", "32M", *pbkdf, "--active-name", "luks-x",
         "/dev/sdb"]]
    assert programs.stdin("cryptsetup") == KEY + b"\n" + PASSPHRASE


def test_a_reencryption_is_left_to_a_process_of_its_own(programs, tmp_path):
    programs.add("cryptsetup", "echo done >$log.done")
    process = cryptsetup.reencrypt("/dev/sdb", "luks-x", KEY, str(tmp_path / "messages"))
    assert wait_until_gone(process)
    assert programs.calls("cryptsetup") == [
        ["cryptsetup", "reencrypt", "--batch-mode", "--resume-only", "--resilience", "checksum",
         "--resilience-hash", "sha256", "--hotzone-size", "32M", "--key-file", "-", "--active-name",
         "luks-x", "/dev/sdb"]]
    assert programs.stdin("cryptsetup") == KEY


def test_a_keyslot_is_destroyed_and_a_token_removed_without_a_question(programs):
    programs.add("cryptsetup")
    cryptsetup.kill_slot("/dev/sdb", 3)
    cryptsetup.remove_token("/dev/sdb", 4)
    assert programs.calls("cryptsetup") == [
        ["cryptsetup", "luksKillSlot", "--batch-mode", "/dev/sdb", "3"],
        ["cryptsetup", "token", "remove", "--token-id", "4", "/dev/sdb"]]


def test_opening_names_the_keyslot_so_that_no_other_is_tried(programs):
    programs.add("cryptsetup")
    cryptsetup.open_device("/dev/sdb", "luks-x", 3, KEY, Flags())
    assert programs.calls("cryptsetup") == [
        ["cryptsetup", "open", "--type", "luks", "--key-slot", "3", "--key-file", "-", "/dev/sdb",
         "luks-x"]]
    assert programs.stdin("cryptsetup") == KEY


def test_discards_are_let_through_only_when_asked(programs):
    programs.add("cryptsetup")
    cryptsetup.open_device("/dev/sdb", "luks-x", 0, KEY, Flags(discard=True))
    assert "--allow-discards" in programs.calls("cryptsetup")[0]


def kernel(monkeypatch, release):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))


BYPASS = ["--perf-no_read_workqueue", "--perf-no_write_workqueue"]


def test_work_queues_are_left_out_only_when_asked(programs, monkeypatch):
    kernel(monkeypatch, "6.12.0-55.el10.x86_64")
    programs.add("cryptsetup", "echo cryptsetup 2.7.5")
    cryptsetup.open_device("/dev/sdb", "luks-x", 0, KEY, Flags(workqueues=False))
    assert programs.calls("cryptsetup")[1][-4:] == [*BYPASS, "/dev/sdb", "luks-x"]


@pytest.mark.parametrize("release, version, missing", [
    ("4.19.0+1", "2.7.5", "kernel 5.9, this host has 4.19.0"),
    ("5.8.18", "2.7.5", "kernel 5.9, this host has 5.8.18"),
    ("nonsense", "2.7.5", "kernel 5.9, this host has nonsense"),
    ("6.1.0", "2.3.3", "cryptsetup 2.3.4, this host has 2.3.3")])
def test_a_disk_whose_host_did_without_work_queues_opens_on_one_that_cannot(
        programs, monkeypatch, release, version, missing):
    kernel(monkeypatch, release)
    programs.add("cryptsetup", "echo cryptsetup " + version)
    assert missing in cryptsetup.why_no_bypass()
    cryptsetup.open_device("/dev/sdb", "luks-x", 0, KEY, Flags(workqueues=False))
    assert programs.calls("cryptsetup")[-1][-4:] == ["--key-file", "-", "/dev/sdb", "luks-x"]


def test_a_wrong_key_is_told_apart_from_other_failures(programs):
    programs.add("cryptsetup", "exit 2")
    with pytest.raises(KeyRefused, match="keyslot 3 of /dev/sdb"):
        cryptsetup.open_device("/dev/sdb", "luks-x", 3, KEY, Flags())
    programs.add("cryptsetup", "exit 4")
    with pytest.raises(CommandFailed, match="status 4"):
        cryptsetup.open_device("/dev/sdb", "luks-x", 3, KEY, Flags())


@pytest.mark.parametrize("status, closed", [(0, True), (4, True), (5, False)])
def test_closing_tells_whether_it_is_closed(programs, status, closed):
    programs.add("cryptsetup", "exit {}".format(status))
    assert cryptsetup.close("luks-x") is closed
    assert programs.calls("cryptsetup") == [["cryptsetup", "close", "luks-x"]]


def test_closing_may_fail(programs):
    programs.add("cryptsetup", "exit 1")
    with pytest.raises(CommandFailed):
        cryptsetup.close("luks-x")


def test_erasing_asks_nothing(programs):
    programs.add("cryptsetup")
    cryptsetup.erase("/dev/sdb")
    assert programs.calls("cryptsetup") == [["cryptsetup", "erase", "--batch-mode", "/dev/sdb"]]


def test_a_token_is_imported_as_json(programs):
    programs.add("cryptsetup")
    token = headers.binding_token()
    cryptsetup.import_token("/dev/sdb", token)
    assert programs.calls("cryptsetup") == [["cryptsetup", "token", "import", "/dev/sdb"]]
    assert json.loads(programs.stdin("cryptsetup").decode()) == token


@pytest.mark.parametrize("version, error", [
    ("2.0.3", Unsupported), ("2.0.4", CommandFailed), ("2.6.1", CommandFailed)])
def test_a_cryptsetup_that_imports_no_tokens_is_told_by_its_version(programs, version, error):
    programs.add("cryptsetup", "[ $1 = token ] && exit 1; echo cryptsetup " + version)
    with pytest.raises(error, match=version if error is Unsupported else "token import"):
        cryptsetup.import_token("/dev/sdb", headers.binding_token())


def test_a_mapping_table_is_told_by_the_fields_of_its_lines(programs):
    programs.add("dmsetup", "echo '0 8 crypt aes-xts-plain64 0000 0 8:16 32768'; echo '8 8 error'")
    assert cryptsetup.mapping_tables("luks-x") == [
        ["0", "8", "crypt", "aes-xts-plain64", "0000", "0", "8:16", "32768"], ["8", "8", "error"]]
    assert programs.calls("dmsetup") == [["dmsetup", "table", "luks-x"]]


def test_luksmeta_is_made_and_filled(programs):
    programs.add("luksmeta")
    cryptsetup.luksmeta_init("/dev/sdb")
    cryptsetup.luksmeta_save("/dev/sdb", 7, "kind", b"data")
    assert programs.calls("luksmeta") == [
        ["luksmeta", "init", "-f", "-d", "/dev/sdb"],
        ["luksmeta", "save", "-d", "/dev/sdb", "-s", "7", "-u", "kind"]]
    assert programs.stdin("luksmeta") == b"data"


def test_what_is_saved_is_loaded_and_nothing_is_none(programs):
    programs.add("luksmeta", "printf data")
    assert cryptsetup.luksmeta_load("/dev/sdb", 7, "kind") == b"data"
    assert programs.calls("luksmeta") == [
        ["luksmeta", "load", "-d", "/dev/sdb", "-s", "7", "-u", "kind"]]
    programs.add("luksmeta", "exit 65")
    assert cryptsetup.luksmeta_load("/dev/sdb", 7, "kind") is None


def test_what_is_saved_is_removed_without_a_question(programs):
    programs.add("luksmeta")
    cryptsetup.luksmeta_wipe("/dev/sdb", 6, "kind")
    assert programs.calls("luksmeta") == [
        ["luksmeta", "wipe", "-f", "-d", "/dev/sdb", "-s", "6", "-u", "kind"]]


def test_a_full_luksmeta_is_told_and_what_it_would_damage_never_saved(programs):
    programs.add("luksmeta", "exit 73")
    with pytest.raises(HeaderFull, match="4 bytes beside keyslot 6"):
        cryptsetup.luksmeta_save("/dev/sdb", 6, "kind", b"data")
    programs.add("luksmeta")
    with pytest.raises(HeaderFull, match="8193 bytes"):
        cryptsetup.luksmeta_save("/dev/sdb", 6, "kind", b"x" * 8193)
    assert len(programs.calls("luksmeta")) == 1
    programs.add("luksmeta", "exit 69")
    with pytest.raises(CommandFailed, match="status 69"):
        cryptsetup.luksmeta_save("/dev/sdb", 6, "kind", b"data")


def test_the_slots_of_luksmeta_are_told_by_their_kind(programs):
    programs.add("luksmeta", "printf '0   active cb6e\\n1 inactive empty\\n\\nnoise\\n'")
    assert cryptsetup.luksmeta_slots("/dev/sdb") == {0: "cb6e", 1: "empty"}
    programs.add("luksmeta", "exit 74")
    assert cryptsetup.luksmeta_slots("/dev/sdb") == {}


@pytest.mark.parametrize("call", [
    lambda: cryptsetup.luks_format("/dev/sdb", WANTED, 0, KEY),
    lambda: cryptsetup.add_passphrase("/dev/sdb", 2, 1, KEY, PASSPHRASE),
    lambda: cryptsetup.add_key("/dev/sdb", 1, KEY, PASSPHRASE),
    lambda: cryptsetup.opens("/dev/sdb", 0, KEY),
    lambda: cryptsetup.open_device("/dev/sdb", "x", 0, KEY, Flags()),
    lambda: cryptsetup.luksmeta_save("/dev/sdb", 0, "kind", KEY)])
def test_no_key_is_in_an_argument_a_log_or_an_error(programs, caplog, call):
    caplog.set_level(0, logger="luksext")
    for name in ("cryptsetup", "luksmeta"):
        programs.add(name, "$helpers/cat $stdin; exit 1")
    with pytest.raises(CommandFailed) as failure:
        call()
    told = "{0} {0!r} {1} {2}".format(failure.value, caplog.text, programs.calls("cryptsetup")
                                      + programs.calls("luksmeta"))
    assert KEY.decode() not in told
    assert PASSPHRASE.decode() not in told
