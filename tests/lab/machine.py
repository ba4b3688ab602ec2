# SPDX-License-Identifier: LGPL-2.1-only
"""A host of the lab: a guest with disks and a TPM, which can lose any of them.

    with Machine("host-a", folder) as machine:
        machine.add_disk("one")
        machine.start()
        print(machine.run("lsblk").out)
        machine.power_cut()
        machine.start()

All that a machine keeps while it is off is in its folder: disks, TPMs, state. Leaving the `with`
block, or the end of this process, cuts the power of what still runs.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

from . import disks, host, image, qemu, staging, swtpm, uefi
from .disks import Disk
from .errors import LabError
from .guest import Guest, Result, Terminal
from .lan import Nic
from .process import spawn
from .qmp import Qmp

Firmware = Literal["bios", "uefi"]

CHECKOUT = Path(__file__).resolve().parents[2]

# Seconds. Generous: a loaded host that emulates the processor is slow, and this only ends a wait
# that would have no end.
_BOOT_TIMEOUT = 120
_POWER_OFF_TIMEOUT = 120
_DEVICE_TIMEOUT = 30

# Filesystems go by umount, and the TPM by the kernel's own shutdown of devices. Unplugging is what
# xapi-domains.service asks of xapi when dom0 stops.
_STOP = """
. /etc/xensource-inventory
[ ! -e /usr/bin/xe ] || xe host-prepare-for-poweroff host-uuid=$INSTALLATION_UUID
umount -a -t ext2,ext3,ext4,xfs
sync
busybox poweroff -f
"""

_WAIT_FOR_XAPI = """
[ -e /usr/lib/lab/xapi ] || exit 0
until [ -e /run/lab/xapi-ready ]; do
    [ ! -e /run/lab/xapi-ended ] || exit 1
    sleep 0.1
done
"""

# A sealed object with a password and without "noda" in its attributes counts wrong passwords.
_LOCK_OUT = """
set -e
folder=$(mktemp -d)
cd "$folder"
tpm2_createprimary -Q -C o -c primary
attributes='fixedtpm|fixedparent|userwithauth'
echo secret | tpm2_create -Q -C primary -p right -a "$attributes" -i - -u public -r private
tpm2_load -Q -C primary -u public -r private -c sealed
until tpm2_getcap properties-variable | grep -q 'inLockout: *1'; do
    ! tpm2_unseal -p wrong -c sealed 2> /dev/null
    [ $((tries += 1)) -lt 40 ]
done
rm -r "$folder"
"""

_running: weakref.WeakSet[Machine] = weakref.WeakSet()


class Machine:
    """One host. Its methods are meant for one thread at a time, but for `run`, `put` and `get`."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        sm: Path | None = None,
        memory_mib: int = 1024,
        cpus: int = 2,
        tpm: bool = True,
        firmware: Firmware = "bios",
        nic: Nic | None = None,
        counted: bool = False,
    ) -> None:
        """Describe a machine; nothing runs yet.

        `name` is its hostname, from which its identity follows. `folder` holds all it keeps, and
        a machine made again on the same folder goes on where the last one stopped. `sm` is a
        checkout of a real SM, None takes the lab's own. UEFI firmware measures the boot into the
        TPM and has variables, which are kept; it starts much more slowly. With a `nic` it is on a
        network with other machines. One that is `counted` is emulated, with one processor, and its
        clock counts instructions: for who measures.
        """
        self.name = name
        self.folder = folder.resolve()
        self.http_port = 0
        self.boot_seconds = 0.0
        self._sm = sm
        self._memory_mib = memory_mib
        self._cpus = cpus
        self._firmware = firmware
        self._nic = nic
        self._counted = counted
        self._process: subprocess.Popen[bytes] | None = None
        self._tpm: swtpm.Chip | None = None
        self._guest: Guest | None = None
        self._qmp: Qmp | None = None
        self._image: image.Image | None = None
        self._targets: list[str | None] = []
        self._disks: dict[str, Disk] = {}
        self._chip = 0
        self._has_tpm = tpm
        self._load()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.power_cut()

    @property
    def console_log(self) -> Path:
        """What the kernel wrote to its console, over all boots."""
        return self.folder / "console.log"

    @property
    def address(self) -> str:
        """Its address on the network with other machines, if it is on one."""
        return self._nic.address if self._nic is not None else ""

    @property
    def running(self) -> bool:
        """Whether the machine has power."""
        return self._process is not None and self._process.poll() is None

    @property
    def disks(self) -> dict[str, Disk]:
        """The machine's disks by name, in the order that they have at the next start."""
        return dict(self._disks)

    # Power

    def start(self) -> None:
        """Boot; return when commands can be run and the emulator, if any, has plugged its PBDs.

        The stage is made anew, so changes of the checkout are seen. Raises LabError when the host
        lacks a program, or the guest does not come up; the text ends with what it said.
        """
        if self.running:
            raise LabError(f"{self.name} is running already.")
        host.check()
        self._release()
        begin = time.monotonic()
        self._image = boot_image = image.obtain()
        staging.refresh(boot_image, self._stage_disk, self._sm, self.name)
        try:
            self._boot(boot_image)
        except LabError as error:
            # An emulated guest was seen to stop early in its kernel, for a reason not found.
            print(f"lab: power-cycling {self.name} once: {error}", file=sys.stderr)
            self.power_cut()
            self._boot(boot_image)
        self.boot_seconds = time.monotonic() - begin

    def shutdown(self) -> None:
        """Shut down in order: the emulator unplugs all PBDs, filesystems are unmounted."""
        process = self._alive()
        self._ask_to_stop()
        try:
            process.wait(_POWER_OFF_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} does not power off.\n{self._last_words()}") from None
        self._release()

    def reboot(self) -> None:
        """Shut down in order and start again."""
        self.shutdown()
        self.start()

    def power_cut(self) -> None:
        """Take the power away at once; a machine that is off stays off.

        What the guest had not flushed to its disks may be lost, and the TPM sees a start without a
        shutdown before, which it counts as an attack if a key was used that counts.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._release()

    # Commands and files

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        check: bool = True,
    ) -> Result:
        """Run a command as root in the guest: see Guest.run."""
        return self._connected().run(command, input=input, env=env, timeout=timeout, check=check)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file in the guest, with the folders that lead to it."""
        self._connected().put(path, data, mode)

    def get(self, path: str) -> bytes:
        """Return a file of the guest."""
        return self._connected().get(path)

    def terminal(self, argv: Sequence[str], rows: int, columns: int) -> Terminal:
        """Start a program on a terminal of its own in the guest."""
        return self._connected().terminal(argv, rows, columns)

    # Disks

    def add_disk(
        self, name: str, size: str = "1G", *, logical: int = 512, physical: int = 512
    ) -> Disk:
        """Add a new, empty disk; a running guest sees it when this returns.

        `size` is like "1G"; `logical` and `physical` are block sizes in bytes.
        """
        disk = disks.create(self.folder / "disks", self.name, name, size, logical, physical)
        self.insert_disk(disk)
        return disk

    def insert_disk(self, disk: Disk) -> None:
        """Add a disk that was removed before, here or elsewhere; its file moves to this machine."""
        if disk.name in self._disks:
            raise LabError(f"{self.name} has a disk '{disk.name}' already.")
        folder = self.folder / "disks"
        folder.mkdir(parents=True, exist_ok=True)
        old_path, disk.folder = disk.path, folder
        old_path.rename(disk.path)
        self._disks[disk.name] = disk
        self._save()
        if self.running:
            self._plug(disk)

    def remove_disk(self, name: str) -> Disk:
        """Take a disk away, also out of a running guest; its file is kept."""
        disk = self._disk(name)
        if self.running:
            self._unplug(disk)
        del self._disks[name]
        self._save()
        return disk

    def grow_disk(self, name: str, size: str) -> Disk:
        """Enlarge a disk to `size`, like "1G"; the running guest's kernel is not told."""
        disk = self._disk(name)
        length = disks.parse_size(size)
        if length < disk.path.stat().st_size:
            raise LabError(f"The disk '{name}' of {self.name} is larger than {size} already.")
        if self.running:
            self._monitor().execute(
                "block_resize", **{"node-name": disk.device_id, "size": length})
        else:
            os.truncate(disk.path, length)
        return disk

    def throttle_disk(self, name: str, bytes_per_second: int) -> None:
        """Let a disk of the running guest be no faster than that, and 0: as fast as it is.

        With 1, the disk hangs: its requests wait until it is let go.
        """
        limits = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
        self._monitor().execute("block_set_io_throttle", id=self._disk(name).device_id,
                                bps=bytes_per_second, **limits)

    def spoil_disk(self, name: str, *bad: tuple[str, int]) -> None:
        """Give a disk bad sectors, in the place of those that it had: see Disk.

        It is taken out of a running guest for a moment.
        """
        disk = self.remove_disk(name)
        disk.bad = list(bad)
        self.insert_disk(disk)

    def move_disk(self, name: str, other: Machine) -> Disk:
        """Take a disk away and put it into another machine."""
        disk = self.remove_disk(name)
        other.insert_disk(disk)
        return disk

    def order_disks(self, names: Sequence[str]) -> None:
        """Put the disks in an order: at the next start, they are /dev/sda, /dev/sdb, …"""
        if sorted(names) != sorted(self._disks):
            raise LabError(f"Name each disk of {self.name} once: {', '.join(self._disks)}.")
        self._disks = {name: self._disks[name] for name in names}
        self._save()

    # The TPM

    def remove_tpm(self) -> None:
        """Have no TPM from the next start on; the chip keeps its state."""
        self._has_tpm = False
        self._save()

    def insert_tpm(self) -> None:
        """Have the TPM back from the next start on."""
        self._has_tpm = True
        self._save()

    def swap_tpm(self) -> None:
        """Have the other of two TPMs from the next start on; a second swap undoes that."""
        self._chip = 1 - self._chip
        self._save()

    def hanging_tpm(self) -> contextlib.AbstractContextManager[None]:
        """Within, the running guest's TPM answers nothing; afterwards, what it was asked too."""
        assert self._tpm is not None
        return self._tpm.hanging()

    def slow_tpm(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Within, the running guest's TPM needs so much longer for each request."""
        assert self._tpm is not None
        return self._tpm.slow(seconds)

    def clear_tpm(self) -> None:
        """Clear the running guest's TPM as its owner: all that was sealed to it is lost."""
        self.run("tpm2_clear")

    def extend_pcr(self, index: int) -> None:
        """Extend a PCR of the running guest's TPM in the SHA-256 bank; a start resets it."""
        self.run(["tpm2_pcrextend", f"{index}:sha256={1:064x}"])

    def reset_pcr(self, index: int) -> None:
        """Set a PCR of the running guest's TPM that Linux may reset, 16 or 23, to what it is after
        a start (PC Client Platform TPM Profile, 4.6)."""
        self.run(["tpm2_pcrreset", str(index)])

    def lock_out_tpm(self) -> None:
        """Drive the running guest's TPM into its dictionary-attack lockout by wrong passwords."""
        self.run(_LOCK_OUT)

    def clear_lockout(self) -> None:
        """End the lockout of the running guest's TPM, as its owner may at any time."""
        self.run("tpm2_dictionarylockout --clear-lockout")

    # The firmware

    def set_secure_boot_variable(self, name: str, content: bytes) -> None:
        """Set db or dbx of the running guest's UEFI firmware; nothing as content removes it."""
        file = f"/sys/firmware/efi/efivars/{name}-{uefi.IMAGE_SECURITY}"
        # A variable is written as a whole; those that a firmware may need are protected.
        write = f"[ ! -e {file} ] || chattr -i {file}; dd bs=1M conv=notrunc of={file}"
        self.run(write, input=uefi.authenticated(content))

    # What is behind it

    def _boot(self, boot_image: image.Image) -> None:
        self._power_on(boot_image)
        self._wait_for_boot()

    def _power_on(self, boot_image: image.Image) -> None:
        state = self.folder / "state"
        state.mkdir(parents=True, exist_ok=True)
        qmp, for_qmp = socket.socketpair()
        guestd, for_guestd = socket.socketpair()
        theirs = [for_qmp, for_guestd]
        tpm = None
        if self._has_tpm:
            self._tpm = swtpm.Chip(self.folder / f"tpm-{self._chip}")
            theirs.append(self._tpm.for_qemu)
            tpm = self._tpm.for_qemu.fileno()
        self.http_port = _free_port()
        self._targets = list(self._disks)
        argv = qemu.command(
            boot_image,
            qemu.Sources(self._stage_disk, CHECKOUT, state),
            qemu.Sockets(for_qmp.fileno(), for_guestd.fileno(), tpm),
            hostname=self.name,
            accelerator="counted" if self._counted else qemu.accelerator(boot_image),
            memory_mib=self._memory_mib,
            cpus=self._cpus,
            disks=list(self._disks.values()),
            http_port=self.http_port,
            console_log=self.console_log,
            uefi_variables=uefi.variables(self.folder) if self._firmware == "uefi" else None,
            nic=self._nic,
        )
        self._process = spawn(argv, self._qemu_log, [end.fileno() for end in theirs])
        _running.add(self)
        for end in theirs:
            end.close()
        self._guest = Guest(guestd)
        try:
            self._qmp = Qmp(qmp)
        except LabError as error:
            raise LabError(f"QEMU does not start: {error}\n{self._last_words()}") from error

    def _wait_for_boot(self) -> None:
        guest = self._connected()
        if not guest.wait(_BOOT_TIMEOUT):
            words = self._last_words()
            self.power_cut()
            raise LabError(f"{self.name} does not boot. Its last words:\n{words}")
        if guest.run(_WAIT_FOR_XAPI, check=False, timeout=_BOOT_TIMEOUT).rc:
            words = guest.run("tail -n 30 /var/log/xapi.out").out
            raise LabError(f"The XAPI emulator does not come up. Its last words:\n{words}")

    def _ask_to_stop(self) -> None:
        # The answer never comes: the guest is off before.
        with contextlib.suppress(LabError):
            self._connected().run(_STOP, timeout=_POWER_OFF_TIMEOUT)

    def _plug(self, disk: Disk) -> None:
        target = self._free_target()
        self._monitor().execute("blockdev-add", **disk.blockdev())
        self._monitor().execute("device_add", **disk.device(target))
        self._targets[target] = disk.name
        wait = f"until [ -e {disk.by_id} ]; do sleep 0.05; done"
        self.run(wait, timeout=_DEVICE_TIMEOUT)

    def _unplug(self, disk: Disk) -> None:
        target = self._targets.index(disk.name)
        self._monitor().execute("device_del", id=disk.device_id)
        if not self._monitor().wait_device_deleted(disk.device_id, _DEVICE_TIMEOUT):
            raise LabError(f"The disk '{disk.name}' of {self.name} does not go away.")
        self._monitor().execute("blockdev-del", **{"node-name": disk.device_id})
        self._targets[target] = None
        gone = f"while [ -e /sys/bus/scsi/devices/*:0:{target}:0 ]; do sleep 0.05; done"
        self.run(f"{gone}; udevadm settle", timeout=_DEVICE_TIMEOUT)

    def _free_target(self) -> int:
        if None not in self._targets:
            self._targets.append(None)
        return self._targets.index(None)

    def _disk(self, name: str) -> Disk:
        if name not in self._disks:
            raise LabError(f"{self.name} has no disk '{name}', only: {', '.join(self._disks)}.")
        return self._disks[name]

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or not self.running:
            raise LabError(f"{self.name} is not running: start it first.")
        return self._process

    def _connected(self) -> Guest:
        self._alive()
        assert self._guest is not None
        return self._guest

    def _monitor(self) -> Qmp:
        self._alive()
        assert self._qmp is not None
        return self._qmp

    def _release(self) -> None:
        """Give back what a boot has taken."""
        if self._qmp is not None:
            self._qmp.close()
        if self._guest is not None:
            self._guest.close()
        if self._tpm is not None:
            self._tpm.wait(_DEVICE_TIMEOUT)
        if self._image is not None:
            self._image.release()
        self._process = self._tpm = self._guest = self._qmp = self._image = None
        _running.discard(self)

    def _last_words(self) -> str:
        lines: list[str] = []
        for log in (self.console_log, self._qemu_log):
            if log.exists():
                lines += log.read_text(errors="replace").splitlines()[-20:]
        return "\n".join(lines)

    @property
    def _qemu_log(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def _stage_disk(self) -> Path:
        return self.folder / "stage.ext4"

    @property
    def _record(self) -> Path:
        return self.folder / "machine.json"

    def _save(self) -> None:
        """Keep what the machine is made of, for the next one on the same folder."""
        kept = [asdict(disk) | {"folder": None} for disk in self._disks.values()]
        record = {"disks": kept, "chip": self._chip, "has_tpm": self._has_tpm}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps(record, indent=1))

    def _load(self) -> None:
        if self._record.exists():
            record: dict[str, Any] = json.loads(self._record.read_text())
            self._chip, self._has_tpm = record["chip"], record["has_tpm"]
            for kept in record["disks"]:
                disk = Disk(**kept | {"folder": self.folder / "disks"})
                self._disks[disk.name] = disk


def _free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@atexit.register
def _cut_all_power() -> None:
    for machine in list(_running):
        machine.power_cut()
