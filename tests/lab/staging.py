# SPDX-License-Identifier: LGPL-2.1-only
"""The stage of a machine: what dom0 has and Debian has not, remade only when it changed."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .image import Image, compile_python


def refresh(image: Image, folder: Path, sm: Path | None, hostname: str) -> None:
    """Bring the stage in `folder` up to date with the checkout.

    A stage that would be the same is left alone with its compiled Python, so that a reboot is
    quick.
    """
    fresh = folder.with_name(f"{folder.name}.new")
    importlib.import_module(f"{__package__}.stage").build(fresh, sm)
    _write_inventory(fresh, hostname)
    digest = f"{image.folder.name} {_digest(fresh)}"
    seal = folder.with_name(f"{folder.name}.digest")
    if folder.exists() and seal.exists() and seal.read_text() == digest:
        shutil.rmtree(fresh)
        return
    shutil.rmtree(folder, ignore_errors=True)
    compile_python(image.root, fresh)
    fresh.rename(folder)
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
