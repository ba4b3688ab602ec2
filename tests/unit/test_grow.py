# SPDX-License-Identifier: LGPL-2.1-only
"""grow: each part of a disk's stack takes its room, in order, again after a kill, never less."""
import pytest

import headers
from luksext import devices, grow
from luksext.container import LuksContainer
from luksext.errors import CommandFailed, DiskShrank, LuksError, NotPlugged, ToolMissing
from luksext.header import read
from luksext.keyslots import Way

NAME = "luks-" + headers.UUID
GROUP = "XSLocalEXT-" + headers.SR
WAY = Way(0, b"the-key")
MIB = 1 << 20
EXTENT = 4 * MIB
PAYLOAD = headers.PAYLOAD

# Each part keeps its size in a file of its own; a program that is told to fails instead.
SCRIPT = """
state={state}
if [ -e $state/fail-$program ]; then exit 9; fi
"""
PROGRAMS = {
    "cryptsetup": "echo $(( ($($helpers/cat {disk}) * 512 - {payload}) / 512 )) >{mapping}",
    "pvresize": "echo $(( $($helpers/cat {mapping}) * 512 / {extent} - 1 )) >$state/extents",
    "vgs": "echo \"/dev/mapper/{name}|$($helpers/cat $state/extents)|$($helpers/cat $state/lv)"
           "|1048576|{extent}\"",
    "lvs": "echo \"/dev/{group}/{sr}|254|3|$(( $($helpers/cat $state/lv) * {extent} ))|1\"",
    "lvextend": "for last; do before=$count; count=$last; done; "
                "echo $(( $($helpers/cat $state/lv) + ${{before#+}} )) >$state/lv",
    "resize2fs": "echo $(( $($helpers/cat $state/lv) * {extent} / 4096 )) >$state/fs",
    "dumpe2fs": "echo \"Block count: $($helpers/cat $state/fs)\"; echo 'Block size: 4096'",
}
CHANGING = ("cryptsetup", "pvresize", "lvextend", "resize2fs")


class Stack:
    """A plugged SR of one disk of 256 MiB, and what lies on it."""

    def __init__(self, folder, sysfs, programs):
        self.folder, self.sysfs = folder, sysfs
        folder.mkdir()
        self.node = sysfs.disk("sdb", size=256 * MIB)
        with open(self.node, "wb") as disk:
            disk.write(headers.ours())
        sysfs.mapping("dm-0", NAME, "CRYPT-LUKS2-x-" + NAME, below=["sdb"])
        self.disk = sysfs.block / "sdb" / "size"
        self.mapping = sysfs.block / "dm-0" / "size"
        self.mapping.write_text(str((256 * MIB - PAYLOAD) // 512))
        for name, value in (("extents", 59), ("lv", 59), ("fs", 59 * 1024)):
            (folder / name).write_text(str(value))
        for name, script in PROGRAMS.items():
            programs.add(name, ("program={}\n".format(name) + SCRIPT + script).format(
                state=folder, disk=self.disk, mapping=self.mapping, payload=PAYLOAD, name=NAME,
                extent=EXTENT, group=GROUP, sr=headers.SR))

    def enlarge(self, size):
        self.disk.write_text(str(size // 512))

    def fail(self, program, whether=True):
        path = self.folder / ("fail-" + program)
        path.write_text("") if whether else path.unlink()

    def grow(self):
        return grow.grow(LuksContainer(self.node, read(self.node)), WAY, GROUP, headers.SR)


@pytest.fixture
def stack(tmp_path, sysfs, programs, monkeypatch):
    monkeypatch.setattr(devices, "mount_of", lambda number: "/run/sr-mount/" + headers.SR)
    return Stack(tmp_path / "stack", sysfs, programs)


def sizes(disk, extents):
    return grow.Sizes(disk, disk - PAYLOAD, extents * EXTENT, extents * EXTENT)


def changes(programs):
    return [call.split()[0] for call in programs.order() if call.split()[0] in CHANGING]


def test_everything_on_a_larger_disk_grows_from_the_disk_upwards(stack, programs):
    stack.enlarge(512 * MIB)
    before, after = stack.grow()
    assert before == grow.Sizes(512 * MIB, 240 * MIB, 59 * EXTENT, 59 * EXTENT)
    assert after == sizes(512 * MIB, 123)
    assert changes(programs) == ["cryptsetup", "pvresize", "lvextend", "resize2fs"]
    assert programs.calls("cryptsetup") == [["cryptsetup", "resize", "--key-file", "-", NAME]]
    assert programs.stdin("cryptsetup") == b"the-key"


def test_what_has_its_size_is_left_alone(stack, programs):
    before, after = stack.grow()
    assert before == after == sizes(256 * MIB, 59)
    assert changes(programs) == ["pvresize", "resize2fs"]


@pytest.mark.parametrize("program", CHANGING)
def test_a_kill_before_any_program_is_made_good_by_the_next_call(stack, program):
    stack.enlarge(512 * MIB)
    stack.fail(program)
    with pytest.raises(CommandFailed):
        stack.grow()
    stack.fail(program, False)
    assert stack.grow().after == sizes(512 * MIB, 123)


def test_a_disk_that_became_smaller_is_refused_with_nothing_changed(stack, programs):
    stack.enlarge(128 * MIB)
    with pytest.raises(DiskShrank, match="the disk shrank"):
        stack.grow()
    assert changes(programs) == []


def test_a_closed_container_is_refused(stack, programs):
    (stack.sysfs.block / "sdb" / "holders" / "dm-0").unlink()
    with pytest.raises(NotPlugged, match="closed"):
        stack.grow()
    assert changes(programs) == []


def test_an_unmounted_filesystem_is_refused(stack, programs, monkeypatch):
    monkeypatch.setattr(devices, "mount_of", lambda number: None)
    with pytest.raises(NotPlugged, match="not mounted"):
        stack.grow()
    assert changes(programs) == []


def test_a_missing_tool_is_named_before_anything_changes(stack, programs):
    stack.enlarge(512 * MIB)
    (programs.folder / "resize2fs").unlink()
    with pytest.raises(ToolMissing, match="e2fsprogs"):
        stack.grow()
    assert programs.order() == []


@pytest.mark.parametrize("free, stripes, extents", [
    ([5], 1, 5), ([0], 1, 0), ([5, 3], 1, 8), ([5, 3], 2, 6), ([5, 0], 2, 0), ([4, 4, 9], 3, 12)])
def test_a_striped_volume_grows_by_what_all_its_disks_have(free, stripes, extents):
    disks = [grow.lvm.PhysicalVolume("/dev/x", 10 + n, n, EXTENT, 0) for n in free]
    assert grow._extents_to_add(disks, stripes) == extents


def test_the_key_is_in_no_argument(stack, programs):
    stack.enlarge(512 * MIB)
    stack.grow()
    for program in PROGRAMS:
        assert not any("the-key" in word for call in programs.calls(program) for word in call)


def test_the_kernel_is_asked_for_the_disks_size_again(stack):
    switch = stack.sysfs.block / "sdb" / "device" / "rescan"
    switch.parent.mkdir()
    switch.write_text("")
    stack.grow()
    assert switch.read_text() == "1"


def test_a_failure_names_the_program(stack):
    stack.fail("pvresize")
    with pytest.raises(LuksError, match="pvresize"):
        stack.grow()
