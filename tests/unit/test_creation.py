# SPDX-License-Identifier: LGPL-2.1-only
"""creation: a container is noted before its disk is touched, until it may hold data."""
import os

import pytest

import headers
from luksext import container, creation, devices, notes, state
from luksext.clevis import Pin
from luksext.creation import Creation
from luksext.errors import CommandFailed, DeviceMissing, NotWritten
from luksext.generation import Identity
from luksext.header import find
from luksext.options import Options

OURS = Identity(headers.SR, 0, 1)
OPTIONS = Options(["/dev/sdb"], False, Pin("any", {}), 2, headers.CIPHER, 512, False)


@pytest.fixture
def disk(tmp_path, sysfs, programs, monkeypatch):
    """An empty disk of a host with no notes."""
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    programs.add("cryptsetup")
    programs.add("dd", 'for word; do case $word in of=*) : >"${word#of=}"; esac; done')
    return sysfs.disk("sdb")


@pytest.fixture
def formatted(disk, monkeypatch):
    """What is formatted, by LUKS UUID: the notes that there were at that time."""
    made = {}

    def format_container(device, luks_uuid, identity, options, passphrase):
        made[luks_uuid] = creation.noted_on(device)
        with open(device, "wb") as file:
            file.write(headers.ours(uuid=luks_uuid))
        return luks_uuid

    monkeypatch.setattr(container, "format_container", format_container)
    return made


def test_it_is_noted_before_the_disk_is_touched(disk, formatted):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    assert formatted == {uuid: [Creation(uuid, headers.SR, disk)]}
    assert creation.noted_on(disk) == [Creation(uuid, headers.SR, disk)]
    assert creation.make(disk, OURS, OPTIONS, None) != uuid


def test_where_it_cannot_be_noted_nothing_is_touched(disk, formatted, monkeypatch):
    def fail(*args):
        raise NotWritten("/var/lib/luksext", "No space left on device")

    monkeypatch.setattr(state, "write", fail)
    with pytest.raises(NotWritten):
        creation.make(disk, OURS, OPTIONS, None)
    assert formatted == {}


def test_it_ends_once_and_may_be_ended_again(disk, formatted):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    creation.end(uuid)
    creation.end(uuid)
    assert creation.noted_on(disk) == []


def test_it_is_known_by_its_sr(disk, formatted):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    assert creation.noted_of(headers.SR) == [Creation(uuid, headers.SR, disk)]
    assert creation.noted_of("another") == []
    creation.end(uuid)
    assert creation.noted_of(headers.SR) == []


def test_it_is_known_by_its_disk_while_no_header_is_there(disk, formatted):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    os.truncate(disk, 0)
    assert creation.noted_on(disk) == [Creation(uuid, headers.SR, disk)]
    creation.undo(disk, uuid)
    assert creation.noted_on(disk) == [] == state.known()


def test_it_is_known_by_its_header_when_the_disk_has_another_name(disk, formatted, sysfs):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    moved = sysfs.disk("sdc", number="8:32")
    os.replace(disk, moved)
    assert creation.noted_on(moved) == [Creation(uuid, headers.SR, disk)]


def test_a_disk_that_got_keys_in_another_host_is_not_taken_for_what_was_left(disk, formatted):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    with open(disk, "wb") as file:
        file.write(headers.luks2(headers.metadata(slots=(1, 2)), uuid=uuid))
    assert creation.noted_on(disk) == [] == creation.noted_of(headers.SR)


def test_undoing_takes_apart_what_was_built(disk, formatted, programs, sysfs, monkeypatch):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    group = "XSLocalEXT-" + headers.SR
    programs.add("pvs", "echo " + group)
    programs.add("vgs", "echo '/dev/dm-0|1|1|1|1'")
    programs.add("vgremove")
    monkeypatch.setattr(container, "all_of", lambda sr_uuid: [
        container.LuksContainer(disk, find(disk))] if sr_uuid == headers.SR else [])
    sysfs.mapping("dm-0", "luks-x", "CRYPT-LUKS2-{}-luks-x".format(uuid.replace("-", "")), ["sdb"])
    creation.undo(disk, uuid)
    assert programs.order() == ["pvs --noheadings", "vgs --noheadings", "vgremove --config",
                                "cryptsetup close", "cryptsetup erase", "dd if=/dev/zero"]
    assert programs.calls("vgremove")[0][-1] == group
    assert find(disk) is None
    assert state.known() == []


def test_a_disk_that_is_not_there_stays_noted(disk, formatted):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    os.rename(disk, disk + ".away")
    with pytest.raises(DeviceMissing):
        creation.undo(disk, uuid)
    os.rename(disk + ".away", disk)
    assert creation.noted_on(disk) == [Creation(uuid, headers.SR, disk)]


def test_another_container_on_the_disk_is_left_alone(disk, formatted, programs):
    uuid = creation.make(disk, OURS, OPTIONS, None)
    other = headers.ours()
    with open(disk, "wb") as file:
        file.write(other)
    creation.undo(disk, uuid)
    assert programs.order() == []
    with open(disk, "rb") as file:
        assert file.read() == other
    assert state.known() == []


def test_a_failure_leaves_no_note_and_says_why(disk, monkeypatch):
    def fail(*args):
        raise CommandFailed("cryptsetup luksFormat", 1, "no")

    monkeypatch.setattr(container, "format_container", fail)
    with pytest.raises(CommandFailed, match="luksFormat"):
        creation.make(disk, OURS, OPTIONS, None)
    assert state.known() == []


def test_the_lasting_name_of_the_disk_is_noted(disk, formatted, monkeypatch):
    monkeypatch.setattr(devices, "lasting_name", lambda device: "/dev/disk/by-id/scsi-1")
    uuid = creation.make(disk, OURS, OPTIONS, None)
    assert state.Store(uuid).load("creation") == {
        "sr": headers.SR, "device": "/dev/disk/by-id/scsi-1"}
