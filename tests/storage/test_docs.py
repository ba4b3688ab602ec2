# SPDX-License-Identifier: LGPL-2.1-only
"""Every command in the docs is run as it stands there, and shows what the docs say."""

from __future__ import annotations

import functools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import disks
from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage.conftest import real_sm
from tests.storage.doc_commands import (
    DOCS, Hand, Reader, Section, pages, placeholders, section, sections,
)
from tests.storage.pool import Host, Sr
from tests.storage.tang import URL, Tang
from tests.storage.test_adopt import FORMAT, PASSPHRASE, by_hand

QUICK_START = "quick-start.md"
DRILLS = "drills.md"
DATA = b"written before the drill " * 1000

INSTALL = "yum install ./luksext-1.0.0-1.xcpng8.3.noarch.rpm --enablerepo=base,updates"
_NO_YUM = "the lab has no yum; tests/package installs, upgrades and removes the packages"
_DEVELOPER = "is run by developers, beside the lab"
_XO = "the lab has no Xen Orchestra; tests/xo tries the plugin"

# Page and first command of each block that is not run here, and why.
NOT_RUN = {
    ("install.md", "make rpm"): _DEVELOPER,
    ("install.md", "scp build/RPMS/noarch/luksext-1.0.0-1.xcpng8.3.noarch.rpm root@<address>:"):
        _DEVELOPER,
    ("install.md", INSTALL): _NO_YUM,
    ("install.md", "dnf install ./luksext-1.0.0-1.xcpng9.noarch.rpm"): _NO_YUM,
    ("install.md", "yum install clevis clevis-luks luksmeta tpm2-tools --enablerepo=base,updates"):
        _NO_YUM,
    ("install.md", "yum update ./luksext-<version>.noarch.rpm"): _NO_YUM,
    ("install.md", "yum remove luksext"): _NO_YUM,
    ("install.md", "mv /etc/firstboot.d/data/default-storage.conf /root/"):
        "tests/storage/test_default_storage.py does, with a disk in that file",
    ("../README.md", "make demo # the mission, step by step, on real dm-crypt, LVM, ext4, clevis "
                     "and a TPM 2.0"): _DEVELOPER,
    ("developing.md", "make unit # unit tests, on both Pythons"): _DEVELOPER,
    ("reliability.md", "make faults # every fault, on the lab's stand-in of the storage manager"):
        _DEVELOPER,
    ("performance.md", "make bench # everything, on the lab's stand-in of the storage manager"):
        _DEVELOPER,
    ("reliability.md", ".venv/bin/python -m pytest tests/unit --hypothesis-profile=campaign"):
        _DEVELOPER,
    ("xen-orchestra.md", "cp -r xo-server-luksext /usr/local/lib/node_modules/"): _XO,
    ("xen-orchestra.md", "systemctl restart xo-server"): _XO,
    ("xen-orchestra.md", "xo-cli sr.createLuksExt host=<host> nameLabel=local device=/dev/sdb"):
        _XO,
    ("xen-orchestra.md", "make xo # the plugin on a stand-in for XO, and the page in headless "
                         "Chromium"): _DEVELOPER,
}


class Lab:
    """A host with a disk, as the reader of the docs has it; and another one, if it comes to that.

    here: the host at whose keyboard the reader sits.
    """

    def __init__(self, host: Host, disk: Disk, folder: Path) -> None:
        self.here = self.first = host
        self.disk = disk
        self.other = Machine("other", folder / "other", sm=real_sm(), memory_mib=768)
        self.reader = Reader(self.run, {
            "host": lambda: self.here.uuid,
            "SR": lambda: self.reader.sr,
            "PBD": lambda: self.sr.pbd,
            "disk": lambda: Path(self.disk.by_id).name,
            "another disk": lambda: Path(self.another_disk.by_id).name,
            "LUKS UUID": lambda: self.sr.containers()[0],
            "keyslot": self.keyslot_of_tang,
            "tang": lambda: self.tang and URL.removeprefix("http://"),
            "thumbprint": lambda: self.tang.thumbprint(),
        }, {
            "restart the host": lambda: self.here.machine.reboot(),
            "disable the TPM in the firmware setup, and start the host":
                lambda: self.while_off(self.here.machine.remove_tpm),
            "enable the TPM in the firmware setup, and start the host":
                lambda: self.while_off(self.here.machine.insert_tpm),
            "clear the TPM in the firmware setup, and start the host": self.clear_tpm,
            "update the firmware, and restart the host": self.update_firmware,
            "put the disk into the other host": self.move_there,
            "put the disk back into the first host": self.move_back,
            "install the host anew, and the package":
                lambda: self.while_off(self.forget_everything),
            "wait until it is done": self.wait_for_reencryption,
        })

    @property
    def sr(self) -> Sr:
        """The SR of the page, as this host sees it."""
        return Sr(self.here, self.reader.sr, self.disk.by_id)

    def run(self, command: str, typed: str) -> tuple[int, str]:
        result = self.here.machine.run(command, input=typed, timeout=300, check=False)
        return result.rc, result.out + result.err

    @functools.cached_property
    def tang(self) -> Tang:
        tang = Tang(self.first.machine)
        tang.start()
        return tang

    @functools.cached_property
    def another_disk(self) -> Disk:
        return self.first.machine.add_disk(self.disk.name + "-another", "256M")

    def keyslot_of_tang(self) -> str:
        status = json.loads(self.run("luksext status --json", "")[1])
        return next(str(slot["slot"]) for slot in status["srs"][0]["disks"][0]["slots"]
                    if slot.get("pin") == "tang")

    # What there is when a page or a section begins

    def nothing(self) -> None:
        """An empty disk."""
        for kind in ("luksext", "ext"):
            for uuid in filter(None, self.first.xe("sr-list", type=kind, minimal=True).split(",")):
                Sr(self.first, uuid, "").destroy_with_vdis()

    def encrypted_sr(self) -> None:
        """An SR as the quick start makes it, with its key typed back."""
        self.nothing()
        self.reader.sr = self.first.create_sr(self.disk).uuid
        made = json.loads(self.first.sh("luksext recovery-add --name=safe --json || [ $? = 3 ]"))
        self.reader.keys.append(made["recovery_key"])
        self.first.sh("luksext recovery-confirm --key-stdin", input=made["recovery_key"])

    def plain_sr(self) -> None:
        self.nothing()
        self.reader.sr = self.first.create_sr(self.disk, type="ext").uuid

    def sr_by_hand(self) -> None:
        """As the article tells."""
        self.nothing()
        self.reader.sr = by_hand(self.first, self.disk, FORMAT["luks1"], bound=True).sr.uuid
        self.reader.keys.append(PASSPHRASE)

    def put_away(self) -> None:
        self.nothing()
        if "tang" in vars(self):
            self.tang.remove()
        if "another_disk" in vars(self):
            self.first.machine.remove_disk(self.another_disk.name)

    # By hand

    def while_off(self, change: Callable[[], None]) -> None:
        machine = self.here.machine
        machine.shutdown()
        change()
        machine.start()

    def clear_tpm(self) -> None:
        self.here.machine.clear_tpm()
        self.here.machine.reboot()

    def update_firmware(self) -> None:
        """The firmware of the lab cannot be updated: another PCR, and all that a restart does."""
        self.here.xe("host-prepare-for-poweroff")
        self.here.machine.extend_pcr(0)
        self.here.sh("xe-toolstack-restart")

    def move_there(self) -> None:
        self.first.machine.move_disk(self.disk.name, self.other)
        if not self.other.running:
            self.other.start()
        self.here = Host(self.other)

    def move_back(self) -> None:
        self.other.move_disk(self.disk.name, self.first.machine)
        self.here = self.first

    def forget_everything(self) -> None:
        """A new dom0 has neither XAPI's database nor our notes."""
        for kept in ("xcp", "luksext"):
            shutil.rmtree(self.first.machine.folder / "state/var/lib" / kept)

    def wait_for_reencryption(self) -> None:
        end = time.monotonic() + 300
        while '"none"' not in self.run("luksext reencrypt-status", "")[1]:
            assert time.monotonic() < end
            time.sleep(2)


# What there is at the beginning of a page, or of one of its sections, where it is not an SR as the
# quick start makes it.
GIVEN = {
    (QUICK_START, "1. Install"): Lab.nothing,
    ("../README.md", ""): Lab.nothing,
    ("doctor.md", ""): Lab.nothing,
    ("performance.md", "On your own host"): Lab.nothing,
    ("migration.md", "From a disk that was encrypted by hand"): Lab.sr_by_hand,
    ("migration.md", "By way of another SR"): Lab.plain_sr,
    ("migration.md", "In place"): Lab.plain_sr,
    ("migration.md", "Grow"): Lab.encrypted_sr,
}


@pytest.fixture
def lab(host: Host, disk: Disk, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(host, disk, tmp_path)
    with made.other:
        yield made
        made.put_away()


def are_run(part: Section) -> bool:
    return any((part.page, block.name) not in NOT_RUN for block in part.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if page != DRILLS
                                  and any(map(are_run, sections(page)))])
def test_a_page_tells_the_truth(lab: Lab, page: str) -> None:
    if not any((page, part.title) in GIVEN for part in sections(page)):
        lab.encrypted_sr()
    for part in filter(are_run, sections(page)):
        GIVEN.get((page, part.title), lambda lab: None)(lab)
        lab.reader.follow(part, NOT_RUN)


@pytest.fixture(scope="module")
def drilled(host: Host, machine: Machine,
            tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One SR that goes through all drills: each leaves it as it was."""
    lab = Lab(host, machine.add_disk("drilled", "256M"), tmp_path_factory.mktemp("drills"))
    with lab.other:
        lab.encrypted_sr()
        yield lab


@pytest.mark.slow
@pytest.mark.parametrize("title", [part.title for part in sections(DRILLS)])
def test_a_drill_breaks_something_and_ends_with_the_data_as_they_were(
        drilled: Lab, title: str) -> None:
    vdi = drilled.sr.create_vdi()
    drilled.first.write_vdi(vdi, DATA)
    drilled.reader.follow(section(DRILLS, title), NOT_RUN)
    assert drilled.here is drilled.first
    drilled.sr.unplug()
    drilled.sr.plug()
    drilled.sr.scan()
    assert drilled.first.read_vdi(vdi).startswith(DATA)
    drilled.first.xe("vdi-destroy", uuid=vdi)
    assert "recovery key confirmed" in drilled.run("luksext status", "")[1]


# That nothing is overlooked


@pytest.fixture
def idle(tmp_path: Path) -> Lab:
    """A lab that is not switched on."""
    disk = disks.create(tmp_path, "idle", "idle", "1M", 512, 512)
    return Lab(Host(Machine("idle", tmp_path)), disk, tmp_path)


def everywhere() -> list[Section]:
    return [part for page in pages() for part in sections(page)]


def test_what_is_not_run_is_there_and_has_a_reason() -> None:
    named = {(part.page, block.name) for part in everywhere() for block in part.blocks}
    assert set(NOT_RUN) <= named
    assert all(NOT_RUN.values())


def test_what_a_page_begins_with_is_for_a_page_that_is_there() -> None:
    assert set(GIVEN) <= {(part.page, part.title) for part in everywhere()}


def test_what_is_to_be_filled_in_is_known(idle: Lab) -> None:
    known = set(idle.reader.values)
    for part in everywhere():
        for block in part.blocks:
            if (part.page, block.name) not in NOT_RUN:
                assert placeholders("\n".join(block.commands)) <= known, (part.page, block.name)


def test_what_is_done_by_hand_is_known_and_needed(idle: Lab) -> None:
    told = {step.words for part in everywhere() for step in part.steps if isinstance(step, Hand)}
    assert told == set(idle.reader.hands)


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
            for heading in headings}


@pytest.mark.parametrize("page", pages())
def test_what_a_page_points_to_is_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        path = (DOCS / page).parent / name if name else DOCS / page
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target
