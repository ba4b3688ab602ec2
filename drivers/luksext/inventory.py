# SPDX-License-Identifier: LGPL-2.1-only
"""The inventory of hosts as an auditor reads it: one line a disk, as CSV (RFC 4180)."""
import csv
import io
from typing import Any, Dict, Iterator, List

COLUMNS = ("host", "sr_uuid", "name", "type", "encrypted", "attached", "device", "luks_uuid",
           "luks_version", "cipher", "key_bits", "open", "bindings", "proofs", "recovery",
           "recovery_keys", "header_backup", "alerts", "error")

# A spreadsheet takes a cell that starts so for a formula; names of SRs are free text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_of(pool: Dict[str, Any]) -> str:
    """The CSV of what `pool-status` tells; what only XAPI knows may be missing in it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="")
    writer.writeheader()
    for host in pool["hosts"]:
        for row in _rows_of_host(host):
            writer.writerow({column: _cell(row.get(column, "")) for column in COLUMNS})
    return out.getvalue()


def _rows_of_host(host: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    if "error" in host:
        yield {"host": host["host"], "error": host["error"]}
    for sr in host.get("srs", []):
        about = {key: sr.get(key, "") for key in ("sr_uuid", "name", "type", "encrypted",
                                                  "attached", "recovery")}
        about.update(host=host["host"], alerts=" ".join(sr.get("alerts", [])))
        for disk in sr.get("disks", [{}]):
            yield dict(about, **_disk(disk))


def _disk(disk: Dict[str, Any]) -> Dict[str, Any]:
    if "error" in disk:
        return {"error": disk["error"]["text"]}
    slots: List[Dict[str, Any]] = disk.get("slots", [])
    bound = [slot for slot in slots if "pin" in slot]
    return dict(
        {key: disk.get(key, "") for key in ("device", "luks_uuid", "luks_version", "cipher",
                                            "key_bits", "open", "header_backup")},
        bindings=" ".join("{}:{}".format(slot["slot"], slot["pin"]) for slot in bound),
        proofs=" ".join("{}:{}".format(slot["slot"], _proof(slot["proof"])) for slot in bound),
        recovery_keys=" ".join(slot["name"] for slot in slots if slot["role"] == "recovery"))


def _proof(proof: Any) -> str:
    if proof is None:
        return "never"
    return "{}@{}".format("ok" if proof["ok"] else proof["code"], proof["at"])


def _cell(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "'" + text if text.startswith(_FORMULA) else text
