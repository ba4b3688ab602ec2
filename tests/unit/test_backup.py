# SPDX-License-Identifier: LGPL-2.1-only
"""backup: header areas are kept, exported, and restored to the disk that they are of."""
import errno
import json
import os
import re
import stat

import pytest

import headers
from luksext import backup, begun, header, notes, rawdisk, rollback, state, verbs_header
from luksext.container import LuksContainer
from luksext.errors import (BackupDamaged, BackupMissing, BackupOfAnother, Busy,
                            ContainerReplaced, DeviceInUse, DeviceIsOurs, DeviceMissing,
                            DiskFails, HeaderDamaged, HeaderMissing, NotWritten, OldHeader,
                            Unsupported)
from luksext.repository import Repository

OTHER = "99999999-2222-4333-8444-555555555555"
SIZE = 1 << 30

# Above two chunks of what is written at once.
OFFSET = 5 << 19


def luks2(keys=("first",), offset=OFFSET, volume_key="volume", **fields):
    """A LUKS2 header with keyslots whose keys are told apart by their salts."""
    content = headers.metadata(slots=range(len(keys)), offset=offset)
    for slot, salt in enumerate(keys):
        content["keyslots"][str(slot)]["kdf"] = {"salt": salt}
    content["digests"] = {"0": {"segments": ["0"], "digest": volume_key,
                                "keyslots": [str(slot) for slot in range(len(keys))]}}
    return headers.luks2(content, **fields)


def luks1(keys=("first",), offset=OFFSET, volume_key="volume", **fields):
    """The same as LUKS1."""
    content = bytearray(headers.luks1(slots=range(len(keys)), payload_sectors=offset // 512,
                                      **fields))
    content[112:132] = volume_key.encode().ljust(20, b"\0")
    for slot, salt in enumerate(keys):
        content[216 + 48 * slot:248 + 48 * slot] = salt.encode().ljust(32, b"\0")
    return bytes(content)


GENERATIONS = [luks1, luks2]


def area_of(content):
    """The header and what lies behind it up to the data: keyslots, luksmeta."""
    size = header.parse("content", content).payload_offset
    return (content + b"keys" * (size // 4))[:size]


@pytest.fixture
def host(programs, sysfs, tmp_path, monkeypatch):
    """A host with places for notes, and disks without signatures."""
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    programs.add("wipefs")
    return Host(sysfs, programs, tmp_path / "notes")


class Host:
    """Disks with headers and data on them."""

    def __init__(self, sysfs, programs, notes):
        self.sysfs = sysfs
        self.programs = programs
        self.notes = notes

    def disk(self, content, name="sdb", size=SIZE, wwid=""):
        path = self.sysfs.disk(name, size=size)
        (self.sysfs.block / name / "wwid").write_text(wwid + "\n")
        with open(path, "wb") as disk:
            disk.write(area_of(content) + b"data")
        return path

    def container(self, content, **disk):
        path = self.disk(content, **disk)
        return LuksContainer(path, header.read(path))

    def files(self, uuid=headers.UUID):
        folder = self.notes / uuid / "headers"
        return sorted(os.listdir(str(folder))) if folder.exists() else []


def change(container, content):
    """Gives the disk another header."""
    with open(container.device, "r+b") as disk:
        disk.write(area_of(content))


def lose(container):
    """What `dd if=/dev/zero` over the header area leaves."""
    with open(container.device, "r+b") as disk:
        disk.write(bytes(OFFSET))


def content_of(device):
    with open(device, "rb") as disk:
        return disk.read()


# Made and listed


@pytest.mark.parametrize("made", GENERATIONS)
def test_a_backup_has_all_that_is_in_front_of_the_data(host, made):
    container = host.container(made(), wwid="naa.5000  c500\n")
    created = backup.create(container, "sr-create")
    assert created.luks_uuid == headers.UUID
    assert created.version == container.header.version
    assert (created.reason, created.device_size) == ("sr-create", SIZE)
    assert (created.payload_offset, created.disk) == (OFFSET, "naa.5000 c500")
    assert re.match(r"20..-..-..T..:..:..Z\Z", created.created)
    assert backup.list_of(headers.UUID) == [created]
    assert backup.export(created)[:OFFSET] == content_of(container.device)[:OFFSET]
    assert backup.is_fresh(container)


def test_a_backup_is_for_root_alone_and_read_as_a_header(host):
    container = host.container(luks2())
    created = backup.create(container, "")
    path = str(host.notes / headers.UUID / "headers" / "{}.header".format(created.serial))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert header.read(path) == container.header


def test_where_there_is_none_there_is_none(host):
    container = host.container(luks2())
    assert backup.list_of(headers.UUID) == []
    assert not backup.is_fresh(container)


def test_what_did_not_change_is_not_backed_up_again(host):
    container = host.container(luks2())
    created = backup.create(container, "first")
    assert backup.create(container, "second") == created
    assert len(host.files()) == 1


@pytest.mark.parametrize("made", GENERATIONS)
def test_any_byte_that_changes_in_front_of_the_data_makes_a_backup_stale(host, made):
    container = host.container(made())
    first = backup.create(container, "first")
    with open(container.device, "r+b") as disk:
        disk.seek(OFFSET - 1)
        disk.write(b"\0")
    assert not backup.is_fresh(container)
    second = backup.create(container, "second")
    assert second.serial > first.serial
    assert backup.is_fresh(container)
    assert backup.list_of(headers.UUID) == [first, second]


def test_a_disk_that_grew_is_backed_up_again(host):
    container = host.container(luks2())
    backup.create(container, "first")
    (host.sysfs.block / "sdb" / "size").write_text(str(2 * SIZE // 512))
    assert not backup.is_fresh(container)
    assert backup.create(container, "grow").device_size == 2 * SIZE
    assert backup.is_fresh(container)


def test_the_newest_three_are_kept(host):
    container = host.container(luks2())
    made = []
    for number in range(5):
        change(container, luks2(keys=("first", "key {}".format(number))))
        made.append(backup.create(container, "change"))
    assert backup.list_of(headers.UUID) == made[-3:]
    assert len(host.files()) == 3


def test_backups_of_another_container_are_its_own(host):
    one, two = host.container(luks2()), host.container(luks2(uuid=OTHER), name="sdc")
    backup.create(one, "")
    assert backup.list_of(OTHER) == []
    backup.create(two, "")
    assert [found.luks_uuid for found in backup.list_of(OTHER)] == [OTHER]


def test_a_serial_is_the_time_and_grows_while_the_clock_stands_or_goes_back(host, monkeypatch):
    container = host.container(luks2())
    serials = []
    for now in (1000.5, 1000.7, 500, 2000):
        monkeypatch.setattr(backup.time, "time", lambda now=now: now)
        change(container, luks2(keys=(str(len(serials)),)))
        serials.append(backup.create(container, "").serial)
    assert serials == [1000, 1001, 1002, 2000]


def test_what_was_on_a_disk_is_known_by_the_name_of_the_disk(host):
    lost, other = host.container(luks2(), wwid="naa.1"), host.container(
        luks2(uuid=OTHER), name="sdc", wwid="naa.2")
    nameless = host.container(luks2(uuid=headers.SR), name="sdd")
    for container in (lost, other, nameless):
        backup.create(container, "")
    lose(lost)
    assert backup.of_disk(lost.device) == [headers.UUID]
    assert backup.of_disk(nameless.device) == []


def test_a_damaged_file_is_not_listed_and_the_next_is_newer(host):
    container = host.container(luks2())
    first = backup.create(container, "")
    path = host.notes / headers.UUID / "headers" / "{}.header".format(first.serial)
    path.write_bytes(path.read_bytes()[:-10])
    assert backup.list_of(headers.UUID) == []
    assert not backup.is_fresh(container)
    second = backup.create(container, "")
    assert backup.list_of(headers.UUID) == [second]
    assert second.serial > first.serial


def test_a_file_under_another_name_is_not_listed(host):
    container = host.container(luks2())
    first = backup.create(container, "")
    folder = host.notes / headers.UUID / "headers"
    (folder / "{}.header".format(first.serial)).rename(folder / "7.header")
    assert backup.list_of(headers.UUID) == []


def test_no_room_is_an_error_that_says_so(host, monkeypatch):
    def fail(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    container = host.container(luks2())
    monkeypatch.setattr(state.os, "fsync", fail)
    with pytest.raises(NotWritten, match="No space left"):
        backup.create(container, "")
    assert host.files() == []


def test_a_header_that_changes_all_the_time_is_not_backed_up(host, monkeypatch):
    container = host.container(luks2())
    number = iter(range(100))

    def read(device, size):
        area = content_of(device)[:size]
        change(container, luks2(keys=("key {}".format(next(number)),)))
        return area

    monkeypatch.setattr(rawdisk, "read", read)
    with pytest.raises(Busy, match="/dev/sdb"):
        backup.create(container, "")
    assert not backup.is_fresh(container)
    assert host.files() == []


def test_a_header_that_changes_once_is_read_again(host, monkeypatch):
    container = host.container(luks2())
    reads = []

    def read(device, size, call=rawdisk.read):
        area = call(device, size)
        if not reads:
            change(container, luks2(keys=("new",)))
        reads.append(device)
        return area

    monkeypatch.setattr(rawdisk, "read", read)
    created = backup.create(container, "")
    assert len(reads) == 2
    assert backup.export(created)[:OFFSET] == area_of(luks2(keys=("new",)))


@pytest.mark.parametrize("offset", [0, (256 << 20) + 512])
def test_an_area_that_cannot_be_is_refused(host, offset):
    path = host.sysfs.disk("sdb")
    with open(path, "wb") as disk:
        disk.write(luks2(offset=offset))
    with pytest.raises(Unsupported, match="has {} bytes".format(offset)):
        backup.create(LuksContainer(path, header.read(path)), "")


def test_a_disk_that_ends_before_its_data_is_refused(host):
    container = host.container(luks2())
    os.truncate(container.device, OFFSET - 1)
    with pytest.raises(HeaderDamaged, match="ends before"):
        backup.create(container, "")


def test_a_container_in_re_encryption_is_not_backed_up(host, monkeypatch):
    container = host.container(luks2())
    unfinished = container.header._replace(reencryption=object())
    monkeypatch.setattr(header, "read", lambda device: unfinished)
    with pytest.raises(Unsupported, match="re-encrypted"):
        backup.create(container, "")
    assert not backup.is_fresh(container)


def test_a_container_whose_uuid_leads_elsewhere_has_no_backups(host):
    container = host.container(luks2(uuid="../../etc"))
    with pytest.raises(Unsupported, match="no LUKS UUID"):
        backup.create(container, "")


# Exported


def test_an_export_that_is_gone_or_damaged_is_an_error(host):
    created = backup.create(host.container(luks2()), "")
    path = host.notes / headers.UUID / "headers" / "{}.header".format(created.serial)
    content = bytearray(path.read_bytes())
    content[70000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BackupDamaged, match="checksum is not right"):
        backup.export(created)
    path.unlink()
    with pytest.raises(BackupMissing, match=headers.UUID):
        backup.export(created)


# Restored


@pytest.mark.parametrize("made", GENERATIONS)
def test_a_lost_header_is_restored_byte_for_byte(host, made):
    container = host.container(made())
    before = content_of(container.device)
    content = backup.export(backup.create(container, ""))
    lose(container)
    restored = backup.restore(container.device, content, headers.UUID)
    assert (restored.luks_uuid, restored.revived) == (headers.UUID, [])
    assert content_of(container.device) == before
    assert backup.is_fresh(container)


def test_a_restoration_needs_nothing_of_this_host(host):
    container = host.container(luks2())
    before = content_of(container.device)
    content = backup.export(backup.create(container, ""))
    state.forget(headers.UUID)
    lose(container)
    backup.restore(container.device, content)
    assert content_of(container.device) == before


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1], lambda content: content[:1000], lambda content: b"",
    lambda content: content[1:], lambda content: bytes([content[0] ^ 1]) + content[1:],
    lambda content: content[:OFFSET - 1] + b"x" + content[OFFSET:],
    lambda content: content.replace(b'"reason": ""', b'"reason": "x"'),
    lambda content: content[:OFFSET] + b"{}" + content[OFFSET:],
    lambda content: content + b"\n",
    lambda content: b"not a backup\n" * 100])
def test_a_damaged_file_is_refused(host, damage):
    container = host.container(luks2())
    content = damage(backup.export(backup.create(container, "")))
    lose(container)
    before = content_of(container.device)
    with pytest.raises(BackupDamaged):
        backup.restore(container.device, content, headers.UUID, force=True)
    assert content_of(container.device) == before


def repacked(content, **changes):
    """The file with another manifest or area, and right checksums."""
    manifest, area, _ = backup.unpack(content)
    area = changes.pop("area", area)
    if "sha256" not in changes:
        changes["sha256"] = backup.hashlib.sha256(area).hexdigest()
    return backup.pack(manifest._replace(**changes), area)


@pytest.mark.parametrize("changes, text", [
    ({"luks_uuid": OTHER}, "not that of its header"),
    ({"volume_key": "another"}, "not that of its header"),
    ({"area": area_of(luks2()) + b"x"}, "not that of its header"),
    ({"area": bytes(OFFSET)}, "no intact header"),
    ({"area": area_of(luks2())[:5000]}, "no intact header")])
def test_a_file_that_contradicts_itself_is_refused(host, changes, text):
    container = host.container(luks2())
    content = repacked(backup.export(backup.create(container, "")), **changes)
    with pytest.raises(BackupDamaged, match=text):
        backup.restore(container.device, content, force=True)


@pytest.mark.parametrize("fields", [["a"], {"luks_uuid": headers.UUID}, 7])
def test_a_manifest_of_another_version_is_refused(host, fields):
    content = backup.export(backup.create(host.container(luks2()), ""))
    text = json.dumps(fields).encode()
    checksum = backup.hashlib.sha256(text).hexdigest().encode()
    content = content[:OFFSET] + b"\n" + text + b"\n" + checksum + b" luksext-header-backup 1\n"
    with pytest.raises(BackupDamaged, match="another version"):
        backup.unpack(content)


@pytest.mark.parametrize("force", [False, True])
def test_a_backup_of_another_container_is_refused(host, force):
    one, two = host.container(luks2()), host.container(luks2(uuid=OTHER), name="sdc")
    content = backup.export(backup.create(one, ""))
    before = content_of(two.device)
    with pytest.raises(BackupOfAnother, match="LUKS UUID " + headers.UUID):
        backup.restore(two.device, content, force=force)
    with pytest.raises(BackupOfAnother, match="LUKS UUID " + headers.UUID):
        backup.restore(two.device, content, headers.UUID, force=force)
    lose(two)
    with pytest.raises(BackupOfAnother, match=OTHER):
        backup.restore(two.device, content, OTHER, force=force)
    assert content_of(two.device)[OFFSET:] == before[OFFSET:]
    assert header.find(two.device) is None


def damage(container, offset, content):
    with open(container.device, "r+b") as disk:
        disk.seek(offset)
        disk.write(content)


# What makes a header one of another container, although it is the right disk.
WRECKS = {
    "luks1-uuid": (luks1, lambda container: damage(container, 170, b"x")),
    "luks1-zeros": (luks1, lambda container: damage(container, 8, bytes(OFFSET - 8))),
    "luks1-formatted": (luks1, lambda container: change(
        container, luks1(uuid=OTHER, volume_key="another"))),
    "luks2-formatted": (luks2, lambda container: change(
        container, luks2(uuid=OTHER, volume_key="another"))),
}


@pytest.mark.parametrize("made, wreck", WRECKS.values(), ids=WRECKS)
def test_a_header_with_another_uuid_is_overwritten_where_it_is_named_and_forced(host, made, wreck):
    container = host.container(made())
    before = content_of(container.device)
    content = backup.export(backup.create(container, ""))
    wreck(container)
    wrecked = content_of(container.device)
    for how in ({}, {"force": True}, {"named": True}):
        with pytest.raises(BackupOfAnother, match="--luks-uuid=UUID --force=true"):
            backup.restore(container.device, content, headers.UUID, **how)
    assert content_of(container.device) == wrecked
    assert backup.restore(container.device, content, headers.UUID, force=True,
                          named=True).revived == []
    assert content_of(container.device) == before
    assert backup.is_fresh(container)


def test_the_header_that_was_made_by_mistake_is_backed_up_before(host):
    container = host.container(luks2(), wwid="naa.1")
    content = backup.export(backup.create(container, ""))
    change(container, luks2(uuid=OTHER, volume_key="another"))
    backup.restore(container.device, content, headers.UUID, force=True, named=True)
    [kept] = backup.list_of(OTHER)
    assert kept.reason == backup.BEFORE
    assert backup.of_disk(container.device) == [headers.UUID]


def test_a_container_that_this_host_knows_is_overwritten_by_no_force(host):
    one, two = host.container(luks2()), host.container(luks2(uuid=OTHER, volume_key="another"),
                                                       name="sdc")
    content = backup.export(backup.create(one, ""))
    backup.create(two, "")
    before = content_of(two.device)
    with pytest.raises(BackupOfAnother, match=OTHER):
        backup.restore(two.device, content, headers.UUID, force=True, named=True)
    assert content_of(two.device) == before


def test_a_restoration_that_was_cut_short_is_given_again(host, monkeypatch):
    def fail(device, area):
        raise DeviceInUse(device, [])

    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    change(container, luks2(uuid=OTHER, volume_key="another"))
    with monkeypatch.context() as patch:
        patch.setattr(rawdisk, "overwrite", fail)
        with pytest.raises(DeviceInUse):
            backup.restore(container.device, content, headers.UUID, force=True, named=True)
    backup.restore(container.device, content, headers.UUID, force=True, named=True)
    assert header.read(container.device) == container.header


@pytest.mark.parametrize("volume_key", ["volume", "another"], ids=["a-copy", "foreign"])
def test_a_foreign_container_on_another_disk_is_overwritten_by_no_force(host, volume_key):
    one = host.container(luks2(), wwid="naa.1")
    two = host.container(luks2(uuid=OTHER, volume_key=volume_key), name="sdc", wwid="naa.2")
    content = backup.export(backup.create(one, ""))
    if volume_key == "volume":
        backup.restore(two.device, content, headers.UUID, force=True, named=True)
        return
    with pytest.raises(BackupOfAnother, match=r"the disk naa\.1 where the disk naa\.2"):
        backup.restore(two.device, content, headers.UUID, force=True, named=True)
    assert header.read(two.device).uuid == OTHER


@pytest.mark.parametrize("offset", [0, 1 << 22, 0xFFFFFFFF])
def test_a_damaged_payload_offset_keeps_no_header_from_being_restored(host, offset):
    container = host.container(luks1())
    before = content_of(container.device)
    content = backup.export(backup.create(container, ""))
    damage(container, 104, offset.to_bytes(4, "big"))
    backup.restore(container.device, content, headers.UUID)
    assert content_of(container.device) == before


@pytest.mark.parametrize("made", GENERATIONS)
def test_another_container_of_the_same_uuid_takes_no_backups_place(host, made):
    container = host.container(made())
    first = backup.create(container, "")
    before = content_of(container.device)
    change(container, made(volume_key="another"))
    with pytest.raises(ContainerReplaced):
        backup.create(container, "asked for")
    assert backup.list_of(headers.UUID) == [first]
    backup.restore(container.device, backup.export(first), headers.UUID)
    assert content_of(container.device) == before


def test_what_was_overwritten_is_no_fresh_backup_and_pushes_none_out(host, monkeypatch):
    def fail(device, area):
        raise DeviceInUse(device, [])

    container = host.container(luks2())
    first = backup.create(container, "first")
    content = backup.export(first)
    with monkeypatch.context() as patch:
        patch.setattr(rawdisk, "overwrite", fail)
        for number in range(4):
            change(container, luks2(keys=(str(number),)))
            with pytest.raises(DeviceInUse):
                backup.restore(container.device, content)
            assert not backup.is_fresh(container)
    assert backup.list_of(headers.UUID)[0] == first
    made = backup.create(container, "asked for")
    assert made.reason == "asked for"
    assert backup.is_fresh(container)


def test_another_disk_that_lost_its_header_too_is_told_by_its_name(host):
    one = host.container(luks2(), wwid="naa.1")
    two = host.container(luks2(uuid=OTHER), name="sdc", wwid="naa.2")
    content = backup.export(backup.create(one, ""))
    lose(two)
    with pytest.raises(BackupOfAnother, match=r"the disk naa\.1 where the disk naa\.2"):
        backup.restore(two.device, content)
    backup.restore(two.device, content, force=True)
    assert header.read(two.device).uuid == headers.UUID


def test_a_larger_disk_is_another_unless_it_is_known_to_have_grown(host):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    lose(container)
    (host.sysfs.block / "sdb" / "size").write_text(str(2 * SIZE // 512))
    with pytest.raises(BackupOfAnother, match="a disk of {} bytes".format(SIZE)):
        backup.restore(container.device, content)
    backup.restore(container.device, content, force=True)
    assert backup.is_fresh(container)
    lose(container)
    backup.restore(container.device, content)


@pytest.mark.parametrize("force", [False, True])
def test_a_smaller_disk_is_another(host, force):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    lose(container)
    (host.sysfs.block / "sdb" / "size").write_text(str(SIZE // 512 - 1))
    with pytest.raises(BackupOfAnother, match="a disk of {} bytes".format(SIZE)):
        backup.restore(container.device, content, force=force)
    assert header.find(container.device) is None


def test_a_disk_that_carries_something_else_is_overwritten_by_force_only(host):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    lose(container)
    host.programs.add("wipefs", "echo '0x438,,uuid,ext4'")
    with pytest.raises(BackupOfAnother, match="carries ext4"):
        backup.restore(container.device, content)
    backup.restore(container.device, content, force=True)
    assert header.read(container.device) == container.header


def test_half_a_header_is_nothing_else(host):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    lose(container)
    host.programs.add("wipefs", "echo '0x0,,uuid,crypto_LUKS'")
    backup.restore(container.device, content)
    assert header.read(container.device) == container.header


NEW = header.parse("", luks2(volume_key="new")).volume_key


def reencrypted_elsewhere(host):
    """A container that came back to this host with another volume key, and the header that this
    host backed up before."""
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    change(container, luks2(volume_key="new"))
    return container.refreshed(), content


@pytest.mark.parametrize("force", [False, True])
def test_a_plug_takes_over_the_volume_key_that_another_host_made(host, force):
    container, old = reencrypted_elsewhere(host)
    assert backup.follow(container)
    assert not backup.follow(container)
    (kept,) = backup.list_of(headers.UUID)
    assert kept.volume_key == NEW
    content = backup.export(kept)
    lose(container)
    with pytest.raises(BackupOfAnother, match="volume key that was replaced"):
        backup.restore(container.device, old, force=force)
    backup.restore(container.device, content)


def test_before_that_plug_the_record_tells_which_volume_key_is_the_last(
        host, monkeypatch, tmp_path):
    container, old = reencrypted_elsewhere(host)
    with monkeypatch.context() as elsewhere:
        on_a_new_host(elsewhere, tmp_path)
        new = backup.export(backup.create(container, ""))
    lose(container)
    with pytest.raises(BackupOfAnother, match="volume key that was replaced"):
        backup.restore(container.device, old, headers.UUID, volume_key=NEW)
    backup.restore(container.device, new, headers.UUID, volume_key=NEW)


def test_what_this_host_encrypted_anew_is_later_than_the_record(host):
    container, old = reencrypted_elsewhere(host)
    begun.end(headers.UUID, NEW)
    new = backup.export(backup.create(container, ""))
    recorded = header.parse("", luks2()).volume_key
    lose(container)
    with pytest.raises(BackupOfAnother, match="volume key that was replaced"):
        backup.restore(container.device, old, headers.UUID, volume_key=recorded)
    backup.restore(container.device, new, headers.UUID, volume_key=recorded)


@pytest.mark.parametrize("force", [False, True])
def test_a_volume_key_that_was_replaced_does_not_come_back(host, force):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    change(container, luks2(volume_key="new"))
    begun.end(headers.UUID, "new")
    backup.create(container, "re-encryption")
    lose(container)
    with pytest.raises(BackupOfAnother, match="volume key that was replaced"):
        backup.restore(container.device, content, force=force)


def test_a_disk_in_re_encryption_keeps_its_header(host, monkeypatch):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    unfinished = container.header._replace(reencryption=object())
    monkeypatch.setattr(header, "find", lambda device: unfinished)
    with pytest.raises(Unsupported, match="re-encrypted"):
        backup.restore(container.device, content, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_an_open_container_keeps_its_header(host, monkeypatch, force):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    change(container, luks2(keys=("new",)))
    host.sysfs.mapping("dm-1", "luks-x", "CRYPT-LUKS2-x-luks-x", below=["sdb"])

    def busy(path, flags, *mode, call=os.open):
        if path == container.device and flags & os.O_EXCL:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return call(path, flags, *mode)

    monkeypatch.setattr(rawdisk.os, "open", busy)
    before = content_of(container.device)
    with pytest.raises(DeviceInUse, match="/dev/mapper/luks-x"):
        backup.restore(container.device, content, force=force)
    assert content_of(container.device) == before


def test_a_disk_that_is_not_there_is_told(host):
    content = backup.export(backup.create(host.container(luks2()), ""))
    with pytest.raises(DeviceMissing):
        backup.restore("/dev/nonexistent", content)


def test_the_header_that_is_there_is_backed_up_before(host):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    change(container, luks2(keys=("first", "later")))
    backup.restore(container.device, content, headers.UUID)
    assert [found.reason for found in backup.list_of(headers.UUID)] == [
        "", "before a restoration", "restored"]
    kept = backup.list_of(headers.UUID)[1]
    assert sorted(kept.marks) == ["0", "1"]


def test_a_disk_that_does_not_keep_what_is_written_is_told(host, monkeypatch):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    lose(container)
    monkeypatch.setattr(rawdisk.os, "pwrite", lambda disk, data, start: len(data))
    with pytest.raises(HeaderDamaged, match="does not read back"):
        backup.restore(container.device, content)


def test_a_write_error_names_the_disk(host, monkeypatch):
    def fail(disk, data, start):
        raise OSError(errno.EIO, "Input/output error")

    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    monkeypatch.setattr(rawdisk.os, "pwrite", fail)
    with pytest.raises(DiskFails, match=r"sdb.*Input/output error"):
        backup.restore(container.device, content)


def test_a_disk_writes_less_than_it_was_given_and_is_given_the_rest(host, monkeypatch):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    lose(container)
    monkeypatch.setattr(rawdisk.os, "pwrite",
                        lambda disk, data, start, call=os.pwrite: call(disk, data[:99999], start))
    backup.restore(container.device, content)
    assert header.read(container.device) == container.header


def test_the_first_mib_is_written_last_and_after_the_rest_is_on_the_disk(host, monkeypatch):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    lose(container)
    done = []
    monkeypatch.setattr(rawdisk.os, "pwrite", lambda disk, data, start, call=os.pwrite: (
        done.append(start), call(disk, data, start))[1])
    monkeypatch.setattr(rawdisk.os, "fsync", lambda disk, call=os.fsync: (
        done.append("fsync"), call(disk)))
    backup.restore(container.device, content)
    assert done[:5] == [2 << 20, 1 << 20, "fsync", 0, "fsync"]


# Revoked keys


def revoke(container):
    """The keyslot of "leaked" is destroyed."""
    change(container, luks2(keys=("first",)))
    backup.revoked(container)


@pytest.fixture
def leaked(host):
    """A container whose second key was revoked, and an exported backup that has it."""
    container = host.container(luks2(keys=("first", "leaked")))
    content = backup.export(backup.create(container, "old"))
    revoke(container)
    return container, content


def test_a_revocation_leaves_no_backup_with_the_key_on_this_host(host, leaked):
    container, _ = leaked
    backups = backup.list_of(headers.UUID)
    assert [found.reason for found in backups] == ["a key was revoked"]
    assert len(host.files()) == 1
    assert backup.is_fresh(container)


def test_a_backup_with_a_revoked_key_is_refused_and_its_keyslot_named(leaked):
    container, content = leaked
    lose(container)
    with pytest.raises(OldHeader, match="keyslots 1 too") as caught:
        backup.restore(container.device, content, headers.UUID)
    assert "--force=true" in caught.value.remedy
    assert header.find(container.device) is None


def test_by_force_it_is_restored_and_tells_which_keys_came_back(leaked):
    container, content = leaked
    lose(container)
    rollback.note(headers.UUID, header.parse("", luks2(keys=("first", "leaked"))).marks[1])
    assert backup.restore(container.device, content, headers.UUID, force=True).revived == [1]
    found = header.read(container.device)
    assert (found.keyslots, rollback.revived(found)) == ([0, 1], [])
    assert backup.is_fresh(container)


def test_a_key_that_came_into_the_slot_since_does_not_hide_that_the_old_one_comes_back(leaked):
    container, content = leaked
    change(container, luks2(keys=("first", "new")))
    backup.create(container, "recovery-add")
    lose(container)
    assert backup.restore(container.device, content, headers.UUID, force=True).revived == [1]


def test_a_backup_that_was_made_after_the_revocation_is_restored(leaked):
    container, _ = leaked
    content = backup.export(backup.list_of(headers.UUID)[-1])
    lose(container)
    assert backup.restore(container.device, content, headers.UUID).revived == []


def test_a_lost_note_does_not_make_old_backups_good(host, leaked):
    container, content = leaked
    (host.notes / headers.UUID / "headers.json").unlink()
    lose(container)
    with pytest.raises(OldHeader):
        backup.restore(container.device, content, headers.UUID)


def test_once_outdated_no_backup_is_fresh_or_restored(host):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    assert not backup.is_outdated(headers.UUID)
    backup.outdate(container)
    assert backup.is_outdated(headers.UUID)
    assert not backup.is_fresh(container)
    with pytest.raises(OldHeader):
        backup.restore(container.device, content)
    fresh = backup.create(container, "again")
    assert backup.list_of(headers.UUID) == [fresh]
    assert not backup.is_outdated(headers.UUID)
    backup.restore(container.device, backup.export(fresh))


# Killed


class Killed(BaseException):
    """Stands for a kill or a power cut: no handler of errors takes it."""


def killed_at(monkeypatch, step, action):
    """Runs `action` until its `step`th call that changes a disk; whether it came so far."""
    left = [step]

    def wrap(module, name):
        call = getattr(module, name)

        def counted(*words, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*words, **options)

        patch.setattr(module, name, counted)

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "fsync", "mkdir", "pwrite"):
            wrap(os, name)
        try:
            action()
        except Killed:
            return True
    return False


STEPS = range(60)


def test_a_kill_at_any_step_of_a_backup_leaves_the_earlier_ones(host, monkeypatch):
    container = host.container(luks2(keys=("0",)))
    steps = 0
    for step in STEPS:
        before = backup.list_of(headers.UUID)
        change(container, luks2(keys=(str(step),)))
        if not killed_at(monkeypatch, step, lambda: backup.create(container, "")):
            break
        steps += 1
        assert all(kept in backup.list_of(headers.UUID) for kept in before[-2:])
        made = backup.create(container, "next")
        assert backup.list_of(headers.UUID)[-1] == made
        assert len(host.files()) <= 3
        assert backup.is_fresh(container)
    assert 5 < steps < max(STEPS)


def test_a_kill_at_any_step_of_a_revocation_brings_no_key_back(host, monkeypatch):
    container = host.container(luks2(keys=("first", "leaked")))
    steps = 0
    for step in STEPS:
        state.forget(headers.UUID)
        change(container, luks2(keys=("first", "leaked")))
        old = backup.create(container, "old")
        content = backup.export(old)
        backup.outdate(container)
        change(container, luks2(keys=("first",)))
        finished = not killed_at(monkeypatch, step, lambda: backup.revoked(container))
        lose(container)
        with pytest.raises(OldHeader):
            backup.restore(container.device, content, headers.UUID)
        change(container, luks2(keys=("first",)))
        backup.create(container, "next")
        assert old not in backup.list_of(headers.UUID)
        assert len(host.files()) == 1
        if finished:
            break
        steps += 1
    assert 5 < steps < max(STEPS)


@pytest.mark.parametrize("made", GENERATIONS)
def test_a_kill_at_any_step_of_a_restoration_can_be_repeated(host, monkeypatch, made):
    container = host.container(made())
    before = content_of(container.device)
    content = backup.export(backup.create(container, ""))
    steps = 0
    for step in STEPS:
        lose(container)
        if not killed_at(monkeypatch, step,
                         lambda: backup.restore(container.device, content, headers.UUID)):
            break
        steps += 1
        backup.restore(container.device, content, headers.UUID)
        assert content_of(container.device) == before
    assert steps >= 5


def test_a_header_that_cannot_be_read_is_not_backed_up(host):
    container = host.container(luks2())
    lose(container)
    with pytest.raises(HeaderMissing):
        backup.create(container, "")
    assert not backup.is_fresh(container)


def test_a_disk_that_cannot_be_read_is_told(host, monkeypatch):
    with pytest.raises(DiskFails, match="cannot be read"):
        rawdisk.read(str(host.notes), 1)
    with pytest.raises(DiskFails, match="cannot be written"):
        rawdisk.overwrite(str(host.notes), b"")


def on_a_new_host(monkeypatch, tmp_path):
    """Has no note of anything, as after dom0 was installed anew."""
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "new"))


def test_the_header_that_a_restoration_overwrites_is_kept_also_where_it_has_the_only_copy(
        host, monkeypatch, tmp_path):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    change(container, luks2(keys=("another",)))
    on_a_new_host(monkeypatch, tmp_path)
    backup.restore(container.device, content, headers.UUID)
    assert [one.reason for one in backup.list_of(headers.UUID)] == [backup.BEFORE, "restored"]


def test_a_header_that_is_whole_is_not_overwritten_by_one_of_another_volume_key(
        host, monkeypatch, tmp_path):
    container = host.container(luks2())
    content = backup.export(backup.create(container, ""))
    change(container, luks2(volume_key="new"))
    on_a_new_host(monkeypatch, tmp_path)
    with pytest.raises(BackupOfAnother, match="volume key"):
        backup.restore(container.device, content, headers.UUID)
    assert header.read(container.device).volume_key == header.parse("", luks2(
        volume_key="new")).volume_key
    backup.restore(container.device, content, headers.UUID, force=True)
    assert backup.BEFORE in [one.reason for one in backup.list_of(headers.UUID)]


def test_a_damaged_disk_of_another_sr_is_not_overwritten(host):
    other_sr = "77777777-2222-4333-8444-555555555555"
    ours = host.container(luks2(label=headers.SR + ":0:1", subsystem="luksext"))
    other = host.container(luks2(uuid=OTHER, volume_key="another", label=other_sr + ":0:1",
                                 subsystem="luksext"), name="sdc")
    backup.create(ours, "")
    for copy in (0, 0x4000):
        damage(other, copy + 4096 + 10, b"xxxxxxxx")
    before = content_of(other.device)
    for more in ({}, {"force": "true", "luks-uuid": headers.UUID}):
        with pytest.raises(DeviceIsOurs, match=other_sr):
            verbs_header._restore(Repository(headers.SR, [ours], [None]),
                                  dict({"device": other.device}, **more))
    assert content_of(other.device) == before
