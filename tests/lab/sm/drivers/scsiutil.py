# SPDX-License-Identifier: LGPL-2.1-only
"""Identities of SCSI disks, and the record of them that an SR keeps."""
import base64
import os
import re

import util

SCSI_ID_BIN = "/usr/lib/udev/scsi_id"


def getSCSIid(path):
    """A disk's SCSI id. Raises CommandException for a device that has none."""
    return re.sub(r"\s+", "_", util.pread2([SCSI_ID_BIN, "-g", "--device", path]).strip())


def _isSCSIdev(dev):
    return os.path.realpath(dev).startswith("/dev/sd")


def devlist_to_serialstring(devlist):
    """The ids of the devices that have one, as SR.sm_config:devserial has them."""
    serials = []
    for device in devlist:
        try:
            serials.append("scsi-" + getSCSIid(device))
        except (util.CommandException, OSError):
            continue
    return ",".join(serials)


def add_serial_record(session, sr_ref, devstring):
    """Record the ids; the whole sm_config is read and written back."""
    config = session.xenapi.SR.get_sm_config(sr_ref)
    config["devserial"] = devstring
    session.xenapi.SR.set_sm_config(sr_ref, config)


def get_serial_record(session, sr_ref):
    return session.xenapi.SR.get_sm_config(sr_ref).get("devserial", "")


def xenstore_data(vdi_uuid):
    """The SCSI inquiry pages (0x80, 0x83 of SPC-3) that a VM is shown for its disk."""
    page80 = b"\x00\x80\x00\x12" + vdi_uuid[:16].encode() + b"  "
    page83 = b"\x00\x83\x00\x31\x02\x01\x00\x2dXENSRC  " + vdi_uuid.encode() + b" "
    return {"vdi-uuid": vdi_uuid,
            "scsi/0x12/0x80": base64.b64encode(page80).decode(),
            "scsi/0x12/0x83": base64.b64encode(page83).decode()}
