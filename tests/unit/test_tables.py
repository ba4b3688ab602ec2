# SPDX-License-Identifier: LGPL-2.1-only
"""tables: an open container is what its header says, also while it is encrypted anew."""
import pytest

import headers
from luksext import header, tables
from luksext.devices import Mapping
from luksext.errors import MappingMismatch

NAME = "luks-" + headers.UUID
TOP = Mapping(NAME, "dm-0")
DONE = "0 65536 crypt aes-xts-plain64 :64:logon:new 0 8:16 32768"
HOT = "65536 65536 crypt aes-xts-plain64 :64:logon:new 65536 254:1 65536"
LEFT = "131072 900000 crypt aes-xts-plain64 :64:logon:old 131072 8:16 163840"
OVERLAY = "0 1031072 linear 254:2 0"


@pytest.fixture
def check(programs, sysfs):
    """Checks a mapping of the given table, with an overlay of another if that is given."""
    device = sysfs.disk("sdb", number="8:16")
    sysfs.mapping("dm-0", NAME, "CRYPT-LUKS2-x", number="254:0")

    def run(content, lines, overlay=()):
        with open(device, "wb") as disk:
            disk.write(headers.luks2(content))
        if overlay:
            sysfs.mapping("dm-1", NAME + "-hotzone-forward", "CRYPT-SUBDEV-x", number="254:1")
            sysfs.mapping("dm-2", NAME + "-overlay", "CRYPT-SUBDEV-y", number="254:2")
        programs.add("dmsetup", "case $2 in *-overlay) echo '{}';; *) echo '{}';; esac".format(
            "\n".join(overlay), "\n".join(lines)))
        tables.check(TOP, device, header.read(device))

    return run


def test_one_line_is_as_the_header_says(check):
    check(headers.metadata(), [DONE])


@pytest.mark.parametrize("line", [
    "", "0", DONE.replace("crypt", "linear"), DONE.replace("8:16", "8:32"),
    DONE.replace("xts", "cbc"), DONE.replace("32768", "0"), DONE.replace("new 0", "new 4096")])
def test_another_line_is_not(check, line):
    with pytest.raises(MappingMismatch):
        check(headers.metadata(), [line])


@pytest.mark.parametrize("lines, overlay", [
    ([DONE, LEFT.replace("131072", "65536").replace("163840", "98304")], []),
    ([DONE], []), ([OVERLAY], [DONE, HOT, LEFT]), ([OVERLAY], [DONE])])
def test_in_reencryption_each_part_is_where_it_belongs(check, lines, overlay):
    check(headers.in_reencryption(32 << 20, 32 << 20), lines, overlay)


@pytest.mark.parametrize("lines, overlay", [
    ([], []), ([DONE, LEFT.replace("163840", "163841")], []), ([OVERLAY], []),
    ([DONE, LEFT.replace("old 131072", "old 0")], []),
    ([OVERLAY], [DONE, HOT.replace("new 65536", "new 0"), LEFT]),
    ([OVERLAY.replace("254:2", "254:1")], [DONE]), ([OVERLAY + "1"], [DONE]), ([OVERLAY], [""]),
    ([OVERLAY], [DONE, HOT + "1", LEFT]),
    ([OVERLAY], [DONE, HOT, LEFT.replace("aes", "null")]),
    ([OVERLAY], [DONE, "65536 65536 linear 254:1 65536"])])
def test_in_reencryption_every_part_is_looked_at(check, lines, overlay):
    with pytest.raises(MappingMismatch):
        check(headers.in_reencryption(32 << 20, 32 << 20), lines, overlay)


MOVED = "0 32768 linear 8:16 2064384"
CLEAR = "32768 1900544 linear 8:16 32768"
ENCRYPTED = "1933312 98304 crypt aes-xts-plain64 :64:logon:new 1933312 8:16 1966080"
HOT_BACKWARD = "1900544 32768 crypt aes-xts-plain64 :64:logon:new 1900544 254:3 1900544"


@pytest.mark.parametrize("lines, overlay", [
    ([MOVED, CLEAR], []), ([MOVED, CLEAR, ENCRYPTED], []), ([ENCRYPTED], []),
    (["0 2031616 linear 254:2 0"], [MOVED, CLEAR, HOT_BACKWARD, ENCRYPTED])])
def test_in_encryption_what_is_in_clear_is_where_it_was_and_its_start_at_the_end(
        check, sysfs, lines, overlay):
    if overlay:
        sysfs.mapping("dm-3", NAME + "-hotzone-backward", "CRYPT-SUBDEV-z", number="254:3")
    check(headers.in_encryption(48 << 20), lines, overlay)


@pytest.mark.parametrize("line", [
    MOVED.replace("2064384", "32768"), MOVED.replace("2064384", "0"), MOVED.replace("8:16", "8:32"),
    CLEAR.replace("8:16 32768", "8:16 65536"), CLEAR.replace("linear", "zero"),
    "16 32 linear 8:16 16", "x 1 linear 8:16 x", ENCRYPTED.replace("1966080", "1933312")])
def test_in_encryption_every_part_is_looked_at(check, line):
    with pytest.raises(MappingMismatch):
        check(headers.in_encryption(48 << 20), [line])


def test_data_in_clear_are_refused_where_no_encryption_is_under_way(check):
    with pytest.raises(MappingMismatch):
        check(headers.metadata(), [MOVED])


def test_several_parts_outside_of_a_reencryption_are_none_of_ours(check):
    with pytest.raises(MappingMismatch, match="2 parts where one is expected"):
        check(headers.metadata(), [DONE, LEFT])
