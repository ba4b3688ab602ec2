# SPDX-License-Identifier: LGPL-2.1-only
"""VDIs as VMs use them: each activated VDI has a tapdisk, a process that has its image open."""
import os
import time
import xmlrpc.client

import lock
import resetvdis
import scsiutil
import util
import VDI as vdi_module

TAP_CTL = "/usr/sbin/tap-ctl"
BACKEND_DIR = "/dev/sm/backend"
NBD_DIR = "/run/blktap-control/nbd"

#: Seconds to wait until a VDI that is paused can be activated.
RETRY_SECONDS = 120


class Tapdisk:
    """A running tapdisk."""

    def __init__(self, pid, minor):
        self.pid = pid
        self.minor = minor

    @staticmethod
    def find_by_path(path):
        """The tapdisk that has an image open, None without one."""
        for line in util.pread2([TAP_CTL, "list", "-f", path], quiet=True).splitlines():
            fields = dict(word.split("=", 1) for word in line.split(" ", 3))
            return Tapdisk(fields["pid"], fields["minor"])
        return None

    @classmethod
    def launch(cls, path):
        util.pread2([TAP_CTL, "create", "-a", "vhd:" + path])
        return cls.find_by_path(path)

    def call(self, command, *options):
        """Have tap-ctl do something with this tapdisk."""
        util.pread2([TAP_CTL, command, "-p", self.pid, "-m", self.minor, *options])


class VDI:
    """A driver's VDI, with its tapdisk."""

    def __init__(self, uuid, target, driver_info):
        self.uuid = uuid
        self.target = target
        self.session = target.session
        self.lock = lock.Lock("vdi", uuid)

    def get_o_direct_capability(self, options):
        """Whether the image is opened past the page cache, and why."""
        handles = self.target.sr.handles
        if util.read_caching_is_restricted(self.session):
            return True, "LICENSE_RESTRICTION"
        if not (handles("nfs") or handles("ext") or handles("smb")):
            return True, "SR_NOT_SUPPORTED"
        if options.get("rdonly") and not self.target.parent:
            return True, "RO_WITH_NO_PARENT"
        if options.get("o_direct"):
            return True, "SR_OVERRIDE"
        return False, ""

    def attach(self, sr_uuid, vdi_uuid, writable):
        """Tell where the disk will be; nothing is opened yet."""
        options = {"rdonly": not writable, "o_direct": self.target.sr.o_direct}
        o_direct, reason = self.get_o_direct_capability(options)
        nbd = "nbd:unix:%s/%s/%s:exportname=%s" % (NBD_DIR, sr_uuid, vdi_uuid, vdi_uuid)
        answer = {"params": os.path.join(BACKEND_DIR, sr_uuid, vdi_uuid), "params_nbd": nbd,
                  "o_direct": o_direct, "o_direct_reason": reason,
                  "xenstore_data": scsiutil.xenstore_data(vdi_uuid)}
        return xmlrpc.client.dumps((answer,), "", True)

    def detach(self, sr_uuid, vdi_uuid):
        """Nothing is left to do after a deactivation."""

    def activate(self, sr_uuid, vdi_uuid, writable):
        """Open the disk; waits while it is paused."""
        self._retry(lambda: self._activate(sr_uuid, vdi_uuid, "RW" if writable else "RO"))

    def deactivate(self, sr_uuid, vdi_uuid):
        """Close the disk; waits while it is paused."""
        self._retry(lambda: self._deactivate(sr_uuid, vdi_uuid))

    def _retry(self, step):
        for _ in range(RETRY_SECONDS):
            self.lock.acquire()
            try:
                if step():
                    return
            finally:
                self.lock.release()
            time.sleep(1)
        raise util.SMException("VDI %s locked" % self.uuid)

    def _activate(self, sr_uuid, vdi_uuid, mode):
        vdi_ref = self._note_attached(vdi_uuid, mode)
        if vdi_ref is None:
            return False
        try:
            # The image may have changed since the command was read, so everything is loaded anew.
            target = vdi_module.VDI.from_uuid(self.session, vdi_uuid)
            target.attach(sr_uuid, vdi_uuid)
            target.activate(sr_uuid, vdi_uuid)
            tapdisk = Tapdisk.find_by_path(target.path) or Tapdisk.launch(target.path)
            self._link(sr_uuid, vdi_uuid, tapdisk)
        except BaseException:
            self.session.xenapi.VDI.remove_from_sm_config(vdi_ref, self._host_key())
            raise
        finally:
            self.session.xenapi.VDI.remove_from_sm_config(vdi_ref, "activating")
        return True

    def _deactivate(self, sr_uuid, vdi_uuid):
        vdi_ref = self.session.xenapi.VDI.get_by_uuid(vdi_uuid)
        if "paused" in self.session.xenapi.VDI.get_sm_config(vdi_ref):
            return False
        tapdisk = Tapdisk.find_by_path(self.target.path)
        if tapdisk:
            tapdisk.call("destroy")
        for folder in (BACKEND_DIR, NBD_DIR):
            util.force_unlink(os.path.join(folder, sr_uuid, vdi_uuid))
        self.target.deactivate(sr_uuid, vdi_uuid)
        self.target.detach(sr_uuid, vdi_uuid)
        self.session.xenapi.VDI.remove_from_sm_config(vdi_ref, self._host_key())
        return True

    def _host_key(self):
        return "host_" + util.get_this_host_ref(self.session)

    def _note_attached(self, vdi_uuid, mode):
        """Note who has the VDI in its record; None when it is paused, an error when it is taken."""
        xapi = self.session.xenapi.VDI
        vdi_ref = xapi.get_by_uuid(vdi_uuid)
        modes = [value for key, value in xapi.get_sm_config(vdi_ref).items()
                 if key.startswith("host_")]
        taken = "RW" in modes or (modes and mode == "RW")
        if taken and not resetvdis.reset_vdi(self.session, vdi_uuid, False, False):
            raise util.SMException("VDI %s not detached cleanly" % vdi_uuid)
        if "paused" in xapi.get_sm_config(vdi_ref):
            return None
        xapi.add_to_sm_config(vdi_ref, "activating", "True")
        xapi.add_to_sm_config(vdi_ref, self._host_key(), mode)
        return vdi_ref

    @staticmethod
    def _link(sr_uuid, vdi_uuid, tapdisk):
        socket = "/run/blktap-control/nbd%s.%s" % (tapdisk.pid, tapdisk.minor)
        for folder in (BACKEND_DIR, NBD_DIR):
            path = os.path.join(folder, sr_uuid, vdi_uuid)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            util.force_unlink(path)
            os.symlink(socket, path)

    # ---- while an image changes below a running VM

    @staticmethod
    def tap_pause(session, sr_uuid, vdi_uuid, failfast=False):
        """Have the VDI's tapdisk, if any, close its image."""
        vdi_ref = session.xenapi.VDI.get_by_uuid(vdi_uuid)
        session.xenapi.VDI.add_to_sm_config(vdi_ref, "paused", "true")
        tapdisk = _tapdisk_of(sr_uuid, vdi_uuid)
        if tapdisk:
            tapdisk.call("pause")
        return True

    @staticmethod
    def tap_unpause(session, sr_uuid, vdi_uuid, secondary=None, activate_parents=False):
        """Have the VDI's tapdisk open its image again."""
        vdi_ref = session.xenapi.VDI.get_by_uuid(vdi_uuid)
        tapdisk = _tapdisk_of(sr_uuid, vdi_uuid)
        if tapdisk:
            tapdisk.call("unpause")
        session.xenapi.VDI.remove_from_sm_config(vdi_ref, "paused")
        return True

    @staticmethod
    def tap_status(session, vdi_uuid):
        """Whether any host has the VDI active."""
        config = session.xenapi.VDI.get_sm_config(session.xenapi.VDI.get_by_uuid(vdi_uuid))
        return any(key.startswith("host_") for key in config)


def _tapdisk_of(sr_uuid, vdi_uuid):
    import SR
    return Tapdisk.find_by_path(os.path.join(SR.MOUNT_BASE, sr_uuid, vdi_uuid + ".vhd"))
