# SPDX-License-Identifier: LGPL-2.1-only
"""Rows of XAPI's database that outlive the references to them: found by UUID, noted, put back."""
import XenAPI

from luksext.errors import SrNotAdoptable

NULL = "OpaqueRef:NULL"

# Who names an SR to be used by default: class and field.
_DEFAULTS = (("pool", "default_SR"), ("pool", "suspend_image_SR"), ("pool", "crash_dump_SR"),
             ("host", "suspend_image_sr"), ("host", "crash_dump_sr"), ("VM", "suspend_SR"))


def find(session, cls, uuid):
    """The reference of a UUID, None where there is no such object."""
    try:
        return table(session, cls).get_by_uuid(uuid)
    except XenAPI.Failure as failure:
        if failure.details[0] != "UUID_INVALID":
            raise
        return None


def table(session, cls):
    """The methods of a class."""
    return getattr(session.xenapi, cls)


def picked(record, fields):
    """Some fields of a record."""
    return {field: record[field] for field in fields}


def put(session, cls, ref, values):
    """Sets fields."""
    for field, value in values.items():
        getattr(table(session, cls), "set_" + field)(ref, value)


def defaults(session, sr):
    """Who uses `sr` by default, as lists of class, UUID and field."""
    return [[cls, row["uuid"], field] for cls, field in _DEFAULTS
            for row in table(session, cls).get_all_records().values() if row[field] == sr]


def put_defaults(session, sr, noted):
    """Makes `sr` what `defaults` noted."""
    for cls, uuid, field in noted:
        ref = find(session, cls, uuid)
        if ref is not None:
            put(session, cls, ref, {field: sr})


def own_pbd(session, host, sr):
    """The only PBD of a local SR of this `host`. Raises SrNotAdoptable for another SR."""
    record = session.xenapi.SR.get_record(sr)
    hosts = [session.xenapi.PBD.get_host(pbd) for pbd in record["PBDs"]]
    if record["shared"] or hosts != [host]:
        raise SrNotAdoptable(
            "The SR {} is not local to this host.".format(record["uuid"]),
            "Run the command on its host: xe pbd-list sr-uuid={} params=host-uuid".format(
                record["uuid"]))
    return record["PBDs"][0]


def check_no_cache(session, sr, sr_uuid):
    """Raises SrNotAdoptable where a host keeps its cache on the SR."""
    for host in session.xenapi.host.get_all_records().values():
        if host["local_cache_sr"] == sr:
            raise SrNotAdoptable(
                "The SR {} is the cache of the host {}.".format(sr_uuid, host["name_label"]),
                "Run `xe host-disable-local-storage-caching uuid={}` first.".format(
                    host["uuid"]))
