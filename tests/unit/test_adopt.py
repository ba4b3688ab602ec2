# SPDX-License-Identifier: LGPL-2.1-only
"""adopt: a container made by hand is looked into, then marked and bound with nothing removed."""
import pytest

import headers
from luksext import adopt, bindings, devices, header, keyslots
from luksext import container as containers
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.errors import (DeviceIsOurs, DeviceMissing, DeviceUnsuitable, HeaderFull,
                            HeaderMissing, NoBinding, NotAdoptable, NotPlugged, PinRefuses,
                            WrongRecoveryKey)
from luksext.generation import Identity
from luksext.keyslots import Way

GROUP = "XSLocalEXT-" + headers.SR
OURS = Identity(headers.SR, 0, 1)
PIN = Pin("tpm2", {})
PASSPHRASE = b"a passphrase typed by a person"
BY_BINDING, BY_PASSPHRASE = Way(1, b"sealed"), Way(0, PASSPHRASE)


def by_hand(bound=True, **fields):
    """The header that the article's commands leave, in LUKS2."""
    tokens = {"0": headers.binding_token(1)} if bound else {}
    return headers.luks2(headers.metadata(slots=(0, 1) if bound else (0,), tokens=tokens, **fields))


class Host:
    """Disks with headers on them, maybe open."""

    def __init__(self, sysfs):
        self.sysfs = sysfs

    def disk(self, content, name="sdb", opened=True, **properties):
        path = self.sysfs.disk(name, **properties)
        with open(path, "wb") as disk:
            disk.write(content)
        if opened:
            mapping = "luks-" + headers.UUID
            self.sysfs.mapping("dm-" + name, mapping, "CRYPT-LUKS2-{}-{}".format(
                headers.UUID.replace("-", ""), mapping), below=[name])
        return path


@pytest.fixture
def host(sysfs, programs, monkeypatch):
    nodes = str(sysfs.nodes)
    real_candidates, real_disk_of = devices.candidates, devices.disk_of
    monkeypatch.setattr(devices, "candidates", lambda: (
        path.replace("/dev", nodes) for path in real_candidates()))
    monkeypatch.setattr(devices, "disk_of", lambda mapping: real_disk_of(mapping).replace(
        "/dev", nodes))
    programs.add("pvs", "echo " + GROUP)
    programs.add("vgs", "echo '{}/dm-sdb|10|10|1048576|4194304'".format(nodes))
    return Host(sysfs)


# Where it is


def test_a_container_is_found_by_its_disk_its_mapping_or_its_uuid(host):
    disk = host.disk(by_hand())
    for path in (disk, str(host.sysfs.nodes / "dm-sdb"), "/dev/mapper/luks-" + headers.UUID,
                 "/dev/disk/by-uuid/" + headers.UUID):
        assert adopt.container_at(path).device == disk


def test_a_locked_container_is_found_by_the_name_that_its_mapping_had(host):
    disk = host.disk(by_hand(), opened=False)
    assert adopt.container_at("/dev/mapper/luks-" + headers.UUID).device == disk


def test_what_is_not_there_or_not_luks_is_named(host):
    with pytest.raises(DeviceMissing):
        adopt.container_at("/dev/mapper/luks-" + headers.UUID)
    with pytest.raises(HeaderMissing):
        adopt.container_at(host.disk(b"", opened=False))
    with pytest.raises(DeviceUnsuitable):
        adopt.container_at("/dev/null")


# What is on it


def test_the_articles_disk_is_known_for_what_it_is(host):
    found = adopt.identify(host.disk(by_hand()))
    assert (found.luks_version, [b.slot for b in found.bindings]) == (2, [1])
    assert (found.passphrase_slots, found.group, found.sr_uuid) == ([0], GROUP, headers.SR)


def test_a_disk_with_a_passphrase_only_has_no_bindings(host):
    found = adopt.identify(host.disk(by_hand(bound=False)))
    assert (found.bindings, found.passphrase_slots) == ([], [0])


@pytest.mark.parametrize("content, reason", [
    (by_hand(sector_size=4096), "sectors of 4096 bytes"),
    (by_hand(cipher="aes-cbc-essiv:sha256"), "its cipher is aes-cbc-essiv:sha256"),
    (by_hand(keyslot_cipher="cipher_null-ecb"), "a keyslot is not encrypted"),
    (by_hand(requirements=["opal"]), "asks for opal")],
    ids=["sectors", "cipher", "keyslot", "requirements"])
def test_what_can_never_be_ours_is_refused_with_the_reason(host, programs, content, reason):
    disk = host.disk(content)
    with pytest.raises(NotAdoptable, match=reason) as caught:
        adopt.identify(disk)
    assert "xe vdi-copy" in str(caught.value)
    assert programs.order() == []


def test_a_disk_with_large_blocks_is_refused(host):
    with pytest.raises(NotAdoptable, match="blocks of 4096 bytes"):
        adopt.identify(host.disk(by_hand(), logical=4096))


def test_a_locked_disk_has_to_be_opened_first(host):
    with pytest.raises(NotPlugged, match="closed"):
        adopt.identify(host.disk(by_hand(), opened=False))


def test_a_container_without_an_ext_sr_is_refused(host, programs):
    programs.add("pvs", "exit 5")
    with pytest.raises(NotAdoptable, match="no ext SR is in it"):
        adopt.identify(host.disk(by_hand()))


def test_a_disk_of_another_encrypted_sr_is_refused(host):
    other = Identity("99999999-0000-4000-8000-0123456789ab", 0, 1)
    content = headers.luks2(label=str(other), subsystem="luksext")
    with pytest.raises(DeviceIsOurs, match=other.sr_uuid):
        adopt.identify(host.disk(content))


def test_an_sr_that_is_partly_elsewhere_is_refused(host, programs):
    found = adopt.identify(host.disk(by_hand()))
    adopt.check_whole([found])
    programs.add("vgs", "for disk in {}/dm-sdb /dev/sdq1; do echo \"$disk|10|10|1048576|4194304\"; "
                        "done".format(host.sysfs.nodes))
    with pytest.raises(NotAdoptable, match="/dev/sdq1"):
        adopt.check_whole([found])


# Making it ours


class Keys:
    """The keyslots of the container, as the rest of the package sees them."""

    def __init__(self, monkeypatch, bound):
        self.bound = bound
        self.done = []
        self.fail = None
        monkeypatch.setattr(keyslots, "way_in", self.way_in)
        monkeypatch.setattr(keyslots, "confirm", self.confirm)
        monkeypatch.setattr(bindings, "add", self.add)

    def way_in(self, container, passphrase=None):
        if passphrase is not None:
            assert passphrase == PASSPHRASE
            if self.fail == "passphrase":
                raise WrongRecoveryKey(container.device)
            return BY_PASSPHRASE
        if self.bound:
            return BY_BINDING
        raise NoBinding(container.device, container.uuid)

    def confirm(self, container, passphrase):
        self.way_in(container, passphrase)
        self.step("confirm", container)

    def add(self, container, way, pin):
        assert (way, pin) == (BY_PASSPHRASE, PIN)
        self.step("add", container)
        self.bound = True

    def step(self, name, container):
        assert container.refreshed().identity == OURS, "the mark comes first"
        if self.fail == name:
            raise PinRefuses("tpm2", "killed")
        self.done.append(name)


@pytest.fixture
def container(host, programs, monkeypatch):
    """A container whose label cryptsetup writes; `fail` beside it makes cryptsetup fail."""
    disk = host.disk(by_hand(bound=False))
    marked = host.sysfs.block.parent / "marked"
    marked.write_bytes(headers.luks2(headers.metadata(), label=str(OURS), subsystem="luksext"))
    programs.add("cryptsetup", "$helpers/cat {} >{}".format(marked, disk))
    monkeypatch.setattr(LuksContainer, "refreshed", lambda self: LuksContainer(
        self.device, header.read(self.device)), raising=False)
    return LuksContainer(disk, header.read(disk))


def test_a_bound_container_is_only_marked(container, programs, monkeypatch):
    keys = Keys(monkeypatch, bound=True)
    assert adopt.take(container, OURS, PIN) is False
    assert keys.done == []
    assert programs.calls("cryptsetup") == [
        ["cryptsetup", "config", "--label", str(OURS), "--subsystem", "luksext", container.device]]
    assert containers.all_of(headers.SR)[0].identity == OURS


def test_a_passphrase_that_is_given_is_confirmed(container, monkeypatch):
    keys = Keys(monkeypatch, bound=True)
    assert adopt.take(container, OURS, PIN, PASSPHRASE) is False
    assert keys.done == ["confirm"]


def test_a_container_with_a_passphrase_only_gets_a_binding(container, monkeypatch):
    keys = Keys(monkeypatch, bound=False)
    assert adopt.take(container, OURS, PIN, PASSPHRASE) is True
    assert keys.done == ["confirm", "add"]


def test_a_wrong_passphrase_changes_nothing_where_a_binding_opens(
        container, programs, monkeypatch):
    keys = Keys(monkeypatch, bound=True)
    keys.fail = "passphrase"
    with pytest.raises(WrongRecoveryKey):
        adopt.take(container, OURS, PIN, PASSPHRASE)
    assert programs.order() == []


def test_without_a_way_in_nothing_is_changed(container, programs, monkeypatch):
    Keys(monkeypatch, bound=False)
    with pytest.raises(NoBinding):
        adopt.take(container, OURS, PIN)
    assert programs.order() == []


@pytest.mark.parametrize("step", ["mark", "confirm", "add"])
def test_a_kill_at_any_step_is_made_good_by_the_next_call(
        container, programs, monkeypatch, step):
    keys = Keys(monkeypatch, bound=False)
    keys.fail = step
    script = (programs.folder / "cryptsetup").read_text()
    if step == "mark":
        programs.add("cryptsetup", "exit 1")
    with pytest.raises((PinRefuses, NotAdoptable)):
        adopt.take(container, OURS, PIN, PASSPHRASE)
    (programs.folder / "cryptsetup").write_text(script)
    keys.fail = None
    assert adopt.take(container.refreshed(), OURS, PIN, PASSPHRASE) is True
    assert container.refreshed().identity == OURS
    assert keys.bound


def test_a_mark_is_written_once(container, programs):
    adopt.mark(container, OURS)
    adopt.mark(container.refreshed(), OURS)
    assert len(programs.calls("cryptsetup")) == 1
    with pytest.raises(DeviceIsOurs):
        adopt.mark(container.refreshed(), OURS._replace(disks=2))


def test_a_mark_that_the_header_does_not_keep_is_an_error(container, programs):
    programs.add("cryptsetup")
    with pytest.raises(NotAdoptable, match="does not keep"):
        adopt.mark(container, OURS)


def test_luks1_is_marked_beside_what_clevis_keeps_there(host, programs, monkeypatch):
    disk = host.disk(headers.luks1(slots=(0, 1), payload_sectors=4096))
    saved = host.sysfs.block.parent / "saved"
    programs.add("luksmeta", 'case $1 in save) $helpers/cat $stdin >{0};; '
                             'load) $helpers/cat {0};; esac'.format(saved))
    monkeypatch.setattr(LuksContainer, "refreshed", lambda self: self, raising=False)
    adopt.mark(LuksContainer(disk, header.read(disk)), OURS)
    assert saved.read_text() == str(OURS)
    assert [call.split()[1] for call in programs.order()] == ["load", "init", "save", "load"]


def test_a_luks1_header_without_room_is_refused(host, programs):
    disk = host.disk(headers.luks1(slots=(0, 1), payload_sectors=4096))
    programs.add("luksmeta", 'case $1 in save) echo "Insufficient space" >&2; exit 73;; '
                             'load) exit 1;; esac')
    with pytest.raises(HeaderFull, match="no room"):
        adopt.mark(LuksContainer(disk, header.read(disk)), OURS)
    programs.add("luksmeta", "exit 1")
    with pytest.raises(NotAdoptable, match="luksmeta"):
        adopt.mark(LuksContainer(disk, header.read(disk)), OURS)


def test_a_locked_container_is_opened_under_the_name_that_the_sr_knows(
        host, programs, monkeypatch):
    Keys(monkeypatch, bound=True)
    programs.add("cryptsetup")
    disk = host.disk(by_hand(), opened=False)
    adopt.unlock(LuksContainer(disk, header.read(disk)))
    argv = programs.calls("cryptsetup")[0]
    assert argv[-2:] == [disk, "luks-" + headers.UUID]
    assert argv[argv.index("--key-slot") + 1] == "1"
    assert programs.stdin("cryptsetup") == b"sealed"


def test_a_passphrase_opens_what_no_binding_opens(host, programs, monkeypatch):
    Keys(monkeypatch, bound=False)
    programs.add("cryptsetup")
    disk = host.disk(by_hand(bound=False), opened=False)
    adopt.unlock(LuksContainer(disk, header.read(disk)), PASSPHRASE)
    assert programs.stdin("cryptsetup") == PASSPHRASE


def test_what_cannot_be_adopted_is_not_even_opened(host, programs):
    disk = host.disk(by_hand(sector_size=4096), opened=False)
    with pytest.raises(NotAdoptable):
        adopt.unlock(LuksContainer(disk, header.read(disk)))
    assert programs.order() == []


# What is left over


def test_units_that_unlock_the_container_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(adopt, "UNIT_FOLDER", str(tmp_path))
    assert adopt.units(headers.UUID) == []
    unit = "clevis-luks-unlock@{}.service".format(headers.UUID)
    escaped = "cryptunlock@{}.service".format(headers.UUID.replace("-", "\\x2d"))
    for folder, name in (("multi-user.target.wants", unit), ("local-fs.target.requires", escaped),
                         ("multi-user.target.wants", "sshd.service"),
                         ("multi-user.target.wants", unit.replace("1111", "2222"))):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).symlink_to("/lib/systemd/system/whatever.service")
    assert adopt.units(headers.UUID) == [unit, escaped]
