#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Run every ten minutes: has each attached SR of this host check its health."""
import SR
import util


def main():
    session = util.get_localAPI_session()
    try:
        host = util.get_localhost_ref(session)
        for sr_ref in _attached(session, host):
            uuid = session.xenapi.SR.get_uuid(sr_ref)
            # One driver's exception ends the checks of the SRs that come after it.
            SR.SR.from_uuid(session, uuid).check_sr(uuid)
    finally:
        session.xenapi.session.logout()


def _attached(session, host):
    rows = session.xenapi.SM.get_all_records_where('field "required_api_version" = "1.0"')
    types = {row["type"] for row in rows.values()}
    pbds = session.xenapi.PBD.get_all_records_where('field "host" = "%s"' % host)
    return [pbd["SR"] for pbd in pbds.values() if pbd["currently_attached"]
            and session.xenapi.SR.get_type(pbd["SR"]) in types]


if __name__ == "__main__":
    main()
