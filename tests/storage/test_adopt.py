# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that was encrypted by hand, as the well-known article says, becomes an SR of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.lab.disks import Disk
from tests.lab.errors import CommandFailed
from tests.storage.kills import killed_after
from tests.storage.pool import NOTHING, Host, Sr, XeError

pytestmark = pytest.mark.slow

PASSPHRASE = "a passphrase typed by a person"
PATTERN = b"written before the adoption " * 4096

# The article's commands, but for the time that a keyslot takes to open (-i 10000).
FORMAT = {
    "luks1": "cryptsetup luksFormat -q --type luks1 -s 512 -h sha512 -i 10 {device}",
    "luks2": "cryptsetup luksFormat -q --type luks2 -s 512 -h sha512 --sector-size 512 "
             "--pbkdf pbkdf2 --pbkdf-force-iterations 1000 {device}",
}
BIND = "clevis luks bind -y -k - -d {device} tpm2 '{{}}'"
UNIT = """[Unit]
Description=Unlock LUKS device with UUID %I on boot
After=network.target
Before=local-fs.target

[Service]
Type=oneshot
ExecStart=/usr/bin/clevis-luks-unlock -d /dev/disk/by-uuid/%i %I-luks
RemainAfterExit=true

[Install]
WantedBy=multi-user.target
"""

SCRIPT = "/run/adopt.py"
ADOPT = """
import json, os, signal, sys
sys.path.insert(0, "/opt/xensource/sm")
import XenAPI
import luksext_adopt
from luksext.clevis import Pin
from luksext.errors import LuksError

class Session(XenAPI.Session):
    def xenapi_request(self, method, parameters):
        if method == os.environ.get("KILL_BEFORE"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().xenapi_request(method, parameters)

XenAPI.Session = Session
session = XenAPI.xapi_local()
session.xenapi.login_with_password("root", "", "1.0", "test")
(host,) = session.xenapi.host.get_all()
try:
    print(json.dumps(luksext_adopt.adopt(
        session, host, sys.argv[1], Pin("tpm2", {}), sys.stdin.buffer.read() or None)))
except LuksError as error:
    sys.exit("{} {}".format(error.code, error))
"""

# What changes XAPI on the way, in the order in which an adoption does it.
STEPS = ("PBD.unplug", "SR.forget", "SR.introduce", "PBD.create", "PBD.plug", "SR.scan",
         "VDI.set_tags", "VBD.create")


@dataclass
class ByHand:
    """A disk with a container that was made by hand, and the ext SR in it."""

    sr: Sr
    disk: Disk
    luks_uuid: str

    @property
    def mapping(self) -> str:
        return f"/dev/mapper/luks-{self.luks_uuid}"

    def adopt(self, passphrase: str = "") -> dict[str, object]:
        self.sr.host.machine.put(SCRIPT, ADOPT.encode())
        answer = self.sr.host.sh(f"python3 {SCRIPT} {self.sr.uuid}", input=passphrase)
        told: dict[str, object] = json.loads(answer)
        return told

    def is_killed(self, before: str = "") -> bool:
        """Whether an adoption is killed, before a call of XAPI or by what the caller prepared."""
        machine = self.sr.host.machine
        machine.put(SCRIPT, ADOPT.encode())
        result = machine.run(["python3", SCRIPT, self.sr.uuid], check=False,
                             env={"KILL_BEFORE": before})
        return result.rc in (-9, 137)


def by_hand(host: Host, disk: Disk, make: str, *, bound: bool) -> ByHand:
    """What an administrator does with an empty disk."""
    device = disk.by_id
    host.sh(make.format(device=device), input=PASSPHRASE)
    uuid = host.sh(f"cryptsetup luksUUID {device}").strip()
    if bound:
        host.sh(BIND.format(device=device), input=PASSPHRASE)
        host.machine.put("/etc/systemd/system/clevis-luks-unlock@.service", UNIT.encode())
        host.sh("cd /etc/systemd/system; mkdir -p multi-user.target.wants; ln -sf "
                "../clevis-luks-unlock@.service "
                f"multi-user.target.wants/clevis-luks-unlock@{uuid}.service")
        host.sh(f"clevis luks unlock -d {device}")
    else:
        host.sh(f"cryptsetup open {device} luks-{uuid}", input=PASSPHRASE)
    mapping = f"/dev/mapper/luks-{uuid}"
    sr = host.xe("sr-create", host_uuid=host.uuid, type="ext", content_type="user",
                 name_label="local ext luks", device_config={"device": mapping})
    return ByHand(Sr(host, sr, mapping), disk, uuid)


@dataclass
class Content:
    """A VM's VDI with data, and a snapshot of it."""

    vm: str
    vdi: str
    snapshot: str
    vbd: str


def fill(sr: Sr) -> Content:
    host = sr.host
    vdi = sr.create_vdi()
    host.write_vdi(vdi, PATTERN)
    host.xe("vdi-param-set", uuid=vdi, name_label="root of web", name_description="important")
    host.xe("vdi-param-add", uuid=vdi, param_name="tags", param_key="prod")
    snapshot = host.xe("vdi-snapshot", uuid=vdi)
    vm = host.xe("vm-create", name_label="web")
    vbd = host.xe("vbd-create", vm_uuid=vm, vdi_uuid=vdi, device="0", bootable="true")
    return Content(vm, vdi, snapshot, vbd)


def check(made: ByHand, content: Content) -> None:
    """All that was there is there, on an SR of ours that opens by itself."""
    sr, host = made.sr, made.sr.host
    for field, value in (("type", "luksext"), ("name-label", "local ext luks")):
        assert host.xe("sr-param-get", uuid=sr.uuid, param_name=field) == value
    for field, value in (("name-label", "root of web"), ("name-description", "important"),
                         ("tags", "prod"), ("sr-uuid", sr.uuid),
                         ("snapshots", content.snapshot)):
        assert host.xe("vdi-param-get", uuid=content.vdi, param_name=field) == value
    assert host.xe("vdi-param-get", uuid=content.snapshot, param_name="is-a-snapshot") == "true"
    (vbd,) = host.xe("vbd-list", vm_uuid=content.vm, params="uuid", minimal=True).split(",")
    for field, value in (("vdi-uuid", content.vdi), ("userdevice", "0"), ("bootable", "true")):
        assert host.xe("vbd-param-get", uuid=vbd, param_name=field) == value
    config = host.xe("pbd-param-get", uuid=sr.pbd, param_name="device-config")
    assert made.disk.by_id in config
    assert sr.containers() == [made.luks_uuid]
    assert host.read_vdi(content.vdi).startswith(PATTERN)
    sr.unplug()
    assert host.left_open() == NOTHING
    sr.plug()
    assert host.read_vdi(content.vdi).startswith(PATTERN)


def clear(made: ByHand, content: Content) -> None:
    host = made.sr.host
    host.xe("vm-destroy", uuid=content.vm)
    for vdi in (content.snapshot, content.vdi):
        host.xe("vdi-destroy", uuid=vdi)
    made.sr.destroy()


@pytest.fixture(params=["luks1", "luks2"])
def made(request: pytest.FixtureRequest, host: Host, disk: Disk) -> ByHand:
    return by_hand(host, disk, FORMAT[request.param], bound=True)


def test_the_articles_disk_becomes_an_sr_of_ours(made: ByHand) -> None:
    content = fill(made.sr)
    before = made.sr.host.sh(f"cryptsetup luksDump {made.disk.by_id} | grep -c ENABLED || true")
    told = made.adopt()
    assert told["bindings_added"] == []
    assert told["units"] == [f"clevis-luks-unlock@{made.luks_uuid}.service"]
    assert told["vdis_lost"] == []
    check(made, content)
    after = made.sr.host.sh(f"cryptsetup luksDump {made.disk.by_id} | grep -c ENABLED || true")
    assert after == before
    made.sr.host.sh(f"cryptsetup open --test-passphrase {made.disk.by_id}", input=PASSPHRASE)
    made.sr.host.sh(f"clevis luks list -d {made.disk.by_id} | grep -q tpm2")
    clear(made, content)


@pytest.mark.parametrize("luks", ["luks1", "luks2"])
def test_a_disk_with_a_passphrase_only_gets_a_binding(host: Host, disk: Disk, luks: str) -> None:
    made = by_hand(host, disk, FORMAT[luks], bound=False)
    content = fill(made.sr)
    with pytest.raises(CommandFailed, match="6230"):
        made.adopt()
    assert host.xe("sr-param-get", uuid=made.sr.uuid, param_name="type") == "ext"
    with pytest.raises(CommandFailed, match="6251"):
        made.adopt("some other passphrase")
    assert len(made.adopt(PASSPHRASE)["bindings_added"]) == 1  # type: ignore[arg-type]
    check(made, content)
    clear(made, content)


@pytest.mark.parametrize(("luks", "program", "arguments"), [
    ("luks1", "luksmeta", "save*"), ("luks2", "cryptsetup", "config*")], ids=["luks1", "luks2"])
def test_a_kill_at_any_step_loses_nothing_and_is_made_good(
        host: Host, disk: Disk, luks: str, program: str, arguments: str) -> None:
    made = by_hand(host, disk, FORMAT[luks], bound=True)
    content = fill(made.sr)
    with killed_after(host, program, arguments):
        assert made.is_killed()
    for step in STEPS:
        assert made.is_killed(before=step), step
        host.sh(f"cryptsetup open --test-passphrase {made.disk.by_id}", input=PASSPHRASE)
    with pytest.raises(XeError):
        host.xe("vbd-param-get", uuid=content.vbd, param_name="uuid")
    made.adopt()
    check(made, content)
    clear(made, content)


def test_sectors_of_4096_bytes_are_refused_with_the_reason(
    host: Host, new_disk: Callable[..., Disk]
) -> None:
    disk = new_disk()
    make = FORMAT["luks2"].replace("--sector-size 512", "--sector-size 4096")
    made = by_hand(host, disk, make, bound=False)
    with pytest.raises(CommandFailed, match=r"6270 .*sectors of 4096 bytes"):
        made.adopt(PASSPHRASE)
    assert made.sr.attached
    made.sr.destroy()
    host.sh(f"cryptsetup close {made.mapping}")


def test_an_sr_in_use_is_refused(made: ByHand) -> None:
    host = made.sr.host
    vdi = made.sr.create_vdi()
    dom0 = host.xe("vm-list", is_control_domain="true", params="uuid", minimal=True)
    vbd = host.xe("vbd-create", vm_uuid=dom0, vdi_uuid=vdi)
    host.xe("vbd-plug", uuid=vbd)
    with pytest.raises(CommandFailed, match="6271"):
        made.adopt()
    host.xe("vbd-unplug", uuid=vbd)
    host.xe("vbd-destroy", uuid=vbd)
    host.xe("vdi-destroy", uuid=vdi)
    made.sr.destroy()
    host.sh(f"cryptsetup close {made.mapping}")
