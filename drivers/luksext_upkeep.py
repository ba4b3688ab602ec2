# SPDX-License-Identifier: LGPL-2.1-only
"""What the driver does for an SR besides its work. Little of it may fail what it comes with.

Loaded where it is needed only: most of the driver's commands are for VDIs, and know nothing of it.
Functions import what a plug seldom needs, which takes longer to load than the rest.
"""
import contextlib
import functools
import time

import luksext_xapi
from luksext import audit, backup, begun, bindings, health, notes, started, state
from luksext.errors import Busy
from luksext.run import log


def after_unlock(session, sr_ref, sr):
    """Brings to an end what a plug ends, makes good what is missing, and shows it in XAPI.

    sr: the Repository, whose containers were just opened.
    """
    with only_logged("cannot note what the firmware started with"):
        started.note()
    changed = luksext_xapi.RECOVERY not in session.xenapi.SR.get_sm_config(sr_ref)
    for container in sr.readable:
        suspended = True
        with only_logged("cannot note that suspensions are over"):
            suspended = bindings.plugged(container)
        # As for every change of a key: an administrator may be at another.
        with only_logged("cannot change the keys of " + container.device), state.locked(sr.uuid):
            with only_logged("cannot go on encrypting " + container.device):
                _go_on(sr, container)
            with only_logged("cannot follow the volume key of " + container.device):
                changed |= _follow(container)
            with only_logged("cannot end the suspension"):
                changed |= suspended and _end_suspend(sr, container)
        with only_logged("cannot back up the header"):
            if changed or not backup.list_of(container.uuid) or backup.is_outdated(container.uuid):
                backup.create(container.refreshed(), "plug")
    _end_in_place(sr)
    if changed:
        _publish(session, sr_ref, sr)


def check(session, sr_ref, sr):
    """Proves the bindings when that is due, ends what is over, and shows in XAPI what needs
    attention."""
    for container in sr.readable:
        with only_logged("cannot end the re-encryption of " + container.device):
            if begun.load(container.uuid) is not None:
                _alone(sr, functools.partial(_settle, sr, container))
        with only_logged("cannot end the suspension"):
            if bindings.is_over(container):
                _alone(sr, functools.partial(_end_suspend_that_is_over, sr, container))
        with only_logged("cannot prove the bindings of " + container.device):
            found = container.refreshed()
            if health.due(found, time.time()):
                health.prove(found)
        with only_logged("cannot destroy header backups with a key that is gone"):
            if backup.is_outdated(container.uuid):
                backup.create(container.refreshed(), "a key was revoked")
    _end_in_place(sr)
    with only_logged("cannot note the volume keys of the SR"):
        luksext_xapi.follow(session, sr_ref, sr)
    _publish(session, sr_ref, sr)


def _publish(session, sr_ref, sr):
    from luksext import status
    with only_logged("cannot show the state of the SR"):
        luksext_xapi.publish(session, sr_ref, status.of(sr.refreshed()))


def _alone(sr, change):
    """Makes a change of keys; where somebody is at another, that is left to the next check: the
    service that calls it has other SRs to look at."""
    with contextlib.suppress(Busy), state.locked(sr.uuid, 0):
        change()


def _follow(container):
    """What opened and was mounted proves its volume key."""
    return container.header.reencryption is None and backup.follow(container)


def _go_on(sr, container):
    """Ends a re-encryption that cryptsetup has ended, and lets an interrupted one go on."""
    if begun.load(container.uuid) is not None:
        _settle(sr, container)
    if container.header.reencryption is not None:
        from luksext import reencrypt
        reencrypt.resume(container)


def _settle(sr, container):
    from luksext import reencrypt
    if reencrypt.settle(container):
        _told(sr, container, "reencrypt-settle")


def _end_suspend(sr, container):
    return bindings.end_suspend(container, functools.partial(_told, sr, container))


def _end_suspend_that_is_over(sr, container):
    # An administrator may have made another, while this waited for its turn.
    container = container.refreshed()
    if bindings.is_over(container):
        _end_suspend(sr, container)


def _told(sr, container, verb, slot=None):
    """Leaves a line for a change of keys that nobody asked for now."""
    details = audit.details({"slot": slot, "device": container.device})
    audit.record(verb, sr.uuid, audit.DRIVER, "ok", **details)


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
