# SPDX-License-Identifier: LGPL-2.1-only
"""Encrypts a plaintext ext SR, once its VDIs are elsewhere: it is destroyed and made anew.

This works with the tools of every dom0; `luksext_inplace` is for those that can encrypt the data
where they are. The SR must be empty; what is left in it is named, with how to move it. The new SR
has another UUID, since XAPI chooses that, and all else of the old.
"""
import luksext_rows as rows
import luksext_xapi
from luksext import clevis, container, devices, options, state
from luksext.errors import SrNotAdoptable, SrNotEmpty

_OLD_TYPE = "ext"
_NEW_TYPE = "luksext"

# What is noted in the state of the old SR, and by what the new one is known in its sm_config.
_NOTE = "encryption"
_REPLACES = "luks_replaces"

_FIELDS = ("name_label", "name_description", "content_type", "other_config", "tags")


def encrypt(session, host, sr_uuid, device_config):
    """Replaces the empty ext SR of this `host` by an encrypted one on its disks; that one's UUID.

    device_config: as for `xe sr-create type=luksext`, without `device`. A call after one that was
    interrupted goes on.

    Raises SrNotEmpty, SrNotAdoptable, OptionInvalid, ToolMissing, UnlockRefused's children with
    nothing changed; XenAPI.Failure.
    """
    with state.locked("encrypt"):
        store = state.Store(sr_uuid)
        sr = rows.find(session, "SR", sr_uuid)
        if sr is not None:
            note = _noted(session, host, sr, device_config)
            store.save(_NOTE, note)
            session.xenapi.PBD.unplug(session.xenapi.SR.get_PBDs(sr)[0])
            session.xenapi.SR.destroy(sr)
        note = store.load(_NOTE)
        if not note:
            raise SrNotAdoptable("This host knows no SR {}.".format(sr_uuid),
                                 "List its ext SRs with: xe sr-list type=ext")
        made = _made(session, sr_uuid) or _make(session, host, sr_uuid, note, device_config)
        rows.put(session, "SR", made, rows.picked(note["sr"], ("other_config", "tags")))
        rows.put_defaults(session, made, note["defaults"])
        state.forget(sr_uuid)
        return session.xenapi.SR.get_uuid(made)


def _noted(session, host, sr, device_config):
    record = session.xenapi.SR.get_record(sr)
    pbd = rows.own_pbd(session, host, sr)
    rows.check_no_cache(session, sr, record["uuid"])
    named = session.xenapi.PBD.get_device_config(pbd)["device"].split(",")
    check_plain(record, named)
    _check_empty(session, record)
    _check_can_bind(dict(device_config, device=",".join(named)))
    if not session.xenapi.PBD.get_currently_attached(pbd):
        session.xenapi.PBD.plug(pbd)
    return {"sr": rows.picked(record, _FIELDS), "defaults": rows.defaults(session, sr),
            "device": ",".join(map(devices.lasting_name, named))}


def check_plain(sr, named):
    """Raises SrNotAdoptable unless that is an ext SR whose disks `named` are not encrypted."""
    if sr["type"] != _OLD_TYPE:
        raise SrNotAdoptable(
            "The SR {} of this host is of type {}, not ext.".format(sr["uuid"], sr["type"]),
            "Move its VDIs to an encrypted SR: xe vdi-pool-migrate uuid=VDI sr-uuid=SR")
    if any(devices.crypt_mapping_at(path) for path in named):
        raise SrNotAdoptable(
            "The SR {} of this host is on an encrypted device already.".format(sr["uuid"]),
            "Adopt it as it is: xe host-call-plugin host-uuid=HOST plugin=luksext fn=adopt "
            "args:sr-uuid={}".format(sr["uuid"]))


def _check_empty(session, sr):
    vdis = sorted(vdi["uuid"] for vdi in map(session.xenapi.VDI.get_record, sr["VDIs"])
                  if vdi["managed"])
    if vdis:
        raise SrNotEmpty(sr["uuid"], vdis)


def _check_can_bind(device_config):
    """Seals a key for trial: the old SR is not given up for one that cannot be made here."""
    wanted = container.prepare(options.parse(device_config))
    clevis.unseal(clevis.seal(wanted.pin, clevis.new_key()))


def _made(session, sr_uuid):
    """The new SR, where an interrupted call made it already. One that a power cut left half-made is
    forgotten: the driver undoes what is on the disk of it when it makes it again."""
    for ref, row in session.xenapi.SR.get_all_records().items():
        if row["type"] == _NEW_TYPE and row["sm_config"].get(_REPLACES) == sr_uuid:
            if luksext_xapi.records(row["sm_config"]):
                return ref
            session.xenapi.SR.forget(ref)
    return None


def _make(session, host, sr_uuid, note, device_config):
    sr = note["sr"]
    return session.xenapi.SR.create(
        host, dict(device_config, device=note["device"]), "0", sr["name_label"],
        sr["name_description"], _NEW_TYPE, sr["content_type"], False, {_REPLACES: sr_uuid})
