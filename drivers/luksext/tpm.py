# SPDX-License-Identifier: LGPL-2.1-only
"""The host's TPM 2.0: is it there, does it answer, does it accept requests?

clevis and its pins differ between versions in every text that they print, so the state of the TPM
is asked of the TPM and never guessed from a message.
"""
import contextlib
import os
import re
import shutil
import struct

from luksext import alive
from luksext.errors import (CommandFailed, CommandTimeout, NoTpm, TimeOver, TpmBroken,
                            TpmLockout)
from luksext.run import PATH, log, run, time_for

# The kernel's resource manager; clevis insists on it.
DEVICE = "/dev/tpmrm0"

_DEADLINE = 20
_REST_SECONDS = 5

# TPMA_PERMANENT.inLockout, bit 9 (TPM 2.0 Library, Part 2, 8.6), as tpm2-tools print it.
_IN_LOCKOUT = re.compile(r"inLockout:\s*(1|set)", re.IGNORECASE)

# TPMA_PERMANENT.ownerAuthSet and TPMA_STARTUP_CLEAR.shEnable (8.6, 8.7).
_OWNER_HAS_PASSWORD = re.compile(r"ownerAuthSet:\s*(1|set)", re.IGNORECASE)
_OWNER_DISABLED = re.compile(r"shEnable:\s*(0|clear)", re.IGNORECASE)

# TPM2_Shutdown with TPM_SU_CLEAR (Part 3, 9.4): tag, size, command, kind. Not by tpm2-tools, which
# have it since version 4 only.
_SHUTDOWN = struct.pack(">HIIH", 0x8001, 12, 0x145, 0)
_ANSWER_BYTES = 10


def check() -> None:
    """Raises NoTpm, TpmBroken or TpmLockout where the TPM cannot serve; else returns."""
    if not os.path.exists(DEVICE):
        raise NoTpm()
    if shutil.which("tpm2_getcap", path=PATH) is None:
        return
    if _IN_LOCKOUT.search(_variable_properties()):
        raise TpmLockout()


def owner_problem() -> str:
    """Why clevis cannot make keys in the owner hierarchy; empty where it can, or cannot be told.

    Raises TpmBroken.
    """
    if shutil.which("tpm2_getcap", path=PATH) is None:
        return ""
    properties = _variable_properties()
    if _OWNER_DISABLED.search(properties):
        return "is disabled"
    return "has a password" if _OWNER_HAS_PASSWORD.search(properties) else ""


def rest() -> None:
    """Tells the TPM that power may go; the next request wakes it up.

    To a TPM that served a key and loses power without that, the next start is an attack, and after
    a few of those it refuses all requests (seen with swtpm, after three). Linux tells it when it
    shuts down (drivers/char/tpm/tpm-chip.c); it cannot when the power fails. For the failure of
    this alone nothing fails. A TPM that hangs keeps whoever writes to it in the kernel.
    """
    told = False
    with contextlib.suppress(TimeOver):
        told = alive.does(_shut_down, time_for("telling the TPM", _REST_SECONDS))
    if not told:
        log.warning("the TPM was not told that power may go")


def _shut_down() -> None:
    with open(DEVICE, "r+b", buffering=0) as chip:
        chip.write(_SHUTDOWN)
        chip.read(_ANSWER_BYTES)


def _variable_properties() -> str:
    # tpm2-tools 4 and later take the capability as an argument, 3.x as an option: of a TPM that
    # fails, only what one of both says is about that.
    said = []
    for arguments in (["properties-variable"], ["-c", "properties-variable"]):
        try:
            result = run(["tpm2_getcap", "-T", "device:" + DEVICE, *arguments], deadline=_DEADLINE)
            return result.stdout.decode("utf-8", "replace")
        except CommandTimeout as error:
            raise TpmBroken(error.sentence.rstrip(".")) from error
        except CommandFailed as error:
            said.append(error.sentence.rstrip("."))
    raise TpmBroken("; ".join(said))
