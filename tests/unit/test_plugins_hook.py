# SPDX-License-Identifier: LGPL-2.1-only
"""luksext_plugins: the storage manager's own XAPI plugins get to know our driver.

Each test runs a Python of its own, whose command line names a plugin, as XAPI starts it. The
storage manager is made of small files, flat or as the package `sm`; with SM=checkout it is real.
"""
import os
import subprocess
import sys

import pytest

import headers
import storage_manager

HERE = os.path.dirname(__file__)
CHECKOUT = os.path.abspath(os.path.join(HERE, "..", ".."))
PLUGIN = "/etc/xapi.d/plugins/on-slave"

# What the storage manager's modules import of each other, as in the real one.
MODULES = {
    "SR": "{VDI}\nbackends = []\nclass SR:\n    pass\n"
          "def registerSR(driver):\n    backends.append(driver)\n"
          "def driver(name):\n    return [d for d in backends if d.handles(name)][0]\n"
          "def deviceCheck(method):\n    return method\n",
    "VDI": "{cleanup}\n", "SRCommand": "", "scsiutil": "", "util": "def SMlog(text):\n    pass\n",
    "xs_errors": "class SROSError(Exception):\n    pass\n",
    "cleanup": "{util}\ndef normalizeType(name):\n    if name != 'ext':\n"
               "        raise ValueError(name)\n    return 'file'\n",
    "lvutil": "{util}\n{xs_errors}\ndef createVG(root, vgname):\n    print('wiped', root)\n",
    "FileSR": "{SR}\n{cleanup}\nCONFIGURATION = []\nclass FileSR(SR.SR):\n    pass\n",
    "EXTSR": "{SR}\n{FileSR}\nCAPABILITIES = []\nCONFIGURATION = []\n"
             "class EXTSR(FileSR.FileSR):\n    @staticmethod\n    def handles(name):\n"
             "        return name == 'ext'\nSR.registerSR(EXTSR)\n",
}
PACKAGES = {"util": "sm.core", "scsiutil": "sm.core", "xs_errors": "sm.core",
            "EXTSR": "sm.drivers", "FileSR": "sm.drivers"}


def flat(name):
    return "import {}".format(name)


def packaged(name):
    return "from {} import {}".format(PACKAGES.get(name, "sm"), name)


@pytest.fixture(params=[flat, packaged], ids=["flat", "package"])
def small_sm(request, tmp_path):
    """(path for imports, how a module is imported) of a storage manager in either layout."""
    lines = {name: request.param(name) for name in MODULES}
    for name, text in MODULES.items():
        folder = tmp_path
        if request.param is packaged:
            folder = tmp_path.joinpath(*PACKAGES.get(name, "sm").split("."))
            folder.mkdir(parents=True, exist_ok=True)
            for package in ("sm", "sm/core", "sm/drivers"):
                (tmp_path / package).mkdir(parents=True, exist_ok=True)
                (tmp_path / package / "__init__.py").write_text("")
        (folder / (name + ".py")).write_text(text.format(**lines))
    return [str(tmp_path)], request.param


def run(paths, script, command=(PLUGIN,), hook=True):
    """What `script` prints in a Python whose command line is that of `command`."""
    lines = ["import sys", "sys.path[:0] = {!r}".format(
        [*paths, os.path.join(CHECKOUT, "drivers"), os.path.join(CHECKOUT, "python")])]
    if hook:
        lines.append("import luksext_plugins")
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, script]), *command], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode().split()


FOUND = "print(SR.driver('luksext').__name__, SR.driver('ext').__name__)"


def test_a_plugin_that_imports_the_ext_driver_gets_ours_too(small_sm):
    paths, line = small_sm
    script = "{}\n{}\n{}".format(line("EXTSR"), line("SR"), FOUND)
    assert run(paths, script) == ["LUKSEXTSR", "EXTSR"]


def test_a_plugin_that_imports_only_the_collector_teaches_it_our_type(small_sm):
    paths, line = small_sm
    assert run(paths, line("cleanup") + "\nprint(cleanup.normalizeType('luksext'))") == ["file"]


def test_a_plugin_that_imports_the_collector_first_and_the_driver_later_gets_both(small_sm):
    paths, line = small_sm
    script = "\n".join([line("cleanup"), line("EXTSR"), line("SR"),
                        "print(cleanup.normalizeType('luksext'))", FOUND])
    assert run(paths, script) == ["file", "LUKSEXTSR", "EXTSR"]


def test_a_plugin_that_imports_the_driver_first_has_a_collector_that_knows_us(small_sm):
    paths, line = small_sm
    script = "\n".join([line("EXTSR"), line("cleanup"),
                        "print(cleanup.normalizeType('luksext'), cleanup.normalizeType('ext'))"])
    assert run(paths, script) == ["file", "file"]


def test_a_plugin_that_imports_neither_gets_nothing(small_sm):
    paths, line = small_sm
    script = line("util") + "\nprint('EXTSR' in sys.modules, 'LUKSEXTSR' in sys.modules)"
    assert run(paths, script) == ["False", "False"]


@pytest.mark.parametrize("command", ["", "/usr/bin/tool", "etc/xapi.d/plugins/on-slave",
                                     "/opt/xensource/sm/EXTSR"])
def test_in_any_other_process_nothing_is_hooked(small_sm, command):
    paths, line = small_sm
    script = "{}\n{}\n{}".format(line("EXTSR"), line("SR"), "print(len(SR.backends))\n"
                                  "try:\n    SR.driver('luksext')\n"
                                  "except IndexError:\n    print('unknown')")
    assert run(paths, script, [command]) == ["1", "unknown"]


def test_in_any_other_process_the_finders_of_imports_are_untouched(small_sm):
    script = "print(len([f for f in sys.meta_path if 'luksext' in type(f).__module__]))"
    assert run([], script, ["/usr/bin/tool"]) == ["0"]
    assert run([], script) == ["1"]


def test_the_line_of_the_pth_file_is_one_import():
    with open(os.path.join(CHECKOUT, "python", "luksext.pth")) as pth:
        assert pth.read() == "import luksext_plugins\n"


def test_the_driver_is_added_once_however_often_it_is_imported(small_sm):
    paths, line = small_sm
    script = "\n".join([line("EXTSR"), line("EXTSR"), line("SR"), FOUND, FOUND,
                        "print(len(SR.backends))"])
    assert run(paths, script) == ["LUKSEXTSR", "EXTSR"] * 2 + ["2"]


def test_a_module_that_is_missing_fails_as_without_us(small_sm):
    script = "try:\n    import EXTSR\nexcept ImportError as e:\n    print(e.name)"
    assert run([], script) == ["EXTSR"]


def test_a_module_keeps_its_file_and_name(small_sm):
    paths, line = small_sm
    script = line("cleanup") + "\nimport os\nprint(os.path.basename(cleanup.__file__))"
    assert run(paths, line("EXTSR") + "\n" + script) == ["cleanup.py"]


def test_when_our_driver_cannot_be_imported_the_plugin_still_works(small_sm, tmp_path):
    paths, line = small_sm
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "LUKSEXTSR.py").write_text("raise ImportError('half uninstalled')\n")
    script = "{}\n{}\n{}".format(line("EXTSR"), line("SR"),
                                  "print(SR.driver('ext').__name__)")
    assert run([str(broken), *paths], script) == ["EXTSR"]


def test_when_our_files_are_gone_the_plugin_still_works(small_sm, tmp_path):
    paths, line = small_sm
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "luksext_types.py").write_text("raise ImportError('uninstalled')\n")
    script = "{}\n{}\n{}".format(line("EXTSR"), line("SR"),
                                  "print(SR.driver('ext').__name__)")
    assert run([str(broken), *paths], script) == ["EXTSR"]


@pytest.fixture
def real_sm(tmp_path):
    """(path for imports, how a module is imported) of the storage manager named by SM."""
    found = storage_manager.find()
    if found is None:
        pytest.skip(storage_manager.MISSING)
    storage_manager.write_stubs(tmp_path)
    return [str(tmp_path), *found.path], packaged if found.package else flat


def test_with_the_real_storage_manager_a_driver_plugin_gets_ours(real_sm):
    paths, line = real_sm
    script = "\n".join([line("EXTSR"), line("SR"), line("cleanup"),
                        "print(cleanup.normalizeType('luksext'))",
                        "print(SR.driver('luksext').__name__, SR.driver('ext').__name__)"])
    assert run(paths, script) == ["file", "LUKSEXTSR", "EXTSR"]


def test_with_the_real_storage_manager_a_collector_plugin_knows_our_type(real_sm):
    paths, line = real_sm
    assert run(paths, line("cleanup") + "\nprint(cleanup.normalizeType('luksext'))") == ["file"]


def test_every_other_python_pays_for_no_import():
    script = ("before = set(sys.modules)\nimport luksext_plugins\n"
              "print(*sorted(set(sys.modules) - before))")
    assert run([], script, ["/usr/bin/tool"], hook=False) == ["luksext_plugins"]


# Drivers of SM that make an SR


CREATE = "/opt/xensource/sm/LVMSR", "<methodCall><methodName>sr_create</methodName></methodCall>"

MAKE = """
try:
    lvutil.createVG("{}", "VG_XenStorage-x")
except lvutil.xs_errors.SROSError as error:
    print("refused" if "is part of the encrypted SR" in str(error) else error)
"""


@pytest.fixture
def ours(tmp_path):
    """A disk of an encrypted SR, and one of zeros."""
    (tmp_path / "ours").write_bytes(headers.ours())
    (tmp_path / "empty").write_bytes(bytes(1 << 20))
    return str(tmp_path / "ours"), str(tmp_path / "empty")


@pytest.mark.parametrize("folder", ["/opt/xensource/sm", "/usr/libexec/sm/drivers"])
def test_a_driver_that_makes_an_sr_leaves_a_disk_of_ours_alone(small_sm, ours, folder):
    paths, line = small_sm
    create = folder + "/LVMSR", CREATE[1]
    script = line("lvutil") + MAKE.format(ours[0])
    assert run(paths, script, create) == ["refused"]
    assert run(paths, line("lvutil") + MAKE.format("{1},{0}".format(*ours)), create) == ["refused"]


def test_it_makes_one_on_any_other_disk_as_without_us(small_sm, ours):
    paths, line = small_sm
    for disk in (ours[1], "/dev/nowhere"):
        assert run(paths, line("lvutil") + MAKE.format(disk), CREATE) == ["wiped", disk]


@pytest.mark.parametrize("name, content, expected", [
    ("luks1", headers.luks1(), "refused"), ("luks2", headers.luks2(), "refused"),
    ("other", b"data", "wiped")])
def test_a_disk_of_which_it_cannot_tell_is_left_alone_where_a_header_is(
        small_sm, tmp_path, name, content, expected):
    paths, line = small_sm
    disk = tmp_path / name
    disk.write_bytes(content)
    broken = line("lvutil") + """
import luksext.container
def fail(*args, **kwargs):
    raise OSError("input/output error")
luksext.container.check_formattable = fail
""" + MAKE.format(disk).replace("is part of the", "whether it is of an")
    assert run(paths, broken, CREATE)[0] == expected


def test_in_any_other_command_of_a_driver_nothing_is_hooked(small_sm, ours):
    paths, line = small_sm
    for command in ((CREATE[0], CREATE[1].replace("sr_create", "sr_scan")),
                    ("/usr/bin/tool", CREATE[1])):
        assert run(paths, line("lvutil") + MAKE.format(ours[0]), command) == ["wiped", ours[0]]


def test_with_the_real_storage_manager_its_maker_of_volume_groups_is_taught(real_sm, ours):
    paths, line = real_sm
    assert run(paths, line("lvutil") + MAKE.format(ours[0]), CREATE) == ["refused"]
