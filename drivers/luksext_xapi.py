# SPDX-License-Identifier: LGPL-2.1-only
"""What XAPI's database knows of an encrypted SR: its containers, its state, its alerts.

Used by the driver and by the plugin, both with a session; nothing of the storage manager is here.
"""
import json

from luksext import alerts, repository
from luksext.container import Record

SR_TYPE = "luksext"

# Keys of SR.sm_config.
RECORDS = "luks_containers"
RECOVERY = "luks_recovery_key"
ALERTS = "luks_alerts"


def records(sm_config):
    """What was noted of each container, in their order; empty for an SR that was introduced."""
    return [Record(*fields) for fields in json.loads(sm_config.get(RECORDS, "[]"))]


def repository_of(session, sr_ref, device_config):
    """The SR's containers, wherever their disks are now."""
    sr = session.xenapi.SR.get_record(sr_ref)
    return repository.recorded(sr["uuid"], records(sr["sm_config"]),
                               device_config["device"].split(","),
                               device_config.get("discard") == "true")


def note(session, sr_ref, **values):
    """Writes keys of SR.sm_config, each by itself: others write other keys at the same time."""
    for key, value in values.items():
        session.xenapi.SR.remove_from_sm_config(sr_ref, key)
        session.xenapi.SR.add_to_sm_config(sr_ref, key, value)


def publish(session, sr_ref, status):
    """Shows `status` of an SR in XAPI: its recovery state, and its alerts as messages.

    A message is created when its alert comes up, and destroyed when that is cured.
    """
    sm_config = session.xenapi.SR.get_sm_config(sr_ref)
    raised = {code for code in sm_config.get(ALERTS, "").split(",") if code}
    wanted = set(status["alerts"])
    for code in sorted(raised - wanted):
        _withdraw(session, status["sr_uuid"], code)
    for code in sorted(wanted - raised):
        _raise(session, status["sr_uuid"], code, status)
    changed = {key: value for key, value in (
        (RECOVERY, status["recovery"]), (ALERTS, ",".join(sorted(wanted))))
        if sm_config.get(key, "") != value}
    note(session, sr_ref, **changed)


def _raise(session, sr_uuid, code, status):
    alert = alerts.ALERTS[code]
    session.xenapi.message.create(
        code, str(alert.priority), "SR", sr_uuid,
        "{} {}".format(alert.summary, alert.remedy).replace("SR_UUID", sr_uuid))


def _withdraw(session, sr_uuid, code):
    for ref, message in session.xenapi.message.get_all_records().items():
        if message["obj_uuid"] == sr_uuid and message["name"] == code:
            session.xenapi.message.destroy(ref)
