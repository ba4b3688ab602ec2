# SPDX-License-Identifier: LGPL-2.1-only
"""QEMU's command line, and whether the host's processor can run guests by itself."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import uefi
from .disks import Disk
from .guestd import PORT
from .image import Image
from .lan import Nic

# Small and quick firmware, for it only has to start the kernel; SeaBIOS where it is not installed.
_QBOOT = Path("/usr/share/qemu/qboot.rom")

# "counted": the guest's clock goes on by 2 ns with each instruction (shift=1), and with the host's
# only while the guest waits. So what it computes takes the same time whatever else the host does.
_ACCELERATORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max"),
    "counted": ("-accel", "tcg,thread=single", "-cpu", "max", "-icount", "shift=1"),
}

# KVM that does not work at all is told from KVM that works within this many seconds.
_PROBE_SECONDS = 15

_KERNEL_WORDS = (
    "console=ttyS0", "quiet", "panic=-1", "net.ifnames=0", "raid=noautodetect",
    "random.trust_cpu=on",
    # What protects or checks a real machine only costs time here.
    "nokaslr", "mitigations=off", "apparmor=0", "audit=0", "cryptomgr.notests", "rodata=off",
    # QEMU translates code anew for each address that it is seen at: so programs and libraries
    # are where they were the last time, which makes starting one three times as fast.
    "norandmaps",
    # QEMU's counter is steady; without this the kernel falls back to a slow clock.
    "tsc=reliable",
)  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """Where a guest's files come from: the stage's disk image, and the folders that it mounts."""

    stage_disk: Path
    checkout: Path
    state: Path


@dataclass(frozen=True)
class Sockets:
    """File descriptors of connected sockets that QEMU inherits."""

    qmp: int
    guestd: int
    tpm: int | None


def command(
    image: Image,
    sources: Sources,
    sockets: Sockets,
    *,
    hostname: str,
    accelerator: str,
    memory_mib: int,
    cpus: int,
    disks: Sequence[Disk],
    http_port: int,
    console_log: Path,
    uefi_variables: Path | None = None,
    nic: Nic | None = None,
) -> list[str]:
    """Return the command line of a guest.

    `disks` are its SCSI targets 0, 1, …, which the guest's init brings up in this order. With a
    file of `uefi_variables` its firmware is UEFI. With a `nic` it is on a network with others.
    """
    words = [*_KERNEL_WORDS, f"lab.hostname={hostname}", f"lab.disks={len(disks)}"]
    words += [f"lab.address={nic.address}"] if nic is not None else []
    argv = [
        *_machine(accelerator, smm=uefi_variables is not None),
        *_firmware(image, uefi_variables), "-m", f"{memory_mib}M", "-smp", str(cpus),
        "-initrd", str(image.initramfs), "-append", " ".join(words),
        "-chardev", f"file,id=console,path={_escape(console_log)},append=on",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,fd={sockets.qmp}", "-mon", "chardev=qmp,mode=control",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=guestd,fd={sockets.guestd}",
        "-device", f"virtserialport,chardev=guestd,name={PORT}",
        # /dev/vda and /dev/vdb: the order counts.
        *_read_only_disk("root", image.root_disk),
        *_read_only_disk("stage", sources.stage_disk),
        *_share("checkout", sources.checkout, read_only=True),
        *_share("state", sources.state, read_only=False),
        # The guest reaches nothing; the host reaches the guest's web server.
        "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{http_port}-:80",
        "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-scsi-pci,id=scsi",
    ]  # fmt: skip
    argv += nic.options() if nic is not None else []
    for target, disk in enumerate(disks):
        argv += ["-blockdev", json.dumps(disk.blockdev())]
        argv += ["-device", json.dumps(disk.device(target))]
    if sockets.tpm is not None:
        argv += ["-chardev", f"socket,id=tpm,fd={sockets.tpm}"]
        argv += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]
    return argv


def accelerator(image: Image) -> str:
    """Return "kvm" where it really boots this image's kernel, else "tcg".

    Having /dev/kvm is not enough: in a nested virtual machine, guests may hang at their first
    instructions. It is tried once for an image on a host's boot, which takes at most
    15 seconds; the verdict is kept beside the image.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = image.folder / f"accelerator-{boot}"
    if not verdict.exists():
        verdict.write_text("kvm" if _kvm_boots(image) else "tcg")
    return verdict.read_text()


def _kvm_boots(image: Image) -> bool:
    """Tell whether a guest without any share or device says a word on its console."""
    with tempfile.TemporaryDirectory() as scratch:
        console = Path(scratch, "console")
        argv = [
            *_machine("kvm", smm=False), *_firmware(image, None), "-m", "256M",
            "-serial", f"file:{console}", "-append", "console=ttyS0 panic=-1",
        ]  # fmt: skip
        try:
            # Without a root it panics and, by panic=-1, restarts at once: so QEMU ends.
            subprocess.run(argv, timeout=_PROBE_SECONDS, capture_output=True)
        except subprocess.TimeoutExpired:
            return False
        return console.exists() and b"Kernel panic" in console.read_bytes()


def _machine(accelerator: str, *, smm: bool) -> list[str]:
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-M", f"q35,smm={'on' if smm else 'off'},vmport=off,usb=off", *_ACCELERATORS[accelerator],
    ]  # fmt: skip


def _firmware(image: Image, uefi_variables: Path | None) -> list[str]:
    """Return the options for the firmware and for the kernel in the form that it starts."""
    if uefi_variables is not None:
        return [*uefi.flash(uefi_variables), "-kernel", str(uefi.kernel(image.root))]
    bios = ["-bios", str(_QBOOT)] if _QBOOT.exists() else []
    return [*bios, "-kernel", str(image.vmlinux)]


def _read_only_disk(name: str, image: Path) -> list[str]:
    file = {"driver": "file", "filename": str(image)}
    blockdev = {"driver": "raw", "node-name": name, "read-only": True, "file": file}
    return ["-blockdev", json.dumps(blockdev), "-device", f"virtio-blk-pci,drive={name}"]


def _share(tag: str, folder: Path, *, read_only: bool) -> list[str]:
    """Return the options that offer a host's folder to the guest under the name `tag`.

    With the security model "none", files keep the mode that the guest gives them, and belong to
    the user that runs QEMU: it needs no privilege.
    """
    options = f"local,id={tag},path={_escape(folder)},security_model=none,multidevs=remap"
    if read_only:
        options += ",readonly=on"
    return ["-fsdev", options, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _escape(path: Path) -> str:
    """Return a path as it must be in a list of options (a comma is doubled)."""
    return str(path).replace(",", ",,")
