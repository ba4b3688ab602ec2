# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a binding will unlock at the next boot, told before the reboot that would hurt.

The firmware will measure again what it measured at this boot, but for what was changed since. So
the event log of this boot is replayed, with the variables of the firmware as they are now in the
place of those that it measured. What is not known is "unpredictable" and never "ok". Without a log,
it can still be told that PCR 7 will change, see `started`.

Not seen: what is done to the host while it is off, in the firmware's setup, or by a management
controller. These are taken to stay as they are.
"""
import struct
from typing import Dict, List, NamedTuple, Optional

from luksext import efivars, eventlog, pcrs, started
from luksext.clevis import Pin, shares
from luksext.errors import LuksError
from luksext.eventlog import Event, LogDamaged, Variable
from luksext.pcrs import Policy

OK = "ok"
BREAKS = "breaks"
UNPREDICTABLE = "unpredictable"

# What the firmware measures of itself (PCRs 1 and 3: of its settings, 6: the maker's), and what it
# decides Secure Boot by. The others hold what it reads from disks and what that measures itself.
_OF_FIRMWARE = frozenset([0, 1, 2, 3, 6, 7])

_VARIABLES = (eventlog.VARIABLE_DRIVER_CONFIG, eventlog.VARIABLE_BOOT, eventlog.VARIABLE_BOOT2)

# Pins that unlock without the TPM.
_WITHOUT_TPM = ("tang", "http", "null", "pkcs11")

# PCRs by their numbers.
Values = Dict[int, bytes]


class Prediction(NamedTuple):
    """What is known of a binding: `state` is OK, BREAKS or UNPREDICTABLE, `reason` a sentence."""

    state: str
    reason: str


class _Next(NamedTuple):
    """A PCR at the next boot: its value, None where it is not known for the `reason`; `changes` is
    whether it will surely not be what it is now."""

    value: Optional[bytes]
    changes: bool
    reason: str


class _Unknown(Exception):
    """Why something about the next boot cannot be told, as part of a sentence."""


def predict(pin: Pin) -> Prediction:
    """Whether the next boot unlocks what is sealed by `pin`, as clevis.describe reads it."""
    if pin.name == "tpm2":
        return _of_tpm2(pin)
    if pin.name == "sss":
        return _threshold(pin, [predict(share) for share in shares(pin)])
    if pin.name in _WITHOUT_TPM:
        return Prediction(OK, "The pin {} does not depend on PCRs.".format(pin.name))
    return Prediction(UNPREDICTABLE, "What the pin {} depends on is not known.".format(pin.name))


def _threshold(pin: Pin, found: List[Prediction]) -> Prediction:
    """sss gives the key as soon as `t` of its pins do."""
    needed = pin.config.get("t")
    if not isinstance(needed, int) or not 1 <= needed <= len(found):
        return Prediction(UNPREDICTABLE, "Its threshold cannot be read.")
    reasons = {state: " ".join(one.reason for one in found if one.state == state)
               for state in (OK, BREAKS, UNPREDICTABLE)}
    good = sum(one.state == OK for one in found)
    bad = sum(one.state == BREAKS for one in found)
    if good >= needed:
        return Prediction(OK, reasons[OK])
    if len(found) - bad < needed:
        return Prediction(BREAKS, reasons[BREAKS])
    return Prediction(UNPREDICTABLE, reasons[UNPREDICTABLE])


def _of_tpm2(pin: Pin) -> Prediction:
    try:
        policy = pcrs.policy_of(pin)
        if policy is None:
            return Prediction(OK, "It does not depend on PCRs.")
        return _at_next_boot(policy)
    except (pcrs.PolicyUnknown, LuksError, _Unknown) as error:
        return _unpredictable(error)


def _unpredictable(error: Exception) -> Prediction:
    if isinstance(error, LuksError):
        return Prediction(UNPREDICTABLE, error.sentence)
    return Prediction(UNPREDICTABLE, "The next boot cannot be predicted: {}.".format(error))


def _fits(policy: Policy, values: Values) -> bool:
    return pcrs.policy_digest(policy, values) == policy.digest


def _values(policy: Policy) -> Values:
    """Those of the PCRs now; some hosts need a program to tell them."""
    return pcrs.read(policy.bank, policy.numbers)


def _at_next_boot(policy: Policy) -> Prediction:
    try:
        events = _events()
        now = _values(policy)
        return _compared(policy, now, _next_values(events, policy, now))
    except _Unknown:
        changed = started.changed()
        if 7 in policy.numbers and changed and _fits(policy, _values(policy)):
            return _breaks(["7"], _changed(changed))
        raise


def _events() -> List[Event]:
    """Of this boot. Raises _Unknown where this host shows too little to tell of any PCR."""
    try:
        events = eventlog.read()
    except LogDamaged as error:
        raise _Unknown("the firmware's event log is not usable, {}".format(error)) from error
    if not efivars.available():
        raise _Unknown("the firmware's variables are not readable (efivarfs)")
    return events


def _compared(policy: Policy, now: Values, after: Dict[int, _Next]) -> Prediction:
    """The values of the PCRs at the next boot, and the policy. Raises _Unknown."""
    values = {pcr: known.value for pcr, known in after.items() if known.value is not None}
    changed = [str(pcr) for pcr in policy.numbers if after[pcr].changes]
    if len(values) == len(after) and _fits(policy, values):
        return Prediction(OK, "PCRs {} will be as the key is sealed to.".format(
            ",".join(map(str, policy.numbers))))
    # With some values unknown, only a key that fits now tells what they would have to be.
    if changed and _fits(policy, now):
        return _breaks(changed, after[int(changed[0])].reason)
    if len(values) == len(after):
        return Prediction(BREAKS, "PCRs {} have other values than the key is sealed to, also after "
                                  "the next boot.".format(",".join(map(str, policy.numbers))))
    raise _Unknown(next(known.reason for known in after.values() if known.value is None))


def _breaks(pcrs_that_change: List[str], reason: str) -> Prediction:
    return Prediction(BREAKS, "PCR {} will change at the next boot: {}.".format(
        ",".join(pcrs_that_change), reason))


def _changed(names: List[str]) -> str:
    return "the firmware's variable {} was changed".format(", ".join(names))


def _next_values(events: List[Event], policy: Policy, now: Values) -> Dict[int, _Next]:
    """The PCRs of a policy at the next boot. Raises _Unknown where nothing can be told of any."""
    try:
        return {pcr: _next_value(events, pcr, policy.bank, now[pcr]) for pcr in policy.numbers}
    except OSError as error:
        raise _Unknown("a variable of the firmware is not readable ({})".format(
            error.strerror)) from error


def _next_value(events: List[Event], pcr: int, bank: str, now: bytes) -> _Next:
    if eventlog.replay(events, pcr, bank) != now:
        return _Next(None, False, "PCR {} has been extended by more than what the firmware's event "
                                  "log tells".format(pcr))
    measured = eventlog.measured(events, pcr)
    if measured and pcr not in _OF_FIRMWARE:
        return _Next(None, False, "PCR {} depends on what is on the disks".format(pcr))
    found = _replayed(measured, bank, eventlog.reset_value(pcr, len(now), events))
    planned = efivars.planned()
    if planned and found.value is not None:
        return _Next(None, found.changes, found.reason if found.changes else planned)
    return found


def _replayed(events: List[Event], bank: str, value: bytes) -> _Next:
    """What `value` becomes by the events, each as it will be at the next boot."""
    changes, unknown = [], []
    for event in events:
        logged = event.digests[bank]
        try:
            after = _next_digest(event, bank)
        except (_Unknown, LogDamaged) as error:
            unknown.append(str(error))
            after = logged
        if after != logged:
            changes.append(eventlog.variable(event).name)
        value = _extended(bank, value, after)
    if changes and _platform_key_comes_or_goes(events):
        unknown.append("Secure Boot is being set up")
    reason = _changed(changes) if changes else "".join(unknown[:1])
    return _Next(None if unknown else value, bool(changes), reason)


def _extended(bank: str, value: bytes, by: bytes) -> bytes:
    after = eventlog.digest(bank, value + by)
    # The caller has replayed the log in this bank.
    assert after is not None
    return after


def _next_digest(event: Event, bank: str) -> bytes:
    """The digest that an event will have. Raises _Unknown, LogDamaged, OSError."""
    if event.kind == eventlog.VARIABLE_AUTHORITY:
        raise _Unknown("it depends on who signed the boot loader")
    if event.kind not in _VARIABLES:
        return event.digests[bank]
    variable = eventlog.variable(event)
    after = efivars.read(variable.name, variable.guid)
    if after is None and (variable.name, variable.guid) not in efivars.SECURE_BOOT \
            and variable.data:
        raise _Unknown("the firmware's variable {} cannot be seen".format(variable.name))
    digest = _measure_as_before(event, variable, bank, after or b"")
    if digest != event.digests[bank] and event.kind != eventlog.VARIABLE_DRIVER_CONFIG:
        # Firmware itself changes boot entries after it has measured them.
        raise _Unknown("the boot entry {} was changed".format(variable.name))
    return digest


def _measure_as_before(event: Event, variable: Variable, bank: str, data: bytes) -> bytes:
    """The digest of a variable with new content: of the name and content, or of the content alone,
    whatever it was in the log (TCG PC Client PFP 1.05, 10.4.1 wants one or the other)."""
    def named(content: bytes) -> bytes:
        name = event.content[32:len(event.content) - len(variable.data)]
        return event.content[:24] + struct.pack("<Q", len(content)) + name + content

    for measured in (named, bytes):
        if eventlog.digest(bank, measured(variable.data)) == event.digests[bank]:
            after = eventlog.digest(bank, measured(data))
            assert after is not None
            return after
    raise _Unknown("the firmware measures its variable {} in a way of its own".format(
        variable.name))


def _platform_key_comes_or_goes(events: List[Event]) -> bool:
    """Whether PK is set and was not, or the reverse: then SecureBoot shows its new value only
    after the reboot (UEFI 2.10, 3.3)."""
    for event in events:
        if event.kind == eventlog.VARIABLE_DRIVER_CONFIG:
            variable = eventlog.variable(event)
            if (variable.name, variable.guid) == ("PK", efivars.GLOBAL):
                return bool(variable.data) != bool(efivars.read("PK", efivars.GLOBAL))
    return False
