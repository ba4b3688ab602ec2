# SPDX-License-Identifier: LGPL-2.1-only
"""What XAPI's plugin `luksext` can be called for, by a session and arguments that are texts."""
import functools
import json
import logging
import logging.handlers

import XenAPI

import luksext_adopt
import luksext_doctor
import luksext_encrypt
import luksext_inplace
import luksext_pool
import luksext_upkeep
import luksext_xapi
from luksext import (VERSION, alerts, audit, configuration, inventory, keys, options, status,
                     verb, verbs)
from luksext.errors import ArgumentInvalid, LuksError, SrUnknown
from luksext.repository import Repository
from luksext.untrusted import shown

# What `encrypt` takes for the device-config of the new SR, one option of the ext driver included.
# The devices are those of the old SR.
_ENCRYPT_OPTIONS = [name for name, _ in configuration.DESCRIPTIONS if name != "device"] \
    + ["preferred-image-formats"]


def answering(failure, call):
    """`call` as a function of XAPI's plugin: returns JSON, raises `failure` as XAPI shows it."""

    @functools.wraps(call)
    def function(session, arguments):
        _log_to_syslog()
        try:
            return json.dumps(call(session, arguments))
        except LuksError as error:
            raise failure("SR_BACKEND_FAILURE_{}".format(error.code), ["", str(error)]) from error
        except XenAPI.Failure as error:
            raise failure(error.details[0], error.details[1:]) from error

    return function


def _log_to_syslog():
    log = logging.getLogger("luksext")
    if not log.handlers:
        handler = logging.handlers.SysLogHandler(
            "/dev/log", logging.handlers.SysLogHandler.LOG_LOCAL2)
        handler.setFormatter(logging.Formatter("SM: luksext: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _verb(name):
    def call(session, arguments):
        found = verbs.find(name, arguments)
        sr_ref, device_config = _sr(session, arguments.get("sr-uuid", ""))
        sr = luksext_xapi.repository_of(session, sr_ref, device_config)
        try:
            return verbs.run(found, sr, arguments, _user(session))
        finally:
            with luksext_upkeep.only_logged("cannot show the state of the SR"):
                _publish(session, sr_ref, device_config)
    return call


def _status(session, arguments):
    if arguments.get("sr-uuid"):
        return _verb("status")(session, arguments)
    return _host_status(session, arguments)


def _host_status(session, arguments):
    """All SRs of this host, encrypted or not."""
    host = luksext_xapi.this_host(session)
    told = []
    for pbd in session.xenapi.PBD.get_all_records().values():
        if pbd["host"] == host:
            told.append(_told(session, pbd))
    return {"schema": status.SCHEMA, "host_uuid": session.xenapi.host.get_uuid(host),
            "host": session.xenapi.host.get_name_label(host), "srs": told}


def _told(session, pbd):
    record = session.xenapi.SR.get_record(pbd["SR"])
    known = {"sr_uuid": record["uuid"], "name": record["name_label"], "type": record["type"],
             "shared": record["shared"], "attached": pbd["currently_attached"],
             "encrypted": record["type"] == luksext_xapi.SR_TYPE}
    if not known["encrypted"]:
        return known
    try:
        told = status.of(luksext_xapi.repository_of(session, pbd["SR"], pbd["device_config"]))
    except LuksError as error:
        # Told as a disk that cannot be read: it must not hide the other SRs.
        told = status.of(Repository(record["uuid"], [error], [None]))
    return dict(told, **known)


def _pool_status(session, arguments):
    """All SRs of all hosts; a host that cannot be asked is named with the reason."""
    return {"schema": status.SCHEMA, "hosts": luksext_pool.ask(session, "status")}


def _pool_csv(session, arguments):
    """The inventory of the pool as CSV, one line a disk."""
    return {"schema": status.SCHEMA, "csv": inventory.csv_of(_pool_status(session, arguments))}


def _adopt(session, arguments):
    """An ext SR on disks that were encrypted by hand becomes an encrypted SR."""
    typed = arguments.get("key")
    return dict({"schema": status.SCHEMA}, **luksext_adopt.adopt(
        session, luksext_xapi.this_host(session), arguments.get("sr-uuid", ""),
        options.parse_pin(arguments), keys.as_typed(typed) if typed else None))


def _encrypt(session, arguments):
    """An ext SR that is empty is replaced by an encrypted one on the same disks."""
    _check_confirmed("encrypt", arguments, "destroys the SR with all that is left on its disks",
                     "once its VDIs are elsewhere")
    config = {name: arguments[name] for name in _ENCRYPT_OPTIONS if name in arguments}
    return {"schema": status.SCHEMA, "sr_uuid": luksext_encrypt.encrypt(
        session, luksext_xapi.this_host(session), arguments.get("sr-uuid", ""), config)}


_IN_PLACE_OPTIONS = ("pin", "pin-config", "cipher", "key-size", "discard", "workqueues")


def _encrypt_in_place(session, arguments):
    """An ext SR is encrypted where it is, with its VDIs."""
    _check_confirmed("encrypt-in-place", arguments, "changes all disks of the SR, takes hours",
                     "after a backup of the VMs, which must be shut down")
    config = {name: arguments[name] for name in _IN_PLACE_OPTIONS if name in arguments}
    return dict({"schema": status.SCHEMA}, **luksext_inplace.encrypt(
        session, luksext_xapi.this_host(session), arguments.get("sr-uuid", ""), config))


def _check_confirmed(name, arguments, what, when):
    if not verb.truth(name, arguments, "confirm"):
        raise ArgumentInvalid(name, "{}, and needs the argument confirm".format(what),
                              "true, {}".format(when))


def _audited(name, known, call):
    """known: the arguments that `call` takes; what is none is told to nobody, XAPI included."""
    def audited(session, arguments):
        verb.check_names(name, arguments, ["sr-uuid", *known])
        sr_uuid = arguments.get("sr-uuid", "")
        if not luksext_xapi.is_uuid(sr_uuid):
            raise ArgumentInvalid(name, "cannot use sr-uuid={}".format(shown(sr_uuid)),
                                  "sr-uuid with the UUID of an SR of this host: "
                                  "xe sr-list type=ext params=uuid,name-label")
        with audit.audited(name, sr_uuid, arguments, _user(session)):
            return call(session, arguments)
    return audited


def _doctor(session, arguments):
    """Whether this host has all that encrypted SRs need."""
    verb.check_names("doctor", arguments, ())
    return luksext_doctor.examine(session)


def _version(session, arguments):
    return {"schema": status.SCHEMA, "version": VERSION}


def _explain(session, arguments):
    return {"schema": status.SCHEMA, "text": alerts.explain(arguments.get("code", ""))}


def _sr(session, sr_uuid):
    """The SR of that UUID, and the device-config of its PBD on this host. Raises SrUnknown."""
    host = luksext_xapi.this_host(session)
    try:
        sr_ref = session.xenapi.SR.get_by_uuid(sr_uuid)
    except XenAPI.Failure:
        raise SrUnknown(sr_uuid, "XAPI knows no such SR") from None
    if session.xenapi.SR.get_type(sr_ref) != luksext_xapi.SR_TYPE:
        raise SrUnknown(sr_uuid, "it is not of the type luksext")
    for pbd in session.xenapi.SR.get_PBDs(sr_ref):
        if session.xenapi.PBD.get_host(pbd) == host:
            return sr_ref, session.xenapi.PBD.get_device_config(pbd)
    raise SrUnknown(sr_uuid, "it has no PBD on this host, on which the plugin was called")


def _user(session):
    """Who called, for the audit; empty where XAPI knows no name (local root)."""
    try:
        return session.xenapi.session.get_auth_user_name(session._session)
    except XenAPI.Failure:
        return ""


def _publish(session, sr_ref, device_config):
    """Shows in XAPI what is true after a verb, whatever its end."""
    sr = luksext_xapi.repository_of(session, sr_ref, device_config)
    luksext_xapi.publish(session, sr_ref, status.of(sr))


# What turns an SR into an encrypted one: the arguments that it takes besides sr-uuid, and how.
CONVERSIONS = {
    "adopt": (["pin", "pin-config", "key"], _adopt),
    "encrypt": (["confirm", *_ENCRYPT_OPTIONS], _encrypt),
    "encrypt-in-place": (["confirm", *_IN_PLACE_OPTIONS], _encrypt_in_place),
}

CALLS = {name: _verb(name) for name in verbs.VERBS}
CALLS.update((name, _audited(name, known, call)) for name, (known, call) in CONVERSIONS.items())
CALLS.update({"status": _status, "pool-status": _pool_status, "pool-csv": _pool_csv,
              "doctor": _doctor, "version": _version, "explain": _explain})
