# SPDX-License-Identifier: LGPL-2.1-only
"""SM's errors: a number and a text, told to XAPI as an XML-RPC fault."""
import errno
import xmlrpc.client

import util

# The numbers are part of the contract with XAPI; the texts of 39 and 90 are what tests compare.
ERRORS = {
    "InvalidArg": (1, "An argument is invalid"),
    "SRInUse": (16, "The device of the SR is in use"),
    "InvalidDev": (19, "The device does not exist"),
    "InvalidSecret": (20, "The secret does not exist"),
    "VDIInUse": (24, "The VDI is in use"),
    "Unimplemented": (38, "The method is not implemented"),
    "SRNotEmpty": (39, "The SR is not empty"),
    "SRScan": (40, "The scan of the SR failed"),
    "SRExists": (42, "The SR exists already"),
    "VDIExists": (43, "The VDI exists already"),
    "SRNoSpace": (44, "There is too little space"),
    "VDIUnavailable": (46, "The VDI is not available"),
    "SRUnavailable": (47, "The SR is not available"),
    "SRUnknownType": (48, "The SR's type is unknown"),
    "LVMCreate": (50, "The logical volume cannot be created"),
    "LVMDelete": (51, "The logical volume cannot be deleted"),
    "LVMMount": (52, "The logical volume cannot be activated or mounted"),
    "LVMUnMount": (53, "The logical volume cannot be deactivated"),
    "LVMPartCreate": (55, "The physical volume cannot be created"),
    "LVMFilesystem": (57, "The filesystem cannot be created"),
    "FileSRCreate": (61, "The SR cannot be created on or mounted from its filesystem"),
    "FileSRDelete": (63, "The SR's files cannot be deleted"),
    "VDILoad": (65, "The VDI cannot be read"),
    "VDIType": (66, "The VDI's type is invalid"),
    "LVMGroupCreate": (77, "The volume group cannot be created"),
    "VDICreate": (78, "The VDI cannot be created"),
    "VDISize": (79, "The VDI's size is invalid"),
    "VDIDelete": (80, "The VDI cannot be deleted"),
    "VDIClone": (81, "The VDI cannot be cloned"),
    "VDISnapshot": (82, "The VDI cannot be snapshotted"),
    "ConfigDeviceMissing": (90, "The request is missing the device parameter"),
    "ConfigDeviceInvalid": (91, "The device's path is invalid"),
    "VolNotFound": (92, "The volume group is not on the device"),
    "PVSfailed": (93, "The physical volume cannot be read"),
    "Rootdev": (105, "The device is the host's system disk"),
    "SnapshotChainTooLong": (109, "The chain of snapshots is too long"),
    "VDIResize": (110, "The VDI cannot be resized"),
    "ConfigParamsMissing": (115, "The device configuration lacks parameters"),
    "BadRequest": (143, "The request cannot be read"),
    "EIO": (200, "Input or output failed"),
    "SMGeneral": (202, "The storage manager failed"),
    "TapdiskFailed": (453, "The tapdisk failed"),
    "WipefsFailure": (462, "The device's old signatures cannot be wiped"),
}


class SRException(Exception):
    """An error for XAPI."""

    errno = errno.EINVAL

    def toxml(self):
        """The XML-RPC fault that tells it."""
        fault = xmlrpc.client.Fault(int(self.errno), str(self))
        return xmlrpc.client.dumps(fault, "", True)


class SROSError(SRException):
    """An error with a number of its own."""

    def __init__(self, number, reason):
        SRException.__init__(self, reason)
        self.errno = number


class XenError(Exception):
    """Makes the SROSError of an error's name: what is raised is never a XenError."""

    def __new__(cls, key, opterr=None):
        if key not in ERRORS:
            return SROSError(1, "Error reporting error, unknown key %s" % key)
        number, text = ERRORS[key]
        if opterr is not None:
            text += " [opterr=%s]" % opterr
        util.SMlog("Raising exception [%d, %s]" % (number, text))
        return SROSError(number, text)
