# SPDX-License-Identifier: LGPL-2.1-only
"""The base of all virtual disks, and their records in XAPI."""
import xmlrpc.client

import util
import xs_errors

SNAPSHOT_SINGLE = 1
SNAPSHOT_DOUBLE = 2
SNAPSHOT_INTERNAL = 3

#: Keys of VDI.sm_config that belong to blktap2 and the collector.
PROTECTED_KEYS = ("paused", "vhd-blocks", "relinking", "activating")


def _unimplemented(self, *args):
    raise xs_errors.XenError("Unimplemented")


class VDI:
    """A virtual disk."""

    create = delete = detach = clone = resize = resize_online = generate_config = compose = \
        introduce = attach_from_config = _do_snapshot = _unimplemented

    def __init__(self, sr, uuid):
        self.sr = sr
        self.session = sr.session
        self.uuid = self.location = uuid
        self.path = None
        self.label = self.description = ""
        self.size = self.utilisation = 0
        self.vdi_type = ""
        self.ty = "user"
        self.parent = None
        self.hidden = self.deleted = self.attached = False
        self.shareable = self.read_only = self.cbt_enabled = False
        self.managed = True
        self.xenstore_data = {}
        self.sm_config_override = {}
        self.load(uuid)

    @staticmethod
    def from_uuid(session, vdi_uuid):
        """The VDI as this host has it; its SR is loaded anew."""
        import SR
        vdi_ref = session.xenapi.VDI.get_by_uuid(vdi_uuid)
        sr_ref = session.xenapi.VDI.get_SR(vdi_ref)
        sr = SR.SR.from_uuid(session, session.xenapi.SR.get_uuid(sr_ref))
        sr.srcmd.params["vdi_ref"] = vdi_ref
        return sr.vdi(vdi_uuid)

    # ---- what drivers may override

    def load(self, vdi_uuid):
        """Called at the end of __init__."""

    def update(self, sr_uuid, vdi_uuid):
        """Refresh the record in XAPI."""

    def attach(self, sr_uuid, vdi_uuid):
        """Where the disk's data are; the answer to vdi_attach is blktap2's, not this."""
        answer = {"params": self.path, "xenstore_data": self.xenstore_data}
        return xmlrpc.client.dumps((answer,), "", True)

    def activate(self, sr_uuid, vdi_uuid):
        """Called before the tapdisk opens the disk."""

    def deactivate(self, sr_uuid, vdi_uuid):
        """Called after the tapdisk closed the disk."""

    def snapshot(self, sr_uuid, vdi_uuid):
        """Snapshot as driver_params:type asks: two leaves unless it is 'single' or 'internal'."""
        asked = self.sr.srcmd.params["driver_params"].get("type")
        kind = {"single": SNAPSHOT_SINGLE, "internal": SNAPSHOT_INTERNAL}.get(asked,
                                                                            SNAPSHOT_DOUBLE)
        return self._do_snapshot(sr_uuid, vdi_uuid, kind)

    def get_params(self):
        """The answer that names the disk."""
        return xmlrpc.client.dumps(({"location": self.location, "uuid": self.uuid},), "", True)

    # ---- the record in XAPI

    def _db_introduce(self):
        sm_config = dict(util.default(self, "sm_config", dict))
        self._override_sm_config(sm_config)
        return self.session.xenapi.VDI.db_introduce(
            self.uuid, self.label, self.description, self.sr.sr_ref, self.ty, self.shareable,
            self.read_only, {}, self.location, {}, sm_config, self.managed, str(self.size),
            str(self.utilisation),
            util.default(self, "metadata_of_pool", lambda: "OpaqueRef:NULL"),
            util.default(self, "is_a_snapshot", lambda: False),
            xmlrpc.client.DateTime(
                util.default(self, "snapshot_time", lambda: "19700101T00:00:00Z")),
            util.default(self, "snapshot_of", lambda: "OpaqueRef:NULL"), self.cbt_enabled)

    def _db_forget(self):
        self.sr.forget_vdi(self.uuid)

    def _db_update(self):
        vdi = self.session.xenapi.VDI
        ref = vdi.get_by_uuid(self.uuid)
        vdi.set_virtual_size(ref, str(self.size))
        vdi.set_physical_utilisation(ref, str(self.utilisation))
        vdi.set_read_only(ref, self.read_only)
        sm_config = util.default(self, "sm_config", dict)
        self._override_sm_config(sm_config)
        old = vdi.get_sm_config(ref)
        for key in set(old) | set(sm_config):
            protected = key.startswith("host_") or key in PROTECTED_KEYS
            if protected or old.get(key) == sm_config.get(key):
                continue
            vdi.remove_from_sm_config(ref, key)
            if sm_config.get(key):
                vdi.add_to_sm_config(ref, key, sm_config[key])

    def _override_sm_config(self, sm_config):
        """Apply what the disk itself says; None removes a key."""
        for key, value in self.sm_config_override.items():
            sm_config.pop(key, None)
            if value:
                sm_config[key] = value

    def in_sync_with_xenapi_record(self, record):
        """Whether the record already says what the disk says."""
        wanted = dict(record["sm_config"])
        self._override_sm_config(wanted)
        return (self.read_only, str(self.size), str(self.utilisation), wanted) == (
            record["read_only"], record["virtual_size"], record["physical_utilisation"],
            record["sm_config"])
