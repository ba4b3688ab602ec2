# SPDX-License-Identifier: LGPL-2.1-only
"""The stage of a machine: what dom0 has and Debian has not, remade only when it changed."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .image import Image, compile_python, make_disk


def refresh(image: Image, disk: Path, sm: Path | None, hostname: str) -> None:
    """Make the disk image `disk` with the stage that the checkout gives now.

    A stage that would be the same is left alone, so that a reboot is quick.
    """
    disk.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
        folder = Path(scratch, "stage")
        importlib.import_module(f"{__package__}.stage").build(folder, sm)
        _write_inventory(folder, hostname)
        digest = f"{image.folder.name} {_digest(folder)}"
        seal = disk.with_suffix(".digest")
        if seal.exists() and seal.read_text() == digest:
            return
        compile_python(image.root, folder)
        seal.unlink(missing_ok=True)
        make_disk(image.root, folder, disk)
        seal.write_text(digest)


def _write_inventory(stage: Path, hostname: str) -> None:
    """Give the host its identity, which follows from its name alone."""
    program = stage / "usr/lib/lab/inventory"
    text = subprocess.run(
        [sys.executable, str(stage / os.readlink(program).lstrip("/")), hostname],
        capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    (stage / "etc/xensource-inventory").write_text(text)


def _digest(folder: Path) -> str:
    """Return a hash of all names, modes and contents under a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)} {path.lstat().st_mode} ".encode())
        if path.is_symlink():
            total.update(os.readlink(path).encode())
        elif path.is_file():
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
