# SPDX-License-Identifier: LGPL-2.1-only
"""Hosts as an administrator meets them: through `xe`, and through a shell in dom0."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.lab.xapi.cli import main as xe
from tests.lab.xapi.cli.client import SOCKET, Client

VDI_SIZE = 8 * 1024 * 1024

# Seconds that a host may take to start again, with its SRs.
PATIENCE = 300

# What Host.left_open says of a host where nothing is.
NOTHING = {"mappings": "", "mounts": ""}


class XeError(Exception):
    """`xe` failed: `text` is all that it printed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def code(self) -> int:
        """The number of SR_BACKEND_FAILURE_<n>, 0 for another error."""
        match = re.search(r"SR_BACKEND_FAILURE_(\d+)", self.text)
        return int(match.group(1)) if match else 0


@dataclass(frozen=True)
class Sr:
    """One SR on one host."""

    host: Host
    uuid: str
    device: str

    @property
    def mount(self) -> str:
        """Where its filesystem is mounted while it is plugged."""
        return f"/run/sr-mount/{self.uuid}"

    @property
    def pbd(self) -> str:
        """The UUID of its PBD."""
        return self.host.xe("pbd-list", sr_uuid=self.uuid, params="uuid", minimal=True)

    @property
    def attached(self) -> bool:
        """Whether XAPI says that its PBD is plugged."""
        return self.host.xe("pbd-param-get", uuid=self.pbd,
                            param_name="currently-attached") == "true"

    def plug(self) -> None:
        self.host.xe("pbd-plug", uuid=self.pbd)

    def refused(self) -> XeError:
        """The error of a pbd-plug that must fail; that it names the SR and left nothing behind."""
        try:
            self.plug()
        except XeError as error:
            assert self.host.left_open() == NOTHING
            assert not self.attached
            assert self.uuid in error.text
            return error
        raise AssertionError("pbd-plug did not fail")

    def unplug(self) -> None:
        self.host.xe("pbd-unplug", uuid=self.pbd)

    def check_filesystem(self) -> None:
        """Unplug, have e2fsck look for errors in what clevis opens, and plug again."""
        self.unplug()
        self.host.sh(f"""
            set -e
            disks="{self.device.replace(",", " ")}"
            group=XSLocalEXT-{self.uuid}
            for disk in $disks; do
                clevis luks unlock -d $disk -n luks-$(cryptsetup luksUUID $disk)
            done
            vgchange -q -ay $group
            e2fsck -fn /dev/$group/{self.uuid}
            vgchange -q -an $group
            for disk in $disks; do
                cryptsetup close luks-$(cryptsetup luksUUID $disk)
            done
        """)
        self.plug()

    def scan(self) -> None:
        self.host.xe("sr-scan", uuid=self.uuid)

    def destroy(self) -> None:
        """Unplug and destroy, as Xen Orchestra does it."""
        self.unplug()
        self.host.xe("sr-destroy", uuid=self.uuid)

    def destroy_with_vdis(self) -> None:
        vdis = self.host.xe("vdi-list", sr_uuid=self.uuid, params="uuid", minimal=True)
        for uuid in filter(None, vdis.strip().split(",")):
            self.host.xe("vdi-destroy", uuid=uuid)
        self.destroy()

    def forget(self) -> None:
        self.unplug()
        self.host.xe("sr-forget", uuid=self.uuid)

    def config(self, field: str, key: str) -> str:
        """One key of a map of the SR, such as sm-config; empty when it is not there."""
        try:
            return self.host.xe("sr-param-get", uuid=self.uuid, param_name=field, param_key=key)
        except XeError:
            return ""

    def create_vdi(self, size: int = VDI_SIZE) -> str:
        return self.host.xe("vdi-create", sr_uuid=self.uuid, name_label="test", type="user",
                            virtual_size=str(size))

    def containers(self) -> list[str]:
        """The LUKS UUIDs that the SR is recorded to be made of."""
        return [record[0] for record in json.loads(self.config("sm-config", "luks_containers"))]


class Host:
    """A machine of the lab and its `xe`."""

    def __init__(self, machine: Machine, master: Machine | None = None) -> None:
        """`master`: of the pool that the host is in, when it is not the master itself."""
        self.machine = machine
        self._master = master or machine

    def xe(self, command: str, *, minimal: bool = False,
           device_config: Mapping[str, str] | None = None, **params: str) -> str:
        """Run `xe`; `_` in names stands for `-`. Returns what it prints, raises XeError.

        It runs beside the guest and speaks HTTP with XAPI, since a Python starts slowly in an
        emulated guest; files that it is given are files of this side.
        """
        argv = [command]
        argv += [f"{name.replace('_', '-')}={value}" for name, value in params.items()]
        argv += [f"device-config:{key}={value}" for key, value in (device_config or {}).items()]
        argv += ["--minimal"] if minimal else []
        out, err = io.StringIO(), io.StringIO()
        os.environ[SOCKET] = f"127.0.0.1:{self._master.http_port}"
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = xe.main(argv)
        if status:
            raise XeError(out.getvalue() + err.getvalue())
        return out.getvalue().strip()

    def client(self) -> Client:
        """A session of the API, for what `xe` cannot say, or not at once with another."""
        return Client(f"127.0.0.1:{self.machine.http_port}")

    @property
    def uuid(self) -> str:
        return self.xe("host-list", name_label=self.machine.name, params="uuid", minimal=True)

    def join(self, master: Machine) -> Host:
        """pool-join; returns when the host has started as a member of the pool."""
        self.xe("pool-join", master_address=master.address, master_username="root",
                master_password="lab")
        member = Host(self.machine, master)
        _wait_for(lambda: member.xe("host-param-get", uuid=member.uuid,
                                    param_name="enabled") == "true")
        return member

    def eject(self) -> Host:
        """pool-eject; returns when the host has started as one without a pool."""
        self.xe("pool-eject", host_uuid=self.uuid)
        alone = Host(self.machine)
        _wait_for(lambda: alone.uuid)
        return alone

    def create_unbound_sr(self, *disks: Disk, **options: str) -> Sr:
        """sr-create with clevis's null pin, which unlocks without asking anything.

        For tests that are not about who may unlock: a TPM takes many seconds in an emulated guest.
        """
        return self.create_sr(*disks, pin="null", **options)

    def create_sr(self, *disks: Disk, type: str = "luksext", **options: str) -> Sr:
        """sr-create on `disks`; options of the device-config with `_` for `-`."""
        device = ",".join(disk.by_id for disk in disks)
        config = {"device": device}
        config.update({key.replace("_", "-"): value for key, value in options.items()})
        uuid = self.xe("sr-create", type=type, name_label="test", host_uuid=self.uuid,
                       content_type="user", device_config=config)
        return Sr(self, uuid, device)

    def create_sr_with_passphrase(self, device: str, passphrase: str, **options: str) -> Sr:
        """sr-create with a recovery passphrase, by a file as an administrator gives it."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(passphrase)
            file.flush()
            config = {"device": device, "recovery_password-filename": file.name}
            config.update({key.replace("_", "-"): value for key, value in options.items()})
            uuid = self.xe("sr-create", type="luksext", name_label="test", host_uuid=self.uuid,
                           content_type="user", device_config=config)
        return Sr(self, uuid, device)

    def introduce(self, sr: Sr, device: str) -> Sr:
        """Make a forgotten SR known again."""
        self.xe("sr-introduce", uuid=sr.uuid, type="luksext", name_label="test",
                content_type="user")
        self.xe("pbd-create", sr_uuid=sr.uuid, host_uuid=self.uuid,
                device_config={"device": device})
        return Sr(self, sr.uuid, device)

    def write_vdi(self, vdi: str, data: bytes) -> None:
        """Import raw data into a VDI, through its data path, which takes whole sectors."""
        data = data.ljust(-(-len(data) // 512) * 512, b"\0")
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.xe("vdi-import", uuid=vdi, filename=file.name, format="raw")

    def read_vdi(self, vdi: str) -> bytes:
        """Export the raw data of a VDI, through its data path."""
        with tempfile.NamedTemporaryFile() as file:
            self.xe("vdi-export", uuid=vdi, filename=file.name, format="raw")
            return Path(file.name).read_bytes()

    def check_srs(self) -> None:
        """What the storage manager's health service does every ten minutes."""
        self.sh("f=/opt/xensource/sm/sr_health_check.py; [ -e $f ] || "
                "f=/usr/libexec/sm/sr_health_check; python3 $f", timeout=300)

    def sh(self, script: str, *, input: bytes | str | None = None, timeout: float = 120) -> str:
        """What a shell command prints; raises when it fails."""
        return self.machine.run(script, input=input, timeout=timeout).out

    def left_open(self) -> dict[str, str]:
        """What keeps disks busy: device-mapper's devices and mounts of SRs. Empty is clean."""
        return {
            "mappings": self.sh("dmsetup ls | grep -v '^No devices' || true").strip(),
            "mounts": self.sh("grep sr-mount /proc/mounts || true").strip(),
        }

    def fingerprint(self, disk: Disk) -> str:
        """A checksum of every byte of a disk, once the guest has written what it holds back."""
        self.sh(f"sync; blockdev --flushbufs {disk.by_id}")
        with disk.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _wait_for(condition: Callable[[], object]) -> None:
    """Wait until XAPI answers and what it says is true."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(XeError):
            if condition():
                return
        assert time.monotonic() < deadline
        time.sleep(0.5)


def luksext(sr: Sr, verb: str, *arguments: str, key: str = "") -> str:
    """What a verb prints on dom0's console; 3 tells that something needs attention."""
    return sr.host.sh(f"{_console(sr, verb, arguments, key)} || [ $? = 3 ]", input=key, timeout=300)


def luksext_error(sr: Sr, verb: str, *arguments: str, key: str = "") -> str:
    """The error that a verb ends with on dom0's console."""
    return sr.host.sh(f"{_console(sr, verb, arguments, key)} && exit 9; [ $? = 1 ]", input=key,
                      timeout=300)


def _console(sr: Sr, verb: str, arguments: Sequence[str], key: str) -> str:
    words = [verb, f"--sr-uuid={sr.uuid}", *arguments, *(["--key-stdin"] if key else [])]
    return f"luksext {' '.join(words)} 2>&1"
