# SPDX-License-Identifier: LGPL-2.1-only
"""shrink: an SR gives up the end of its disks; whoever finds its volume finds it whole."""
import os

import pytest

import headers
from luksext import notes, shrink
from luksext.errors import CommandFailed, LuksError, NoRoom
from luksext.lvm import PhysicalVolume, Volume
from luksext.run import Result

SR = headers.SR
GROUP = "XSLocalEXT-" + SR
MIB = 1 << 20
EXTENT = 4 * MIB
WANTED = 32 * MIB
EXTENTS = 63
WHOLE = EXTENTS * EXTENT


class Killed(BaseException):
    """The process ends before the program that it was about to run."""


class Stack:
    """A disk of 256 MiB with an ext SR, as LVM, device-mapper and ext4 would leave it."""

    def __init__(self):
        self.name, self.volume, self.group = SR, WHOLE, MIB + WHOLE
        self.filesystem, self.damaged = WHOLE, False
        # What the file with the changes holds: the size that they lead to.
        self.changes = None
        self.mapped, self.loops = {}, {}
        self.least, self.fails = 100 * MIB, ""
        self.steps, self.kill_before = 0, None

    def step(self, name):
        self.steps += 1
        # Who is dead cleans up nothing.
        if self.kill_before is not None and self.steps >= self.kill_before:
            raise Killed(name)
        if self.fails == name:
            raise CommandFailed(name, 1, "told to")

    # lvm

    def has(self, group, name):
        return name == self.name

    def of(self, group, name):
        assert (group, name) == (GROUP, self.name)
        return Volume("/dev/{}/{}".format(group, name), "254:1", self.volume, 1)

    def activate(self, group, name):
        self.step("activate")
        return self.of(group, name)

    def deactivate(self, group, name):
        self.step("deactivate")
        assert not self.mapped

    def rename(self, group, name, new):
        self.step("rename")
        assert name == self.name
        self.name = new

    def reduce(self, group, name, size):
        self.step("reduce")
        assert size >= self.filesystem
        self.volume = size

    def physical_volumes(self, group):
        return [PhysicalVolume("/dev/sdb", 0, (self.group - MIB - self.volume) // EXTENT, EXTENT,
                               self.group)]

    def shrink_physical_volume(self, path, size):
        self.step("pvresize")
        assert size >= MIB + self.volume
        self.group = size

    # ext4, on the volume or on what is mapped onto it

    def check(self, path):
        self.step("e2fsck")
        assert not self.damaged

    def least_size(self, path):
        return self.least

    def shrink(self, path, size):
        assert path == "/dev/mapper/luksext-" + SR
        assert self.mapped == {"luksext-" + SR: "snapshot"}
        # Cut short, it leaves half of what it does.
        self.changes = "half"
        self.step("resize2fs")
        self.changes = size

    def size_of(self, path):
        assert not self.damaged
        return self.filesystem

    # the rest

    def run(self, argv, **options):
        self.step(" ".join(argv[:2]))
        return Result(0, getattr(self, "_" + argv[0])(argv).encode(), b"")

    def _udevadm(self, argv):
        return ""

    def _blockdev(self, argv):
        return ""

    def _losetup(self, argv):
        if "--associated" in argv:
            return "\n".join(loop for loop, path in self.loops.items() if path == argv[-1])
        if "--detach" in argv:
            assert not self.mapped
            del self.loops[argv[-1]]
            return ""
        assert os.path.exists(argv[-1])
        self.loops["/dev/loop0"] = argv[-1]
        return "/dev/loop0\n"

    def _dmsetup(self, argv):
        if argv[1] == "create":
            target = argv[-1].split()[2]
            assert argv[2] not in self.mapped
            assert argv[-1].split()[1] == str(self.volume // 512)
            self.mapped[argv[2]] = target
            if target == "snapshot":
                self.changes = None
            elif self.changes is not None:
                # Merging has begun: the volume is neither the old nor the new one.
                self.damaged = True
            return ""
        if argv[1] == "remove":
            del self.mapped[argv[-1]]
            return ""
        if self.damaged:
            self.filesystem, self.damaged, self.changes = self.changes, False, None
            return "x: 0 99 snapshot-merge 80/999 16\n"
        return "x: 0 99 snapshot-merge 16/999 16\n"

    def reboot(self):
        self.mapped, self.loops = {}, {}


@pytest.fixture
def stack(monkeypatch, tmp_path):
    made = Stack()
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    monkeypatch.setattr("luksext.run.PRIVATE_DIR", str(tmp_path / "private"))
    monkeypatch.setattr(shrink, "run", made.run)
    for name in ("check", "least_size", "shrink", "size_of"):
        monkeypatch.setattr(shrink.ext4, name, getattr(made, name))
    for name in ("has", "activate", "deactivate", "rename", "reduce", "physical_volumes",
                 "shrink_physical_volume"):
        monkeypatch.setattr(shrink.lvm, name, getattr(made, name))
    monkeypatch.setattr(shrink.lvm, "volume", made.of)
    monkeypatch.setattr(shrink.devices, "size_of", lambda path: 256 * MIB)
    monkeypatch.setattr(shrink.devices, "is_mapped", lambda name: name in made.mapped)
    monkeypatch.setattr(shrink, "_POLL", 0)
    monkeypatch.setattr(shrink, "_CHANGES_LEAST", 4096)
    return made


def is_shrunk(stack):
    return (stack.name, stack.volume, stack.filesystem, stack.group, stack.mapped, stack.loops) == (
        SR, WHOLE - WANTED, WHOLE - WANTED, 256 * MIB - WANTED, {}, {})


def left(tmp_path):
    folder = tmp_path / "notes" / SR
    return os.listdir(str(folder)) if folder.exists() else []


def test_filesystem_volume_and_group_give_up_the_end(stack, tmp_path):
    shrink.shrink(GROUP, SR, WANTED)
    assert is_shrunk(stack)
    assert left(tmp_path) == []


def test_where_there_is_room_nothing_is_touched(stack):
    shrink.shrink(GROUP, SR, WANTED)
    steps = stack.steps
    shrink.shrink(GROUP, SR, WANTED)
    assert stack.steps == steps


@pytest.mark.parametrize("reboots", [False, True], ids=["killed", "power-cut"])
def test_killed_before_any_program_the_volume_is_whole_or_hidden_and_the_next_call_ends_it(
        stack, tmp_path, reboots):
    shrink.shrink(GROUP, SR, WANTED)
    programs = stack.steps
    for number in range(1, programs + 1):
        stack.__init__()
        stack.kill_before = number
        with pytest.raises(Killed):
            shrink.shrink(GROUP, SR, WANTED)
        if stack.name == SR:
            assert not stack.damaged
            assert stack.filesystem in (WHOLE, WHOLE - WANTED)
        stack.kill_before = None
        if reboots:
            stack.reboot()
        shrink.shrink(GROUP, SR, WANTED)
        assert is_shrunk(stack), number
        assert left(tmp_path) == []


def test_a_filesystem_that_is_too_full_is_refused_with_nothing_changed(stack, tmp_path):
    stack.least = WHOLE - WANTED + MIB
    with pytest.raises(NoRoom, match="2 MiB are needed"):
        shrink.shrink(GROUP, SR, WANTED)
    assert (stack.name, stack.filesystem, stack.volume) == (SR, WHOLE, WHOLE)
    assert (stack.mapped, stack.loops, left(tmp_path)) == ({}, {}, [])


@pytest.mark.parametrize("program", ["e2fsck", "resize2fs", "losetup --find", "dmsetup create"])
def test_a_program_that_fails_leaves_all_as_it_was(stack, tmp_path, program):
    stack.fails = program
    with pytest.raises(LuksError, match="told to"):
        shrink.shrink(GROUP, SR, WANTED)
    assert (stack.name, stack.filesystem, stack.volume) == (SR, WHOLE, WHOLE)
    assert (stack.mapped, stack.loops, left(tmp_path)) == ({}, {}, [])


def test_a_root_filesystem_without_room_for_the_changes_is_named(stack, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoRoom, match="The filesystem on / of this host has no room"):
        shrink.shrink(GROUP, SR, WANTED)
    assert stack.volume == WHOLE
