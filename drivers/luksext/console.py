# SPDX-License-Identifier: LGPL-2.1-only
"""The console tool `luksext`: the verbs on dom0's own screen, also while xapi is down.

SRs are found by what their disks say. XAPI learns of a change at its next check of the SR.
"""
import argparse
import getpass
import json
import os
import sys
from typing import Any, Dict, List, NoReturn, Optional, TextIO

from luksext import (alerts, bench, doctor, installation, inventory, repository, run, status,
                     untrusted, verbs)
from luksext.errors import LuksError, NoSr, SeveralSrs
from luksext.findings import found
from luksext.repository import Repository
from luksext.untrusted import escaped, shown
from luksext.verb import Parameter, Verb

# Seconds; the plugin itself waits for other hosts of the pool.
_DOCTOR_DEADLINE = 300

OK = 0
FAILED = 1
USAGE = 2
ATTENTION = 3


def main(argv: List[str]) -> int:
    """Runs one verb. Returns 0; 1 failed, or doctor found something; 2 usage; 3 done and something
    needs attention."""
    arguments = _parser().parse_args(argv)
    run.keep_out_of_core_dumps()
    try:
        told = arguments.do(arguments)
    except LuksError as error:
        print("luksext: error {}: {}".format(error.code, error), file=sys.stderr)
        return FAILED
    if arguments.json:
        print(json.dumps(told, indent=2, sort_keys=True))
    elif arguments.csv:
        sys.stdout.write(inventory.csv_of({"hosts": [
            {"host": os.uname().nodename, "srs": told.get("srs", [told])}]}))
    else:
        show(told, sys.stdout)
    if told.get("findings"):
        return FAILED
    return ATTENTION if _needs_attention(told) else OK


def _needs_attention(told: Dict[str, Any]) -> bool:
    return bool(told.get("alerts") or told.get("warnings") or told.get("ok") is False
                or any(sr.get("alerts") for sr in told.get("srs", [])))


class _Parser(argparse.ArgumentParser):
    """Takes options by their whole names, and does not repeat what is none: it may be a key."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        for phrase in ("unrecognized arguments", "ignored explicit argument"):
            if phrase in message:
                message = message.split(phrase)[0] + phrase + ", see --help"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="luksext", description="Keys of encrypted SRs. Exit status: 0 done, 1 failed, "
                                    "2 usage, 3 done and something needs attention.")
    subparsers = parser.add_subparsers(metavar="VERB", dest="verb")
    subparsers.required = True
    for verb in verbs.VERBS.values():
        _add_verb(subparsers, verb)
    examine = _add(subparsers, "doctor", "whether this host has all that encrypted SRs need")
    examine.set_defaults(do=lambda arguments: _examine())
    measure = _add(subparsers, "bench", "how fast a disk is, and the ciphers; it only reads")
    measure.add_argument("device", help="a disk or partition, also one in use")
    measure.set_defaults(do=lambda arguments: bench.measure(arguments.device))
    explain = _add(subparsers, "explain", "what an alert or a finding of doctor means, what to do")
    explain.add_argument("code", help="such as LUKS-W003 or LUKS-D021")
    explain.set_defaults(do=lambda arguments: {"text": alerts.explain(arguments.code)})
    return parser


def _add(subparsers: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    if name == "status":
        output.add_argument("--csv", action="store_true", help="print CSV, one line a disk")
    parser.set_defaults(csv=False)
    return parser


def _add_verb(subparsers: Any, verb: Verb) -> None:
    parser = _add(subparsers, verb.name, verb.help)
    parser.add_argument("--sr-uuid", help="the SR; needed where this host has several")
    for parameter in verb.parameters:
        if parameter.secret:
            parser.add_argument("--{}-stdin".format(parameter.name), action="store_true",
                                help="asked for, or read where stdin is no terminal: "
                                     + parameter.help)
        else:
            parser.add_argument("--" + parameter.name, help=parameter.help,
                                required=parameter.required)
    parser.set_defaults(do=lambda arguments: _do(verb, arguments))


def _do(verb: Verb, arguments: argparse.Namespace) -> Dict[str, Any]:
    given = {}
    for parameter in verb.parameters:
        value = _value(parameter, arguments)
        if value is not None:
            given[parameter.name] = value
    verbs.find(verb.name, given)
    if verb.name == "status" and not arguments.sr_uuid:
        return {"schema": status.SCHEMA,
                "srs": [status.of(sr) for sr in repository.all_of_host()]}
    return verbs.run(verb, _sr(verb, arguments.sr_uuid), given, _user())


def _examine() -> Dict[str, Any]:
    """Through XAPI's plugin, which knows more; where it cannot be asked, what this host shows."""
    try:
        return untrusted.parse(run.run(
            ["xe", "host-call-plugin", "host-uuid=" + installation.uuid(), "plugin=luksext",
             "fn=doctor"], deadline=_DOCTOR_DEADLINE).stdout)
    except (LuksError, ValueError) as error:
        return doctor.report([*doctor.examine(), found("LUKS-D030", REASON=str(error))])


def _value(parameter: Parameter, arguments: argparse.Namespace) -> Optional[str]:
    name = parameter.name.replace("-", "_")
    if not parameter.secret:
        return getattr(arguments, name)
    wanted = getattr(arguments, name + "_stdin")
    if wanted and not sys.stdin.isatty():
        # As Python 3.6 reads it without a locale: a passphrase may be no UTF-8 (keys.as_typed).
        return sys.stdin.buffer.read().decode("utf-8", "surrogateescape").rstrip("\n")
    return _typed(parameter) if wanted or parameter.required else None


def _typed(parameter: Parameter) -> str:
    """What somebody types, which is not shown."""
    if not parameter.several:
        return _line(parameter.name)
    return "\n".join(iter(lambda: _line(parameter.name + ", Enter alone ends"), ""))


def _line(prompt: str) -> str:
    try:
        return getpass.getpass(prompt + ": ")
    except EOFError:
        print(file=sys.stderr)
        return ""


def _sr(verb: Verb, sr_uuid: Optional[str]) -> Repository:
    """The SR that is meant: the given one, else the only one of this host."""
    find = repository.remaining if verb.mends else repository.identified
    if sr_uuid:
        return find(sr_uuid)
    found = list(repository.all_of_host())
    if len(found) == 1:
        return find(found[0].uuid)
    raise SeveralSrs([sr.uuid for sr in found]) if found else NoSr()


def _user() -> str:
    return os.environ.get("SUDO_USER") or getpass.getuser()


def show(told: Dict[str, Any], out: TextIO) -> None:
    """Prints what a verb told, for people; what is longer than a line comes last.

    What a header says is escaped: it may hold what moves the cursor of a terminal."""
    if "text" in told:
        out.write(told["text"] + "\n")
        return
    if "findings" in told:
        for one in told["findings"]:
            out.write("{}: {}\n  {}\n  {}\n".format(
                *(escaped(one[key]) for key in ("code", "name", "text", "next"))))
        if told["ok"]:
            out.write("This host has all that encrypted SRs need.\n")
        return
    if "srs" in told:
        for sr in told["srs"]:
            _show_status(sr, out)
        if not told["srs"]:
            out.write("No disk of an encrypted SR is in this host.\n")
        return
    if "recovery" in told:
        _show_status(told, out)
        return
    if "ciphers" in told:
        _show_speed(told, out)
        return
    _show_answer(told, out)


def _show_speed(told: Dict[str, Any], out: TextIO) -> None:
    out.write("{}: {sequential} MiB/s at a stretch, {random} MiB/s in pieces of 4 KiB{}\n".format(
        told["device"], " (in use by {})".format(", ".join(told["in_use_by"]))
        if told["in_use_by"] else "", **told["disk"]))
    for cipher in told["ciphers"]:
        out.write("  {cipher}, {key_bits} bits: {encrypt} MiB/s, decrypts {decrypt} MiB/s\n".format(
            **cipher))
    out.write("AES instructions: {}\nnext: {}\n".format(
        "yes" if told["aes_instructions"] else "no", told["next"]))


def _show_answer(told: Dict[str, Any], out: TextIO) -> None:
    for key, value in told.items():
        if key not in ("schema", "next", "warnings") and value not in ("", [], None):
            text = escaped(value) if isinstance(value, str) else json.dumps(
                value, indent=2, sort_keys=True)
            out.write("{}: {}\n".format(key.replace("_", " "), text))
    for warning in told.get("warnings", []):
        out.write("warning: {}\n".format(escaped(warning)))
    if told.get("next"):
        out.write("next: {}\n".format(escaped(told["next"])))


def _show_status(sr: Dict[str, Any], out: TextIO) -> None:
    out.write("SR {}: recovery key {}\n".format(sr["sr_uuid"], sr["recovery"]))
    for disk in sr["disks"]:
        if "error" in disk:
            out.write("  disk not readable: {}\n".format(disk["error"]["text"]))
            continue
        out.write("  {}\n".format(escaped(
            "{device}: LUKS{luks_version} {luks_uuid}, {cipher} {key_bits} bits, {state}".format(
                state="open" if disk["open"] else "locked", **disk))))
        for slot in disk["slots"]:
            out.write("    slot {}: {}\n".format(slot["slot"], shown(_slot_text(slot), 500)))
        out.write("    header backup: {}\n".format(
            disk["header_backup"] + ("" if disk["header_backup_fresh"] else " (older than the "
                                     "header)") if disk["header_backup"] else "none"))
    for code in sr["alerts"]:
        out.write("  {}\n".format(alerts.explain(code).replace("SR_UUID", sr["sr_uuid"])))


def _slot_text(slot: Dict[str, Any]) -> str:
    if slot["role"] == "recovery":
        return "recovery key {}, {}".format(
            slot["name"], "confirmed" if slot["confirmed"] else "unconfirmed")
    if slot["role"] == "unknown":
        return "unknown key"
    policy = ", ".join(" ".join("{} {}".format(key, value) for key, value in sorted(leaf.items())
                                if key != "pin") or leaf["pin"] for leaf in slot["policy"])
    proof = slot["proof"]
    proved = "not proved yet" if proof is None else "{} at {}".format(
        "proved" if proof["ok"] else "does not open ({})".format(proof["text"]), proof["at"])
    return "{} {} ({}), {}, next boot {}{}".format(
        slot["role"], slot["pin"], policy, proved, slot["next_boot"]["state"],
        ", until " + slot["until"] if slot.get("until") else "")
