# SPDX-License-Identifier: LGPL-2.1-only
"""lvm and ext4: what is asked of their tools, and what is read from their answers."""
import pytest

import headers
from luksext import ext4, lvm
from luksext.devices import Mapping
from luksext.errors import CommandFailed, ToolBroken

GROUP = "XSLocalEXT-" + headers.SR


def test_the_group_of_an_sr_is_known_by_its_name(programs):
    programs.add("pvs", "echo '  {}'".format(GROUP))
    assert lvm.sr_group_on("/dev/mapper/luks-x") == GROUP
    assert lvm.sr_of(GROUP) == headers.SR
    assert programs.calls("pvs") == [["pvs", "--noheadings", "-o", "vg_name", "/dev/mapper/luks-x"]]


@pytest.mark.parametrize("script", [
    "echo '  vg0'", "echo", "exit 5", "echo '  XSLocalEXT-not-a-uuid'",
    "echo '  VG_XenStorage-{}'".format(headers.SR), "echo '  {}x'".format(GROUP)])
def test_anything_else_is_no_group_of_an_sr(programs, script):
    programs.add("pvs", script)
    assert lvm.sr_group_on("/dev/sdb") is None


def test_the_disks_of_a_group_with_what_is_free_on_each(programs):
    programs.add("vgs", "echo '  /dev/mapper/luks-a|60|60|1048576|4194304'; "
                        "echo '  [unknown]|60|20|1048576|4194304'")
    assert lvm.physical_volumes(GROUP) == [
        lvm.PhysicalVolume("/dev/mapper/luks-a", 60, 0, 4 << 20, 241 << 20),
        lvm.PhysicalVolume("[unknown]", 60, 40, 4 << 20, 241 << 20)]
    assert programs.calls("vgs")[0][-1] == GROUP


def test_an_extended_volume_is_striped_as_its_widest_segment(programs):
    programs.add("lvs", "for n in 1 2; do echo \"  /dev/vg/lv|254|3|251658240|$n\"; done")
    assert lvm.volume(GROUP, headers.SR) == lvm.Volume("/dev/vg/lv", "254:3", 251658240, 2)


@pytest.mark.parametrize("printed", ["", "garbage", "  a|b|c", "  /dev/vg/lv|254|3|much|1"])
def test_a_report_that_cannot_be_understood_is_an_error(programs, printed):
    for name in ("vgs", "lvs"):
        programs.add(name, "echo '{}'".format(printed))
    with pytest.raises(ToolBroken, match="printed"):
        lvm.physical_volumes(GROUP)
    with pytest.raises(ToolBroken, match="printed"):
        lvm.volume(GROUP, headers.SR)


def test_changes_are_written_whatever_the_hosts_lvm_conf_says(programs):
    programs.add("pvresize")
    programs.add("lvextend")
    lvm.resize_physical_volume("/dev/mapper/luks-a")
    lvm.extend("/dev/vg/lv", 12)
    writable = ["--config", "global{metadata_read_only=0}"]
    assert programs.calls("pvresize") == [["pvresize", *writable, "/dev/mapper/luks-a"]]
    assert programs.calls("lvextend") == [["lvextend", *writable, "-l", "+12", "/dev/vg/lv"]]


OURS = [Mapping("luks-a", "dm-1"), Mapping("luks-b", "dm-2")]


def add_group(programs, *disks):
    programs.add("vgs", "for disk in {}; do echo \"$disk|1|1|1|1\"; done".format(" ".join(disks)))


def test_a_group_is_removed_with_its_volumes_and_may_be_gone_already(programs):
    add_group(programs, "/dev/dm-1")
    programs.add("vgremove", "exit 5")
    lvm.remove_group(GROUP, OURS)
    assert programs.calls("vgremove") == [
        ["vgremove", "--config", "global{metadata_read_only=0}", "--force", GROUP]]
    programs.add("vgremove", "exit 3")
    with pytest.raises(CommandFailed, match="vgremove"):
        lvm.remove_group(GROUP, OURS)
    programs.add("vgs", "exit 5")
    lvm.remove_group(GROUP, OURS)
    programs.add("vgs", "exit 3")
    with pytest.raises(CommandFailed, match="vgs"):
        lvm.remove_group(GROUP, OURS)
    assert len(programs.calls("vgremove")) == 2


@pytest.mark.parametrize("disks", [["/dev/sdc"], ["/dev/dm-1", "/dev/sdc"], ["[unknown]"]])
def test_a_group_of_that_name_on_other_disks_stays(programs, disks):
    add_group(programs, *map("'{}'".format, disks))
    programs.add("vgremove")
    for mappings in (OURS, []):
        lvm.remove_group(GROUP, mappings)
    assert programs.calls("vgremove") == []


def test_the_size_of_a_filesystem_is_all_of_its_blocks(programs):
    programs.add("dumpe2fs", "printf 'Block count:              57344\\n"
                             "Reserved block count:     2867\\nBlock size:               4096\\n'")
    assert ext4.size_of("/dev/vg/lv") == 57344 * 4096


def test_what_is_no_filesystem_has_no_size(programs):
    programs.add("dumpe2fs", "echo 'Filesystem features: none'")
    with pytest.raises(CommandFailed, match="no size"):
        ext4.size_of("/dev/vg/lv")
