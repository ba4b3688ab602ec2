# SPDX-License-Identifier: LGPL-2.1-only
"""Closes an SR, and what closing it has in common with all else that is done with a whole SR.

Apart from luksext_life, since an unplug would take longer to load that than to do its work: nothing
is imported here that it does not need.
"""
import functools
import logging

import luksext_xapi
from luksext import begun, devices, mappings, run
from luksext.errors import LuksError
from luksext_sm import util, xs_errors

# Seconds, besides what the ext driver takes: see docs/reliability.md.
STOP_SECONDS = 60
CLOSE_SECONDS = 60

# What the ext driver and the programs that it runs raise; where one is missing, OSError.
INSIDE_FAILS = (xs_errors.SROSError, util.CommandException, OSError)


class _SMlogHandler(logging.Handler):
    """Sends what the package logs (commands, their times, never secrets) to SMlog."""

    def emit(self, record):
        util.SMlog("luksext: " + record.getMessage())


def log_to_smlog():
    """From now on."""
    log = logging.getLogger("luksext")
    if not log.handlers:
        log.addHandler(_SMlogHandler())
        log.setLevel(logging.INFO)


def explained(method):
    """Turns a LuksError into the error that XAPI understands, with its code and the SR named."""

    @functools.wraps(method)
    def wrapper(self, *args):
        log_to_smlog()
        try:
            return method(self, *args)
        except LuksError as error:
            uuid = self._driver.uuid
            text = "SR {}: {}".format(uuid, error) if uuid else str(error)
            util.SMlog("luksext: error {}: {}".format(error.code, text))
            raise xs_errors.SROSError(error.code, text) from error

    return wrapper


class Unplug:
    """Closes what is open of an SR. driver: the LUKSEXTSR of a call."""

    def __init__(self, driver):
        self._driver = driver
        self._session = driver.session
        self._ref = driver.sr_ref

    @explained
    def detach(self, sr_uuid):
        """Detaches the ext SR, then closes the containers. Idempotent from every state."""
        with run.within(STOP_SECONDS):
            opened = self._open_mappings(sr_uuid)
            self._stop_reencryption(opened)
        failure = None
        try:
            self._driver.ext.detach(sr_uuid)
        except INSIDE_FAILS as error:
            failure = error
        with run.within(CLOSE_SECONDS):
            # The ext driver also fails where there is nothing left to deactivate, or nothing to
            # read that from: its disk was pulled.
            if failure is not None and (self._driver._checkmount() or not self._drop_volume()):
                raise failure
            for mapping in opened.values():
                mappings.close(mapping)

    def _records(self):
        return luksext_xapi.records(self._session.xenapi.SR.get_sm_config(self._ref))

    def _open_mappings(self, sr_uuid):
        """The open mappings of the SR by LUKS UUID, found without its disks where they are
        recorded."""
        found = {record.uuid: devices.crypt_mapping_of(record.uuid) for record in self._records()}
        if not found:
            from luksext import container
            found = {one.uuid: one.mapping for one in container.all_of(sr_uuid)}
        return {uuid: mapping for uuid, mapping in found.items() if mapping is not None}

    @staticmethod
    def _stop_reencryption(opened):
        """Stops what works on open containers on its own, and would keep them open; by LUKS UUID.
        """
        for uuid, mapping in opened.items():
            # To look for a process takes longer than all else of an unplug.
            if begun.load(uuid) is not None:
                from luksext import reencrypt_process
                reencrypt_process.stop(mapping)

    @property
    def _volume(self):
        """What device-mapper calls the volume. LVM doubles the dashes within a name (lvm(8),
        dmsetup splitname)."""
        return "{}-{}".format(self._driver.vgname.replace("-", "--"),
                              self._driver.uuid.replace("-", "--"))

    def _drop_volume(self):
        """Whether the volume is not active, or could be taken out of the kernel without LVM, which
        deactivates nothing that it cannot read."""
        try:
            if devices.is_mapped(self._volume):
                from luksext import lvm
                lvm.drop(self._volume)
        except LuksError as error:
            util.SMlog("luksext: cannot drop the volume: {}".format(error))
            return False
        return True
