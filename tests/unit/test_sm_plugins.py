# SPDX-License-Identifier: LGPL-2.1-only
"""luksext-sm-plugins: our SR type is added to whatever list XAPI would use, and nothing is lost.

XAPI reads xapi.conf, then all files of xapi.conf.d in byte order of their names, whatever their
suffix; of several `sm-plugins` lines the last one read counts, and replaces the others.
"""
import os
import subprocess
import sys

import pytest

from luksext import smplugins

CHECKOUT = os.path.join(os.path.dirname(__file__), "..", "..")
PROGRAM = os.path.join(CHECKOUT, "libexec", "luksext-sm-plugins")
OURS = "~luksext.conf"
BASE = "sm-plugins = ext nfs lvm\n"


class Host:
    """The configuration of a host below a folder."""

    def __init__(self, root):
        self.etc = root / "etc"
        self.drop_ins = self.etc / "xapi.conf.d"
        self.drop_ins.mkdir(parents=True)

    def add(self, name, text):
        (self.drop_ins / name).write_text(text, encoding="utf-8")

    def run(self):
        """Runs the program as xapi.service does: in the C locale, without further environment."""
        subprocess.run([sys.executable, PROGRAM, "--root", str(self.etc.parent)], check=True,
                       env={"PATH": os.environ["PATH"], "LC_ALL": "C",
                            "PYTHONPATH": os.path.join(CHECKOUT, "drivers")})

    def ours(self):
        """Our drop-in's text."""
        return (self.drop_ins / OURS).read_text()

    def in_effect(self):
        """The list that XAPI uses after all files, read independently of the program."""
        names = sorted(os.listdir(os.fsencode(str(self.drop_ins))))
        paths = [os.fsencode(str(self.etc / "xapi.conf"))]
        paths += [os.path.join(os.fsencode(str(self.drop_ins)), name) for name in names]
        plugins = None
        for path in paths:
            if os.path.isfile(path):
                with open(path, "rb") as config:
                    for line in config.read().decode("utf-8").splitlines():
                        key, _, value = line.split("#")[0].partition("=")
                        if key.strip() == "sm-plugins":
                            plugins = value.strip().strip("'\"").split()
        return plugins


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    (made.etc / "xapi.conf").write_text("# XAPI\n#sm-plugins = old\n" + BASE + "log = syslog\n")
    return made


def test_our_type_is_added_to_the_list_of_xapi_conf(host):
    host.run()
    assert host.in_effect() == ["ext", "nfs", "lvm", "luksext"]


def test_xapi_conf_itself_is_not_changed(host):
    before = (host.etc / "xapi.conf").read_text()
    host.run()
    assert (host.etc / "xapi.conf").read_text() == before


def test_a_later_file_such_as_linstors_replaces_the_list(host):
    host.add("99-enable-sm-driver-linstor.conf", "sm-plugins=ext largeblock linstor\n")
    host.run()
    assert host.in_effect() == ["ext", "largeblock", "linstor", "luksext"]


def test_what_other_packages_add_later_is_kept_at_the_next_start(host):
    host.run()
    host.add("99-enable-sm-driver-linstor.conf", "sm-plugins=ext linstor\n")
    host.run()
    assert host.in_effect() == ["ext", "linstor", "luksext"]
    (host.drop_ins / "99-enable-sm-driver-linstor.conf").unlink()
    host.run()
    assert host.in_effect() == ["ext", "nfs", "lvm", "luksext"]


def test_stale_copies_that_xapi_reads_are_read_too(host):
    host.add("50-site.conf", "sm-plugins = ext a\n")
    host.add("50-site.conf.rpmsave", "sm-plugins = ext b\n")
    host.add("50-site.conf~", "sm-plugins = ext c\n")
    host.run()
    assert host.in_effect() == ["ext", "c", "luksext"]


def test_files_are_read_in_byte_order(host):
    host.add("B.conf", "sm-plugins = upper\n")
    host.add("1.conf", "sm-plugins = digit\n")
    host.add("10.conf", "sm-plugins = ten\n")
    host.run()
    assert host.ours().splitlines()[-1] == "sm-plugins = upper luksext"


@pytest.mark.parametrize("name", ["local.conf", "99-zzz.conf", "site"])
def test_our_list_is_the_last_one_whatever_names_the_others_have(host, name):
    host.add(name, "sm-plugins = ext other\n")
    host.run()
    assert host.in_effect() == ["ext", "other", "luksext"]


@pytest.mark.parametrize("suffix", ["~", ".rpmsave", ".rpmnew"])
def test_a_stale_copy_of_our_own_file_loses_nothing_that_others_added(host, suffix):
    host.run()
    host.add(OURS + suffix, host.ours())
    host.add("99-enable-sm-driver-linstor.conf", "sm-plugins=ext linstor\n")
    host.run()
    assert host.in_effect() == ["ext", "linstor", "luksext"]


@pytest.mark.parametrize("line", [
    "sm-plugins=ext nfs", "sm-plugins = ext nfs", "  sm-plugins\t=\text  nfs  ",
    "sm-plugins = 'ext nfs'", 'sm-plugins = "ext nfs"', "sm-plugins = ext nfs # and more",
    "sm-plugins = no\nsm-plugins = ext nfs", "# sm-plugins = no\nsm-plugins = ext nfs",
    "sm-plugins = ext nfs\n#sm-plugins = no", "sm-plugins-extra = no\nsm-plugins = ext nfs"])
def test_a_line_is_understood_as_xapi_does(host, line):
    host.add("10.conf", line + "\n")
    host.run()
    assert host.in_effect() == ["ext", "nfs", "luksext"]


def test_a_star_accepts_us_already_and_stays(host):
    host.add("10.conf", "sm-plugins = *\n")
    host.run()
    assert host.in_effect() == ["*"]


@pytest.mark.parametrize("name", ["luksext", "LUKSEXT", "LuksExt"])
def test_our_type_is_not_added_twice_in_any_case(host, name):
    host.add("10.conf", "sm-plugins = {} ext\n".format(name))
    host.run()
    assert host.in_effect() == [name, "ext"]


def test_running_again_changes_nothing(host):
    host.run()
    first = host.ours()
    host.run()
    assert host.ours() == first
    assert sorted(os.listdir(str(host.drop_ins))) == [OURS]
    assert sorted(os.listdir(str(host.etc))) == ["xapi.conf", "xapi.conf.d"]


def test_whatever_was_in_our_file_is_replaced(host):
    host.add(OURS, "sm-plugins = stale\n")
    host.run()
    assert host.in_effect() == ["ext", "nfs", "lvm", "luksext"]


def test_a_folder_or_a_dangling_link_is_skipped(host):
    (host.drop_ins / "10.d").mkdir()
    (host.drop_ins / "11.conf").symlink_to("nowhere")
    host.run()
    assert host.in_effect() == ["ext", "nfs", "lvm", "luksext"]


def test_bytes_that_are_no_text_do_not_stop_it(host):
    (host.drop_ins / "10.conf").write_bytes(b"\xff\xfe = \xff\nsm-plugins = ext nfs\n")
    host.run()
    assert host.ours().splitlines()[-1] == "sm-plugins = ext nfs luksext"


def test_a_host_without_any_configuration_gets_our_type(tmp_path):
    host = Host(tmp_path)
    host.drop_ins.rmdir()
    host.run()
    assert host.in_effect() == ["luksext"]


def test_the_file_says_who_wrote_it_and_is_readable_by_all(host):
    host.run()
    assert host.ours().startswith("# Written by luksext-sm-plugins")
    assert os.stat(str(host.drop_ins / OURS)).st_mode & 0o444 == 0o444


# What has happened to others

XCP_NG = ("ext nfs iscsi lvmoiscsi dummy file hba rawhba udev iso lvm lvmohba lvmofcoe shm smb "
          "cephfs glusterfs xfs zfs")
# What the package xcp-ng-linstor installs, of the time before it knew of largeblock.
LINSTOR = ("99-enable-sm-driver-linstor.conf", "sm-plugins={} ext4 linstor\n".format(XCP_NG))


def test_an_update_that_overwrites_xapi_conf_does_not_lose_us_before_the_next_start(host):
    host.run()
    (host.etc / "xapi.conf").write_text("sm-plugins={} largeblock\n".format(XCP_NG))
    assert "luksext" in host.in_effect()


def test_what_that_update_added_is_there_after_the_next_start(host):
    host.run()
    (host.etc / "xapi.conf").write_text("sm-plugins={} largeblock\n".format(XCP_NG))
    host.run()
    assert host.in_effect() == [*XCP_NG.split(), "largeblock", "luksext"]


def test_linstor_that_is_installed_after_us_does_not_lose_us(host):
    host.run()
    host.add(*LINSTOR)
    assert "luksext" in host.in_effect()
    host.run()
    assert host.in_effect() == [*XCP_NG.split(), "ext4", "linstor", "luksext"]


def test_a_list_of_linstor_that_has_gone_stale_is_not_made_better_or_worse_by_us(host):
    """It disabled largeblock on its hosts: what it says counts, with or without us."""
    (host.etc / "xapi.conf").write_text("sm-plugins={} largeblock\n".format(XCP_NG))
    host.add(*LINSTOR)
    before = host.in_effect()
    host.run()
    assert host.in_effect() == [*before, "luksext"]


def test_our_own_list_does_not_go_stale(host):
    host.add(*LINSTOR)
    host.run()
    host.add(LINSTOR[0], LINSTOR[1].replace("linstor", "linstor largeblock"))
    host.run()
    assert "largeblock" in host.in_effect()


def test_the_file_that_moosefs_has_an_admin_write_is_kept(host):
    host.add("99-enable-moosefs.conf", "sm-plugins=ext nfs moosefs\n")
    host.run()
    assert host.in_effect() == ["ext", "nfs", "moosefs", "luksext"]


def test_of_several_definitions_everywhere_the_last_one_counts(host):
    (host.etc / "xapi.conf").write_text("sm-plugins = a\nsm-plugins = b\n")
    host.add("10.conf", "sm-plugins = c\nother = 1\nsm-plugins = d\n")
    host.run()
    assert host.in_effect() == ["d", "luksext"]


# What is told of it

def test_the_file_that_decides_is_named(host):
    host.run()
    plugins, path = smplugins.in_effect(str(host.etc.parent))
    assert smplugins.accepts(plugins)
    assert path == str(host.drop_ins / OURS)


def test_a_file_that_sorts_behind_ours_is_found_out(host):
    host.run()
    host.add("~site.conf", "sm-plugins = ext\n")
    plugins, path = smplugins.in_effect(str(host.etc.parent))
    assert (plugins, path) == (["ext"], str(host.drop_ins / "~site.conf"))
    assert not smplugins.accepts(plugins)


def test_a_host_that_defines_nothing_accepts_nothing(tmp_path):
    assert smplugins.in_effect(str(tmp_path)) == ([], "")
    assert not smplugins.accepts([])
