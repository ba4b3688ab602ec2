# SPDX-License-Identifier: LGPL-2.1-only
"""inventory: one line a disk, safe to open in a spreadsheet."""
import csv
import io

from luksext import inventory

DISK = {"device": "/dev/sdb", "luks_uuid": "u", "luks_version": 2, "cipher": "aes-xts-plain64",
        "key_bits": 512, "open": "/dev/mapper/luks-u", "header_backup": "2026-11-24T10:00:00Z",
        "slots": [
            {"slot": 0, "role": "binding", "pin": "tpm2",
             "proof": {"ok": True, "code": 0, "text": "", "at": "2026-11-24T11:00:00Z"}},
            {"slot": 2, "role": "binding", "pin": "tang", "proof": None},
            {"slot": 1, "role": "recovery", "name": "safe"}]}
SR = {"sr_uuid": "s", "name": "local", "type": "luksext", "encrypted": True, "attached": True,
      "recovery": "confirmed", "alerts": ["LUKS-W003", "LUKS-W005"], "disks": [DISK]}
PLAIN = {"sr_uuid": "p", "name": "plain", "type": "ext", "encrypted": False, "attached": True}


def rows(*hosts):
    return list(csv.DictReader(io.StringIO(inventory.csv_of({"hosts": list(hosts)}))))


def test_a_disk_is_told_with_its_bindings_proofs_and_recovery_keys():
    row, = rows({"host": "a", "srs": [SR]})
    assert row["host"] == "a"
    assert row["encrypted"] == "true"
    assert row["bindings"] == "0:tpm2 2:tang"
    assert row["proofs"] == "0:ok@2026-11-24T11:00:00Z 2:never"
    assert row["recovery_keys"] == "safe"
    assert row["alerts"] == "LUKS-W003 LUKS-W005"


def test_an_sr_without_encryption_is_a_line_too():
    row, = rows({"host": "a", "srs": [PLAIN]})
    assert (row["sr_uuid"], row["encrypted"], row["device"]) == ("p", "false", "")


def test_a_disk_that_cannot_be_read_tells_why():
    broken = dict(SR, disks=[{"error": {"code": 6220, "text": "no header"}}])
    assert rows({"host": "a", "srs": [broken]})[0]["error"] == "no header"


def test_a_host_that_could_not_be_asked_is_a_line_with_the_reason():
    row, = rows({"host": "b", "error": "offline"})
    assert {column: text for column, text in row.items() if text} == {
        "host": "b", "error": "offline"}


def test_a_name_is_never_taken_for_a_formula():
    assert rows({"host": "a", "srs": [dict(PLAIN, name="=1+1")]})[0]["name"] == "'=1+1"
