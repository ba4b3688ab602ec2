# SPDX-License-Identifier: LGPL-2.1-only
"""SRs that keep VDIs as files, and such VDIs."""
import os
import xmlrpc.client

import blktap2
import cleanup
import lock
import scsiutil
import SR
import util
import VDI
import vhdutil
import xs_errors

CAPABILITIES = ["SR_PROBE", "SR_UPDATE", "VDI_CREATE", "VDI_DELETE", "VDI_ATTACH", "VDI_DETACH",
                "VDI_CLONE", "VDI_SNAPSHOT", "VDI_RESIZE", "VDI_MIRROR", "VDI_GENERATE_CONFIG",
                "ATOMIC_PAUSE", "VDI_CONFIG_CBT", "VDI_ACTIVATE", "VDI_DEACTIVATE",
                "THIN_PROVISIONING"]

CONFIGURATION = [["location", "local directory path (required)"]]

#: Commands during which the SR's lock is held.
OPS_EXCLUSIVE = ["sr_create", "sr_delete", "sr_probe", "sr_attach", "sr_detach", "sr_scan",
                 "vdi_init", "vdi_create", "vdi_delete", "vdi_attach", "vdi_detach",
                 "vdi_resize_online", "vdi_snapshot", "vdi_clone"]

DRIVER_CONFIG = {"ATTACH_FROM_CONFIG_WITH_TAPDISK": True}


class FileSR(SR.SR):
    """An SR on a filesystem that is mounted at ``path``."""

    @staticmethod
    def handles(srtype):
        return srtype == "file"

    def __init__(self, srcmd, sr_uuid):
        SR.SR.__init__(self, srcmd, sr_uuid)
        self.image_info = {}
        self.o_direct = True
        if self.session is not None and self.sr_ref:
            config = self.session.xenapi.SR.get_other_config(self.sr_ref)
            self.o_direct = config.get("o_direct") == "true"

    def load(self, sr_uuid):
        self.check_dconf(["location"])
        self.ops_exclusive = OPS_EXCLUSIVE
        self.lock = lock.Lock(lock.LOCK_TYPE_SR, self.uuid)
        self.sr_vditype = SR.DEFAULT_TAP
        self.remotepath = self.dconf["location"]
        self.path = os.path.join(SR.MOUNT_BASE, sr_uuid)
        self.attached = False
        self.driver_config = DRIVER_CONFIG

    def attach(self, sr_uuid):
        self.attach_and_bind(sr_uuid)

    def attach_and_bind(self, sr_uuid, bind=True):
        """Mount the device, or with ``bind`` the folder, ``remotepath``. Idempotent."""
        if not self._checkmount():
            try:
                util.makedirs(self.path, 0o700)
                command = ["mount", self.remotepath, self.path] + (["--bind"] if bind else [])
                util.pread(command)
                os.chmod(self.path, 0o700)
            except util.CommandException as error:
                raise xs_errors.XenError("FileSRCreate", opterr="cannot mount: %s" % error.code)
        self.attached = True

    def detach(self, sr_uuid):
        """Stop the collector and unmount; every failure is SRInUse. Idempotent."""
        if self._checkmount():
            try:
                cleanup.abort(self.uuid)
                os.chdir(SR.MOUNT_BASE)
                util.pread(["umount", self.path])
                os.rmdir(self.path)
            except Exception as error:
                raise xs_errors.XenError("SRInUse", opterr=str(error))
        self.attached = False

    def delete(self, sr_uuid):
        """Attach, collect garbage, remove all files but directories, detach. Not with VDIs."""
        self.attach(sr_uuid)
        cleanup.gc_force(self.session, self.uuid)
        self._loadvdis()
        if self.vdis:
            raise xs_errors.XenError("SRNotEmpty", opterr="VDIs still exist in SR")
        for name in util.listdir(self.path):
            path = os.path.join(self.path, name)
            if not os.path.isdir(path):
                os.unlink(path)
        self.detach(sr_uuid)

    def scan(self, sr_uuid):
        # An SR that is not mounted would look empty, and XAPI would forget its VDIs.
        self._check_available()
        self._loadvdis()
        self._measure()
        self._kickGC()
        super(FileSR, self).scan(sr_uuid)

    def update(self, sr_uuid):
        self._check_available()
        self._update(sr_uuid, 0)

    def vdi(self, uuid):
        return FileVDI(self, uuid)

    def _check_available(self):
        if not self._checkmount():
            raise xs_errors.XenError("SRUnavailable", opterr="no such directory %s" % self.path)

    def _checkmount(self):
        return util.pathexists(self.path) and util.ismount(self.path)

    def _measure(self):
        self.physical_size = util.get_fs_size(self.path)
        self.physical_utilisation = util.get_fs_utilisation(self.path)

    def _update(self, sr_uuid, virt_alloc_delta):
        """Tell XAPI the sizes, the sum of the VDIs' sizes changed by ``virt_alloc_delta``."""
        old = self.session.xenapi.SR.get_virtual_allocation(self.sr_ref)
        self.virtual_allocation = int(old) + virt_alloc_delta
        self._measure()
        self._db_update()

    def _loadvdis(self):
        """Find the VDIs. Hidden leaves are garbage, so they are left out."""
        try:
            images = self.image_info = vhdutil.get_all(self.path)
        except util.CommandException as error:
            raise xs_errors.XenError("SRScan", opterr=str(error.reason))
        parents = {image.parent for image in images.values()}
        self.vdis = {}
        for uuid, image in images.items():
            if not image.hidden or uuid in parents:
                self.vdis[uuid] = self.vdi(uuid)
                self.vdis[uuid].read_only = uuid in parents
        self.virtual_allocation = sum(vdi.size for vdi in self.vdis.values() if not vdi.hidden)

    def _kickGC(self):
        cleanup.start_gc_service(self.uuid)


class FileVDI(VDI.VDI):
    """A VHD file, named after the VDI."""

    def load(self, vdi_uuid):
        self.vdi_type = "vhd"
        self.path = os.path.join(self.sr.path, vdi_uuid + ".vhd")
        self.lock = self.sr.lock
        if self.sr.srcmd.cmd == "vdi_create":
            return
        if not util.pathexists(self.path):
            if self.sr.srcmd.cmd == "vdi_delete":
                return
            raise xs_errors.XenError("VDIUnavailable", opterr="VDI %s not found" % vdi_uuid)
        try:
            info = self.sr.image_info.get(vdi_uuid) or vhdutil.get_info(self.path)
        except util.CommandException:
            raise xs_errors.XenError("VDILoad", opterr="cannot read %s" % self.path)
        self.size, self.utilisation, self.hidden = info.size, info.utilisation, info.hidden
        self.managed = not info.hidden
        self.parent = info.parent
        self.sm_config_override = {"vhd-parent": info.parent}

    def create(self, sr_uuid, vdi_uuid, size):
        if util.pathexists(self.path):
            raise xs_errors.XenError("VDIExists")
        self.size = vhdutil.validate_size(size)
        try:
            vhdutil.create(self.path, self.size)
        except util.CommandException as error:
            raise xs_errors.XenError("VDICreate", opterr="error %d" % error.code)
        self.utilisation = os.stat(self.path).st_size
        self.sm_config = {"image-format": "vhd"}
        self._db_introduce()
        self.sr._update(self.sr.uuid, self.size)
        return self.get_params()

    def delete(self, sr_uuid, vdi_uuid, data_only=False):
        if not util.pathexists(self.path):
            return
        if self.attached:
            raise xs_errors.XenError("VDIInUse")
        util.force_unlink(self.path)
        self._db_forget()
        self.sr._update(self.sr.uuid, -self.size)
        self.sr._kickGC()

    def update(self, sr_uuid, vdi_location):
        self.sm_config = self.session.xenapi.VDI.get_sm_config(self.sr.srcmd.params["vdi_ref"])
        self._db_update()

    def attach(self, sr_uuid, vdi_uuid):
        self.attached = True
        self.xenstore_data.update(scsiutil.xenstore_data(vdi_uuid))
        return super(FileVDI, self).attach(sr_uuid, vdi_uuid)

    def detach(self, sr_uuid, vdi_uuid):
        self.attached = False

    def resize(self, sr_uuid, vdi_uuid, size):
        if self.hidden:
            raise xs_errors.XenError("VDIUnavailable", opterr="hidden VDI")
        if size < self.size:
            raise xs_errors.XenError("VDISize", opterr="shrinking not allowed")
        grown = vhdutil.validate_size(size) - self.size
        if grown:
            try:
                journal = os.path.join(self.sr.path, ".journal-" + self.uuid)
                vhdutil.resize(self.path, self.size + grown, journal)
            except util.CommandException:
                raise xs_errors.XenError("VDISize", opterr="resize operation failed")
            self.load(self.uuid)
            self._db_update()
            self.sr._update(self.sr.uuid, grown)
        return self.get_params()

    def clone(self, sr_uuid, vdi_uuid):
        return self._do_snapshot(sr_uuid, vdi_uuid, VDI.SNAPSHOT_DOUBLE)

    def reset_leaf(self, sr_uuid, vdi_uuid):
        """Forget what was written since the snapshot below."""
        if not self.parent:
            raise util.SMException("VDI %s has no parent" % self.uuid)
        vhdutil.kill_data(self.path)

    def generate_config(self, sr_uuid, vdi_uuid):
        """The command that attaches the VDI while XAPI does not run."""
        command = {"device_config": self.sr.dconf, "sr_uuid": sr_uuid, "vdi_uuid": vdi_uuid,
                   "command": "vdi_attach_from_config"}
        call = xmlrpc.client.dumps((command,), "vdi_attach_from_config")
        return xmlrpc.client.dumps((call,), "", True)

    def _do_snapshot(self, sr_uuid, vdi_uuid, snapType, cloneOp=False, secondary=None,
                     cbtlog=None, is_mirror_destination=False):
        if not blktap2.VDI.tap_pause(self.session, sr_uuid, vdi_uuid):
            raise util.SMException("failed to pause VDI %s" % vdi_uuid)
        try:
            return self._snapshot(snapType)
        finally:
            blktap2.VDI.tap_unpause(self.session, sr_uuid, vdi_uuid)

    def _snapshot(self, snap_type):
        """The data become a hidden base copy, below this VDI and, if wanted, a second leaf."""
        if self.hidden:
            raise xs_errors.XenError("VDIClone", opterr="hidden VDI")
        if vhdutil.get_depth(self.path) >= vhdutil.MAX_CHAIN_LENGTH:
            raise xs_errors.XenError("SnapshotChainTooLong")
        base_path = self._file_of(util.gen_uuid())
        leaf_path = self._file_of(util.gen_uuid())
        leaf_paths = [leaf_path] if snap_type == VDI.SNAPSHOT_DOUBLE else []
        try:
            os.link(self.path, base_path)
            # Under another name first, so that the VDI is whole at every moment.
            vhdutil.snapshot(self.path + ".new", base_path)
            os.rename(self.path + ".new", self.path)
            for path in leaf_paths:
                vhdutil.snapshot(path, base_path)
            vhdutil.set_hidden(base_path)
        except (OSError, util.CommandException) as error:
            raise xs_errors.XenError("VDIClone", opterr=str(error))
        return self._introduce(base_path, leaf_paths, snap_type)

    def _introduce(self, base_path, leaf_paths, snap_type):
        """Make the records of a snapshot's new files; returns what names the one for the user."""
        self.load(self.uuid)
        made = []
        for path in leaf_paths:
            leaf = self.sr.vdi(vhdutil.uuid_of(path))
            made.append(leaf)
        # vhd-util puts new leaves above the VDI's own parent when the VDI has no data.
        if self.parent == vhdutil.uuid_of(base_path):
            base = self.sr.vdi(self.parent)
            base.label, base.read_only = "base copy", True
            made.append(base)
        else:
            os.unlink(base_path)
        for vdi in made:
            vdi.sm_config = {"image-format": "vhd"}
            vdi._db_introduce()
        self.sm_config = self.session.xenapi.VDI.get_sm_config(self.sr.srcmd.params["vdi_ref"])
        self._db_update()
        if snap_type != VDI.SNAPSHOT_INTERNAL:
            self.sr._update(self.sr.uuid, self.size)
        return [*made, self][0].get_params()

    def _file_of(self, uuid):
        return os.path.join(self.sr.path, uuid + ".vhd")


SR.registerSR(FileSR)
