# SPDX-License-Identifier: LGPL-2.1-only
"""erasure: what was begun on a disk ends there; a blank one elsewhere does not count."""
import os

import pytest

import headers
from luksext import alive, container, devices, erasure, notes
from luksext.container import LuksContainer
from luksext.errors import (CommandFailed, DeviceMissing, DiskFails, HeaderDamaged, HeaderMissing,
                            LuksError)
from luksext.header import find, read
from luksext.state import Store

OTHER = "99999999-2222-4333-8444-555555555555"


@pytest.fixture
def disk(tmp_path, sysfs, programs, monkeypatch):
    """A disk with a container, and a name that lasts; the paths of both."""
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    names = tmp_path / "by-id"
    names.mkdir()
    monkeypatch.setattr(devices, "_BY_ID", str(names))
    programs.add("cryptsetup")
    programs.add("dd", 'for word; do case $word in of=*) : >"${word#of=}"; esac; done')
    path = sysfs.disk("sdb")
    write(path, headers.ours())
    (names / "scsi-1").symlink_to(path)
    return path, str(names / "scsi-1")


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def begin(programs, path, at="cryptsetup"):
    """An erasure that is cut short at a program."""
    kept = (programs.folder / at).read_text()
    programs.add(at, "exit 9")
    with pytest.raises(CommandFailed):
        erase(LuksContainer(path, read(path)))
    (programs.folder / at).write_text(kept)


def erase(found):
    erasure.erase(headers.UUID, found, headers.SR)


def test_the_disk_is_noted_before_and_erased(disk, programs):
    path, name = disk
    begin(programs, path)
    assert Store(headers.UUID).load("erasure") == {"device": name}
    assert find(path) is not None
    erase(LuksContainer(path, read(path)))
    assert find(path) is None


@pytest.mark.parametrize("at", ["cryptsetup", "dd"])
def test_it_ends_where_it_began_whatever_was_found(disk, programs, sysfs, at):
    path, _ = disk
    begin(programs, path, at)
    copy = sysfs.disk("sdc")
    write(copy, headers.ours())
    erase(LuksContainer(copy, read(copy)))
    assert find(path) is None
    assert find(copy) is not None


@pytest.mark.parametrize("left", [b"", headers.luks2(uuid=OTHER), headers.luks2(uuid=OTHER)[:5000]])
def test_where_its_header_is_gone_nothing_is_touched(disk, programs, left):
    path, _ = disk
    begin(programs, path)
    write(path, left)
    before = programs.order()
    erase(HeaderMissing(path))
    assert programs.order() == before


def test_what_is_left_of_its_header_is_erased(disk, programs):
    path, _ = disk
    begin(programs, path)
    write(path, headers.ours()[:5000])
    erase(HeaderDamaged(path, "cut off"))
    assert programs.order()[-1] == "dd if=/dev/zero"


def test_a_disk_that_is_away_half_erased_is_missing(disk, programs):
    path, name = disk
    begin(programs, path)
    os.unlink(path)
    with pytest.raises(DeviceMissing, match=name + ".*was not erased.*its keys open it"):
        erase(DeviceMissing("It is gone.", ""))


@pytest.mark.parametrize("why", [HeaderMissing("/dev/sdb"), DeviceMissing("It is gone.", "")])
def test_a_disk_of_which_nothing_was_begun_is_missing(disk, programs, why):
    with pytest.raises(DeviceMissing, match="was not erased.*xe sr-forget uuid=" + headers.SR):
        erase(why)
    assert programs.order() == []


def test_any_other_reason_is_told_as_it_is(disk):
    for why in (DiskFails("/dev/sdb", "no"), HeaderDamaged("/dev/sdb", "no")):
        with pytest.raises(LuksError) as caught:
            erase(why)
        assert caught.value is why


def test_without_a_name_that_lasts_a_disk_that_began_to_be_erased_is_blank(disk, programs):
    path, name = disk
    os.unlink(name)
    begin(programs, path)
    write(path, b"")
    erase(HeaderMissing(path))


def test_a_disk_that_hangs_is_not_waited_for(disk, programs, monkeypatch):
    path, _ = disk
    begin(programs, path)
    monkeypatch.setattr(alive, "answers", lambda device: False)
    with pytest.raises(DiskFails):
        erase(HeaderMissing(path))


def test_another_disk_in_the_place_of_one_that_was_found_is_not_erased(disk, programs):
    path, _ = disk
    found = LuksContainer(path, read(path))
    write(path, headers.ours(uuid=OTHER))
    with pytest.raises(LuksError, match=OTHER):
        container.LuksContainer.erase(found)
    assert programs.order() == []
