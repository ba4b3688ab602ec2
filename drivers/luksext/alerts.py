# SPDX-License-Identifier: LGPL-2.1-only
"""The alerts: what needs the administrator's attention although everything works.

Each has a stable code, under which XAPI gets a message about the SR; `luksext explain CODE` tells
the rest. In the texts, SR_UUID stands for the SR's UUID. LUKS-W010 is not given again.
"""
from typing import Dict, NamedTuple, Union

from luksext.errors import AlertUnknown
from luksext.findings import FINDINGS, Finding


class Alert(NamedTuple):
    """One kind of alert.

    code: stable, LUKS-W and three digits. name: the same in a word or two.
    summary: what is the matter and what it may lead to. remedy: what to type.
    priority: of XAPI's message, from 1 (data may be lost) to 5 (for information).
    """

    code: str
    name: str
    summary: str
    remedy: str
    priority: int


_ALL = (
    Alert("LUKS-W001", "no recovery key",
          "The encrypted SR has no recovery key: if its TPM or server fails, its data are lost.",
          "Make one and keep it safe: luksext recovery-add --sr-uuid=SR_UUID", 2),
    Alert("LUKS-W002", "recovery key unconfirmed",
          "Nobody has proved to have a recovery key of the SR: it was shown once, and may not have "
          "been written down.",
          "Type it back: luksext recovery-confirm --sr-uuid=SR_UUID ; if it is lost, make another: "
          "luksext recovery-add --sr-uuid=SR_UUID", 3),
    Alert("LUKS-W003", "binding stale",
          "A binding of the SR no longer opens its keyslot: the SR will not come up by itself the "
          "next time it is plugged. The TPM was cleared or replaced, its PCRs changed, the tang "
          "server's key was rotated, or the binding is damaged.",
          "See which and why: luksext prove --sr-uuid=SR_UUID ; then bind anew while the SR is "
          "still open, with a recovery key: luksext rebind --sr-uuid=SR_UUID --key-stdin", 2),
    Alert("LUKS-W004", "binding breaks at next boot",
          "A binding of the SR opens now, but will not after a restart of the host: the firmware "
          "settings that it depends on were changed.",
          "In the day before the restart, let it pass once: luksext suspend --sr-uuid=SR_UUID ; "
          "the plug after it binds anew.", 2),
    Alert("LUKS-W005", "no fresh header backup",
          "The LUKS header of a disk of the SR is not as in its last backup, or has none: if it "
          "is overwritten, the keys that came since are lost, or all data.",
          "Back it up: luksext header-backup --sr-uuid=SR_UUID", 3),
    Alert("LUKS-W006", "bindings suspended",
          "The SR is suspended for a firmware update: until its next plug, or until its hours are "
          "over, it opens on this host whatever its PCRs are.",
          "Restart the host, which ends it, or end it now: luksext resume --sr-uuid=SR_UUID", 4),
    Alert("LUKS-W007", "unknown keyslot",
          "A disk of the SR has a keyslot of which nothing is known: somebody has a key that was "
          "not added by luksext.",
          "Prove whose it is by typing its passphrase: luksext recovery-confirm --sr-uuid=SR_UUID "
          "; or revoke it: luksext status --sr-uuid=SR_UUID shows the number for luksext "
          "recovery-revoke --sr-uuid=SR_UUID --slot=NUMBER", 3),
    Alert("LUKS-W008", "disks differ in their keys",
          "The disks of the SR do not have the same bindings and recovery keys, as after a command "
          "that was cut short: what opens one may not open the other.",
          "Compare the disks: luksext status --sr-uuid=SR_UUID ; then repeat the command that was "
          "cut short.", 3),
    Alert("LUKS-W009", "re-encryption unfinished",
          "The re-encryption of a disk of the SR began and is not finished: parts of it still "
          "have the old volume key.",
          "See how far it is, and let it go on: luksext reencrypt-status --sr-uuid=SR_UUID ; "
          "luksext reencrypt-resume --sr-uuid=SR_UUID", 3),
    Alert("LUKS-W011", "binding cannot be tried",
          "A binding of the SR could not be tried: the TPM is missing, locked out or does not "
          "answer, or the tang server cannot be reached. It may be in order all the same.",
          "See the reason, and try again when it is cured: luksext prove --sr-uuid=SR_UUID", 3),
    Alert("LUKS-W012", "disk missing or unreadable",
          "A disk of the SR is not in the host, or its LUKS header is gone or damaged.",
          "See which: luksext status --sr-uuid=SR_UUID ; a header that was overwritten comes back "
          "by: luksext header-restore --sr-uuid=SR_UUID --device=DISK", 1),
)

# By code.
ALERTS: Dict[str, Alert] = {alert.code: alert for alert in _ALL}


def explain(code: str) -> str:
    """All that there is to say of an alert, or a finding of doctor, for a person.

    Raises AlertUnknown.
    """
    known: Dict[str, Union[Alert, Finding]] = {**ALERTS, **FINDINGS}
    told = known.get(code.upper())
    if told is None:
        raise AlertUnknown(code, sorted(known))
    return "{}: {}\n{}\n{}".format(told.code, told.name, told.summary, told.remedy)
