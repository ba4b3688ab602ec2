# SPDX-License-Identifier: LGPL-2.1-only
"""TPM 2.0 chips in software. A chip is a folder; it is powered by a swtpm process per boot."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from .process import spawn


def power(chip: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Power a chip on; return its process and the connection that QEMU controls it by.

    An empty or missing folder is a chip fresh from the factory. The process ends by itself when the
    other end of the connection is closed, without an orderly TPM2_Shutdown unless the guest did
    one: so a power cut of the guest is one of its chip, too.
    """
    chip.mkdir(parents=True, exist_ok=True)
    ours, for_qemu = socket.socketpair()
    with ours:
        process = spawn(command(chip, ours.fileno()), chip / "swtpm.log", [ours.fileno()])
    return process, for_qemu


def command(chip: Path, control: int) -> list[str]:
    """Return the command line of a swtpm that keeps its state in `chip`, for a connected socket.

    The flags stand for the firmware, which would start the chip up (TPM2_Startup, state "clear").
    """
    return [
        "swtpm", "socket", "--tpm2",
        "--tpmstate", f"dir={chip}",
        "--ctrl", f"type=unixio,clientfd={control}",
        "--flags", "not-need-init,startup-clear",
        "--terminate",
    ]  # fmt: skip
