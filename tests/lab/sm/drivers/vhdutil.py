# SPDX-License-Identifier: LGPL-2.1-only
"""VHD images, by the program vhd-util."""
import os
from collections import namedtuple

import util
import xs_errors

VHD_UTIL = "/usr/bin/vhd-util"
BLOCK_SIZE = MIN_SIZE = 2 << 20
MAX_SIZE = 2040 << 30
MAX_CHAIN_LENGTH = 30

#: Sizes in bytes; ``parent`` is a UUID or None.
Info = namedtuple("Info", "uuid path size utilisation hidden parent")


def uuid_of(path):
    """The UUID that an image file is named after."""
    return os.path.splitext(os.path.basename(path))[0]


def _run(command, path, *options):
    cmd = [VHD_UTIL, command, "--debug"] + [str(option) for option in options] + ["-n", path]
    return util.pread2(cmd).strip()


def get_info(path):
    """What the image says of itself; read from the footer's copy, since it may be in use."""
    size, used, parent, hidden = _run("query", path, "-vspfb").split("\n")
    return Info(uuid_of(path), path, int(size) << 20, int(used), hidden == "hidden: 1",
                None if parent.endswith("has no parent") else uuid_of(parent))


def get_all(folder):
    """The images in a folder, by UUID. Raises CommandException when one is broken."""
    lines = util.pread2([VHD_UTIL, "scan", "-f", "-m", os.path.join(folder, "*.vhd")]).split("\n")
    infos = [_info_of(dict(word.split("=", 1) for word in line.split())) for line in lines if line]
    return {info.uuid: info for info in infos}


def _info_of(fields):
    parent = fields["parent"]
    return Info(uuid_of(fields["vhd"]), fields["vhd"], int(fields["capacity"]),
                int(fields["size"]), fields["hidden"] == "1",
                None if parent == "none" else uuid_of(parent))


def validate_size(size):
    """The size rounded up to what an image can have. Raises VDISize."""
    if not 0 <= size <= MAX_SIZE:
        raise xs_errors.XenError("VDISize", opterr="at most %d MB" % (MAX_SIZE >> 20))
    return util.roundup(BLOCK_SIZE, max(size, MIN_SIZE))


def create(path, size):
    _run("create", path, "-s", size >> 20)


def snapshot(path, parent):
    """Make an empty image above another."""
    _run("snapshot", path, "-p", parent)


def get_depth(path):
    """The length of the chain that ends with the image."""
    return int(_run("query", path, "-d").split(":")[1])


def resize(path, size, journal):
    try:
        _run("resize", path, "-s", size >> 20, "-j", journal)
    except util.CommandException:
        _run("revert", path, "-j", journal)
        raise


def set_hidden(path, hidden=True):
    _run("set", path, "-f", "hidden", "-v", int(hidden))


def set_parent(path, parent):
    _run("modify", path, "-p", parent)


def kill_data(path):
    _run("modify", path, "-z")


def coalesce(path):
    """Merge the image's data into its parent."""
    _run("coalesce", path)
