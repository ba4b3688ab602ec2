# SPDX-License-Identifier: LGPL-2.1-only
"""The base of all storage repositories, and the choice of a driver by type."""
import copy
import importlib.util
import os

import XenAPI

import util
import xs_errors

MOUNT_BASE = "/var/run/sr-mount"
DEFAULT_TAP = "vhd"
MASTER_LVM_CONF = "/etc/lvm/master"

backends = []


def deviceCheck(op):
    """Decorates a method that needs device_config:device."""
    def wrapper(self, *args):
        if "device" not in self.dconf:
            raise xs_errors.XenError("ConfigDeviceMissing")
        return op(self, *args)
    return wrapper


def registerSR(SRClass):
    """Called by each driver module when it is imported."""
    backends.append(SRClass)


def driver(type):
    """The first registered class that handles the type."""
    for candidate in backends:
        if candidate.handles(type):
            return candidate
    raise xs_errors.XenError("SRUnknownType")


def _unimplemented(self, *args):
    raise xs_errors.XenError("Unimplemented")


class SR:
    """A storage repository. One is made for each command, and whenever a VDI is activated."""

    create = delete = attach = detach = probe = vdi = _unimplemented

    @staticmethod
    def handles(type):
        return False

    def __init__(self, srcmd, sr_uuid):
        self.srcmd = srcmd
        self.dconf = srcmd.dconf
        self.uuid = sr_uuid
        self.cmd = srcmd.params["command"]
        self.host_ref = srcmd.params.get("host_ref", "")
        self.sr_ref = srcmd.params.get("sr_ref")
        self.session = self._open_session(srcmd.params)
        if srcmd.params.get("device_config", {}).get("SRmaster") == "true":
            os.environ["LVM_SYSTEM_DIR"] = MASTER_LVM_CONF
        self.original_srcmd = copy.deepcopy(srcmd)
        self.vdis = {}
        self.physical_utilisation = self.virtual_allocation = self.physical_size = 0
        self.sr_vditype = ""
        self.direct = False
        self.ops_exclusive = []
        self.driver_config = {}
        self.scheds = ["none", "noop"]
        self.load(sr_uuid)

    @staticmethod
    def _open_session(params):
        if "session_ref" not in params:
            return None
        session = XenAPI.xapi_local()
        session._session = params["session_ref"]
        if "subtask_of" in params:
            session.transport.add_extra_header("Subtask-of", params["subtask_of"])
        return session

    @staticmethod
    def from_uuid(session, sr_uuid):
        """The SR as this host has it, by the driver that XAPI has registered for its type.

        The driver's file is run as a module of another name, so its classes are not those of an
        import; ``load`` runs, without SRmaster in the device configuration.
        """
        xapi = session.xenapi
        sr_ref = xapi.SR.get_by_uuid(sr_uuid)
        sr_type = xapi.SR.get_type(sr_ref)
        (sm_ref,) = xapi.SM.get_all_records_where('field "type" = "%s"' % sr_type)
        module = _load_driver(xapi.SM.get_driver_filename(sm_ref))
        host_ref = util.get_localhost_ref(session)
        (pbd_ref,) = xapi.PBD.get_all_records_where(
            'field "SR" = "%s" and field "host" = "%s"' % (sr_ref, host_ref))
        import SRCommand
        command = SRCommand.SRCommand(module.DRIVER_INFO)
        command.dconf = xapi.PBD.get_device_config(pbd_ref)
        command.params = {"session_ref": session._session, "host_ref": host_ref,
                          "device_config": command.dconf, "sr_ref": sr_ref, "sr_uuid": sr_uuid,
                          "command": "nop"}
        return driver(sr_type)(command, sr_uuid)

    # ---- what drivers may override

    def load(self, sr_uuid):
        """Called at the end of __init__."""

    def cleanup(self):
        """Called after each command."""

    def check_sr(self, sr_uuid):
        """Called every ten minutes while the SR is attached."""

    def update(self, sr_uuid):
        """Refresh the SR's sizes in XAPI."""

    def scan(self, sr_uuid):
        """Tell XAPI the sizes, and make its VDI records equal what is on the disk."""
        self._db_update()
        _synchronise_vdis(self)

    def after_master_attach(self, uuid):
        """Scan; a failure becomes a message, not an error. Runs after a failed attach too."""
        try:
            self.scan(uuid)
        except Exception as error:
            body = "Failed to scan SR %s after attaching, error %s" % (uuid, error)
            util.SMlog(body)
            self.session.xenapi.message.create("POST_ATTACH_SCAN_FAILED", 2, "SR", uuid, body)

    # ---- what drivers use

    def check_dconf(self, key_list, raise_flag=True):
        """The keys that the device configuration lacks; raises ConfigParamsMissing for any."""
        missing = {key for key in key_list if key not in self.dconf}
        if missing and raise_flag:
            raise xs_errors.XenError("ConfigParamsMissing",
                                     opterr="missing: " + ", ".join(sorted(missing)))
        return missing

    def block_setscheduler(self, dev):
        """Set the I/O scheduler of a device's disk; failures are only logged."""
        try:
            config = self.session.xenapi.SR.get_other_config(self.sr_ref)
            wanted = [config["scheduler"]] if config.get("scheduler") else self.scheds
            util.set_scheduler(os.path.realpath(dev)[len("/dev/"):], wanted)
        except Exception as error:
            util.SMlog("Failed to set the scheduler of %s: %s" % (dev, error))

    def forget_vdi(self, uuid):
        self.session.xenapi.VDI.db_forget(self.session.xenapi.VDI.get_by_uuid(uuid))

    def _db_update(self):
        sr = self.session.xenapi.SR
        ref = sr.get_by_uuid(self.uuid)
        sr.set_virtual_allocation(ref, str(self.virtual_allocation))
        sr.set_physical_size(ref, str(self.physical_size))
        sr.set_physical_utilisation(ref, str(self.physical_utilisation))


def _load_driver(path):
    """Run a driver's file, found through its link, as a module."""
    real = os.path.realpath(path)
    spec = importlib.util.spec_from_file_location(os.path.basename(path), real)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _synchronise_vdis(sr):
    """Introduce VDIs that XAPI lacks, forget those that are gone, update those that changed."""
    recorded = {record["location"]: record for record in util.list_VDI_records_in_sr(sr).values()}
    found = {vdi.location: vdi for vdi in sr.vdis.values()}
    for location in set(found) - set(recorded):
        found[location]._db_introduce()
    for location in set(recorded) - set(found):
        util.SMlog("Forgetting VDI %s" % recorded[location]["uuid"])
        sr.forget_vdi(recorded[location]["uuid"])
    for location in set(found) & set(recorded):
        vdi = found[location]
        vdi.sm_config = dict(recorded[location]["sm_config"])
        if not vdi.in_sync_with_xenapi_record(recorded[location]):
            vdi._db_update()
