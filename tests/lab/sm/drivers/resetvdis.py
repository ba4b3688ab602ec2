# SPDX-License-Identifier: LGPL-2.1-only
"""Forget that VDIs are in use, after a crash."""
import cleanup
import lock
import util


def reset_sr(session, host_uuid, sr_uuid, is_sr_master):
    """Before an SR is attached: none of its VDIs can be in use on this host."""
    cleanup.abort(sr_uuid)
    locks = [lock.Lock(lock.LOCK_TYPE_GC_RUNNING, sr_uuid), lock.Lock(lock.LOCK_TYPE_SR, sr_uuid)]
    for held in locks:
        held.acquire()
    keys = ["host_" + session.xenapi.host.get_by_uuid(host_uuid)]
    keys += ["paused"] if is_sr_master else []
    sr_ref = session.xenapi.SR.get_by_uuid(sr_uuid)
    records = session.xenapi.VDI.get_all_records_where('field "SR" = "%s"' % sr_ref)
    for vdi_ref, record in records.items():
        for key in set(keys) & set(record["sm_config"]):
            util.SMlog("Clearing %s of VDI %s" % (key, record["uuid"]))
            session.xenapi.VDI.remove_from_sm_config(vdi_ref, key)
    for held in reversed(locks):
        held.release()


def reset_vdi(session, vdi_uuid, force, term_output=True, writable=True):
    """Forget a VDI's users, unless one of them says that it still has it open: then False."""
    vdi_ref = session.xenapi.VDI.get_by_uuid(vdi_uuid)
    record = session.xenapi.VDI.get_record(vdi_ref)
    for key in [key for key in record["sm_config"] if key.startswith("host_")]:
        if not force:
            answer = session.xenapi.host.call_plugin(
                key[len("host_"):], "on-slave", "is_open",
                {"vdiUuid": vdi_uuid, "srRef": record["SR"]})
            if answer != "False":
                return False
        session.xenapi.VDI.remove_from_sm_config(vdi_ref, key)
    return True
