# SPDX-License-Identifier: LGPL-2.1-only
"""The stand-in for SM keeps SM's contract; compared with a real SM where SM=checkout is given.

What is compared is read from the source, so that neither XAPI nor root is needed: the classes,
methods and functions that our driver and its tests rely on, with their parameters; the numbers of
the errors; the capabilities of ext; the SR types that the collector knows.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = Path(__file__).resolve().parents[2] / "lab" / "sm"

#: What our driver, the emulator and the tests use: module -> names, `Class.method` for methods.
USED = {
    "SR": ["deviceCheck", "registerSR", "driver", "SR.__init__", "SR.handles", "SR.load",
           "SR.from_uuid", "SR.create", "SR.delete", "SR.attach", "SR.detach", "SR.probe",
           "SR.scan", "SR.update", "SR.vdi", "SR.cleanup", "SR.check_sr", "SR.check_dconf",
           "SR.after_master_attach", "SR.block_setscheduler", "SR.forget_vdi"],
    "SRCommand": ["run", "SRCommand.__init__", "SRCommand.parse", "SRCommand.run"],
    "VDI": ["VDI.__init__", "VDI.load", "VDI.from_uuid", "VDI.update", "VDI.attach",
            "VDI.activate", "VDI.deactivate", "VDI.snapshot", "VDI.get_params",
            "VDI.in_sync_with_xenapi_record"],
    "FileSR": ["FileSR.handles", "FileSR.load", "FileSR.attach", "FileSR.detach", "FileSR.delete",
               "FileSR.scan", "FileSR.update", "FileSR.vdi", "FileSR._checkmount",
               "FileSR._loadvdis", "FileSR._kickGC", "FileVDI.create", "FileVDI.delete",
               "FileVDI.attach", "FileVDI.detach", "FileVDI.resize", "FileVDI.clone",
               "FileVDI.generate_config", "FileVDI.reset_leaf"],
    "EXTSR": ["EXTSR.handles", "EXTSR.load", "EXTSR.create", "EXTSR.delete", "EXTSR.attach",
              "EXTSR.detach", "EXTSR.probe", "EXTSR.vdi", "EXTFileVDI.attach"],
    "util": ["SMlog", "logException", "doexec", "pread", "pread2", "pread3", "ioretry", "gen_uuid",
             "pathexists", "makedirs", "ismount", "get_fs_size", "get_fs_utilisation",
             "get_this_host", "get_localhost_ref", "get_localAPI_session", "find_my_pbd",
             "find_my_pbd_record", "test_hostPBD_devs", "test_scsiserial", "set_dirty",
             "create_secret", "get_secret", "read_caching_is_restricted", "sr_get_capability",
             "sr_get_driver_info", "return_nil", "hidePasswdInParams"],
    "scsiutil": ["getSCSIid", "_isSCSIdev", "devlist_to_serialstring", "add_serial_record",
                 "get_serial_record"],
    "lvutil": ["_checkVG", "_checkLV", "_getVGstats", "_getPVstats", "scan_srlist",
               "srlist_toxml", "createVG", "setActiveVG"],
    "cleanup": ["normalizeType", "gc", "gc_force", "abort", "start_gc_service", "get_state",
                "main"],
    "blktap2": ["Tapdisk.find_by_path", "VDI.__init__", "VDI.get_o_direct_capability",
                "VDI.tap_pause", "VDI.tap_unpause", "VDI.tap_status"],
    "resetvdis": ["reset_sr", "reset_vdi"],
    "xs_errors": ["SRException.toxml", "SROSError.__init__", "XenError.__new__"],
    "sr_health_check": ["main"],
}

#: Differences between releases that neither our driver nor the tests touch.
RELEASE_DIFFERENCES = {
    # 4.x has the parameter `bind` here, 3.x has attach_and_bind instead.
    "FileSR.attach",
    # 3.x has `config`.
    "setActiveVG",
    # 4.x has no parameter `session` with a default of None here.
    "sr_get_capability",
}


class Sm:
    """The source of an SM, of either layout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.packaged = (root / "libs" / "sm").is_dir()

    def find(self, module: str) -> Path:
        """A module's file."""
        folders = ["libs/sm", "libs/sm/core", "libs/sm/drivers", "utils"]
        for folder in folders if self.packaged else ["drivers"]:
            for name in (f"{module}.py", module):
                if (self.root / folder / name).is_file():
                    return self.root / folder / name
        raise AssertionError(f"{self.root} has no module {module}")

    def functions(self, module: str) -> dict[str, list[str]]:
        """The names of all functions and methods, with those of their parameters."""
        found: dict[str, list[str]] = {}
        tree = ast.parse(self.find(module).read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                found[node.name] = _parameters(node)
            elif isinstance(node, ast.ClassDef):
                for part in node.body:
                    if isinstance(part, ast.FunctionDef):
                        found[f"{node.name}.{part.name}"] = _parameters(part)
                    elif isinstance(part, ast.Assign):
                        names = [target.id for target in part.targets
                                 if isinstance(target, ast.Name)]
                        for name in names:
                            found.setdefault(f"{node.name}.{name}", ["*args"])
        return found

    def constant(self, module: str, name: str) -> object:
        """The value of a module's constant."""
        for node in ast.parse(self.find(module).read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
                return ast.literal_eval(node.value)
        raise AssertionError(f"{module} has no constant {name}")

    def known_types(self) -> set[str]:
        """All words in the text of normalizeType and the lists it uses."""
        text = self.find("cleanup").read_text()
        return set(re.findall(r'"([a-z0-9]+)"', text))


def _parameters(function: ast.FunctionDef) -> list[str]:
    names = [argument.arg for argument in function.args.args]
    # Releases differ in what they declare static.
    if names[:1] in (["self"], ["cls"]):
        del names[0]
    return [*names, "*args"] if function.args.vararg else names


def _error_numbers(sm: Sm) -> dict[str, int]:
    text = next(sm.root.rglob("XE_SR_ERRORCODES.xml")).read_text()
    pattern = r"<name>(.*?)</name>.*?<value>(.*?)</value>"
    return {name: int(value) for name, value in re.findall(pattern, text, re.S)}


@pytest.fixture(scope="module")
def ours() -> Sm:
    """The stand-in."""
    return Sm(STAND_IN)


@pytest.fixture(scope="module")
def real() -> Sm:
    """The real one."""
    if "SM" not in os.environ:
        pytest.skip("the environment variable SM names no checkout of a real SM")
    return Sm(Path(os.environ["SM"]))


@pytest.mark.parametrize("module", USED)
def test_stand_in_has_what_is_used(ours: Sm, module: str) -> None:
    assert set(USED[module]) <= set(ours.functions(module))


@pytest.mark.parametrize("module", USED)
def test_signatures_are_the_real_ones(ours: Sm, real: Sm, module: str) -> None:
    real_functions, our_functions = real.functions(module), ours.functions(module)
    for name in set(USED[module]) - RELEASE_DIFFERENCES:
        if real.packaged and (module, name) == ("cleanup", "main"):
            continue
        assert name in real_functions, name
        theirs, mine = real_functions[name], our_functions[name]
        if "*args" in mine:
            continue
        # By position: what a caller passes must mean the same; optional tails may be left out.
        shared = theirs[: len(mine)]
        assert [_plain(each) for each in mine] == [_plain(each) for each in shared], name


def _plain(parameter: str) -> str:
    """Names that differ between real overrides of one method count as one."""
    same = {"uuid": "sr_uuid", "srtype": "type", "vdi_location": "vdi_uuid", "x": "record",
            "errno": "number"}
    return same.get(parameter, parameter)


def test_error_numbers_are_the_real_ones(ours: Sm, real: Sm) -> None:
    numbers = _error_numbers(real)
    table = ours.constant("xs_errors", "ERRORS")
    assert isinstance(table, dict)
    for name, (number, _) in table.items():
        # WipefsFailure came with XCP-ng 8.3.
        assert numbers.get(name, 462 if name == "WipefsFailure" else None) == number, name


def test_capabilities_of_ext_are_the_real_ones(ours: Sm, real: Sm) -> None:
    ours_listed = ours.constant("EXTSR", "CAPABILITIES")
    real_listed = real.constant("EXTSR", "CAPABILITIES")
    assert isinstance(ours_listed, list) and isinstance(real_listed, list)
    assert set(real_listed) <= set(ours_listed) | {"VDI_ACTIVATE", "VDI_DEACTIVATE"}
    extra = {"THIN_PROVISIONING", "VDI_READ_CACHING", "VDI_ACTIVATE", "VDI_DEACTIVATE"}
    assert set(ours_listed) <= set(real_listed) | extra


def test_neither_collector_knows_luksext(ours: Sm, real: Sm) -> None:
    assert "luksext" not in ours.known_types() | real.known_types()
    assert {"ext", "nfs"} <= ours.known_types() & real.known_types()


def test_stand_in_refuses_unknown_types() -> None:
    code = ("import sys, types; sys.modules['XenAPI'] = types.ModuleType('XenAPI');"
            "import cleanup; assert cleanup.normalizeType('ext') == 'file';"
            "cleanup.normalizeType('luksext')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(STAND_IN / "drivers")}, check=False)
    assert "SMException: Unsupported SR type: luksext" in done.stderr
