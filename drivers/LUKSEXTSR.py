#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""LUKSEXTSR: a local ext SR on LUKS-encrypted disks, unlocked by clevis.

One idea: an encrypted device is a device. Under each disk of the SR sits a LUKS container; above
them everything is the stock ext driver. luksext_life swaps the devices and orders the steps; all
about encryption is in the package luksext.
"""
import sys

# SM also loads this file from other programs, whose path does not lead here, and in version 4
# without a __file__ that would tell where this is.
_INSTALLED = "/opt/xensource/sm"
if _INSTALLED not in sys.path:
    sys.path.append(_INSTALLED)

# pylint: disable=wrong-import-position
from luksext import configuration, notes  # noqa: E402
from luksext_sm import EXTSR, SR, FileSR, SRCommand, cleanup  # noqa: E402
from luksext_types import SR_TYPE, teach_gc  # noqa: E402

CAPABILITIES = EXTSR.CAPABILITIES

CONFIGURATION = [list(description) for description in configuration.DESCRIPTIONS] + [
    entry for entry in EXTSR.CONFIGURATION + FileSR.CONFIGURATION
    if entry[0] not in ("device", "location")]

DRIVER_INFO = {
    "name": "Local encrypted EXT4 (LUKS)",
    "description": "SR plugin which represents disks as image files on a local EXT4 filesystem, "
                   "created inside an LVM volume on LUKS-encrypted disks that clevis unlocks, by "
                   "default with the TPM 2.0 of the host",
    "vendor": "luksext",
    "copyright": "(C) 2026 The luksext authors",
    "driver_version": "1.0",
    "required_api_version": "1.0",
    "capabilities": CAPABILITIES,
    "configuration": CONFIGURATION,
}

teach_gc(cleanup)


class LUKSEXTSR(EXTSR.EXTSR):
    """ext SR inside of LUKS containers.

    What is here is loaded for each command for a VDI, and does nothing that ext does not.
    """

    @staticmethod
    def handles(type):
        return type == SR_TYPE

    def load(self, sr_uuid):
        super(LUKSEXTSR, self).load(sr_uuid)
        # Set while the ext driver works on the open containers: FileSR.delete attaches and
        # detaches on its own, through the methods below.
        self.inside = False
        # blktap2 grants read caching to objects that handle 'ext'. Only this object says so, not
        # the class: SR.driver('ext') must go on finding the stock driver.
        self.handles = lambda type: type in (SR_TYPE, "ext")

    @property
    def ext(self):
        """The ext driver's own methods, on this object."""
        return super(LUKSEXTSR, self)

    @SR.deviceCheck
    def create(self, sr_uuid, size):
        self._life().create(sr_uuid, size)

    @SR.deviceCheck
    def attach(self, sr_uuid):
        (self.ext if self.inside else self._life()).attach(sr_uuid)

    def detach(self, sr_uuid):
        (self.ext if self.inside else self._unplug()).detach(sr_uuid)

    @SR.deviceCheck
    def delete(self, sr_uuid):
        self._life().delete(sr_uuid)

    @SR.deviceCheck
    def probe(self):
        return self._life().probe()

    def scan(self, sr_uuid):
        result = super(LUKSEXTSR, self).scan(sr_uuid)
        if notes.exist(notes.ADOPTION):
            self._life().complete_adopted()
        return result

    def after_master_attach(self, sr_uuid):
        if not self._life().has_nothing_to_scan():
            super(LUKSEXTSR, self).after_master_attach(sr_uuid)

    def check_sr(self, sr_uuid):
        """What SM's health service calls every ten minutes."""
        self._life().check_sr(sr_uuid)

    def _life(self):
        import luksext_life
        return luksext_life.Life(self)

    def _unplug(self):
        import luksext_unplug
        return luksext_unplug.Unplug(self)


if __name__ == "__main__":
    SRCommand.run(LUKSEXTSR, DRIVER_INFO)
else:
    SR.registerSR(LUKSEXTSR)
