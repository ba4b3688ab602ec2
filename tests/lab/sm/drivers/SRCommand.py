# SPDX-License-Identifier: LGPL-2.1-only
"""XAPI's commands: read from the command line, run on the driver, answered on standard output."""
import os
import sys
import xmlrpc.client

import XenAPI

import blktap2
import resetvdis
import util
import xs_errors

#: The error that a failed program or XAPI call becomes; SMGeneral for all other commands.
EXCEPTION_TYPE = {
    "sr_scan": "SRScan", "vdi_create": "VDICreate", "vdi_delete": "VDIDelete",
    "vdi_attach": "VDIUnavailable", "vdi_detach": "VDIUnavailable",
    "vdi_activate": "VDIUnavailable", "vdi_deactivate": "VDIUnavailable",
    "vdi_resize": "VDIResize", "vdi_resize_online": "VDIResize",
    "vdi_snapshot": "VDISnapshot", "vdi_clone": "VDIClone",
}

#: The fault code of an error that is none of SM's.
PYTHON_EXCEPTION = 1200


class SRCommand:
    """One command of XAPI."""

    def __init__(self, driver_info):
        self.driver_info = driver_info
        self.dconf = ""
        self.sr_uuid = ""
        self.cmd = None
        self.params = {}

    def parse(self):
        """Read the XML-RPC call that is the only argument."""
        try:
            (argument,) = sys.argv[1:]
            (self.params,), self.cmd = xmlrpc.client.loads(os.fsencode(argument))
            self.dconf = self.params["device_config"]
        except Exception as error:
            util.SMlog("Failed to parse the command line: %s" % error)
            raise xs_errors.XenError("BadRequest")
        self.sr_uuid = self.params.get("sr_uuid", "")
        if self.cmd == "vdi_create":
            self.vdi_uuid = util.gen_uuid()
        else:
            self.vdi_uuid = self.params.get("vdi_uuid")

    def run(self, sr):
        """Run the command; failures of programs and of XAPI become SM's own errors."""
        try:
            return self._run_locked(sr)
        except (util.SMException, XenAPI.Failure) as error:
            util.logException(self.cmd)
            text = str(error)
            if isinstance(error, util.CommandException):
                text = "Command %s failed (%s): %s" % (error.cmd, error.reason, error)
            raise xs_errors.XenError(EXCEPTION_TYPE.get(self.cmd, "SMGeneral"), opterr=text)

    def _run_locked(self, sr):
        exclusive = self.cmd in sr.ops_exclusive
        if exclusive:
            sr.lock.acquire()
        try:
            return self._dispatch(sr)
        finally:
            if exclusive:
                sr.lock.release()
            sr.cleanup()

    def _dispatch(self, sr):
        util.hidePasswdInParams(self.params, "device_config")
        shown = dict(self.params, session_ref="******")
        util.SMlog("%s %s" % (self.cmd, shown))
        if self.cmd == "vdi_introduce":
            vdi = sr.vdi(self.params["new_uuid"])
            return vdi.introduce(self.sr_uuid, self.params["new_uuid"])
        run = getattr(self, "_" + self.cmd, None)
        if run is None:
            raise xs_errors.XenError("BadRequest")
        return run(sr.vdi(self.vdi_uuid) if self.cmd.startswith("vdi_") else sr)

    @property
    def _args(self):
        return self.params["args"]

    # ---- commands of the SR

    def _sr_create(self, sr):
        return sr.create(self.sr_uuid, int(self._args[0]))

    def _sr_delete(self, sr):
        return sr.delete(self.sr_uuid)

    def _sr_attach(self, sr):
        is_master = self.params["device_config"].get("SRmaster") == "true"
        resetvdis.reset_sr(sr.session, util.get_this_host(), self.sr_uuid, is_master)
        if is_master:
            util.set_dirty(sr.session, sr.sr_ref)
        try:
            return sr.attach(self.sr_uuid)
        finally:
            if is_master:
                sr.after_master_attach(self.sr_uuid)

    def _sr_detach(self, sr):
        return sr.detach(self.sr_uuid)

    def _sr_scan(self, sr):
        return sr.scan(self.sr_uuid)

    def _sr_update(self, sr):
        return sr.update(self.sr_uuid)

    def _sr_probe(self, sr):
        return xmlrpc.client.dumps((sr.probe(),), "", True)

    # ---- commands of a VDI

    def _vdi_create(self, vdi):
        (size, vdi.label, vdi.description, vdi.metadata_of_pool, is_a_snapshot, vdi.snapshot_time,
         vdi.snapshot_of, read_only) = self._args
        vdi.is_a_snapshot = is_a_snapshot == "true"
        vdi.read_only = read_only == "true"
        vdi.ty = self.params["vdi_type"]
        return vdi.create(self.sr_uuid, self.vdi_uuid, int(size))

    def _vdi_update(self, vdi):
        return vdi.update(self.sr_uuid, self.vdi_uuid)

    def _vdi_delete(self, vdi):
        return vdi.delete(self.sr_uuid, self.vdi_uuid)

    def _vdi_snapshot(self, vdi):
        return vdi.snapshot(self.sr_uuid, self.vdi_uuid)

    def _vdi_clone(self, vdi):
        return vdi.clone(self.sr_uuid, self.vdi_uuid)

    def _vdi_resize(self, vdi):
        return vdi.resize(self.sr_uuid, self.vdi_uuid, int(self._args[0]))

    def _vdi_generate_config(self, vdi):
        return vdi.generate_config(self.sr_uuid, self.vdi_uuid)

    def _vdi_attach(self, vdi):
        return self._tap(vdi).attach(self.sr_uuid, self.vdi_uuid, self._args[0] == "true")

    def _vdi_detach(self, vdi):
        return self._tap(vdi).detach(self.sr_uuid, self.vdi_uuid)

    def _vdi_activate(self, vdi):
        return self._tap(vdi).activate(self.sr_uuid, self.vdi_uuid, self._args[0] == "true")

    def _vdi_deactivate(self, vdi):
        return self._tap(vdi).deactivate(self.sr_uuid, self.vdi_uuid)

    def _vdi_epoch_begin(self, vdi):
        if self.params.get("vdi_on_boot") == "reset":
            return vdi.reset_leaf(self.sr_uuid, self.vdi_uuid)
        return None

    def _vdi_epoch_end(self, vdi):
        return None

    def _tap(self, vdi):
        return blktap2.VDI(self.vdi_uuid, vdi, self.driver_info)


def run(driver, driver_info):
    """The main program of a driver: always exits with 0, after one XML-RPC response."""
    print(_answer(driver, driver_info))
    sys.exit(0)


def _answer(driver, driver_info):
    command = SRCommand(driver_info)
    try:
        command.parse()
        if command.cmd == "sr_get_driver_info":
            return util.sr_get_driver_info(driver_info)
        sr = driver(command, command.sr_uuid)
        sr.direct = True
        answer = command.run(sr)
        return util.return_nil() if answer is None else answer
    except xs_errors.SRException as error:
        util.logException(driver_info["name"])
        return error.toxml()
    except Exception as error:
        util.logException(driver_info["name"])
        fault = xmlrpc.client.Fault(PYTHON_EXCEPTION, str(error))
        return xmlrpc.client.dumps(fault, "", True)
