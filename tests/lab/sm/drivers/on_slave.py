#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""The XAPI plugin on-slave: what the SR's master asks of the hosts that use it."""
import sys

sys.path.append("/opt/xensource/sm/")

import util


def _is_open(session, args):
    # The drivers are a fixed list: an SR of any other type is an error (SRUnknownType).
    import blktap2
    import EXTSR  # noqa: F401
    import SR
    import SRCommand

    util.SMlog("on-slave.is_open: %s" % args)
    record = session.xenapi.SR.get_record(args["srRef"])
    # No session, no request: drivers must bear being loaded with as little as this.
    command = SRCommand.SRCommand({"capabilities": None})
    command.dconf = {"device": "/HACK", "location": "/HACK", "server": None}
    command.params = {"command": None}
    sr = SR.driver(record["type"])(command, record["uuid"])
    return str(blktap2.Tapdisk.find_by_path(sr.vdi(args["vdiUuid"]).path) is not None)


def is_open(session, args):
    """Whether this host has the VDI ``vdiUuid`` of the SR ``srRef`` open."""
    try:
        return _is_open(session, args)
    except Exception:
        util.logException("is_open")
        raise


if __name__ == "__main__":
    import XenAPIPlugin
    XenAPIPlugin.dispatch({"is_open": is_open})
