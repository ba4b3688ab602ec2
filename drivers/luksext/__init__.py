# SPDX-License-Identifier: LGPL-2.1-only
"""Encryption of block devices with LUKS, unlocked by clevis.

This package knows block devices, cryptsetup, clevis and TPMs. It knows neither
the storage manager nor XAPI: the driver LUKSEXTSR stands between them.

Everything here runs on Python 3.6 (dom0 of XCP-ng 8.3) and on current Python.
"""

VERSION = "1.0.0"
