# SPDX-License-Identifier: LGPL-2.1-only
"""Examines a host end to end: what luksext.doctor finds on it, and what XAPI knows."""
import luksext_pool
import luksext_xapi
from luksext import VERSION, doctor, packages
from luksext.findings import found

# The stock driver, on which ours is built.
_STOCK = "ext"


def examine(session):
    """All that is found on this host, as a report."""
    return doctor.report(doctor.examine() + list(_registered(session)) + list(_hosts(session))
                         + list(_plugged(session)))


def _registered(session):
    features = {row["type"]: set(row["features"])
                for row in session.xenapi.SM.get_all_records().values()}
    ours = features.get(luksext_xapi.SR_TYPE)
    if ours is None:
        yield found("LUKS-D031")
        return
    missing = features.get(_STOCK, set()) - ours
    if missing:
        yield found("LUKS-D032", FEATURES=", ".join(sorted(missing)))


def _hosts(session):
    for host in luksext_pool.ask(session, "version"):
        if host.get("code") == "XENAPI_MISSING_PLUGIN":
            yield found("LUKS-D033", HOST=host["host"],
                        PACKAGE=packages.for_yum("./luksext-*.rpm"))
        # A package of the time before it knew this question.
        elif host.get("code") == "UNKNOWN_XENAPI_PLUGIN_FUNCTION":
            yield found("LUKS-D035", HOST=host["host"], VERSION="an older one", OURS=VERSION)
        elif "error" in host:
            yield found("LUKS-D034", HOST=host["host"], HOST_UUID=host["host_uuid"],
                        REASON=host["error"])
        elif host["version"] != VERSION:
            yield found("LUKS-D035", HOST=host["host"], VERSION=host["version"], OURS=VERSION)


def _plugged(session):
    here = luksext_xapi.this_host(session)
    for pbd in session.xenapi.PBD.get_all_records().values():
        if pbd["host"] != here or pbd["currently_attached"]:
            continue
        sr = session.xenapi.SR.get_record(pbd["SR"])
        if sr["type"] == luksext_xapi.SR_TYPE:
            yield found("LUKS-D036", SR_UUID=sr["uuid"], PBD_UUID=pbd["uuid"])
