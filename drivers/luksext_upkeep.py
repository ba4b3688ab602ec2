# SPDX-License-Identifier: LGPL-2.1-only
"""What the driver does for an SR besides its work. Little of it may fail what it comes with.

Loaded where it is needed only: most of the driver's commands are for VDIs, and know nothing of it.
"""
import contextlib
import time

import luksext_xapi
from luksext import backup, bindings, health, notes, reencrypt, started, state, status
from luksext.run import log


def after_unlock(session, sr_ref, sr):
    """Brings to an end what a plug ends, makes good what is missing, and shows it in XAPI.

    sr: the Repository, whose containers were just opened.
    """
    with only_logged("cannot note what the firmware started with"):
        started.note()
    changed = luksext_xapi.RECOVERY not in session.xenapi.SR.get_sm_config(sr_ref)
    for container in sr.readable:
        with only_logged("cannot go on encrypting " + container.device):
            reencrypt.resume(container)
        with only_logged("cannot end the suspension"):
            # As every change of a key: an administrator may be at another.
            with state.locked(sr.uuid):
                changed |= bindings.end_suspend(container)
        with only_logged("cannot back up the header"):
            if changed or not backup.list_of(container.uuid):
                backup.create(container.refreshed(), "plug")
    _end_in_place(sr)
    if changed:
        with only_logged("cannot show the state of the SR"):
            luksext_xapi.publish(session, sr_ref, status.of(sr.refreshed()))


def check(session, sr_ref, sr):
    """Proves the bindings when that is due, and shows in XAPI what needs attention."""
    for container in sr.readable:
        with only_logged("cannot end the re-encryption of " + container.device):
            reencrypt.settle(container)
        with only_logged("cannot prove the bindings of " + container.device):
            if health.due(container, time.time()):
                health.prove(container)
    _end_in_place(sr)
    with only_logged("cannot note the volume keys of the SR"):
        luksext_xapi.follow(session, sr_ref, sr)
    with only_logged("cannot show the state of the SR"):
        luksext_xapi.publish(session, sr_ref, status.of(sr))


def _end_in_place(sr):
    """The recovery key of an encryption in place is told as long as no other can be made."""
    if not state.Store(sr.uuid).load(notes.IN_PLACE):
        return
    # Loaded here, since few SRs were encrypted a moment ago.
    from luksext import inplace
    with only_logged("cannot forget the recovery key of the SR"):
        inplace.end(sr.uuid, sr.refreshed().containers)


def forget(sr_uuid, records):
    """Destroys what this host keeps of an SR and its containers that were erased: header backups
    above all."""
    for uuid in [sr_uuid, *(record.uuid for record in records)]:
        with only_logged("cannot destroy the header backups of " + uuid):
            state.forget(uuid)


@contextlib.contextmanager
def only_logged(what):
    """For what must not fail what it comes with, whatever happens."""
    try:
        yield
    except Exception as error:  # pylint: disable=broad-except
        log.error("%s: %s", what, error)
