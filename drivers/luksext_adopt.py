# SPDX-License-Identifier: LGPL-2.1-only
"""An `ext` SR on containers made by hand becomes a `luksext` SR of the same UUID in XAPI.

XAPI cannot change the type of an SR: it is forgotten and introduced again. With it go the rows of
its VDIs (their names are nowhere else, SM's files have UUIDs only) and, half a minute later, the
VBDs that lead to them (db_gc_util.ml, gc_VBDs). So everything is noted in dom0 first. Each step
looks at what XAPI has and does what is missing: the same call goes on after a kill.

XAPI lets only a driver say that a VDI is a snapshot (message_forwarding.ml,
assert_session_has_internal_sr_access): `restore_snapshots` is for ours, when it scans.
"""
import contextlib
import json
import xmlrpc.client

import XenAPI

import luksext_rows as rows
import luksext_xapi
from luksext import adopt as containers
from luksext import audit, devices, notes, state, trust
from luksext.container import all_of
from luksext.errors import AdoptionUnfinished, DeviceIsOurs, SrNotAdoptable
from luksext.generation import Identity

_OLD_TYPE = "ext"
_NEW_TYPE = "luksext"

_SR_FIELDS = ("name_label", "name_description", "content_type", "other_config", "tags", "sm_config")
_VDI_FIELDS = ("name_label", "name_description", "other_config", "xenstore_data", "tags")
_VDI_SWITCHES = ("on_boot", "allow_caching")
_VDI_DRIVER_FIELDS = ("sharable", "read_only", "is_a_snapshot")
_VBD_FIELDS = ("userdevice", "bootable", "mode", "type", "unpluggable", "empty", "other_config",
               "qos_algorithm_type", "qos_algorithm_params")

# VDIs that XAPI itself has in use, by references that a client cannot write again.
_HELD_TYPES = ("suspend", "ha_statefile", "redo_log", "crashdump")


def adopt(session, host, sr_uuid, pin, passphrase=None, device_config=()):
    """Adopts the SR of this `host`, or goes on with an adoption that was interrupted.

    pin: what to bind a container to that has no binding which opens it. passphrase: bytes, opens
    such a container; where given, it is noted as a recovery passphrase that is known to work.
    device_config: options, as for `xe sr-create`, that the SR gets beside those it has.

    Returns what was done, for people and programs. Raises NotAdoptable, SrNotAdoptable,
    UnlockRefused's children with XAPI unchanged; AdoptionUnfinished afterwards.
    """
    with state.locked("adopt"):
        sr = rows.find(session, "SR", sr_uuid)
        bound = []
        if sr is not None and session.xenapi.SR.get_type(sr) == _OLD_TYPE:
            disks = _disks(session, host, sr, passphrase)
            for disk in disks:
                containers.way_in(disk.container, passphrase)
            bound = [disk.container.device for index, disk in enumerate(disks)
                     if _taken(disk.container, Identity(sr_uuid, index, len(disks)), pin,
                               passphrase)]
            _store(sr_uuid).save(notes.ADOPTION, _noted(session, sr, disks, device_config))
        note = _store(sr_uuid).load(notes.ADOPTION)
        if not note:
            raise SrNotAdoptable(
                "The SR {} of this host is no ext SR, and no adoption of it was begun.".format(
                    sr_uuid),
                "List the ext SRs with: xe sr-list type=ext")
        done = _carry_out(session, host, sr_uuid, note)
        _store(sr_uuid).remove(notes.ADOPTION)
    units = [unit for disk in note["luks_uuids"] for unit in containers.units(disk)]
    return dict(done, sr_uuid=sr_uuid, devices=note["devices"], bindings_added=bound, units=units)


def is_begun(sr_uuid):
    """Whether an adoption of the SR was begun, and is not at its end."""
    return bool(_store(sr_uuid).load(notes.ADOPTION))


def restore_snapshots(session, luks_uuid):
    """Writes what of adopted VDIs only the driver may write, while their adoption is under way.

    luks_uuid: of the SR's first container. The driver has just scanned: the VDIs are there.
    """
    for uuid, noted in state.Store(luks_uuid).load(notes.ADOPTION).get("vdis", {}).items():
        vdi = rows.find(session, "VDI", uuid)
        if vdi is None:
            continue
        origin = rows.find(session, "VDI", noted["snapshot_of"])
        rows.put(session, "VDI", vdi, dict(
            rows.picked(noted, _VDI_DRIVER_FIELDS), snapshot_of=origin or rows.NULL,
            snapshot_time=xmlrpc.client.DateTime(noted["snapshot_time"])))


# What is there, and whether it can be adopted


def _disks(session, host, sr, passphrase):
    """The SR's disks in their order, plugged and looked into. Raises SrNotAdoptable, NotAdoptable.
    """
    record = session.xenapi.SR.get_record(sr)
    pbd = rows.own_pbd(session, host, sr)
    check_unused(session, sr, record)
    named = session.xenapi.PBD.get_device_config(pbd)["device"].split(",")
    for path in named:
        containers.unlock(containers.container_at(path), passphrase)
    if not session.xenapi.PBD.get_currently_attached(pbd):
        session.xenapi.PBD.plug(pbd)
    disks = [containers.identify(path) for path in named]
    for disk in disks:
        if disk.sr_uuid != record["uuid"]:
            raise DeviceIsOurs(disk.container.device, disk.sr_uuid)
    containers.check_whole(disks)
    return disks


def _taken(container, identity, pin, passphrase):
    """As `take`, with a line for each disk: whoever is killed later leaves none for the whole."""
    bound = containers.take(container, identity, pin, passphrase)
    audit.record("adopt-disk", identity.sr_uuid, audit.DRIVER, "ok", device=container.device,
                 **({"pin": pin.name} if bound else {}))
    return bound


def check_unused(session, sr, record):
    """Raises SrNotAdoptable while something uses the SR that XAPI could not give back."""
    rows.check_no_cache(session, sr, record["uuid"])
    for vdi in map(session.xenapi.VDI.get_record, record["VDIs"]):
        if vdi["type"] in _HELD_TYPES:
            raise SrNotAdoptable(
                "The SR {} of this host holds the VDI {} of type {}, which XAPI has in use.".format(
                    record["uuid"], vdi["uuid"], vdi["type"]),
                "Resume suspended VMs, delete snapshots with memory, or move it elsewhere, then "
                "run the command again.")
        for vbd in map(session.xenapi.VBD.get_record, vdi["VBDs"]):
            if vbd["currently_attached"]:
                raise SrNotAdoptable(
                    "The VM {} of this host uses the VDI {}.".format(
                        session.xenapi.VM.get_name_label(vbd["VM"]), vdi["uuid"]),
                    "Shut it down (`xe vm-shutdown uuid={}`), then run the command again.".format(
                        session.xenapi.VM.get_uuid(vbd["VM"])))


# What is noted


def _noted(session, sr, disks, device_config):
    """All that XAPI forgets with the SR, as JSON takes it."""
    record = session.xenapi.SR.get_record(sr)
    # Those that are not managed are SM's own: it knows all about them, and collects them.
    vdis = [vdi for vdi in map(session.xenapi.VDI.get_record, record["VDIs"]) if vdi["managed"]]
    pbd = session.xenapi.PBD.get_record(record["PBDs"][0])
    lasting = [devices.lasting_name(disk.container.device) for disk in disks]
    recorded = json.dumps([disk.container.record for disk in disks])
    given = dict(device_config, device=",".join(lasting))
    # As its headers say: it goes on as it was.
    if any(trust.DISCARDS in disk.container.header.flags for disk in disks):
        given.setdefault("discard", "true")
    return {
        "luks_uuids": [disk.container.uuid for disk in disks],
        "devices": lasting,
        "sr": dict(rows.picked(record, _SR_FIELDS),
                   sm_config=dict(record["sm_config"], **{luksext_xapi.RECORDS: recorded})),
        "pbd": {"device_config": dict(pbd["device_config"], **given),
                "other_config": pbd["other_config"]},
        "vdis": {vdi["uuid"]: _noted_vdi(session, vdi) for vdi in vdis},
        "vbds": [_noted_vbd(session, vdi, vbd) for vdi in vdis for vbd in vdi["VBDs"]],
        "defaults": rows.defaults(session, sr)}


def _noted_vdi(session, vdi):
    origin = ""
    # Of a snapshot whose origin was deleted, XAPI keeps a reference that leads nowhere.
    with contextlib.suppress(XenAPI.Failure):
        origin = session.xenapi.VDI.get_uuid(vdi["snapshot_of"])
    return dict(rows.picked(vdi, _VDI_FIELDS + _VDI_SWITCHES + _VDI_DRIVER_FIELDS),
                type=vdi["type"], snapshot_of=origin, snapshot_time=str(vdi["snapshot_time"]))


def _noted_vbd(session, vdi, vbd):
    record = session.xenapi.VBD.get_record(vbd)
    return dict(rows.picked(record, _VBD_FIELDS), vdi=vdi["uuid"],
                vm=session.xenapi.VM.get_uuid(record["VM"]))


# What is done


def _carry_out(session, host, sr_uuid, note):
    """Brings XAPI from whatever it knows of the SR to what is noted; what could not be kept."""
    try:
        _forget(session, sr_uuid)
        sr = _introduced(session, sr_uuid, note["sr"])
        _plugged(session, host, sr, note)
        session.xenapi.SR.scan(sr)
        lost = _restore_vdis(session, note["vdis"])
        _restore_vbds(session, note)
        rows.put_defaults(session, sr, note["defaults"])
    except XenAPI.Failure as failure:
        raise AdoptionUnfinished(sr_uuid, " ".join(map(str, failure.details))) from failure
    return {"vdis": sorted(set(note["vdis"]) - set(lost)), "vdis_lost": lost,
            "vdi_types_changed": sorted(uuid for uuid, vdi in note["vdis"].items()
                                        if vdi["type"] != "user")}


def _forget(session, sr_uuid):
    sr = rows.find(session, "SR", sr_uuid)
    if sr is None or session.xenapi.SR.get_type(sr) != _OLD_TYPE:
        return
    for pbd in session.xenapi.SR.get_PBDs(sr):
        session.xenapi.PBD.unplug(pbd)
    session.xenapi.SR.forget(sr)


def _introduced(session, sr_uuid, noted):
    sr = rows.find(session, "SR", sr_uuid)
    if sr is None:
        sr = session.xenapi.SR.introduce(
            sr_uuid, noted["name_label"], noted["name_description"], _NEW_TYPE,
            noted["content_type"], False, noted["sm_config"])
    rows.put(session, "SR", sr, rows.picked(noted, ("other_config", "tags")))
    return sr


def _plugged(session, host, sr, note):
    """Plugs the SR as ours. The containers are closed before: our plug shows that it opens them."""
    pbds = session.xenapi.SR.get_PBDs(sr)
    pbd = pbds[0] if pbds else session.xenapi.PBD.create(dict(note["pbd"], host=host, SR=sr))
    if not session.xenapi.PBD.get_currently_attached(pbd):
        for container in all_of(session.xenapi.SR.get_uuid(sr)):
            container.close()
        session.xenapi.PBD.plug(pbd)


def _restore_vdis(session, noted):
    """Gives the VDIs back what only XAPI knew; the UUIDs of those that are not there."""
    lost = []
    for uuid, fields in sorted(noted.items()):
        vdi = rows.find(session, "VDI", uuid)
        if vdi is None:
            lost.append(uuid)
            continue
        rows.put(session, "VDI", vdi, rows.picked(fields, _VDI_FIELDS))
        now = session.xenapi.VDI.get_record(vdi)
        # SM is asked when these change, so only then.
        rows.put(session, "VDI", vdi, {field: fields[field] for field in _VDI_SWITCHES
                                       if now[field] != fields[field]})
    return lost


def _restore_vbds(session, note):
    """Connects the VMs with their VDIs again; a VM or VDI that is gone has no VBD any more."""
    for noted in note["vbds"]:
        vm, vdi = rows.find(session, "VM", noted["vm"]), rows.find(session, "VDI", noted["vdi"])
        if vm is None or vdi is None or _has_vbd(session, vm, vdi, noted["userdevice"]):
            continue
        session.xenapi.VBD.create(dict(rows.picked(noted, _VBD_FIELDS), VM=vm, VDI=vdi))


def _has_vbd(session, vm, vdi, userdevice):
    """Whether the place in the VM is taken; a VBD that leads to a forgotten VDI is removed."""
    for ref in session.xenapi.VM.get_VBDs(vm):
        vbd = session.xenapi.VBD.get_record(ref)
        if vbd["userdevice"] != userdevice:
            continue
        if vbd["VDI"] == vdi or not (vbd["empty"] or _dangles(session, vbd["VDI"])):
            return True
        session.xenapi.VBD.destroy(ref)
    return False


def _dangles(session, vdi):
    try:
        session.xenapi.VDI.get_uuid(vdi)
    except XenAPI.Failure:
        return True
    return False


def _store(sr_uuid):
    """The state of the SR's first container, which the mark in its header leads to."""
    return state.Store(_first_container(sr_uuid))


def _first_container(sr_uuid):
    for container in all_of(sr_uuid):
        identity = container.identity
        if identity is not None and identity.disk == 0:
            return container.uuid
    raise SrNotAdoptable(
        "No disk of the SR {} is in this host.".format(sr_uuid),
        "Run the command on the SR's host, with its first disk in it.")
