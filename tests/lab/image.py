# SPDX-License-Identifier: LGPL-2.1-only
"""The guests' distribution root, kernel and initramfs: built once, cached, shared by all guests.

The cache is in $LUKSEXT_LAB_CACHE or ~/.cache/luksext-lab, outside of any checkout. An image's name
is a hash of all that it is made of, so a changed package list or a changed builder makes a new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import debs, kernel
from .errors import LabError

LAB = Path(__file__).parent

# An image is a product of the packages and of these.
_BUILDERS = ("debs.py", "image.py", "kernel.py", "initramfs.sh")

# Users and groups that the packages' maintainer scripts would add, with numbers that
# Debian leaves to the system (Debian Policy 9.2.2).
_USERS = {"tss": (201, "/var/lib/tpm"), "_tang": (202, "/var/lib/tang")}
_GROUPS = {"tss": 201, "_tang": 202, "input": 203, "kvm": 204, "render": 205, "sgx": 206}

# Links that stand before unpacking, since packages have files under both names.
_FOLDER_LINKS = {
    "bin": "usr/bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "sbin": "usr/sbin",
    "var/run": "run",
    "var/lock": "run/lock",
}

_LINKS = {
    "usr/bin/awk": "mawk",
    "usr/bin/which": "which.debianutils",
    "usr/bin/sh": "dash",
    "usr/sbin/init": "../bin/busybox",
    "usr/sbin/poweroff": "../bin/busybox",
    "usr/sbin/reboot": "../bin/busybox",
    "etc/mtab": "../proc/self/mounts",
}

_FILES = {
    "etc/inittab": "::sysinit:/lab/checkout/tests/lab/init\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/resolv.conf": "",
    "etc/fstab": "",
}

# compileall's own exit code tells of files that it could not compile, which does not matter here.
_COMPILE = """
import compileall, re, sys
folder, skipped = sys.argv[1:]
compileall.compile_dir(
    folder, maxlevels=20, rx=re.compile(skipped), quiet=2, stripdir=folder, prependdir="/"
)
"""

# Folders that no package has: those that an installer makes, and the lab's own.
_FOLDERS = (
    "dev", "lab/checkout", "lab/state", "media", "mnt", "opt", "proc", "run", "srv", "sys", "tmp",
    "var/tmp",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """What a guest boots from. All of it is read-only and may be shared.

    It stays in the cache for as long as somebody has not called `release`.
    """

    folder: Path
    lock: IO[bytes]

    @property
    def root(self) -> Path:
        """The unpacked distribution."""
        return self.folder / "root"

    @property
    def root_disk(self) -> Path:
        """The same as a disk image."""
        return self.folder / "root.ext4"

    @property
    def vmlinux(self) -> Path:
        """The kernel, uncompressed."""
        return self.folder / "vmlinux"

    @property
    def initramfs(self) -> Path:
        """What the kernel starts from."""
        return self.folder / "initramfs"

    def release(self) -> None:
        """Allow that the image is removed from the cache."""
        self.lock.close()


def cache_folder() -> Path:
    """Return the folder that everything built or downloaded is kept in."""
    named = os.environ.get("LUKSEXT_LAB_CACHE")
    return Path(named).absolute() if named else Path.home() / ".cache/luksext-lab"


def obtain() -> Image:
    """Return the image for this distribution's current packages; build it when there is none.

    Building takes a minute, most of it download. Two processes that need the same image at once
    build it once. Raises LabError when packages cannot be had.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"image-{_hash(debs.lists_stamp(), *_builder_sources())}"
    with _locked(cache / "build.lock"):
        if not folder.exists():
            _build(cache, folder)
            _remove_unused(cache, keep=folder)
        lock = open(folder / "in-use", "wb")  # noqa: SIM115 (Image.release closes it)
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.utime(lock.fileno())
    return Image(folder, lock)


def compile_python(root: Path, folder: Path) -> None:
    """Write bytecode for all Python files of `folder` with the Python of `root`.

    Without it a guest compiles every module that it imports anew at each boot. Files that this
    Python cannot compile are left as they are.
    """
    # Skipped: test suites and the like, which are large and never imported.
    skipped = r"/(test|tests|idlelib|lib2to3|ensurepip|turtledemo)/"
    _run_from(root, "usr/bin/python3", "-c", _COMPILE, str(folder), skipped)


def make_disk(root: Path, folder: Path, disk: Path) -> None:
    """Make a disk image with an ext4 filesystem that holds a copy of `folder`.

    A guest reads it much faster than the folder itself over 9p. `root` is the unpacked
    distribution, whose mke2fs is used.
    """
    content = sum(path.lstat().st_size for path in folder.rglob("*"))
    # Room for the filesystem's own structures and half-used blocks; what stays empty costs nothing.
    size = content * 5 // 4 + (64 << 20)
    with open(disk, "wb") as file:
        file.truncate(size)
    _run_from(
        root, "usr/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0",
        "-d", str(folder), str(disk),
    )  # fmt: skip


def _run_from(
    root: Path, program: str, *arguments: str, name: str | None = None, input: str | None = None
) -> None:
    """Run a program of an unpacked root on this host, with the root's own C library.

    It works where the host's libraries and Python are of other versions, and needs no chroot.
    `name` is what the program is called by, for one that behaves by its name; `input` is what it
    reads from its standard input.
    """
    libraries = root / "usr/lib/x86_64-linux-gnu"
    command = [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries]
    command += ["--argv0", name or program, root / program]
    done = subprocess.run(
        [*map(str, command), *arguments],
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
            "PYTHONHOME": str(root / "usr"),
            "MKE2FS_CONFIG": str(root / "etc/mke2fs.conf"),
        },
        input=input or "",
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LabError(f"{program} of the guest's root failed on this host: {done.stderr.strip()}")


def _builder_sources() -> list[str]:
    return [(LAB / name).read_text() for name in _BUILDERS]


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _build(cache: Path, folder: Path) -> None:
    """Build an image in a folder beside the final one, then give it its name."""
    print("lab: resolving packages", flush=True)
    packages = debs.resolve(cache)
    print(f"lab: fetching {len(packages)} packages", flush=True)
    files = debs.fetch(packages, cache / "debs")
    for left_over in cache.glob("building-*"):  # of a build that was killed
        remove_tree(left_over)
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
    try:
        root = scratch / "root"
        print("lab: unpacking the guest's root", flush=True)
        _build_root(files, root)
        _build_boot_files(root, scratch)
        make_disk(root, root, scratch / "root.ext4")
        (scratch / "in-use").touch()
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        if scratch.exists():
            remove_tree(scratch)


def _build_root(files: list[Path], root: Path) -> None:
    """Unpack the packages into `root` and do what their maintainer scripts would have done."""
    for name, target in _FOLDER_LINKS.items():
        (root / target).mkdir(parents=True)
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(os.path.relpath(root / target, (root / name).parent))
    debs.unpack(files, root)
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, target in _LINKS.items():
        if not (root / name).is_symlink():
            (root / name).symlink_to(target)
    for name, content in _FILES.items():
        (root / name).write_text(content)
    _write_accounts(root)
    _write_weak_words(root)
    compile_python(root, root)


def _write_accounts(root: Path) -> None:
    masters = root / "usr/share/base-passwd"
    users = "".join(
        f"{name}:x:{number}:{number}::{home}:/usr/sbin/nologin\n"
        for name, (number, home) in _USERS.items()
    )
    groups = "".join(f"{name}:x:{number}:\n" for name, number in _GROUPS.items())
    (root / "etc/passwd").write_text((masters / "passwd.master").read_text() + users)
    (root / "etc/group").write_text((masters / "group.master").read_text() + groups)
    for _number, home in _USERS.values():
        (root / home.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _write_weak_words(root: Path) -> None:
    """Make the dictionary of weak passwords, without which clevis cannot make a key (pwmake)."""
    words = (root / "usr/share/dict/cracklib-small").read_text().split()
    dictionary = root / "var/cache/cracklib/cracklib_dict"
    dictionary.parent.mkdir(parents=True, exist_ok=True)
    # The packer wants words sorted as bytes, each once.
    unique = "".join(f"{word}\n" for word in sorted({word.lower() for word in words}))
    _run_from(root, "usr/sbin/cracklib-packer", str(dictionary), input=unique)


def _build_boot_files(root: Path, scratch: Path) -> None:
    bzimage = next((root / "boot").glob("vmlinuz-*"), None)
    if bzimage is None:
        raise LabError("The kernel package holds no kernel: see tests/lab/debs.py.")
    release = bzimage.name.removeprefix("vmlinuz-")
    _run_from(root, "usr/bin/kmod", "-b", str(root), release, name="depmod")
    (scratch / "vmlinux").write_bytes(kernel.extract_vmlinux(bzimage.read_bytes()))
    init = (LAB / "initramfs.sh").read_bytes()
    (scratch / "initramfs").write_bytes(kernel.initramfs(root, release, init))


def _remove_unused(cache: Path, keep: Path) -> None:
    """Remove images that no guest runs from, but for `keep` and the last one used before.

    So two checkouts whose images differ can take turns.
    """
    others = [folder for folder in cache.glob("image-*") if folder != keep]
    others.sort(key=lambda folder: (folder / "in-use").stat().st_mtime)
    for folder in others[:-1]:
        with open(folder / "in-use", "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where it holds folders that their owner may not write to."""
    for parent, _, _ in os.walk(folder):
        os.chmod(parent, 0o700)
    shutil.rmtree(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that all processes using the cache share."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
