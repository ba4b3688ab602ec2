# SPDX-License-Identifier: LGPL-2.1-only
"""What XAPI's database knows of an encrypted SR: its containers, its state, its alerts.

Used by the driver and by the plugin, both with a session; nothing of the storage manager is here.
Functions import what an unplug does not need: it would take longer to load than to unplug.
"""
import json
import re

from luksext import begun, devices, untrusted
from luksext.errors import RecordDamaged
from luksext.record import Record

SR_TYPE = "luksext"

# Keys of SR.sm_config.
RECORDS = "luks_containers"
_NEW_RECORDS = "luks_containers_new"
RECOVERY = "luks_recovery_key"
ALERTS = "luks_alerts"
EMPTIED = "luks_emptied"
# Followed by the LUKS UUID of a disk.
ERASED = "luks_erased_"

# A key of VDI.sm_config, of the storage manager.
ACTIVATING = "activating"

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")


def is_uuid(text):
    """Whether `text` is a UUID as XAPI writes it."""
    return bool(_UUID.match(text))


def this_host(session):
    """The reference of this host. Raises HostUnknown."""
    from luksext import installation
    return session.xenapi.host.get_by_uuid(installation.uuid())


def records(sm_config):
    """What was noted of each container, in their order; empty for an SR that was introduced.

    Raises RecordDamaged: whatever else has that key may lead to the disks of others.
    """
    key = RECORDS if RECORDS in sm_config else _NEW_RECORDS
    text = sm_config.get(key, "[]")
    try:
        found = [untrusted.typed(Record(*fields)) for fields in untrusted.parse(text)]
    except (ValueError, TypeError):
        raise RecordDamaged(key, text) from None
    if not all(is_uuid(record.uuid) for record in found):
        raise RecordDamaged(key, text)
    return found


def record(session, sr_ref, found):
    """Notes the records `found` of the SR's containers, to compare with at each attach.

    XAPI can only remove a key and add it again. Whoever is killed in between leaves the new records
    under another key: without any, the next attach would trust what it finds.
    """
    text = json.dumps(found)
    note(session, sr_ref, **{_NEW_RECORDS: text})
    note(session, sr_ref, **{RECORDS: text})
    session.xenapi.SR.remove_from_sm_config(sr_ref, _NEW_RECORDS)


def follow(session, sr_ref, sr):
    """Notes of an SR whose disks are all there the volume keys that this host gave to them since.

    What was never recorded waits for a plug, which proves it. Raises what `trust.check` does.
    """
    from luksext import trust
    found = sr.refreshed().containers
    for container, recorded in zip(found, sr.records):
        if recorded is None or not (recorded.volume_key or begun.has_ended(
                container.uuid, "", container.header.volume_key)):
            return
        trust.check(container.device, recorded, sr.flags.discard)
    now = [container.record._replace(payload_offset=recorded.payload_offset)
           for container, recorded in zip(found, sr.records)]
    if now != sr.records:
        record(session, sr_ref, now)


def repository_of(session, sr_ref, device_config):
    """The SR's containers, wherever their disks are now."""
    from luksext import options, repository
    sr = session.xenapi.SR.get_record(sr_ref)
    return repository.recorded(sr["uuid"], records(sr["sm_config"]),
                               options.parse_devices(device_config),
                               options.parse_flags(device_config))


def is_emptied(session, sr_ref):
    """Whether the SR was found to be empty to be destroyed: what is in it may be gone."""
    return EMPTIED in session.xenapi.SR.get_sm_config(sr_ref)


def is_being_destroyed(session, sr_ref):
    """Whether XAPI is destroying the SR; it attaches it for that first."""
    return "destroy" in session.xenapi.SR.get_current_operations(sr_ref).values()


def forget_activations(session, sr_ref):
    """Removes from the VDIs of an SR, of which nothing is open, that one is being activated.

    Whoever dies at an activation leaves that note of blktap2 (`_add_tag`). The VDI is activated
    and its chain relinked only without it, and the storage manager never removes it
    (xapi-project/sm, issue 803), unlike the notes that it makes with it: `resetvdis.reset_sr`.
    """
    vdis = session.xenapi.VDI.get_all_records_where('field "SR" = "{}"'.format(sr_ref))
    for ref, vdi in vdis.items():
        if ACTIVATING in vdi["sm_config"]:
            session.xenapi.VDI.remove_from_sm_config(ref, ACTIVATING)


def vms_with(session, host, device):
    """The VMs, in words, that have `device` or a part of it as a disk, running or not: the VDIs of
    an SR of the type udev, as XCP-ng makes for local disks, are devices of its host."""
    disk, _ = devices.partition_of(device)
    users = set()
    for pbd in session.xenapi.PBD.get_all_records().values():
        if pbd["host"] != host or session.xenapi.SR.get_type(pbd["SR"]) != "udev":
            continue
        for vdi in map(session.xenapi.VDI.get_record, session.xenapi.SR.get_VDIs(pbd["SR"])):
            if vdi["VBDs"] and devices.partition_of(vdi["location"])[0] == disk:
                users |= {session.xenapi.VBD.get_VM(vbd) for vbd in vdi["VBDs"]}
    return sorted("the VM " + session.xenapi.VM.get_name_label(vm) for vm in users)


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
    from luksext import alerts
    alert = alerts.ALERTS[code]
    session.xenapi.message.create(
        code, str(alert.priority), "SR", sr_uuid,
        "{} {}".format(alert.summary, alert.remedy).replace("SR_UUID", sr_uuid))


def _withdraw(session, sr_uuid, code):
    for ref, message in session.xenapi.message.get_all_records().items():
        if message["obj_uuid"] == sr_uuid and message["name"] == code:
            session.xenapi.message.destroy(ref)
