# SPDX-License-Identifier: LGPL-2.1-only
"""inplace: disks with data become containers; whatever cuts it short, the next call goes on."""
import os

import pytest

import headers
from fake_luks import every_cut
from luksext import (begun, bindings, clevis, header, inplace, keys, keyslots, lvm, notes, options,
                     reencrypt, state)
from luksext.begun import Begun
from luksext.clevis import Pin
from luksext.errors import (CommandFailed, DeviceNotEmpty, HeaderDamaged, InPlaceBegun,
                            InPlaceDoubt, InPlaceImpossible, LuksError, NoBinding, NoRoom,
                            ReencryptionUnfinished, ToolMissing, TpmRefuses)

SR = headers.SR
START = bytes(range(256)) * 4096
OPTIONS = options.parse({"device": "/dev/disk", "pin": "tpm2"})


class Killed(BaseException):
    """The process ends."""


class Host:
    """Two disks of an SR as files, on which a pretended cryptsetup works."""

    def __init__(self, folder):
        self.paths = [str(folder / name) for name in ("sdb", "sdc")]
        self.members = self.paths
        self.shrunk = 0
        self.signatures = None
        self.steps, self.kill_at = 0, None
        self.keys = []
        self.opening = {}
        self.refresh()

    def refresh(self):
        for path in self.paths:
            with open(path, "wb") as disk:
                disk.write(START)

    def step(self):
        self.steps += 1
        if self.kill_at is not None and self.steps >= self.kill_at:
            raise Killed

    def shrink(self, group, sr_uuid, size):
        self.step()
        assert (group, sr_uuid, size) == ("XSLocalEXT-" + SR, SR, 2 * len(START))
        # While the group is there: its label is in the start of each disk.
        assert all(self.start(path) == START for path in self.paths)
        self.shrunk += 1

    def encrypt_init(self, path, wanted, slot, key):
        """Needs the start as it was; cut short in the middle, it leaves a piece of it only."""
        self.step()
        assert self.start(path) == START
        with open(path, "r+b") as disk:
            disk.write(bytes(8192))
        self.step()
        content = headers.luks2(headers.in_encryption(0), uuid=wanted.uuid, label=wanted.label,
                                subsystem=wanted.subsystem)
        with open(path, "r+b") as disk:
            disk.write(content)
        self.step()
        self.keys.append(key)
        self.opening[path] = key
        self.step()

    def opens(self, path, slot, key):
        """Not before the keyslot is whole, which lies behind all that the header says of it."""
        self.step()
        assert slot is None
        return self.opening.get(path) == key

    def kinds(self, path):
        """What wipefs sees: LVM's label while nothing was written over it."""
        if self.signatures is not None:
            return self.signatures
        if list(header.remains(path)):
            return ["crypto_LUKS"]
        return ["LVM2_member"] if self.start(path)[:512] == START[:512] else []

    def group_on(self, path):
        return "XSLocalEXT-" + SR if self.kinds(path) == ["LVM2_member"] else None

    def start(self, path):
        with open(path, "rb") as disk:
            return disk.read(len(START))


@pytest.fixture
def host(monkeypatch, tmp_path):
    made = Host(tmp_path)
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    monkeypatch.setattr(inplace.shrink, "shrink", made.shrink)
    monkeypatch.setattr(inplace.lvm, "deactivate_all", lambda group: made.step())
    monkeypatch.setattr(inplace.cryptsetup, "encrypt_init", made.encrypt_init)
    monkeypatch.setattr(inplace.cryptsetup, "opens", made.opens)
    monkeypatch.setattr(inplace.cryptsetup, "version", lambda: (2, 6, 1))
    monkeypatch.setattr(inplace.contents, "kinds", made.kinds)
    monkeypatch.setattr(inplace.lvm, "sr_group_on", made.group_on)
    monkeypatch.setattr(inplace.lvm, "physical_volumes", lambda group: [
        lvm.PhysicalVolume(path, 0, 0, 0, 0) for path in made.members])
    monkeypatch.setattr(inplace.devices, "logical_block_size", lambda path: 512)
    monkeypatch.setattr(inplace, "require", lambda *programs: None)
    monkeypatch.setattr(inplace.clevis, "check_tools", lambda pin: None)
    # What is sealed can be seen: a pretended TPM.
    monkeypatch.setattr(inplace.clevis, "seal", lambda pin, key: "sealed " + key.decode())
    monkeypatch.setattr(inplace.clevis, "unseal", lambda jwe: jwe.split(" ")[1].encode())
    monkeypatch.setattr(inplace, "_START_BYTES", len(START))
    for path, write in (("write", state.write), ("destroy", state.destroy)):
        monkeypatch.setattr(state, path, stepping(made, write))
    return made


def stepping(host, function):
    def step(*arguments):
        host.step()
        function(*arguments)
        host.step()
    return step


def begin(host, options=OPTIONS):
    inplace.begin(SR, host.paths, options)
    return inplace.recovery_key(SR)


def check(host, key):
    for index, path in enumerate(host.paths):
        found = header.read(path)
        assert (found.label, found.subsystem) == ("{}:{}:2".format(SR, index), "luksext")
        assert begun.is_ours(found)
        assert begun.load(found.uuid).jwe == "sealed " + key
    assert set(host.keys) == {key.encode()}
    assert set(host.opening) == set(host.paths)
    kept = [name for name in os.listdir(state.Store(SR).folder) if name.startswith("start")]
    assert kept == []


def test_each_disk_becomes_a_container_that_one_recovery_key_opens(host, audited):
    key = begin(host)
    assert audited == [("encrypt-disk", SR, "driver", "ok", {"device": path})
                       for path in host.paths]
    assert host.shrunk == 1
    assert len(host.keys) == 2
    check(host, key)
    assert inplace.is_begun(SR)


def test_called_again_it_tells_the_key_again_and_changes_nothing(host, audited):
    key = begin(host)
    del audited[:]
    assert (begin(host), host.shrunk, len(host.keys)) == (key, 1, 2)
    assert audited == []


def cut_short(host, number):
    """A fresh SR, whose encryption is killed at the moment of that number."""
    host.kill_at = None
    state.forget(SR)
    host.refresh()
    host.steps, host.kill_at, host.keys, host.opening = 0, number, [], {}
    with pytest.raises(Killed):
        begin(host)
    host.kill_at = None


def moments(host):
    begin(host)
    return range(1, host.steps + 1)


def test_killed_at_any_moment_the_next_call_goes_on_with_nothing_lost(host):
    for number in moments(host):
        cut_short(host, number)
        check(host, begin(host))


def kept(host):
    """Writes the start of the first disk to where it is kept, as it was before."""
    path = os.path.join(state.Store(SR).folder, "start-0")
    with open(path, "wb") as file:
        file.write(START)
    return path


def test_a_start_that_was_being_destroyed_is_never_put_back(host, monkeypatch):
    """A kill in the middle leaves zeros of it; the key may open nothing for another reason."""
    def destroy(path):
        with open(path, "wb") as file:
            file.write(bytes(len(START)))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(state, "destroy", destroy)
        with pytest.raises(Killed):
            begin(host)
    before = host.start(host.paths[0])
    monkeypatch.setattr(inplace.cryptsetup, "opens", lambda path, slot, key: path != host.paths[0])
    begin(host)
    assert host.start(host.paths[0]) == before
    assert os.listdir(state.Store(SR).folder) == ["in-place.json"]


@pytest.mark.parametrize("done", [4096 * 4096, None], ids=["in part", "all"])
def test_a_start_is_not_put_back_over_what_is_encrypted(host, done):
    begin(host)
    path = kept(host)
    uuid = header.read(host.paths[0]).uuid
    with open(host.paths[0], "r+b") as disk:
        disk.write(headers.luks2(headers.in_encryption(done), uuid=uuid))
    before = host.start(host.paths[0])
    host.opening = {}
    with pytest.raises(HeaderDamaged):
        begin(host)
    assert host.start(host.paths[0]) == before
    assert os.path.exists(path)


def test_what_the_key_does_not_open_afterwards_keeps_the_start(host, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(inplace.cryptsetup, "opens", lambda path, slot, key: False)
        with pytest.raises(CommandFailed):
            begin(host)
    check(host, begin(host))


@pytest.mark.parametrize("given", [{}, {"discard": "true", "workqueues": "false"}])
def test_a_call_with_the_same_options_is_known_again(host, given):
    wanted = options.parse(dict({"device": "/dev/disk"}, **given))
    key = begin(host, wanted)
    assert begin(host, wanted) == key
    store = state.Store(SR)
    note = store.load("in-place")
    if not given:
        # As it was noted once, whether it was typed or not.
        store.save("in-place", dict(note, given=[*note["given"], "discard=false"]))
        assert begin(host, wanted) == key
    with pytest.raises(InPlaceBegun):
        begin(host, options.parse({"device": "/dev/disk", "discard": "true"}))


OTHERS = [{"pin": "null"}, {"pin-config": '{"pcr_ids":"7"}'}, {"cipher": "serpent-xts-plain64"},
          {"key-size": "256"}, {"discard": "true"}]


@pytest.mark.parametrize("other", OTHERS, ids=[next(iter(other)) for other in OTHERS])
def test_with_other_options_it_begins_anew_or_does_not_go_on_never_half_and_half(host, other):
    wanted = options.parse(dict({"device": "/dev/disk"}, **other))
    for number in moments(host):
        cut_short(host, number)
        before = [host.start(path) for path in host.paths]
        try:
            check(host, begin(host, wanted))
            assert before == [START, START]
        except InPlaceBegun as error:
            assert "pin=tpm2, pin-config={}" in str(error)
            assert [host.start(path) for path in host.paths] == before
            check(host, begin(host))


def test_a_disk_that_carries_something_else_by_now_is_not_written_to(host):
    seen = 0
    for number in moments(host):
        cut_short(host, number)
        for index, path in enumerate(host.paths):
            if not os.path.exists(os.path.join(state.Store(SR).folder, "start-%d" % index)) \
                    or path in host.opening:
                continue
            change(path, b"another filesystem", 70000)
            host.signatures = ["ext4"]
            before = host.start(path)
            with pytest.raises(DeviceNotEmpty):
                begin(host)
            assert host.start(path) == before
            seen += 1
        host.signatures = None
    assert seen > 2


def refuse(error):
    def refusing(*_):
        raise error
    return refusing


@pytest.mark.parametrize("module, name, error", [
    (inplace.clevis, "seal", TpmRefuses("")), (inplace.clevis, "unseal", TpmRefuses("")),
    (inplace.shrink, "shrink", NoRoom("/dev/x", 1))])
def test_what_cannot_be_done_is_told_with_the_disks_unchanged(host, monkeypatch, module, name,
                                                              error):
    monkeypatch.setattr(module, name, refuse(error))
    with pytest.raises(type(error)):
        begin(host)
    assert [host.start(path) for path in host.paths] == [START, START]


def test_a_host_whose_cryptsetup_is_too_old_is_refused_with_the_way_that_is_left(host, monkeypatch):
    monkeypatch.setattr(inplace.cryptsetup, "version", lambda: (2, 0, 3))
    with pytest.raises(InPlaceImpossible, match=r"2\.4\.3, this host has 2\.0\.3.*fn=encrypt "):
        inplace.check(SR, host.paths, Pin("tpm2", {}))


def test_a_disk_with_large_blocks_is_refused(host, monkeypatch):
    monkeypatch.setattr(inplace.devices, "logical_block_size", lambda path: 4096)
    with pytest.raises(InPlaceImpossible, match="blocks of 4096 bytes"):
        inplace.check(SR, host.paths, Pin("tpm2", {}))


def test_a_missing_tool_is_named(host, monkeypatch):
    monkeypatch.setattr(inplace, "require", refuse(ToolMissing("resize2fs", "e2fsprogs")))
    with pytest.raises(ToolMissing, match="e2fsprogs"):
        inplace.check(SR, host.paths, Pin("tpm2", {}))


# At the end


@pytest.fixture
def encrypted(disk, monkeypatch, tmp_path):
    """A disk whose data are all encrypted, and whose only key is the recovery key."""
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    disk.key = keys.to_passphrase(keys.generate())

    def prepare():
        disk.keys[0] = disk.key
        jwe = disk.jwe("tpm2", {"pcr_ids": "7", "pcr_bank": "sha256"}, disk.key)
        begun.save(headers.UUID, Begun("2031-01-01T00:00:00Z", "", "", [], jwe))
        disk.write()

    disk.prepare = prepare
    prepare()
    return disk


def opened_by(disk):
    found = disk.container()
    return found.by_binding(lambda slot, key: None if found.opened_by(slot, key) else 1 / 0)


def roles(disk):
    return [(slot.role, slot.confirmed) for slot in keyslots.slots(disk.container())]


@pytest.mark.parametrize("disk", [2], indirect=True, ids=["luks2"])
def test_at_the_end_the_recovery_key_gets_its_note_and_the_binding_a_key_of_its_own(encrypted):
    reencrypt.settle(encrypted.container())
    assert roles(encrypted) == [("recovery", False), ("binding", False)]
    [binding] = encrypted.container().bindings
    assert clevis.describe(binding.jwe).config["pcr_ids"] == "7"
    assert encrypted.keys[1] == encrypted.sealed[binding.jwe] != encrypted.key
    assert begun.load(headers.UUID) is None


@pytest.mark.parametrize("disk", [2], indirect=True, ids=["luks2"])
def test_the_recovery_key_is_told_until_all_disks_are_at_their_end(encrypted):
    """Until then no other can be made; later, who can unseal it must not have it."""
    state.Store(SR).save("in-place", {"jwe": begun.load(headers.UUID).jwe})
    inplace.end(SR, [encrypted.container()])
    assert inplace.recovery_key(SR).encode() == encrypted.key
    # A note that was lost does not tell that all is done.
    begun.forget(headers.UUID)
    inplace.end(SR, [encrypted.container()])
    assert inplace.is_begun(SR)
    encrypted.prepare()
    reencrypt.settle(encrypted.container())
    inplace.end(SR, [encrypted.container()])
    assert not inplace.is_begun(SR)
    assert not os.path.exists(state.Store(SR).folder)


@pytest.mark.parametrize("disk", [2], indirect=True, ids=["luks2"])
def test_killed_at_any_program_of_the_end_the_recovery_key_opens_and_the_end_is_made_good(
        encrypted):
    def holds():
        assert encrypted.keys[0] == encrypted.key
        reencrypt.settle(encrypted.container())
        # A key that was added, and not yet bound, stays: nobody knows it.
        found = [role for role, _ in roles(encrypted)]
        return sorted(set(found) - {"unknown"}) == ["binding", "recovery"] and len(found) <= 3

    assert every_cut(encrypted, encrypted.prepare,
                     lambda: reencrypt.settle(encrypted.container()), holds) > 6


@pytest.mark.parametrize("disk", [2], indirect=True, ids=["luks2"])
def test_until_the_header_takes_it_the_binding_opens_from_the_notes_of_this_host(encrypted):
    assert opened_by(encrypted) == (0, encrypted.key)
    begun.save(headers.UUID, begun.load(headers.UUID)._replace(after="another volume key"))
    with pytest.raises(NoBinding):
        opened_by(encrypted)


@pytest.mark.parametrize("disk", [2], indirect=True, ids=["luks2"])
def test_while_the_tpm_refuses_the_end_waits(encrypted):
    encrypted.break_bindings()
    with pytest.raises(LuksError):
        reencrypt.settle(encrypted.container())
    assert begun.load(headers.UUID) is not None
    assert encrypted.keys == {0: encrypted.key}


@pytest.mark.parametrize("disk", [2], indirect=True, ids=["luks2"])
def test_the_recovery_key_makes_the_end_where_the_tpm_refuses(encrypted):
    encrypted.break_bindings()
    reencrypt.resume(encrypted.container(), encrypted.key)
    assert roles(encrypted) == [("recovery", False), ("binding", False)]
    assert begun.load(headers.UUID) is None


def refused_by_cryptsetup(path, wanted, slot, key):
    raise CommandFailed("cryptsetup reencrypt", 5, "the device is in use")


def test_where_cryptsetup_refuses_the_sr_may_be_used_until_the_next_call(host, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(inplace.cryptsetup, "encrypt_init", refused_by_cryptsetup)
        with pytest.raises(CommandFailed):
            begin(host)
    assert not [name for name in os.listdir(state.Store(SR).folder) if name.startswith("start")]
    assert host.start(host.paths[0]) == START


def killed_by_cryptsetup(path, wanted, slot, key):
    raise Killed


def kept_start(host, monkeypatch):
    """An encryption that is killed when the start is kept, and nothing written yet."""
    with monkeypatch.context() as patch:
        patch.setattr(inplace.cryptsetup, "encrypt_init", killed_by_cryptsetup)
        with pytest.raises(Killed):
            begin(host)
    assert os.path.exists(os.path.join(state.Store(SR).folder, "start-0"))


def change(path, content, offset=0):
    with open(path, "r+b") as disk:
        disk.seek(offset)
        disk.write(content)


def test_what_was_written_since_an_interruption_is_not_overwritten(host, monkeypatch):
    kept_start(host, monkeypatch)
    change(host.paths[0], b"written by a VM", 70000)
    before = host.start(host.paths[0])
    with pytest.raises(InPlaceDoubt, match="start-0"):
        begin(host)
    assert host.start(host.paths[0]) == before


def test_another_encrypted_disk_under_the_same_name_is_not_written_to(host, monkeypatch):
    kept_start(host, monkeypatch)
    change(host.paths[0], headers.luks2(uuid="99999999-2222-4333-8444-555555555555"))
    before = host.start(host.paths[0])
    with pytest.raises(DeviceNotEmpty):
        begin(host)
    assert host.start(host.paths[0]) == before


@pytest.mark.parametrize("members", [["sdb"], ["sdb", "sdd"], ["sdb", "sdc", "sdd"]])
def test_a_device_config_that_does_not_name_the_disks_of_the_group_is_refused(host, members):
    host.members = [os.path.join(os.path.dirname(host.paths[0]), name) for name in members]
    with pytest.raises(InPlaceImpossible, match="sdc"):
        begin(host)
    assert not inplace.is_begun(SR)
    assert host.shrunk == 0


def test_a_second_disk_that_is_another_one_by_now_is_not_written_to(host, monkeypatch):
    write = state.write

    def killed_at_the_second(path, content):
        if path.endswith("start-1"):
            raise Killed
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(state, "write", killed_at_the_second)
        with pytest.raises(Killed):
            begin(host)
    assert header.find(host.paths[0]) is not None
    change(host.paths[1], bytes(4096))
    before = host.start(host.paths[1])
    with pytest.raises(InPlaceDoubt, match="no disk of it"):
        begin(host)
    assert host.start(host.paths[1]) == before


def test_a_disk_that_cannot_be_read_does_not_make_it_begin_anew(host):
    key = begin(host)
    for path in host.paths:
        os.rename(path, path + ".away")
    with pytest.raises(LuksError):
        begin(host)
    for path in host.paths:
        os.rename(path + ".away", path)
    assert begin(host) == key


@pytest.mark.parametrize("disk", [2], indirect=True, ids=["luks2"])
def test_until_the_recovery_key_has_its_note_it_is_no_binding_to_be_replaced(encrypted):
    way = keyslots.way_in(encrypted.container())
    with pytest.raises(ReencryptionUnfinished):
        bindings.rebind(encrypted.container(), 0, way, Pin("tang", {"url": "http://t", "thp": "x"}))
    assert encrypted.keys == {0: encrypted.key}
