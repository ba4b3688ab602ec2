# SPDX-License-Identifier: LGPL-2.1-only
"""UEFI firmware for guests: Debian's OVMF, which measures what it boots into the TPM.

Its variables are a file of the machine. They start without a platform key: in this setup mode the
guest may write the Secure Boot variables without a signature (UEFI 2.10, 32.3), and any kernel
starts.
"""

from __future__ import annotations

import shutil
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path

from .errors import LabError

_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

# The vendors of OsIndications and the like, and of db and dbx.
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
IMAGE_SECURITY = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"

# Signatures in a signature list: SHA-256 hashes of images, which need no certificate (32.4.1).
_CERT_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
_CERT_PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
_OWNER = uuid.UUID("77777777-0000-4000-8000-000000000000")

# NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS, TIME_BASED_AUTHENTICATED_WRITE_ACCESS (8.2).
_AUTHENTICATED = 0x27


def variables(folder: Path) -> Path:
    """Return the file with a machine's variables, factory-fresh where it has none yet."""
    file = folder / "uefi-variables.fd"
    if not file.exists():
        if not _VARIABLES.exists():
            raise LabError("UEFI firmware needs a package that is missing: apt-get install ovmf")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_VARIABLES, file)
    return file


def flash(variables: Path) -> list[str]:
    """Return QEMU's options for the firmware; only code in system management mode writes to it."""
    file = str(variables).replace(",", ",,")
    return [
        "-global", "driver=cfi.pflash01,property=secure,value=on",
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_CODE}",
        "-drive", f"if=pflash,format=raw,unit=1,file={file}",
    ]  # fmt: skip


def kernel(root: Path) -> Path:
    """Return the kernel that the firmware starts as an EFI program, in the unpacked root."""
    return next((root / "boot").glob("vmlinuz-*"))


def signature_list(hashes: Sequence[bytes]) -> bytes:
    """Return an EFI_SIGNATURE_LIST of SHA-256 hashes: what db or dbx may hold (32.4.1)."""
    entry = 16 + 32
    size = 28 + entry * len(hashes)
    head = _CERT_SHA256.bytes_le + struct.pack("<III", size, 0, entry)
    return head + b"".join(_OWNER.bytes_le + value for value in hashes)


def authenticated(content: bytes) -> bytes:
    """Return what is written to a file of efivarfs to set a Secure Boot variable in setup mode.

    Attributes, an EFI_VARIABLE_AUTHENTICATION_2 (8.2.2) whose signature is empty, the content.
    """
    time = struct.pack("<HBBBBBBIhBB", 2026, 1, 1, *[0] * 8)
    certificate = struct.pack("<IHH", 24, 0x0200, 0x0EF1) + _CERT_PKCS7.bytes_le
    return struct.pack("<I", _AUTHENTICATED) + time + certificate + content
