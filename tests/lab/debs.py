# SPDX-License-Identifier: LGPL-2.1-only
"""The Debian packages a guest is made of: which ones, fetched and unpacked.

Everything works as an ordinary user and leaves the host's own package database alone: apt
resolves against an empty database of installed packages, in caches of our own, and no maintainer
script runs.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import LabError

WANTED = (
    # a system
    "base-files", "base-passwd", "bash", "bsdutils", "busybox-static", "coreutils", "dash",
    "debianutils", "diffutils", "findutils", "grep", "gzip", "hostname", "iproute2", "kmod", "less",
    "libc-bin", "mawk", "mount", "ncurses-base", "procps", "psmisc", "rsyslog", "sed", "strace",
    "tar", "udev", "util-linux", "xxd",
    # storage
    "cryptsetup-bin", "dmsetup", "e2fsprogs", "fdisk", "fio", "gdisk", "lsscsi", "lvm2", "mdadm",
    "qemu-utils", "sg3-utils",
    # unlocking
    "clevis", "clevis-luks", "clevis-tpm2", "jose", "luksmeta", "tang", "tpm2-tools",
    # what the storage manager and the tests run on
    "curl", "python3", "python3-bitarray", "socat",
)  # fmt: skip

KERNEL = "linux-image-amd64"

# Dependencies that only maintainer scripts, which never run here, have a use for.
UNUSED = re.compile(
    r"perl|perl-.*|libperl.*|lib.*-perl|usrmerge|debconf|dpkg|adduser|init-system-helpers"
)

# Contents that nothing in a guest reads.
LEFT_OUT = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
)

_INST = re.compile(r"^Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+) .*\[(?P<arch>\w+)\]\)")


class Package(NamedTuple):
    """One version of one binary package."""

    name: str
    version: str
    architecture: str

    @property
    def file_name(self) -> str:
        """The name `apt-get download` gives to the package's file."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def parse_simulation(text: str) -> list[Package]:
    """Return the packages that the output of `apt-get --simulate install` would install."""
    matches = (_INST.match(line) for line in text.splitlines())
    return [Package(*match.group("name", "version", "arch")) for match in matches if match]


def parse_kernel_name(text: str) -> str:
    """Return the package with the kernel itself, from `apt-cache depends linux-image-amd64`."""
    match = re.search(r"Depends: (linux-image-\S+)", text)
    if not match:
        raise LabError(f"{KERNEL} depends on no kernel image: run 'apt-get update' and try again.")
    return match.group(1)


def resolve(cache: Path) -> list[Package]:
    """Return the closure of all wanted packages and, last, the kernel's.

    `cache` is a folder for apt's own caches. Raises LabError when apt knows no package lists.
    """
    closure = parse_simulation(_apt(cache, "apt-get", "--simulate", "install", *WANTED))
    kernel = parse_kernel_name(_apt(cache, "apt-cache", "depends", KERNEL))
    # The kernel's dependencies are the tools that build an initramfs on an installed system.
    found = parse_simulation(_apt(cache, "apt-get", "--simulate", "install", kernel))
    needed = [package for package in closure if not UNUSED.fullmatch(package.name)]
    return needed + [package for package in found if package.name == kernel]


def lists_stamp() -> str:
    """Return a text that changes whenever apt's package lists do."""
    answer = subprocess.run(
        ["apt-config", "shell", "folder", "Dir::State::lists/d"],
        capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    folder = Path(shlex.split(answer)[0].removeprefix("folder="))
    lists = sorted(folder.glob("*_InRelease")) + sorted(folder.glob("*_Release"))
    if not lists:
        raise LabError("apt has no package lists: run 'apt-get update' as root and try again.")
    return "\n".join(f"{path.name} {path.stat().st_mtime_ns}" for path in lists)


def fetch(packages: Iterable[Package], folder: Path) -> list[Path]:
    """Download the packages' files into `folder` unless they are there; return their paths.

    Files of other packages are removed. apt checks each file against its signed lists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {package: folder / package.file_name for package in packages}
    missing = [package for package, path in files.items() if not path.exists()]
    if missing:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            specs = [f"{package.name}={package.version}" for package in missing]
            _apt(folder.parent, "apt-get", "download", *specs, cwd=Path(scratch))
            for package in missing:
                Path(scratch, package.file_name).rename(files[package])
    for path in set(folder.glob("*.deb")).difference(files.values()):
        path.unlink()
    return list(files.values())


def unpack(files: Sequence[Path], root: Path) -> None:
    """Unpack the packages' files into the folder `root`, owned by the user who runs this."""
    leave_out = [f"--exclude=./{path}/*" for path in LEFT_OUT]
    for path in files:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE
        ) as archive:
            # The links of the merged /usr must stay links where a package ships /bin as a folder.
            subprocess.run(
                ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner",
                 "--preserve-permissions", *leave_out],
                stdin=archive.stdout,
                check=True,
            )  # fmt: skip
        if archive.returncode:
            raise LabError(f"{path} is damaged: remove it and try again.")


def _apt(cache: Path, program: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run an apt program that sees no package as installed; return what it printed."""
    (cache / "apt").mkdir(parents=True, exist_ok=True)
    options = (
        f"Dir::Cache={cache / 'apt'}",
        "Dir::State::status=/dev/null",
        "Dir::State::extended_states=/dev/null",
        "APT::Install-Recommends=false",
        "APT::Install-Suggests=false",
        "APT::Sandbox::User=",
        "Debug::NoLocking=true",
    )
    flags = [word for option in options for word in ("-o", option)]
    done = subprocess.run(
        [program, *flags, *arguments],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LabError(
            f"{program} {arguments[0]} failed: run 'apt-get update' as root and try again.\n"
            f"{done.stderr.strip()}"
        )
    return done.stdout
