# SPDX-License-Identifier: LGPL-2.1-only
"""container: a container is known by its LUKS UUID, compared before and after it is opened."""
import errno
import io
import json
import os
from types import SimpleNamespace

import pytest

import headers
from luksext import (alive, container, cryptsetup, devices, generation, mappings, notes, rawdisk,
                     state)
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.cryptsetup import Flags
from luksext.errors import (Ambiguous, CommandFailed, CommandTimeout, DeviceInUse, DeviceIsOurs,
                            DeviceMissing, DeviceNotEmpty, DiskFails, HeaderDamaged, HeaderMismatch,
                            HeaderMissing, KeyCost, KeyRefused, LuksError, MappingMismatch,
                            NoBinding, NotOurs, PinRefuses, ToolMissing, Unsupported)
from luksext.generation import Identity
from luksext.header import Reencryption, read
from luksext.options import Options
from luksext.record import Record

RECORD = Record(headers.UUID, headers.CIPHER, 512, "", headers.PAYLOAD)
NAME = "luks-" + headers.UUID
OTHER = "99999999-2222-4333-8444-555555555555"
TABLE = "0 100 crypt aes-xts-plain64 :64:logon:k 0 8:16 32768"
OURS = Identity(headers.SR, 0, 1)
OPTIONS = Options(["/dev/sdb"], False, Pin("any", {}), 2, headers.CIPHER, 512, Flags())


@pytest.fixture
def host(programs, sysfs, monkeypatch):
    """A host with fake programs and no disks; nodes of disks lie below a folder of the test."""
    monkeypatch.setattr(mappings.time, "sleep", lambda seconds: None)
    real_candidates, real_disk_of = devices.candidates, devices.disk_of
    nodes = str(sysfs.nodes)

    def node(path):
        return path and path.replace("/dev", nodes)

    monkeypatch.setattr(devices, "candidates", lambda: map(node, real_candidates()))
    monkeypatch.setattr(devices, "disk_of", lambda mapping: node(real_disk_of(mapping)))
    programs.add("clevis", "[ $1 = encrypt ] && echo {} || printf the-key".format(headers.JWE))
    programs.add("udevadm")
    programs.add("wipefs")
    programs.add("dmsetup", "echo " + TABLE)
    programs.add("dd", 'for word; do case $word in of=*) : >"${word#of=}"; esac; done')
    programs.add("cryptsetup", cryptsetup_of(sysfs))
    return Host(sysfs)


def cryptsetup_of(sysfs, opens=True):
    """A cryptsetup that opens and closes in the fake sysfs, and formats to a header of ours."""
    seed = sysfs.block.parent / "new-header"
    seed.write_bytes(headers.ours())
    return """
        sys={sys}; dm=$sys/dm-9
        for last; do before=$device; device=$last; done; disk=${{before##*/}}
        case $1 in
        --version) echo cryptsetup 2.6.1;;
        luksFormat) $helpers/cat {seed} >"$last";;
        open) {opens} || exit 0
            $helpers/mkdir -p $dm/dm $dm/slaves/$disk $sys/$disk/holders/dm-9
            echo $last >$dm/dm/name
            echo CRYPT-LUKS2-{uuid}-$last >$dm/dm/uuid;;
        close) $helpers/rm -r $dm $sys/*/holders/dm-9;;
        esac""".format(sys=sysfs.block, uuid=headers.UUID.replace("-", ""), seed=seed,
                       opens="true" if opens else "false")


class Host:
    """Disks with headers on them."""

    def __init__(self, sysfs):
        self.sysfs = sysfs

    def disk(self, name, content=b"", **properties):
        path = self.sysfs.disk(name, **properties)
        with open(path, "wb") as disk:
            disk.write(content)
        return path

    def container(self, content=None, name="sdb"):
        path = self.disk(name, headers.ours() if content is None else content)
        return LuksContainer(path, read(path))


# What is told of a container


def test_a_container_tells_what_to_recognise_it_by(host):
    found = host.container()
    assert found.uuid == headers.UUID
    assert found.record == RECORD
    assert found.identity == OURS
    assert found.mapping is None
    os.truncate(found.device, headers.PAYLOAD + 4096)
    assert found.payload_size == 4096


def test_another_disk_under_the_name_of_the_device_is_told(host):
    found = host.container()
    with open(found.device, "r+b") as disk:
        disk.write(headers.luks2(uuid=OTHER))
    with pytest.raises(HeaderMismatch, match=OTHER):
        found.refreshed()


@pytest.mark.parametrize("bound, expected", [((0,), False), ((0, 1), True), ((), False)])
def test_a_binding_whose_keyslot_is_argon2_takes_memory(host, bound, expected):
    """A passphrase has one such, too, and is not tried at a plug."""
    content = headers.metadata(slots=(0, 1), tokens={
        str(slot): headers.binding_token(slot) for slot in bound})
    content["keyslots"]["1"]["kdf"] = {"type": "argon2id", "memory": 1 << 20}
    found = host.container(headers.luks2(content))
    assert found.header.argon2 == (1,)
    assert found.takes_memory is expected
    encrypting = found.header._replace(reencryption=Reencryption(0, "new"))
    assert LuksContainer(found.device, encrypting).takes_memory


def test_a_luks1_container_takes_no_memory(host, programs):
    assert host.container(headers.luks1()).takes_memory is False
    assert programs.order() == []


# Opening


def test_opening_unseals_the_key_and_opens_under_the_name_of_the_uuid(host, programs):
    found = host.container()
    assert found.open(RECORD, Flags()) is True
    assert found.mapping.name == NAME
    assert programs.order() == ["clevis decrypt", "cryptsetup open", "dmsetup table"]
    assert programs.stdin("clevis") == headers.JWE.encode()
    assert programs.stdin("cryptsetup") == b"the-key"
    assert programs.calls("cryptsetup")[0][-2:] == [found.device, NAME]
    assert programs.calls("cryptsetup")[0][4:6] == ["--key-slot", "0"]


def test_discards_pass_only_when_asked_for(host, programs):
    host.container().open(RECORD, Flags(discard=True))
    assert "--allow-discards" in programs.calls("cryptsetup")[0]


def test_a_host_that_cannot_do_without_work_queues_says_so_before_a_disk_is_made(
        programs, monkeypatch):
    for name in ("clevis", "jose", "clevis-encrypt-null", "wipefs", "dmsetup", "dd"):
        programs.add(name)
    programs.add("cryptsetup", "echo cryptsetup 2.6.1")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="4.19.0+1"))
    wanted = OPTIONS._replace(pin=Pin("null", {}), flags=Flags(workqueues=False))
    with pytest.raises(Unsupported, match=r"workqueues=false needs kernel 5\.9.*4\.19"):
        container.prepare(wanted)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="6.1.0"))
    assert container.prepare(wanted).flags == Flags(workqueues=False)


def test_opening_an_open_container_only_checks_its_mapping(host, programs):
    found = host.container()
    found.open(RECORD, Flags())
    assert found.open(RECORD, Flags()) is False
    assert programs.order()[3:] == ["dmsetup table"]


def test_a_container_opened_by_hand_under_another_name_is_accepted(host, programs):
    found = host.container()
    host.sysfs.mapping("dm-1", "by-hand", "CRYPT-LUKS2-x-by-hand", below=["sdb"])
    assert found.open(RECORD, Flags()) is False
    assert programs.calls("dmsetup") == [["dmsetup", "table", "by-hand"]]


def test_a_container_without_record_must_be_one_of_our_kind(host):
    assert host.container().open(None, Flags()) is True


@pytest.mark.parametrize("content, record, text", [
    (headers.luks2(uuid=OTHER), RECORD, "LUKS UUID " + OTHER),
    (headers.luks2(headers.metadata(cipher="cipher_null-ecb")), None, "cipher cipher_null")])
def test_a_header_that_is_not_as_recorded_is_refused_before_anything_runs(
        host, programs, content, record, text):
    found = host.container(content)
    with pytest.raises(HeaderMismatch, match=text) as refusal:
        found.open(record, Flags())
    assert found.device in str(refusal.value)
    assert programs.order() == []


def test_no_key_is_tried_where_that_costs_more_than_any_key_takes(host, programs):
    found = host.container(headers.luks2(headers.metadata(
        tokens={"0": headers.binding_token()}, memory=1 << 30)))
    for action in (lambda: found.open(RECORD, Flags()), lambda: found.open(None, Flags()),
                   lambda: found.opened_by(0, b"key"), lambda: found.by_binding(None)):
        with pytest.raises(KeyCost):
            action()
    assert programs.order() == []


def test_a_container_without_binding_says_how_to_open_it_by_hand(host):
    found = host.container(headers.luks2())
    with pytest.raises(NoBinding, match="cryptsetup open {} {}".format(found.device, NAME)):
        found.open(RECORD, Flags())


def test_a_refusal_names_the_device_and_the_way_in_by_hand(host, programs):
    found = host.container()
    programs.add("jose")
    programs.add("clevis", "echo no chance >&2; exit 1")
    with pytest.raises(PinRefuses) as refusal:
        found.open(RECORD, Flags())
    assert refusal.value.sentence.startswith(found.device + " was not unlocked. ")
    assert "no chance" in refusal.value.sentence
    assert "cryptsetup open {} {}".format(found.device, NAME) in refusal.value.remedy
    assert found.mapping is None


def two_bindings():
    return headers.luks2(headers.metadata(slots=(0, 1), tokens={
        "0": headers.binding_token(0, headers.JWE.replace(".b.", ".first.")),
        "1": headers.binding_token(1, headers.JWE.replace(".b.", ".second."))}))


def test_when_one_binding_refuses_the_next_is_tried(host, programs):
    programs.add("jose")
    programs.add("clevis", "read -r jwe <$stdin; "
                           "case $jwe in *.first.*) exit 1; esac; printf key-$jwe")
    found = host.container(two_bindings())
    assert found.open(RECORD, Flags()) is True
    assert programs.stdin("cryptsetup") == b"key-" + headers.JWE.replace(".b.", ".second.").encode()


def test_when_all_bindings_refuse_every_reason_is_told(host, programs):
    programs.add("jose")
    programs.add("clevis", "read -r jwe <$stdin; jwe=${jwe#*.}; "
                           "echo no to ${jwe%%.*} >&2; exit 1")
    with pytest.raises(PinRefuses, match=r"(?s)no to first.*no to second"):
        host.container(two_bindings()).open(RECORD, Flags())


def test_a_key_that_does_not_open_is_refused(host, programs):
    programs.add("cryptsetup", "exit 2")
    found = host.container()
    with pytest.raises(KeyRefused, match="keyslot 0 of " + found.device):
        found.open(RECORD, Flags())


def test_a_host_without_cryptsetup_says_so_before_clevis_runs(host, programs):
    (programs.folder / "cryptsetup").unlink()
    with pytest.raises(ToolMissing, match="cryptsetup"):
        host.container().open(RECORD, Flags())
    assert programs.order() == []


@pytest.mark.parametrize("table, found", [
    ("0 100 crypt aes-cbc-plain 0 0 8:16 32768", "aes-cbc-plain 0 8:16 32768"),
    ("0 100 crypt aes-xts-plain64 0 0 8:32 32768", "aes-xts-plain64 0 8:32 32768"),
    ("0 100 crypt aes-xts-plain64 0 0 8:16 0", "aes-xts-plain64 0 8:16 0"),
    ("0 100 crypt aes-xts-plain64 0 8 8:16 32768", "aes-xts-plain64 8 8:16 32768"),
    ("0 100 linear aes-xts-plain64 0 0 8:16 32768", "aes-xts-plain64 0 8:16 32768"),
    ("0 100 linear 8:16 0", "8:16 [?] [?] [?]"), ("", "[?] [?] [?] [?]")])
def test_a_mapping_that_is_not_what_was_asked_for_is_closed_again(host, programs, table, found):
    programs.add("dmsetup", "echo '{}'".format(table))
    made = host.container()
    with pytest.raises(MappingMismatch, match=found + " where aes-xts-plain64 0 8:16 32768"):
        made.open(RECORD, Flags())
    assert made.mapping is None


def test_a_mapping_with_large_sectors_is_closed_again(host):
    queue = host.sysfs.block / NAME / "queue"
    queue.mkdir(parents=True)
    (queue / "logical_block_size").write_text("4096")
    made = host.container()
    with pytest.raises(MappingMismatch, match="sector size other than 512"):
        made.open(RECORD, Flags())
    assert made.mapping is None


def test_a_mapping_that_others_made_and_that_is_wrong_is_left_alone(host, programs):
    programs.add("dmsetup", "echo 0 100 crypt aes-cbc-plain 0 0 8:16 32768")
    made = host.container()
    host.sysfs.mapping("dm-1", "by-hand", "CRYPT-LUKS2-x-by-hand", below=["sdb"])
    with pytest.raises(MappingMismatch, match="/dev/mapper/by-hand"):
        made.open(RECORD, Flags())
    assert "cryptsetup close" not in programs.order()


def test_success_of_cryptsetup_without_a_mapping_is_not_believed(host, programs):
    programs.add("cryptsetup", cryptsetup_of(host.sysfs, opens=False))
    with pytest.raises(MappingMismatch, match="no mapping"):
        host.container().open(RECORD, Flags())


def test_a_mapping_of_a_cryptsetup_that_did_not_end_is_closed_again(host, programs, monkeypatch):
    made = host.container()
    open_device = cryptsetup.open_device

    def waits_for_udev(*arguments):
        open_device(*arguments)
        raise CommandTimeout("cryptsetup open", 60)

    monkeypatch.setattr(cryptsetup, "open_device", waits_for_udev)
    with pytest.raises(CommandTimeout, match="cryptsetup open"):
        made.open(RECORD, Flags())
    assert made.mapping is None
    assert "cryptsetup close" in programs.order()


# Closing and erasing


def test_closing_a_closed_container_runs_nothing(host, programs):
    host.container().close()
    assert programs.order() == []


def test_an_open_container_is_closed(host, programs):
    found = host.container()
    found.open(RECORD, Flags())
    found.close()
    assert found.mapping is None
    assert programs.calls("cryptsetup")[-1] == ["cryptsetup", "close", NAME]


def test_a_busy_container_is_tried_again_after_udev_settled(host, programs):
    programs.add("cryptsetup", "[ -e {0} ] && exit 0; : >{0}; exit 5".format(
        programs.folder / "tried"))
    mappings.close(devices.Mapping("c", "dm-1"))
    assert programs.order() == ["cryptsetup close", "udevadm settle", "cryptsetup close"]


def test_a_container_that_stays_busy_is_in_use(host, programs):
    programs.add("cryptsetup", "exit 5")
    programs.add("udevadm", "exit 1")
    with pytest.raises(DeviceInUse, match="/dev/mapper/c is in use"):
        mappings.close(devices.Mapping("c", "dm-1"))
    assert programs.order().count("cryptsetup close") == 5


def test_erasing_destroys_the_keyslots_first_and_then_the_header(host, programs):
    found = host.container()
    found.erase()
    assert programs.order() == ["cryptsetup erase", "dd if=/dev/zero"]
    assert programs.calls("dd") == [["dd", "if=/dev/zero", "of=" + found.device, "bs=1M",
                                     "count=16", "conv=fsync,notrunc"]]


# Formatting


def test_formatting_seals_the_key_before_it_touches_the_device(host, programs):
    device = host.disk("sdb", b"data")
    programs.add("clevis", "exit 1")
    with pytest.raises(PinRefuses):
        container.format_container(device, headers.UUID, OURS, OPTIONS, None)
    assert programs.order() == ["clevis encrypt"]
    with open(device, "rb") as disk:
        assert disk.read() == b"data"


@pytest.mark.parametrize("content, error", [
    (headers.luks2(), DeviceNotEmpty), (headers.ours(), DeviceIsOurs)])
def test_what_came_to_the_device_while_the_key_was_sealed_stays(host, programs, content, error):
    device = host.disk("sdb")
    seed = host.sysfs.block.parent / "came"
    seed.write_bytes(content)
    programs.add("clevis", "$helpers/cat {} >{}; echo {}".format(seed, device, headers.JWE))
    with pytest.raises(error):
        container.format_container(device, headers.UUID, OURS, OPTIONS, None)
    assert programs.order() == ["clevis encrypt", *["wipefs -p"] * (error is DeviceNotEmpty)]
    with open(device, "rb") as disk:
        assert disk.read() == content


def test_who_mounted_the_device_while_the_key_was_sealed_keeps_it(host, programs, monkeypatch):
    device = host.disk("sdb", b"data")

    def busy(path, flags):
        assert programs.order() == ["clevis encrypt"]
        raise OSError(errno.EBUSY, "busy", path)

    monkeypatch.setattr(container.claims.os, "open", busy)
    with pytest.raises(DeviceInUse):
        container.format_container(device, headers.UUID, OURS, OPTIONS._replace(force=True), None)
    monkeypatch.undo()
    assert programs.order() == ["clevis encrypt"]
    with open(device, "rb") as disk:
        assert disk.read() == b"data"


@pytest.mark.parametrize("content", [
    headers.ours(), headers.ours()[:0x4000], bytes(0x4000) + headers.ours()[0x4000:],
    headers.ours()[:5000] + b"x" + headers.ours()[5001:0x6000]],
    ids=["whole", "first copy", "second copy", "damaged"])
def test_a_part_of_an_sr_is_not_overwritten_whatever_is_left_of_its_header(host, content):
    device = host.disk("sdb", content)
    for force in (False, True):
        with pytest.raises(DeviceIsOurs, match=headers.SR):
            container.check_formattable(device, force)


def luks1_with_mark(luks1=None):
    """As luksmeta 9 leaves it: our mark at the start of a block of its area, here the second."""
    mark = b"%s:0:1" % headers.SR.encode()
    start = headers.luks1() if luks1 is None else luks1
    return b"".join([start.ljust(0x101000, b"\0"), b"LUKSMETA".ljust(4096, b"\0"),
                     mark.ljust(4096, b"\0")])


@pytest.mark.parametrize("content", [
    luks1_with_mark(), luks1_with_mark(b""), luks1_with_mark(headers.luks1()[:300])],
    ids=["whole", "header lost", "header damaged"])
def test_a_luks1_disk_of_an_sr_is_known_where_luksmeta_fails_or_is_missing(
        host, programs, content):
    device = host.disk("sdb", content)
    for _ in range(2):
        for force in (False, True):
            with pytest.raises(DeviceIsOurs, match=headers.SR):
                container.check_formattable(device, force)
        programs.add("luksmeta", "exit 1")
    assert programs.order() == []


class FirstBlockBad(io.FileIO):
    """A disk whose first block cannot be read."""

    def read(self, size=-1):
        if self.tell() < 4096:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("content", [headers.ours(), luks1_with_mark(), bytes(1 << 16)],
                         ids=["luks2", "luks1", "empty"])
def test_beside_a_sector_that_cannot_be_read_a_disk_of_an_sr_is_known(host, monkeypatch, content):
    device = host.disk("sdb", content)
    monkeypatch.setattr(rawdisk, "open", lambda path, mode: FirstBlockBad(path), raising=False)
    found = []
    with pytest.raises(DiskFails):
        for identity in generation.traces(device):
            found.append(identity.sr_uuid)
    assert found[:1] == [headers.SR] * any(content)


def test_a_luks1_disk_of_somebody_else_is_not_ours(host):
    text = b"see %s:0:1" % headers.SR.encode()
    device = host.disk("sdb", headers.luks1().ljust(8192, b"\0") + text)
    container.check_formattable(device, True)


@pytest.mark.parametrize("content", [headers.luks1(), headers.luks2()], ids=["luks1", "luks2"])
def test_a_container_that_something_is_noted_of_is_ours_whatever_its_header_says(
        host, monkeypatch, tmp_path, content):
    device = host.disk("sdb", content)
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    container.check_formattable(device, True)
    state.Store(headers.UUID).make()
    with pytest.raises(DeviceIsOurs, match="its header does not say which"):
        container.check_formattable(device, True)


@pytest.fixture
def parted(host, monkeypatch):
    """A disk, written as asked for, of which the kernel has a partition; the path of that."""
    monkeypatch.setattr(devices, "whole", lambda device: device.replace("sdb1", "sdb"))

    def write(content):
        host.disk("sdb", content)
        part = host.sysfs.partition("sdb", "sdb1")
        with open(part, "wb") as file:
            file.write(os.urandom(4096))
        return part

    return write


@pytest.mark.parametrize("content", [headers.ours(), luks1_with_mark(), bytes(0x4000)
                                     + headers.ours()[0x4000:]],
                         ids=["luks2", "luks1", "second-copy"])
def test_a_partition_that_lies_in_a_disk_of_ours_is_not_formatted(parted, content):
    part = parted(content)
    for force in (False, True):
        with pytest.raises(DeviceIsOurs, match=part[:-1] + " is part of"):
            container.check_formattable(part, force)


def test_a_partition_in_a_container_of_somebody_else_is_not_empty(parted):
    part = parted(headers.luks2())
    with pytest.raises(DeviceNotEmpty, match=part[:-1] + " is not empty"):
        container.check_formattable(part, False)
    container.check_formattable(part, True)


def test_beside_a_partition_of_ours_another_is_formatted(parted):
    content = bytes(1 << 20) + luks1_with_mark()
    container.check_formattable(parted(content), False)


@pytest.mark.parametrize("force", [False, True])
def test_the_kernel_forgets_partitions_that_were_overwritten(host, monkeypatch, force):
    device, asked = host.disk("sdb", size=256 << 20), []
    monkeypatch.setattr(container.claims.fcntl, "ioctl", lambda handle, number: asked.append(
        (os.readlink("/proc/self/fd/{}".format(handle)), number)))
    container.format_container(device, headers.UUID, OURS, OPTIONS._replace(force=force), None)
    assert asked == [(device, 0x125f)]


def test_all_is_written_to_the_disk_that_a_link_led_to_at_first(host, programs):
    first, second = host.disk("sdb"), host.disk("sdc", b"of somebody else")
    link = str(host.sysfs.nodes / "by-id")
    os.symlink(first, link)
    programs.add("clevis", "$helpers/rm {0}; $helpers/ln -s {1} {0}; echo {2}".format(
        link, second, headers.JWE))
    made = container.format_container(link, headers.UUID, OURS, OPTIONS, None)
    assert os.path.realpath(link) == second
    assert made.device == first
    assert read(first).uuid == headers.UUID
    with open(second, "rb") as disk:
        assert disk.read() == b"of somebody else"


def test_while_it_is_formatted_the_disk_is_open_so_that_its_name_leads_to_no_other(
        host, monkeypatch):
    opened = []

    def format(device, *_):
        opened.extend(os.path.realpath("/proc/self/fd/" + name)
                      for name in os.listdir("/proc/self/fd"))
        raise CommandFailed("cryptsetup luksFormat", 1, "no")

    monkeypatch.setattr(cryptsetup, "luks_format", format)
    device = host.disk("sdb")
    with pytest.raises(CommandFailed):
        container.format_container(device, headers.UUID, OURS, OPTIONS, None)
    assert os.path.realpath(device) in opened


def test_formatting_makes_a_bound_container_with_our_mark(host, programs):
    device = host.disk("sdb")
    made = container.format_container(device, headers.UUID, OURS, OPTIONS, None)
    assert made.identity == OURS
    assert programs.order() == ["clevis encrypt", "wipefs -p", "dd if=/dev/zero",
                                "cryptsetup luksFormat", "cryptsetup token"]
    argv = programs.calls("cryptsetup")[0]
    assert argv[argv.index("--label") + 1] == str(OURS)
    assert argv[argv.index("--subsystem") + 1] == "luksext"


def test_every_container_gets_the_given_uuid_and_a_key_of_256_bits_of_its_own(host, programs):
    keys = set()
    for name, uuid in (("sdb", headers.UUID), ("sdc", OTHER)):
        container.format_container(host.disk(name), uuid, OURS, OPTIONS, None)
        argv = [call for call in programs.calls("cryptsetup") if call[1] == "luksFormat"][-1]
        assert argv[argv.index("--uuid") + 1] == uuid
        keys.add(programs.stdin("clevis"))
    assert sorted(map(len, keys)) == [43, 43]


def test_force_overwrites_the_end_of_the_device_too(host, programs):
    device = host.disk("sdb", size=256 << 20)
    container.format_container(device, headers.UUID, OURS, OPTIONS._replace(force=True), None)
    assert programs.calls("dd")[1:] == [[
        "dd", "if=/dev/zero", "of=" + device, "bs=512", "count=2048",
        "seek={}".format((256 << 11) - 2048), "conv=fsync,notrunc"]]


def test_a_passphrase_becomes_the_second_keyslot(host, programs):
    container.format_container(host.disk("sdb"), headers.UUID, OURS, OPTIONS, b"correct horse")
    added, note = programs.calls("cryptsetup")[-2:]
    assert added[1] == "luksAddKey"
    assert added[added.index("--key-slot") + 1] == "1"
    assert note[1:3] == ["token", "import"]
    token = json.loads(programs.stdin("cryptsetup").decode())
    assert (token["type"], token["keyslots"]) == ("luksext-recovery", ["1"])
    assert (token["name"], token["confirmed"]) == ("passphrase", False)


def test_luks1_keeps_mark_and_binding_in_luksmeta(host, programs):
    programs.add("luksmeta")
    container.format_container(
        host.disk("sdb"), headers.UUID, OURS, OPTIONS._replace(luks_version=1), None)
    assert programs.order()[3:] == ["cryptsetup luksFormat", "luksmeta init", "luksmeta save",
                                    "luksmeta save"]


@pytest.mark.parametrize("step", ["luksFormat", "token", "luksAddKey"])
def test_a_failure_on_the_way_erases_what_was_begun(host, programs, step):
    device = host.disk("sdb", b"data")
    programs.add("cryptsetup", "[ $1 = {} ] && exit 1\n{}".format(step, cryptsetup_of(host.sysfs)))
    with pytest.raises(CommandFailed, match=step):
        container.format_container(device, headers.UUID, OURS, OPTIONS, b"correct horse")
    assert programs.order()[-1] == "dd if=/dev/zero"
    with pytest.raises(HeaderMissing):
        read(device)


def test_a_header_that_cannot_be_read_back_is_erased(host, programs):
    device = host.disk("sdb")
    programs.add("cryptsetup")
    with pytest.raises(HeaderMissing):
        container.format_container(device, headers.UUID, OURS, OPTIONS, None)
    assert programs.order().count("dd if=/dev/zero") == 2


def test_a_failure_to_erase_does_not_hide_why_formatting_failed(host, programs):
    programs.add("cryptsetup", "exit 1")
    programs.add("dd", "[ -e {0} ] && exit 1; : >{0}".format(programs.folder / "ran"))
    with pytest.raises(CommandFailed, match="cryptsetup luksFormat"):
        container.format_container(host.disk("sdb"), headers.UUID, OURS, OPTIONS, None)


def test_what_clevis_prints_besides_a_sealed_key_is_no_binding(host, programs):
    programs.add("clevis", "echo no jwe")
    device = host.disk("sdb")
    with pytest.raises((LuksError, ValueError)):
        container.format_container(device, headers.UUID, OURS, OPTIONS, None)
    with pytest.raises(HeaderMissing):
        read(device)


# Choosing the LUKS version


@pytest.fixture
def installed(host, programs):
    """A host on which the pin `any` can be used."""
    for name in ("jose", "clevis-encrypt-any", "clevis-decrypt-any"):
        programs.add(name)

    def cryptsetup(version):
        programs.add("cryptsetup", "echo cryptsetup " + version)
    return cryptsetup


@pytest.mark.parametrize("version, asked, chosen", [
    ("2.0.3", None, 1), ("2.0.3", 1, 1), ("2.0.4", None, 2), ("2.6.1", None, 2), ("2.6.1", 1, 1),
    ("2.6.1", 2, 2), ("2.10.0", None, 2), ("1.7.5", None, 1)])
def test_luks2_is_chosen_where_cryptsetup_can_bind_it(installed, programs, version, asked, chosen):
    installed(version)
    programs.add("luksmeta")
    assert container.prepare(OPTIONS._replace(luks_version=asked)).luks_version == chosen


def test_luks2_that_cannot_be_bound_is_refused_with_both_versions(installed):
    installed("2.0.3")
    with pytest.raises(Unsupported, match=r"luks-version=2 needs cryptsetup 2.0.4.*has 2\.0\.3"):
        container.prepare(OPTIONS._replace(luks_version=2))


@pytest.mark.parametrize("program", ["clevis", "jose", "cryptsetup", "wipefs", "dmsetup", "dd"])
def test_every_program_is_looked_for_first(installed, programs, program):
    (programs.folder / program).unlink()
    with pytest.raises(ToolMissing, match="program {} is".format(program)):
        container.prepare(OPTIONS)


def test_luksmeta_is_needed_for_luks1_only(installed):
    installed("2.0.3")
    with pytest.raises(ToolMissing, match="luksmeta"):
        container.prepare(OPTIONS._replace(luks_version=None))


# Finding what was recorded


def test_a_recorded_container_is_found_where_it_was(host):
    device = host.container().device
    assert container.find_recorded(RECORD, device).device == device


def test_a_recorded_container_is_found_wherever_its_disk_is_now(host):
    hint = host.disk("sdb", headers.luks2(uuid=OTHER))
    device = host.disk("sdc", headers.ours())
    assert container.find_recorded(RECORD, hint).device == device
    assert container.find_recorded(RECORD, "/dev/gone").device == device


def test_an_open_container_is_found_below_its_mapping(host):
    host.disk("sdb", headers.ours())
    device = host.disk("sdc", headers.ours())
    host.sysfs.mapping("dm-1", "c", "CRYPT-LUKS2-{}-c".format(headers.UUID.replace("-", "")),
                       below=["sdc"])
    assert container.find_recorded(RECORD, "/dev/gone").device == device


def test_of_a_copied_disk_the_hint_decides_and_without_it_nothing(host):
    first = host.disk("sdb", headers.ours())
    second = host.disk("sdc", headers.ours())
    assert container.find_recorded(RECORD, second).device == second
    with pytest.raises(Ambiguous) as refusal:
        container.find_recorded(RECORD, "/dev/gone")
    assert first in str(refusal.value) and second in str(refusal.value)


def test_without_any_disk_it_is_missing_with_what_was_known_of_it(host):
    with pytest.raises(DeviceMissing, match=headers.UUID + ".*last known as /dev/gone"):
        container.find_recorded(RECORD, "/dev/gone")


@pytest.mark.parametrize("content, error", [
    (b"", HeaderMissing), (headers.luks2()[:100], HeaderDamaged),
    (headers.luks2(uuid=OTHER), HeaderMismatch)])
def test_what_the_hint_carries_instead_is_told(host, content, error):
    hint = host.disk("sdb", content)
    with pytest.raises(error, match=hint):
        container.find_recorded(RECORD, hint)


@pytest.fixture
def unreadable(host):
    """The path of a disk that cannot be read: here a folder, which gives an OSError as well."""
    path = host.disk("sdz")
    os.unlink(path)
    os.mkdir(path)
    return path


def test_a_recorded_disk_that_cannot_be_read_is_a_luks_error(unreadable):
    with pytest.raises(LuksError):
        container.find_recorded(RECORD, unreadable)


def test_a_disk_that_cannot_be_read_does_not_hide_another(host, unreadable):
    device = host.container().device
    assert container.find_recorded(RECORD, unreadable).device == device


def test_what_cannot_be_read_is_not_formatted(unreadable):
    with pytest.raises(DiskFails):
        container.check_formattable(unreadable, force=True)


@pytest.fixture
def silent(host, monkeypatch):
    """The path of a disk that hangs."""
    path = host.disk("sdz", headers.ours())
    answers = alive.answers
    monkeypatch.setattr(alive, "answers", lambda device: device != path and answers(device))
    return path


def test_a_disk_that_hangs_is_named_and_does_not_hide_another(host, silent):
    with pytest.raises(DiskFails, match=silent):
        container.find_recorded(RECORD, silent)
    with pytest.raises(DiskFails, match=silent):
        container.find_identified(headers.SR, [silent])
    device = host.container().device
    assert container.find_recorded(RECORD, silent).device == device
    assert [found.device for found in container.find_identified(headers.SR, [silent])] == [device]


# Finding what says that it belongs to an SR


def test_the_disks_of_an_sr_come_in_their_order(host):
    second = host.disk("sda", headers.ours(1, 2, uuid=OTHER))
    first = host.disk("sdb", headers.ours(0, 2))
    host.disk("sdc", headers.luks2())
    host.disk("sdd")
    for hints in ([first], [second, first], ["/dev/gone"], [first, "/dev/gone"]):
        found = container.find_identified(headers.SR, hints)
        assert [entry.device for entry in found] == [first, second]


def test_a_disk_that_is_missing_is_counted(host):
    host.disk("sdb", headers.ours(1, 3))
    with pytest.raises(DeviceMissing, match="Only 1 of the 3 disks of the SR " + headers.SR):
        container.find_identified(headers.SR, ["/dev/gone"])


def test_two_disks_that_claim_the_same_place_are_ambiguous(host):
    devices_of = [host.disk(name, headers.ours(0, 2)) for name in ("sdb", "sdc")]
    with pytest.raises(Ambiguous) as refusal:
        container.find_identified(headers.SR, devices_of[:1])
    assert all(device in str(refusal.value) for device in devices_of)


@pytest.mark.parametrize("content, error", [
    (b"", HeaderMissing), (headers.luks2()[:100], HeaderDamaged), (headers.luks2(), NotOurs),
    (headers.luks2(subsystem="luksext", label=OTHER + ":0:1"), NotOurs)])
def test_what_a_wrong_hint_carries_instead_is_told(host, content, error):
    hint = host.disk("sdb", content)
    with pytest.raises(error, match=hint):
        container.find_identified(headers.SR, ["/dev/gone", hint])


def test_an_sr_without_disks_is_missing(host):
    with pytest.raises(DeviceMissing, match=r"No disk of the SR.*/dev/gone does not exist"):
        container.find_identified(headers.SR, ["/dev/gone"])


def test_a_hint_that_cannot_be_read_is_a_luks_error(unreadable):
    with pytest.raises(LuksError):
        container.find_identified(headers.SR, [unreadable])


def test_all_containers_with_an_intact_header_are_found(host, unreadable):
    host.disk("sdb", headers.ours())
    host.disk("sdc", headers.luks1())
    host.disk("sdd", headers.luks2()[:5000])
    host.disk("sde")
    assert [found.header.version for found in container.all_containers()] == [2, 1]


def test_a_foreign_luks1_disk_on_a_host_without_luksmeta_does_not_hide_ours(host):
    host.disk("sda", headers.luks1(uuid=OTHER))
    device = host.container().device
    assert container.find_identified(headers.SR, ["/dev/gone"])[0].device == device
