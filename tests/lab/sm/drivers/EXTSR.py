#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""SRs of type ext: an ext4 filesystem in a logical volume over local devices."""
import os

import FileSR
import lock
import lvutil
import scsiutil
import SR
import SRCommand
import util
import xs_errors
from constants import EXT_PREFIX

CAPABILITIES = ["SR_PROBE", "SR_UPDATE", "SR_SUPPORTS_LOCAL_CACHING", "VDI_CREATE", "VDI_DELETE",
                "VDI_ATTACH", "VDI_DETACH", "VDI_UPDATE", "VDI_CLONE", "VDI_SNAPSHOT",
                "VDI_RESIZE", "VDI_MIRROR", "VDI_GENERATE_CONFIG", "VDI_RESET_ON_BOOT/2",
                "ATOMIC_PAUSE", "VDI_CONFIG_CBT", "VDI_ACTIVATE", "VDI_DEACTIVATE",
                "THIN_PROVISIONING", "VDI_READ_CACHING"]

CONFIGURATION = [["device", "local device path (required) (e.g. /dev/sda3)"]]

DRIVER_INFO = {
    "name": "Local EXT4 VHD (stand-in)",
    "description": "VHD files on a local ext4 filesystem, as SM's own driver keeps them",
    "vendor": "luksext",
    "copyright": "(C) 2026 The luksext authors",
    "driver_version": "1.0",
    "required_api_version": "1.0",
    "capabilities": CAPABILITIES,
    "configuration": CONFIGURATION,
}


class EXTSR(FileSR.FileSR):
    """An SR of type ext."""

    @staticmethod
    def handles(srtype):
        return srtype == "ext"

    def load(self, sr_uuid):
        self.ops_exclusive = FileSR.OPS_EXCLUSIVE
        self.lock = lock.Lock(lock.LOCK_TYPE_SR, self.uuid)
        self.sr_vditype = SR.DEFAULT_TAP
        self.path = os.path.join(SR.MOUNT_BASE, sr_uuid)
        self.vgname = EXT_PREFIX + sr_uuid
        self.remotepath = os.path.join("/dev", self.vgname, sr_uuid)
        self.attached = self._checkmount()
        self.driver_config = FileSR.DRIVER_CONFIG

    @property
    def _devices(self):
        return self.dconf["device"].split(",")

    @SR.deviceCheck
    def create(self, sr_uuid, size):
        """Make volume group, volume and filesystem. The volume is left active."""
        if self._checkmount():
            raise xs_errors.XenError("SRExists")
        if util.test_hostPBD_devs(self.session, sr_uuid, self.dconf["device"]):
            raise xs_errors.XenError("SRInUse")
        if any(util.test_scsiserial(self.session, device) for device in self._devices):
            raise xs_errors.XenError("SRInUse")
        if not lvutil._checkVG(self.vgname):
            lvutil.createVG(self.dconf["device"], self.vgname)
        if lvutil._checkLV(self.remotepath):
            raise xs_errors.XenError("SRExists")
        self._create_volume(sr_uuid)
        try:
            util.pread2(["mkfs.ext4", "-F", self.remotepath])
        except util.CommandException as error:
            raise xs_errors.XenError("LVMFilesystem", opterr="mkfs failed error %d" % error.code)
        self._record_serials()

    def _create_volume(self, sr_uuid):
        """One volume over all space, striped over several devices."""
        count = len(self._devices)
        if count > 1:
            smallest = min(lvutil._getPVstats(dev)["freespace"] for dev in self._devices)
            size, stripes = smallest * count, ["-i", str(count), "-I", "2048"]
        else:
            size, stripes = lvutil._getVGstats(self.vgname)["freespace"], []
        if size < 1 << 20:
            raise xs_errors.XenError("SRNoSpace", opterr="no space in %s" % self.vgname)
        try:
            util.pread(["lvcreate", "-n", sr_uuid, "-W", "y", "--yes", *stripes,
                        "-L", str(size >> 20), self.vgname])
            util.pread(["lvchange", "-ay", self.remotepath])
        except util.CommandException as error:
            raise xs_errors.XenError("LVMCreate", opterr="lv operation, error %d" % error.code)

    def attach(self, sr_uuid):
        """Activate, check and mount; record the devices' serials. Idempotent."""
        if not self._checkmount():
            self._activate()
            self.attach_and_bind(sr_uuid, bind=False)
        self.attached = True
        self._record_serials()
        for device in self._devices:
            self.block_setscheduler(device)

    def _activate(self):
        try:
            util.pread2(["lvchange", "-ay", self.remotepath])
        except util.CommandException as error:
            raise xs_errors.XenError("LVMMount", opterr="Unable to activate LV: %d" % error.code)
        try:
            util.pread(["fsck", "-a", self.remotepath])
        except util.CommandException as error:
            # 1: errors were found and repaired (fsck(8)).
            if error.code != 1:
                raise xs_errors.XenError("LVMMount", opterr="FSCK failed: %d" % error.code)

    def detach(self, sr_uuid):
        """Unmount and deactivate. Not idempotent: fails when there is no volume."""
        super(EXTSR, self).detach(sr_uuid)
        try:
            util.pread2(["lvchange", "-an", self.remotepath])
        except util.CommandException as error:
            raise xs_errors.XenError("LVMUnMount", opterr="lvm -an failed: %d" % error.code)

    def delete(self, sr_uuid):
        """Delete the files, then volume, group and physical volumes."""
        super(EXTSR, self).delete(sr_uuid)
        try:
            owners = [util.pread2(["pvs", device]) for device in self._devices]
        except util.CommandException as error:
            raise xs_errors.XenError("PVSfailed", opterr="error is %d" % error.code)
        if any(self.vgname not in owner for owner in owners):
            raise xs_errors.XenError("VolNotFound", opterr="volume is %s" % self.vgname)
        try:
            util.pread2(["lvremove", "-f", self.remotepath])
            util.pread2(["vgremove", self.vgname])
            for device in self._devices:
                util.pread2(["pvremove", device])
        except util.CommandException as error:
            raise xs_errors.XenError("LVMDelete", opterr="errno is %d" % error.code)

    @SR.deviceCheck
    def probe(self):
        """The SRs of this type on the device."""
        found = lvutil.scan_srlist(EXT_PREFIX, self.dconf["device"])
        return lvutil.srlist_toxml(found, EXT_PREFIX)

    def vdi(self, uuid):
        return EXTFileVDI(self, uuid)

    def _record_serials(self):
        serials = scsiutil.devlist_to_serialstring(self._devices)
        scsiutil.add_serial_record(self.session, self.sr_ref, serials)


class EXTFileVDI(FileSR.FileVDI):
    """A VDI on such an SR."""

    def attach(self, sr_uuid, vdi_uuid):
        self.xenstore_data["storage-type"] = "ext"
        return super(EXTFileVDI, self).attach(sr_uuid, vdi_uuid)


if __name__ == "__main__":
    SRCommand.run(EXTSR, DRIVER_INFO)
else:
    SR.registerSR(EXTSR)
