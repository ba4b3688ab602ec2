# SPDX-License-Identifier: LGPL-2.1-only
"""doctor: each finding on a host that has that fault and no other; none on a host in order."""
import pytest

from luksext import defaultstorage, doctor, lvmfilter, packages, repository, tpm
from luksext.errors import ToolMissing

GC = "ExecStart={ path=/opt/xensource/libexec/luksext-gc ; ignore_errors=no }"
PRE = "ExecStartPre={ path=/opt/xensource/libexec/luksext-sm-plugins ; ignore_errors=yes }"
GUARD = "ExecStartPre={ path=/opt/xensource/libexec/luksext-storage-guard ; ignore_errors=no }"

SHOW = """
case "$*" in
*SMGC@luksext.service) echo '{}';;
*xapi.service) echo '{}';;
*storage-init.service) echo '{}';;
esac
"""
PROPERTIES = "echo 'ownerAuthSet: {}'; echo 'inLockout: {}'; echo 'shEnable: {}'"


class Host:
    """A host in order; each method makes a fault."""

    def __init__(self, programs, root):
        self.programs, self.root = programs, root
        for name in set(packages.OF) - {"tpm2_pcrlist"}:
            programs.add(name)
        programs.add("cryptsetup", "echo 'cryptsetup 2.0.3'")
        programs.add("clevis-encrypt-tpm2")
        programs.add("python3", "echo True")
        self.tpm_says("0", "0", "1")
        self.systemd_shows(GC, PRE, GUARD)
        self.conf = root / "etc" / "xapi.conf.d"
        self.conf.mkdir(parents=True)
        self.list("~luksext.conf", "ext luksext")
        self.node = root / "tpmrm0"
        self.node.write_text("")
        self.drivers = root / "drivers"
        self.files = [root / name for name in ("LUKSEXTSR", "plugin", "luksext-gc")]
        for file in self.files:
            file.write_text("")
            file.chmod(0o755)

    def tpm_says(self, *values):
        self.programs.add("tpm2_getcap", PROPERTIES.format(*values))

    def systemd_shows(self, gc, pre, guard):
        self.programs.add("systemctl", SHOW.format(gc, pre, guard))

    def list(self, name, plugins):
        (self.conf / name).write_text("sm-plugins = {}\n".format(plugins))

    def found(self):
        return doctor.examine()

    def codes(self):
        return [one["code"] for one in self.found()]

    def the_one(self, code):
        """The finding of that code; there is no other."""
        found = self.found()
        assert [one["code"] for one in found] == [code]
        return found[0]


@pytest.fixture
def host(programs, tmp_path, monkeypatch):
    made = Host(programs, tmp_path / "host")
    monkeypatch.setattr(doctor, "PATH", str(programs.folder))
    monkeypatch.setattr(tpm, "DEVICE", str(made.node))
    monkeypatch.setattr(doctor, "_ROOT", str(made.root))
    monkeypatch.setattr(doctor, "_PROGRAMS", [str(file) for file in made.files])
    monkeypatch.setattr(doctor, "_DRIVERS", str(made.drivers))
    monkeypatch.setattr(lvmfilter, "CONFIGURATIONS", [str(made.root / "lvm.conf")])
    monkeypatch.setattr(defaultstorage, "FILE", str(made.root / "default-storage.conf"))
    monkeypatch.setattr(repository, "all_of_host", lambda: iter(()))
    return made


def test_a_host_in_order_has_no_findings(host):
    assert host.found() == []
    assert doctor.report([]) == {"schema": 1, "version": doctor.VERSION, "ok": True,
                                 "findings": []}


def test_looking_changes_nothing(host, programs):
    host.found()
    argvs = [argv for name in ("systemctl", "tpm2_getcap", "cryptsetup", "clevis")
             for argv in programs.calls(name)]
    assert {argv[1] for argv in argvs if argv[0] == "systemctl"} == {"show"}
    assert [argv for argv in argvs if argv[0] == "cryptsetup"] == [["cryptsetup", "--version"]]
    assert not [argv for argv in argvs if argv[0] == "clevis"]


@pytest.mark.parametrize("program, package", [
    ("jose", "jose"), ("luksmeta", "luksmeta"), ("pvs", "lvm2"), ("cryptsetup", "cryptsetup")])
def test_a_missing_program_is_named_with_its_package(host, program, package):
    (host.programs.folder / program).unlink()
    told = host.the_one("LUKS-D001")
    assert told["text"].startswith(program + ":")
    assert told["next"] == "yum install " + package


def test_on_8_3_yum_is_told_the_repositories_of_centos(host, monkeypatch):
    monkeypatch.setattr(packages, "_OF_CENTOS", __file__)
    (host.programs.folder / "jose").unlink()
    assert host.the_one("LUKS-D001")["next"] == "yum install jose --enablerepo=base,updates"


def test_missing_programs_of_one_package_are_one_finding(host):
    for name in ("tpm2_createprimary", "tpm2_load"):
        (host.programs.folder / name).unlink()
    assert "tpm2_createprimary, tpm2_load" in host.the_one("LUKS-D001")["text"]


@pytest.mark.parametrize("there, gone", [("tpm2_pcrlist", "tpm2_pcrread")])
def test_a_program_that_was_renamed_is_found_by_either_name(host, there, gone):
    (host.programs.folder / gone).unlink()
    assert "LUKS-D001" in host.codes()
    host.programs.add(there)
    assert host.codes() == []


@pytest.mark.parametrize("version, codes", [
    ("2.0.2", ["LUKS-D002"]), ("1.7.4", ["LUKS-D002"]), ("2.0.3", []), ("2.7.3", [])])
def test_a_cryptsetup_that_is_too_old(host, version, codes):
    host.programs.add("cryptsetup", "echo 'cryptsetup {}'".format(version))
    assert host.codes() == codes


@pytest.mark.parametrize("script, reason", [
    ("echo nonsense", "printed what cannot be understood"), ("exit 1", "failed with status 1")])
def test_a_cryptsetup_that_does_not_work_keeps_nothing_else_from_being_found(host, script, reason):
    host.programs.add("cryptsetup", script)
    told = host.the_one("LUKS-D029")
    assert told["text"].startswith("The version of cryptsetup could not be looked at: ")
    assert reason in told["text"]
    (host.programs.folder / "clevis-encrypt-tpm2").unlink()
    host.node.unlink()
    assert host.codes() == ["LUKS-D029", "LUKS-D003", "LUKS-D010"]


@pytest.mark.parametrize("number", range(len(doctor._CHECKS)))
def test_whatever_cannot_be_looked_at_the_rest_is(host, monkeypatch, number):
    def fails():
        raise PermissionError(13, "Permission denied")

    checks = list(doctor._CHECKS)
    checks[number] = (checks[number][0], fails)
    monkeypatch.setattr(doctor, "_CHECKS", checks)
    told = host.the_one("LUKS-D029")
    assert told["text"].startswith(checks[number][0])
    assert "Permission denied" in told["text"]


def test_a_clevis_without_tpm_pin(host):
    (host.programs.folder / "clevis-encrypt-tpm2").unlink()
    host.the_one("LUKS-D003")


def test_no_tpm(host):
    host.node.unlink()
    host.the_one("LUKS-D010")


def test_a_tpm_in_lockout(host):
    host.tpm_says("0", "1", "1")
    assert "tpm2_dictionarylockout" in host.the_one("LUKS-D011")["next"]


def test_a_tpm_that_does_not_answer(host):
    host.programs.add("tpm2_getcap", "echo 'ERROR: 0x902' >&2; exit 1")
    assert "0x902" in host.the_one("LUKS-D012")["text"]


@pytest.mark.parametrize("values, reason", [
    (("1", "0", "1"), "has a password"), (("set", "clear", "set"), "has a password"),
    (("0", "0", "0"), "is disabled"), (("clear", "clear", "clear"), "is disabled")])
def test_an_owner_hierarchy_that_clevis_cannot_use(host, values, reason):
    host.tpm_says(*values)
    assert reason in host.the_one("LUKS-D013")["text"]


def test_a_host_whose_srs_are_bound_to_something_else_needs_no_tpm(host, monkeypatch):
    host.node.unlink()
    monkeypatch.setattr(doctor, "_bound_pins", lambda: ["tang"])
    assert host.codes() == []
    monkeypatch.setattr(doctor, "_bound_pins", lambda: ["tang", "tpm2"])
    assert host.codes() == ["LUKS-D010"]


def test_where_the_disks_cannot_be_read_the_tpm_counts_as_needed(host, monkeypatch):
    def fail():
        raise ToolMissing("luksmeta", "luksmeta")

    monkeypatch.setattr(repository, "all_of_host", fail)
    host.node.unlink()
    host.the_one("LUKS-D010")


def test_a_filter_of_lvm(host):
    (host.root / "lvm.conf").write_text('global_filter = [ "r|.*|" ]\n')
    told = host.the_one("LUKS-D020")
    assert told["text"].startswith("The global_filter in " + str(host.root / "lvm.conf"))


@pytest.mark.parametrize("shown, code, unit", [
    (("ExecStart={ path=/opt/xensource/sm/cleanup.py ; }", PRE, GUARD), "LUKS-D021",
     "SMGC@.service"),
    (("", PRE, GUARD), "LUKS-D021", "SMGC@.service"),
    ((GC, "", GUARD), "LUKS-D022", "xapi.service"),
    ((GC, PRE, ""), "LUKS-D028", "storage-init.service")])
def test_a_drop_in_that_systemd_does_not_use(host, shown, code, unit):
    host.systemd_shows(*shown)
    assert unit in host.the_one(code)["next"]


def test_a_list_of_sr_types_without_ours(host):
    host.list("~luksext.conf", "ext")
    told = host.the_one("LUKS-D023")
    assert "~luksext.conf" in told["text"]
    assert "luksext-sm-plugins ; xe-toolstack-restart" in told["next"]


def test_no_list_of_sr_types_at_all(host):
    (host.conf / "~luksext.conf").unlink()
    host.the_one("LUKS-D023")


def test_a_list_that_is_read_after_ours(host):
    host.list("~site.conf", "ext")
    told = host.the_one("LUKS-D024")
    assert told["next"].startswith("mv {} ".format(host.conf / "~site.conf"))


@pytest.mark.parametrize("script", ["echo False", "exit 1"])
def test_a_python_that_does_not_load_our_pth(host, script):
    host.programs.add("python3", script)
    host.the_one("LUKS-D025")


@pytest.mark.parametrize("mode, problem", [
    (0o644, "not executable"), (0o775, "changed by others"), (0o757, "changed by others")])
def test_the_mode_of_a_file_that_is_run(host, mode, problem):
    host.files[1].chmod(mode)
    told = host.the_one("LUKS-D026")
    assert told["text"].startswith(str(host.files[1]))
    assert problem in told["text"]


def test_a_file_that_is_gone(host):
    host.files[2].unlink()
    assert "cannot be found (No such file" in host.the_one("LUKS-D026")["text"]


def test_the_folder_of_drivers_of_xcp_ng_9(host):
    host.drivers.mkdir()
    driver = host.drivers / "LUKSEXTSR"
    assert host.the_one("LUKS-D026")["text"].startswith(str(driver))
    driver.symlink_to(host.files[0])
    assert host.codes() == []


def test_a_disk_that_a_start_alone_would_overwrite(host, monkeypatch):
    monkeypatch.setattr(defaultstorage, "endangered", lambda: ["/dev/sdb1"])
    told = host.the_one("LUKS-D027")
    assert told["text"].startswith("/dev/sdb1")
    assert told["next"] == "mv {} /root/".format(defaultstorage.FILE)


def test_default_storage_that_cannot_be_read(host):
    (host.root / "default-storage.conf").write_text("PARTITIONS='/dev/sdb1\n")
    assert "No closing quotation" in host.the_one("LUKS-D029")["text"]


def test_all_faults_are_told_at_once(host):
    host.node.unlink()
    host.systemd_shows("", "", "")
    host.list("~luksext.conf", "ext")
    assert host.codes() == ["LUKS-D010", "LUKS-D021", "LUKS-D022", "LUKS-D028", "LUKS-D023"]
