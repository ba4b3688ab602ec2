# SPDX-License-Identifier: LGPL-2.1-only
"""reencrypt: a new volume key for data in use; each moment has the ways in that there were."""
import os
import shutil
import subprocess
import sys
import time

import pytest

import fake_reencrypt
import headers
from luksext import (backup, begun, bindings, container, grow, header, keyslots, notes, reencrypt,
                     state, trust)
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.cryptsetup import Flags
from luksext.devices import Mapping
from luksext.errors import (CommandFailed, ContainerReplaced, HeaderOutdated, NotPlugged,
                            ReencryptionForeign, ReencryptionKeys, ReencryptionStuck,
                            ReencryptionUnfinished, Unsupported, WrongRecoveryKey)
from luksext.header import read
from luksext.record import Record

HERE = os.path.dirname(__file__)
# Of this process alone: whoever works on a mapping is found by its name, among all processes.
NAME = "luks-{}-{}".format(headers.UUID, os.getpid())
TOP = Mapping(NAME, "dm-0")
BOUND, TYPED = b"key-of-the-binding", b"correct horse battery staple"
RECORD = Record(headers.UUID, headers.CIPHER, 512)
MIB = 1 << 20


@pytest.fixture
def lab(programs, sysfs, tmp_path, monkeypatch):
    """An open container with a binding in keyslot 0 and a passphrase in keyslot 1."""
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    made = Lab(programs, sysfs, tmp_path)
    monkeypatch.setattr(reencrypt.reencrypt_process, "_program_of", lambda process: "cryptsetup")
    monkeypatch.setattr(reencrypt.backup, "revoked",
                        lambda container: made.backups.append(container.header.keyslots))
    yield made
    made.end()


class Lab:
    def __init__(self, programs, sysfs, folder):
        self.programs, self.sysfs, self.folder = programs, sysfs, folder
        self.backups = []
        self.device = sysfs.disk("sdb")
        sysfs.mapping("dm-0", NAME, "CRYPT-LUKS2-{}-{}".format(
            headers.UUID.replace("-", ""), NAME), below=["sdb"])
        content = headers.metadata(slots=(), tokens={
            "0": headers.binding_token(0),
            "1": {"type": "luksext-recovery", "keyslots": ["1"], "serial": 1, "name": "paper",
                  "confirmed": True, "created": "2031-01-01T00:00:00Z"}})
        content["digests"] = {"old": {"keyslots": [], "segments": ["0"], "digest": "old"}}
        for slot, key in (("0", BOUND), ("1", TYPED)):
            fake_reencrypt.add(content, key.decode(), "old", slot)
        fake_reencrypt.write(self.device, content)
        os.truncate(self.device, headers.PAYLOAD + 1024 * MIB)
        programs.add("clevis", "printf %s {}".format(BOUND.decode()))
        programs.add("udevadm")
        programs.add("wipefs")
        programs.add("cryptsetup", 'exec {} -S -E {} {} "$@" <$stdin'.format(
            sys.executable, os.path.join(HERE, "fake_reencrypt.py"), folder))

    @property
    def container(self):
        return LuksContainer(self.device, read(self.device))

    def tell(self, name, text):
        (self.folder / name).write_text(text)

    def wait(self):
        """Waits until the process that works has ended."""
        for _ in range(100):
            found = reencrypt.progress(self.container)
            if found.state != "running":
                return found
            time.sleep(0.1)
        raise AssertionError("it does not end")

    def end(self):
        reencrypt.reencrypt_process.stop(TOP)

    def cut(self):
        """Encrypts a part anew, and stops."""
        self.tell("die", "never")
        reencrypt.start(self.container, [TYPED])
        for _ in range(600):
            if reencrypt.progress(self.container).done:
                return self.end()
            time.sleep(0.1)
        raise AssertionError("it does not begin")

    def ways_in(self):
        """Which of the two keys open it."""
        found = self.container
        return [key for key in (BOUND, TYPED)
                if any(found.opened_by(slot, key) for slot in found.header.keyslots)]


def test_all_data_get_a_new_volume_key_and_all_keys_stay(lab):
    before = lab.container.header.volume_key
    begin = reencrypt.start(lab.container, [TYPED])
    assert begin.total == 1024 * MIB
    assert lab.wait().state == "none"
    header = lab.container.header
    assert header.volume_key not in (before, "")
    assert (header.keyslots, header.unbound, header.requirements) == ([2, 3], [], [])
    assert [(slot.number, slot.role, slot.name) for slot in keyslots.slots(lab.container)] == [
        (2, "binding", "any"), (3, "recovery", "paper")]
    assert lab.ways_in() == [BOUND, TYPED]


def test_backups_with_the_old_volume_key_are_replaced_once(lab):
    reencrypt.start(lab.container, [TYPED])
    lab.wait()
    assert lab.backups == []
    for _ in range(2):
        reencrypt.settle(lab.container)
        assert lab.backups == [[2, 3]]
    assert begun.load(headers.UUID) is None


def test_while_it_runs_its_progress_is_told_and_no_other_begins(lab):
    lab.tell("die", "never")
    reencrypt.start(lab.container, [TYPED])
    for _ in range(100):
        found = reencrypt.progress(lab.container)
        if found.done:
            break
        time.sleep(0.1)
    assert (found.state, found.done, found.total) == ("running", 64 * MIB, 1024 * MIB)
    with pytest.raises(ReencryptionUnfinished):
        reencrypt.start(lab.container, [TYPED])
    assert reencrypt.resume(lab.container).state == "running"
    assert len(list(reencrypt.reencrypt_process._running(TOP))) == 1


@pytest.mark.parametrize("program, user, expected", [
    ("cryptsetup", None, True), ("editor", None, False), ("cryptsetup", 12345, False)])
def test_what_only_has_its_arguments_is_not_it(tmp_path, monkeypatch, program, user, expected):
    path = str(tmp_path / program)
    shutil.copy(shutil.which("sh"), path)
    process = subprocess.Popen([path, "-c", "read -r line", "reencrypt", NAME],
                               stdin=subprocess.PIPE)
    try:
        if user is not None:
            monkeypatch.setattr(os, "geteuid", lambda: user)
        end = time.monotonic() + 20
        while len(told(process)) < 5 and time.monotonic() < end:
            time.sleep(0.02)
        found = list(reencrypt.reencrypt_process._running(TOP))
        assert found == ([process.pid] if expected else [])
        os.unlink(path)
        assert list(reencrypt.reencrypt_process._running(TOP)) == found
    finally:
        process.communicate()


def told(process):
    """The arguments that a process has."""
    with open("/proc/{}/cmdline".format(process.pid), "rb") as file:
        return file.read().split(b"\0")


WAY = keyslots.Way(2, BOUND)


@pytest.mark.parametrize("change", [
    lambda container: keyslots.add_recovery(container, WAY, "new", b"x" * 20),
    lambda container: keyslots.confirm(container, TYPED),
    lambda container: keyslots.revoke(container, 3),
    lambda container: bindings.add(container, WAY, Pin("tpm2", {})),
    lambda container: bindings.remove(container, 2, force=True),
    lambda container: bindings.rebind(container, 2, WAY, Pin("tpm2", {})),
    lambda container: grow.grow(container, WAY, "group", "volume"),
], ids=["add", "confirm", "revoke", "bind", "unbind", "rebind", "grow"])
def test_while_it_runs_neither_keys_nor_size_are_changed(lab, change):
    lab.programs.add("jose")
    for name in ("pvresize", "lvextend", "resize2fs", "dumpe2fs"):
        lab.programs.add(name)
    lab.tell("die", "never")
    reencrypt.start(lab.container, [TYPED])
    with pytest.raises(ReencryptionUnfinished):
        change(lab.container)
    assert not lab.programs.calls("pvresize")


def test_it_ends_cleanly_when_asked_and_goes_on_by_a_binding_or_by_a_typed_key(lab):
    lab.tell("die", "never")
    reencrypt.start(lab.container, [TYPED])
    lab.end()
    found = reencrypt.progress(lab.container)
    assert found.state == "interrupted"
    assert reencrypt.resume(lab.container).state == "running"
    lab.end()
    lab.programs.add("clevis", "exit 1")
    lab.tell("die", "")
    reencrypt.resume(lab.container, TYPED)
    assert lab.wait().state == "none"
    assert lab.ways_in() == [BOUND, TYPED]


def test_it_ends_also_where_one_look_misses_it(lab, monkeypatch):
    lab.tell("die", "never")
    reencrypt.start(lab.container, [TYPED])
    looks, look = [], reencrypt.reencrypt_process._running

    def misses_the_first(mapping):
        looks.append(mapping)
        return look(mapping) if len(looks) > 1 else iter([])

    with monkeypatch.context() as patched:
        patched.setattr(reencrypt.reencrypt_process, "_running", misses_the_first)
        lab.end()
    assert not list(look(TOP))


def test_what_it_said_is_told_when_it_failed(lab, monkeypatch):
    monkeypatch.setattr(keyslots, "way_in", lambda container, key: keyslots.Way(0, b"wrong"))
    lab.tell("die", "never")
    reencrypt.start(lab.container, [TYPED])
    assert lab.wait()[0::4] == ("interrupted", "No key available with this passphrase.")


def test_the_process_gives_way_and_hears_no_secret_by_its_arguments(lab):
    lab.tell("die", "never")
    reencrypt.start(lab.container, [TYPED])
    # While its script starts, there may be two processes of that name.
    [process] = {os.getpgid(found) for found in reencrypt.reencrypt_process._running(TOP)}
    assert os.getpriority(os.PRIO_PROCESS, process) == 10
    assert process != os.getpgid(0)
    words = [word for call in lab.programs.calls("cryptsetup") for word in call]
    assert not {BOUND.decode(), TYPED.decode()} & set(words)
    messages = os.path.join(state.Store(headers.UUID).folder, "reencrypt.log")
    assert os.stat(messages).st_mode & 0o777 == 0o600


# What is refused, with nothing changed


@pytest.fixture
def untouched(lab):
    before = fake_reencrypt.read(lab.device)
    yield lab
    assert fake_reencrypt.read(lab.device) == before
    assert begun.load(headers.UUID) is None


@pytest.mark.parametrize("action", [reencrypt.start, reencrypt.check])
def test_without_a_recovery_key_it_is_named(untouched, action):
    with pytest.raises(ReencryptionKeys, match=r"keyslot 1 \(recovery paper\).*--key-stdin"):
        action(untouched.container, [b"another passphrase"])


def test_what_is_ready_is_left_as_it_is(untouched):
    reencrypt.check(untouched.container, [TYPED])


def test_a_stale_binding_is_named(untouched):
    untouched.programs.add("clevis", "exit 1")
    with pytest.raises(ReencryptionKeys, match=r"keyslot 0 \(binding any\).*rebind"):
        reencrypt.start(untouched.container, [TYPED])


def test_a_key_of_two_lines_cannot_be_handed_over(untouched):
    untouched.programs.add("clevis", "printf 'two\\nlines'")
    with pytest.raises(ReencryptionKeys):
        reencrypt.start(untouched.container, [TYPED])


def test_a_stale_binding_whose_key_is_typed_is_carried_over(lab):
    lab.programs.add("clevis", "exit 1")
    reencrypt.start(lab.container, [TYPED, BOUND])
    assert lab.wait().state == "none"
    assert lab.ways_in() == [BOUND, TYPED]


@pytest.mark.parametrize("version", ["2.0.3", "2.3.7", "2.4.2"])
def test_an_old_cryptsetup_is_refused_with_the_way(untouched, version):
    untouched.tell("version", version)
    with pytest.raises(Unsupported, match="needs cryptsetup 2.4.3, this host has {}.*Move its "
                                          "VDIs".format(version)):
        reencrypt.start(untouched.container, [TYPED])


def test_luks1_is_refused_with_the_way(lab):
    with open(lab.device, "wb") as disk:
        disk.write(headers.luks1())
    with pytest.raises(Unsupported, match=r"LUKS1.*Move its VDIs"):
        reencrypt.start(lab.container, [TYPED])


def test_a_locked_container_is_refused(untouched, monkeypatch):
    monkeypatch.setattr(LuksContainer, "mapping", None)
    with pytest.raises(NotPlugged):
        reencrypt.start(untouched.container, [TYPED])


# Killed on the way


def test_killed_between_two_keyslots_it_never_began(lab):
    lab.tell("die", "keyslot")
    with pytest.raises(CommandFailed):
        reencrypt.start(lab.container, [TYPED])
    assert (lab.container.header.keyslots, lab.container.header.unbound) == ([0, 1], [])
    assert lab.ways_in() == [BOUND, TYPED]
    assert begun.load(headers.UUID) is None


def test_the_host_lost_power_between_two_keyslots(lab, monkeypatch):
    lab.tell("die", "keyslot")
    with monkeypatch.context() as patch:
        patch.setattr(reencrypt, "_settle", lambda container: None)
        with pytest.raises(CommandFailed):
            reencrypt.start(lab.container, [TYPED])
    assert (lab.container.header.keyslots, lab.container.header.unbound) == ([0, 1], [2])
    assert lab.ways_in() == [BOUND, TYPED]
    assert lab.container.generation.free_slot(lab.device, lab.container.header) == 3
    lab.tell("die", "")
    reencrypt.start(lab.container, [TYPED])
    assert lab.wait().state == "none"
    assert lab.ways_in() == [BOUND, TYPED]


def test_a_keyslot_without_volume_key_that_was_there_before_stays(lab):
    content = fake_reencrypt.read(lab.device)
    content["digests"]["spare"] = {"keyslots": [], "segments": [], "digest": "spare"}
    fake_reencrypt.add(content, "other", "spare", "9")
    fake_reencrypt.write(lab.device, content)
    lab.tell("die", "keyslot")
    with pytest.raises(CommandFailed):
        reencrypt.start(lab.container, [TYPED, b"other"])
    assert lab.container.header.unbound == [9]


def test_killed_when_all_is_prepared_it_can_go_on(lab):
    lab.tell("die", "prepared")
    with pytest.raises(CommandFailed):
        reencrypt.start(lab.container, [TYPED])
    assert reencrypt.progress(lab.container)[:2] == ("interrupted", 0)
    assert begun.is_ours(lab.container.header)
    lab.tell("die", "")
    reencrypt.resume(lab.container)
    assert lab.wait().state == "none"


def test_the_host_lost_power_before_the_new_volume_key_was_noted(lab, monkeypatch):
    lab.tell("die", "prepared")
    with monkeypatch.context() as patch:
        patch.setattr(reencrypt, "_settle", lambda container: None)
        with pytest.raises(CommandFailed):
            reencrypt.start(lab.container, [TYPED])
    assert begun.is_ours(lab.container.header)
    reencrypt.settle(lab.container)
    assert begun.load(headers.UUID).after == lab.container.header.reencryption.volume_key


# A header of before is put back


@pytest.fixture
def put_back(lab):
    """A disk of which a part has the new volume key, with the header of before on it."""
    lab.old = fake_reencrypt.read(lab.device)
    lab.record = lab.container.record
    lab.cut()
    fake_reencrypt.write(lab.device, lab.old)
    return lab


@pytest.mark.parametrize("action", [
    lambda lab: trust.check(lab.device, lab.record), lambda lab: trust.check(lab.device, None),
    lambda lab: reencrypt.settle(lab.container), lambda lab: reencrypt.resume(lab.container),
    lambda lab: reencrypt.start(lab.container, [TYPED])],
    ids=["trust", "trust-unrecorded", "settle", "resume", "start"])
def test_the_header_of_before_is_not_opened_and_nothing_is_forgotten(put_back, action):
    before = begun.load(headers.UUID)
    with pytest.raises(HeaderOutdated, match="sdb"):
        action(put_back)
    assert begun.load(headers.UUID) == before
    assert fake_reencrypt.read(put_back.device) == put_back.old
    assert put_back.backups == []


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "old-header-there"])
def test_a_backup_of_before_is_not_restored_by_any_force(lab, lost):
    content = backup.export(backup.create(lab.container, "before"))
    old = fake_reencrypt.read(lab.device)
    lab.cut()
    if lost:
        with open(lab.device, "r+b") as disk:
            disk.write(bytes(headers.PAYLOAD))
    else:
        fake_reencrypt.write(lab.device, old)
    for uuid in ("", headers.UUID):
        with pytest.raises(HeaderOutdated):
            backup.restore(lab.device, content, uuid, force=True, named=True)
    assert (header.find(lab.device) is None) == lost


def test_before_a_part_is_encrypted_the_header_of_before_is_a_good_one(lab, monkeypatch):
    content = backup.export(backup.create(lab.container, "before"))
    lab.tell("die", "prepared")
    with monkeypatch.context() as patch:
        patch.setattr(reencrypt, "_settle", lambda container: None)
        with pytest.raises(CommandFailed):
            reencrypt.start(lab.container, [TYPED])
    with open(lab.device, "r+b") as disk:
        disk.write(bytes(headers.PAYLOAD))
    backup.restore(lab.device, content)
    trust.check(lab.device, RECORD)


def test_a_backup_of_after_its_end_is_restored_though_that_was_not_noted_yet(lab, monkeypatch):
    backup.create(lab.container, "before")
    reencrypt.start(lab.container, [TYPED])
    assert lab.wait().state == "none"
    begun.end(headers.UUID, lab.container.header.volume_key)
    content = backup.export(backup.create(lab.container, "after"))
    assert begun.load(headers.UUID) is not None
    with open(lab.device, "r+b") as disk:
        disk.write(bytes(headers.PAYLOAD))
    backup.restore(lab.device, content)
    trust.check(lab.device, RECORD)


# What another may have written


def in_reencryption(lab):
    lab.tell("die", "prepared")
    with pytest.raises(CommandFailed):
        reencrypt.start(lab.container, [TYPED])
    return lab.container


def test_only_a_reencryption_that_was_begun_here_is_opened(lab):
    found = in_reencryption(lab)
    trust.check(found.device, RECORD)
    begun.forget(headers.UUID)
    for action in (lambda: trust.check(found.device, RECORD), lambda: reencrypt.resume(found)):
        with pytest.raises(ReencryptionForeign):
            action()


@pytest.mark.parametrize("change", [{"before": "another"}, {"after": "another"}])
def test_another_reencryption_than_the_noted_one_is_foreign(lab, change):
    found = in_reencryption(lab)
    begun.save(headers.UUID, begun.load(headers.UUID)._replace(**change))
    assert not begun.is_ours(found.header)


def test_of_another_host_it_is_accepted_by_who_has_a_key(lab):
    found = in_reencryption(lab)
    begun.forget(headers.UUID)
    with pytest.raises(WrongRecoveryKey):
        reencrypt.accept(found, b"not the passphrase")
    assert not begun.is_ours(found.header)
    reencrypt.accept(found, TYPED)
    lab.tell("die", "")
    reencrypt.resume(found)
    assert lab.wait().state == "none"


def test_what_was_recorded_before_it_is_known_for_the_same_container_after_it(lab):
    recorded = lab.container.record
    reencrypt.start(lab.container, [TYPED])
    trust.check(lab.device, recorded)
    assert lab.wait().state == "none"
    trust.check(lab.device, recorded)
    reencrypt.settle(lab.container)
    trust.check(lab.device, recorded)
    assert lab.container.record != recorded


def test_one_that_ended_elsewhere_is_accepted_by_who_has_a_key(lab):
    stale = lab.container.record._replace(volume_key="before")
    with pytest.raises(ContainerReplaced):
        trust.check(lab.device, stale)
    with pytest.raises(WrongRecoveryKey):
        reencrypt.accept(lab.container, b"not the passphrase")
    with pytest.raises(ContainerReplaced):
        trust.check(lab.device, stale)
    reencrypt.accept(lab.container, TYPED)
    trust.check(lab.device, stale)


def test_a_killed_process_leaves_it_stuck_and_nothing_touches_it(lab):
    found = in_reencryption(lab)
    lab.sysfs.mapping("dm-1", NAME + "-overlay", "CRYPT-SUBDEV-x", below=["sdb"])
    assert reencrypt.progress(found).state == "stuck"
    with pytest.raises(ReencryptionStuck, match="Restart this host"):
        reencrypt.resume(found)


@pytest.mark.parametrize("open_it", [
    lambda found: found.open(RECORD, Flags(discard=True)),
    lambda found: found.open_by(keyslots.test(found, TYPED).number, TYPED, RECORD,
                                Flags(discard=True)),
], ids=["by-its-binding", "by-a-recovery-key"])
def test_it_is_opened_without_naming_a_keyslot(lab, monkeypatch, open_it):
    found = in_reencryption(lab)
    monkeypatch.setattr(LuksContainer, "mapping", None)
    with pytest.raises(container.MappingMismatch):
        open_it(found)
    assert lab.programs.calls("cryptsetup")[-1] == [
        "cryptsetup", "open", "--type", "luks", "--key-file", "-", "--allow-discards",
        lab.device, "luks-" + headers.UUID]


def test_where_nothing_is_to_be_done_nothing_is_done(lab):
    reencrypt.settle(lab.container)
    assert reencrypt.resume(lab.container).state == "none"
    assert lab.programs.calls("cryptsetup") == []
