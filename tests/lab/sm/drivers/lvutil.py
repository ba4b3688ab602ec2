# SPDX-License-Identifier: LGPL-2.1-only
"""LVM, as the ext driver uses it."""
import os
import xml.etree.ElementTree as ElementTree

import util
import xs_errors


def cmd_lvm(cmd, pread_func=util.pread2):
    """The output of an LVM command."""
    return pread_func(cmd)


def _succeeds(cmd):
    try:
        cmd_lvm(cmd)
        return True
    except util.CommandException:
        return False


def _checkVG(vgname):
    return _succeeds(["vgs", "--readonly", vgname])


def _checkLV(path):
    return _succeeds(["lvdisplay", path])


def _getVGstats(vgname):
    return _stats(["vgs", "-o", "vg_size,vg_free", vgname])


def _getPVstats(dev):
    return _stats(["pvs", "-o", "pv_size,pv_free", dev])


def _stats(cmd):
    """Size, use and free space in bytes."""
    try:
        text = cmd_lvm([*cmd, "--noheadings", "--nosuffix", "--units", "b"])
    except util.CommandException as error:
        raise xs_errors.XenError("VDILoad", opterr="%s failed: %d" % (cmd[0], error.code))
    size, free = (int(field) for field in text.split())
    return {"physical_size": size, "physical_utilisation": size - free, "freespace": free}


def scan_srlist(prefix, root):
    """The SRs whose volume groups are on the devices: UUID to the devices of each."""
    found = {}
    for device in root.split(","):
        try:
            name = cmd_lvm(["pvs", "--noheadings", "-o", "vg_name", device]).strip()
        except util.CommandException:
            continue
        if name.startswith(prefix):
            found.setdefault(name[len(prefix):], []).append(device)
    return {sr_uuid: ",".join(devices) for sr_uuid, devices in found.items()}


def srlist_toxml(VGs, prefix, includeMetadata=False):
    """The answer to sr_probe."""
    root = ElementTree.Element("SRlist")
    for sr_uuid, devices in VGs.items():
        entry = ElementTree.SubElement(root, "SR")
        size = _getVGstats(prefix + sr_uuid)["physical_size"]
        for tag, text in (("UUID", sr_uuid), ("Devlist", devices), ("size", str(size))):
            ElementTree.SubElement(entry, tag).text = text
    return ElementTree.tostring(root, encoding="unicode")


def _checkFree(dev, retry=True):
    """Raise SRInUse when the kernel, a moment later still, has the device in use."""
    try:
        os.close(os.open(dev, os.O_RDWR | os.O_EXCL))
    except OSError:
        if not retry:
            raise xs_errors.XenError("SRInUse", opterr="Device %s in use" % dev)
        util.pread2(["/usr/sbin/udevadm", "settle"])
        _checkFree(dev, retry=False)


def createVG(root, vgname):
    """Make one volume group of the devices, which are wiped."""
    devices = root.split(",")
    for dev in devices:
        if dev == util.getrootdev():
            raise xs_errors.XenError("Rootdev", opterr="Device %s holds the system" % dev)
        if not os.path.exists(dev):
            raise xs_errors.XenError("InvalidDev", opterr="Device %s does not exist" % dev)
        _checkFree(dev)
        try:
            util.wipefs(dev)
        except util.CommandException:
            raise xs_errors.XenError("WipefsFailure", opterr="device %s" % dev)
    try:
        cmd_lvm(["vgcreate", "--metadatasize", "10M", vgname, *devices])
    except util.CommandException:
        raise xs_errors.XenError("LVMGroupCreate")
    setActiveVG(vgname, False)


def setActiveVG(path, active, config=None):
    """Activate or deactivate the volumes of a group."""
    cmd = ["vgchange", "-ay" if active else "-an", path]
    cmd_lvm(cmd + (["--config", config] if config else []))
