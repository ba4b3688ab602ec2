# SPDX-License-Identifier: LGPL-2.1-only
"""lvmfilter: the filters of both configurations, decided as lvm.conf(5) says."""
import pytest

from luksext import lvmfilter
from luksext.lvmfilter import Rejection


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Writes an lvm.conf: what rejects the open disks, as (filter, name of the file)."""
    paths = [tmp_path / name for name in ("lvm.conf", "local", "master")]
    monkeypatch.setattr(lvmfilter, "CONFIGURATIONS", [str(path) for path in paths])

    def configure(text, file=0):
        paths[file].write_text(text)
        return [(found.filter, paths.index(type(tmp_path)(found.path)))
                for found in lvmfilter.rejections()]
    return configure


@pytest.mark.parametrize("patterns", [
    '[ "r|/dev/nbd|" ]',  # XCP-ng 8.3
    '[ "a|.*|" ]', '"a/.*/"', "[ ]", '[ "a|^/dev/mapper/luks-|", "r|.*|" ]',
    '[ "a|^/dev/sd[a-z]|", "a|^/dev/dm-|", "r|.*|" ]',
    '[ "r|^/dev/mapper/mpath|",\n    "r|^/dev/drbd|" ]',
    # Of several names of a disk, one that is accepted is enough.
    '[ "a|^/dev/disk/by-id/dm-name|", "r|.*|" ]'])
def test_filters_that_let_us_pass(configured, patterns):
    assert configured("devices {{\n    filter = {}\n}}\n".format(patterns)) == []


@pytest.mark.parametrize("patterns", [
    '[ "r|.*|" ]', '[ "a|^/dev/sd|", "r|.*|" ]', '[ "r|^/dev/mapper/|" ]', '"r|.*|"',
    '[ "a|^/dev/sd[a-z]|", "r|.*|" ]', '[\n  "a|^/dev/disk/by-path/|",\n  "r|.*|",\n]',
    '[ "r|^/dev/dm-|" ]', '[ "a(^/dev/sd)", "r(.*)" ]'])
def test_filters_that_hide_open_disks(configured, patterns):
    assert configured("devices {{\n    filter = {}\n}}\n".format(patterns)) == [("filter", 0)]


def test_both_kinds_of_filter_and_both_configurations_are_looked_at(configured):
    configured('filter=["a|.*|"]\nglobal_filter = [ "r|.*|" ]\n')
    assert configured('global_filter = [ "r|.*|" ]\n', file=2) == [
        ("global_filter", 0), ("global_filter", 2)]


def test_comments_and_other_settings_are_no_filters(configured):
    assert configured('# filter = [ "r|.*|" ]\n    #filter = [ "r|.*|" ]\n'
                      'types_filter = [ "r|.*|" ]\nscan_lvs = 0\n') == []


def test_a_pattern_that_is_no_regular_expression_here_decides_nothing(configured):
    assert configured('filter = [ "r|(|", "a|.*|" ]\n') == []


def test_without_files_nothing_is_rejected(configured):
    assert list(lvmfilter.rejections()) == []


def test_the_file_is_named(tmp_path, monkeypatch):
    path = tmp_path / "lvm.conf"
    path.write_text('filter = [ "r|.*|" ]\n')
    monkeypatch.setattr(lvmfilter, "CONFIGURATIONS", [str(path)])
    assert list(lvmfilter.rejections()) == [Rejection("filter", str(path))]
