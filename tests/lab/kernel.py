# SPDX-License-Identifier: LGPL-2.1-only
"""What QEMU boots: the kernel's uncompressed image, and an initramfs that finds the guest's root.

A compressed kernel would unpack itself in the guest, which costs seconds when the guest's processor
is emulated. QEMU starts an uncompressed one at its PVH entry at once.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import LabError

# What it takes to mount the root and to talk to the host. Dependencies come along.
BOOT_MODULES = (
    "virtio_pci", "virtio_blk", "ext4", "crc32c_intel", "overlay", "9pnet_virtio", "9p",
    "virtio_console", "virtio_scsi", "sd_mod", "sg", "dm_mod", "virtio_net",
)  # fmt: skip

# Where the initramfs' init mounts things.
_FOLDERS = ("bin", "dev", "distribution", "modules", "over", "proc", "root", "stage")

_SIGNED = b"~Module signature appended~\n"

_ELF = b"\x7fELF"


def _by_program(*command: str) -> Callable[[bytes], bytes]:
    def decompress(data: bytes) -> bytes:
        try:
            # Both programs write all they can before they complain of what follows the stream.
            return subprocess.run(command, input=data, capture_output=True).stdout
        except FileNotFoundError:
            raise LabError(
                f"This kernel needs '{command[0]}' to unpack: 'apt-get install {command[0]}'."
            ) from None

    return decompress


# By the first bytes of a stream; the kernel's build knows more methods, Debian uses these.
_DECOMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"\xfd7zXZ\x00": lambda data: lzma.LZMADecompressor().decompress(data),
    b"\x28\xb5\x2f\xfd": _by_program("zstd", "-dcq"),
    b"\x02\x21\x4c\x18": _by_program("lz4", "-dcq"),
}


def decompress(data: bytes) -> bytes:
    """Return the content of a compressed stream (gzip, xz, zstd, lz4); data in clear as it is."""
    for magic, method in _DECOMPRESSORS.items():
        if data.startswith(magic):
            return method(data)
    return data


def extract_vmlinux(bzimage: bytes) -> bytes:
    """Return the ELF image in a bzImage.

    The offsets are those of the x86 boot protocol, 2.08 and later (the kernel's
    Documentation/arch/x86/boot.rst): setup_sects at 0x1f1, "HdrS" at 0x202, payload_offset at 0x248
    (from the end of the setup sectors), payload_length at 0x24c. Raises LabError for other data.
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise LabError("The kernel package's image is no bzImage: this architecture is not known.")
    setup_end = (bzimage[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    payload = bzimage[setup_end + offset : setup_end + offset + length]
    # The last four bytes are the size of the image in clear, put there by the kernel's build for
    # all methods but gzip, where they belong to the stream.
    stream = payload if payload.startswith(b"\x1f\x8b") else payload[:-4]
    image = decompress(stream)
    if not image.startswith(_ELF):
        raise LabError("The kernel is packed in a way that is not known: see tests/lab/kernel.py.")
    return image


def load_order(dependencies: str, wanted: Iterable[str]) -> list[str]:
    """Return the module files to load, in order, for the wanted modules.

    `dependencies` is the text of modules.dep. A module that is not there is built in.
    """
    needs = dict(_parse_dependencies(dependencies))
    order: dict[str, None] = {}
    for name in wanted:
        for path in needs.get(name, ()):
            order.setdefault(path)
    return list(order)


def _parse_dependencies(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each module's name and the files to load for it, in order (itself last)."""
    for line in text.splitlines():
        path, _, needs = line.partition(":")
        # modules.dep lists what a module needs in the order opposite to loading.
        yield _module_name(path), [*reversed(needs.split()), path]


def _module_name(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".")[0].replace("-", "_")


def without_signature(module: bytes) -> bytes:
    """Return a kernel module without its signature, which takes a while to verify at each boot.

    It is at the end, before a block of 12 bytes whose last four are the signature's length and a
    closing text (the kernel's scripts/sign-file.c and include/linux/module_signature.h).
    """
    if not module.endswith(_SIGNED):
        return module
    block_end = len(module) - len(_SIGNED)
    (length,) = struct.unpack(">I", module[block_end - 4 : block_end])
    return module[: block_end - 12 - length]


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return an archive of (name, mode, content) in the format that the kernel unpacks at boot.

    Folders must come before what is in them. Format "newc": the kernel's
    Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        archive += b"\0" * (-len(archive) % 4)
        archive += content
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)


def initramfs(root: Path, release: str, init: bytes) -> bytes:
    """Return an initramfs in clear with a static busybox, the boot modules and `init`.

    `root` is the unpacked distribution and `release` the kernel's (as in /lib/modules/RELEASE).
    """
    modules = root / "usr/lib/modules" / release
    order = load_order((modules / "modules.dep").read_text(), BOOT_MODULES)
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in _FOLDERS]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, (root / "usr/bin/busybox").read_bytes()))
    entries.append(("init", stat.S_IFREG | 0o755, init))
    for place, path in enumerate(order):
        content = without_signature(decompress((modules / path).read_bytes()))
        # The name begins with the place in the order: init loads them as the shell sorts them.
        name = f"modules/{place:02}-{_module_name(path)}.ko"
        entries.append((name, stat.S_IFREG | 0o644, content))
    return cpio(entries)
