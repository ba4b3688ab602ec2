# SPDX-License-Identifier: LGPL-2.1-only
"""A folder that is shaped like dom0's root, into which `rpm` installs, with a database of its own.

Scriptlets run chrooted in it: it has a shell and the few programs that they use, an `xe` that
answers what a test wants, and a `systemctl` that notes what it is asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.lab import stage

# What scriptlets and luksext-needed call.
PROGRAMS = ("sh", "rm", "rmdir", "cat", "sed", "timeout")

# The packages of XCP-ng 8.3, at the versions that it has.
XCP_NG_8 = {
    "sm": "3.2.12-21.9.xcpng8.3", "xapi-core": "26.1.4-3.1.xcpng8.3",
    "xapi-xe": "26.1.4-3.1.xcpng8.3",
    "cryptsetup": "2.0.3-6.el7", "curl": "7.29.0-59.el7", "clevis": "7-8.el7",
    "clevis-luks": "7-8.el7", "luksmeta": "8-2.el7", "jose": "10-1.el7",
    "tpm2-tools": "3.0.4-3.el7",
    "lvm2": "7:2.02.180-18.xs.1.xcpng8.3", "device-mapper": "7:1.02.149-18.xs.1.xcpng8.3",
    "e2fsprogs": "1.47.0-1.xcpng8.3", "util-linux": "2.23.2-52.el7",
    "systemd": "219-57.5.xs8.xcpng8.3", "python(abi)": "3.6",
}

# Those of an EL10 with version 4 of the storage manager.
XCP_NG_9 = {
    "sm": "4.1.14-1.xcpng9", "xapi-core": "26.4.0-1.xcpng9", "xapi-xe": "26.4.0-1.xcpng9",
    "cryptsetup": "2.7.3-3.el10", "curl": "8.9.1-5.el10", "clevis": "21-8.el10",
    "clevis-luks": "21-8.el10", "luksmeta": "9-24.el10", "jose": "14-102.el10",
    "tpm2-tools": "5.7-3.el10",
    "lvm2": "10:2.03.28-6.el10", "device-mapper": "10:1.02.202-6.el10",
    "e2fsprogs": "1.47.1-3.el10", "util-linux": "2.40.2-10.el10",
    "systemd": "257-9.el10", "python(abi)": "3.12",
}

XE = """\
#!/bin/sh
[ -e /xe-answer ] || exit 1
cat /xe-answer
"""

SYSTEMCTL = """\
#!/bin/sh
echo "$@" >>/systemctl-calls
"""

# rpm's database, and what the stand-ins keep.
NOT_OF_PACKAGES = ("var/lib/rpm/", "xe-answer", "systemctl-calls", "dev/null")


class RpmError(Exception):
    """`rpm` failed; the text is all that it printed."""


class Dom0:
    """One such folder. `packages`: name and version of what is installed in it already."""

    def __init__(self, root: Path, packages: Mapping[str, str]) -> None:
        self.root = root
        stage.install_dom0(root)
        stage.install_sm(root, stage.STAND_IN_SM)
        for name in PROGRAMS:
            self._copy_program(name)
        for name, text in (("xe", XE), ("systemctl", SYSTEMCTL)):
            self.write(f"usr/bin/{name}", text, 0o755)
        # A device cannot be made by every user; a file takes what scriptlets throw away as well.
        self.write("dev/null", "", 0o666)
        self.rpm("--install", str(stand_in(root.parent, packages)))

    def rpm(self, *arguments: str) -> str:
        """What `rpm` prints. Raises RpmError."""
        # Scriptlets are chrooted, which a user may do in a namespace only.
        own = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
        ended = subprocess.run(
            [*own, "rpm", "--force-debian", "--root", str(self.root),
             "--dbpath", "/var/lib/rpm", "--noplugins", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if ended.returncode:
            raise RpmError(ended.stdout)
        return ended.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def set_srs(self, *uuids: str) -> None:
        """What XAPI answers when it is asked for the SRs of our type."""
        self.write("xe-answer", ",".join(uuids) + "\n")

    def systemctl_calls(self) -> list[str]:
        calls = self.root / "systemctl-calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def contents(self) -> dict[str, str]:
        """Every file and folder that is of packages, by what it holds."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if name.startswith(NOT_OF_PACKAGES):
                continue
            if path.is_symlink():
                found[name] = "-> " + os.readlink(path)
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[name] = "folder"
        return found

    def _copy_program(self, name: str) -> None:
        program = shutil.which(name)
        assert program, name
        libraries = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True,
                                   check=True).stdout
        for source in [program, *re.findall(r"(?:^|\s)(/\S+)", libraries)]:
            target = self.root / ("usr/bin/" + name if source == program else source.lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        link = self.root / "bin"
        if not link.is_symlink():
            link.symlink_to("usr/bin")


def stand_in(folder: Path, packages: Mapping[str, str]) -> Path:
    """An empty package that provides `packages`."""
    provided = "\n".join(f"Provides: {name} = {version}" for name, version in packages.items())
    spec = folder / "dom0.spec"
    spec.write_text(
        "Name: dom0\nVersion: 1\nRelease: 1\nSummary: What dom0 has\nLicense: none\n"
        f"BuildArch: noarch\nProvides: /bin/sh /usr/bin/python3\n{provided}\n"
        "%description\nIt has nothing of it.\n%files\n")
    subprocess.run(["rpmbuild", "-bb", "--quiet", "--nodeps", "--define", f"_topdir {folder}/dom0",
                    str(spec)], check=True)
    return folder / "dom0/RPMS/noarch/dom0-1-1.noarch.rpm"
