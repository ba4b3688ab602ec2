# SPDX-License-Identifier: LGPL-2.1-only
"""The stage: what lands where, for each layout of SM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import stage

FLAT = ("drivers/SR.py", "drivers/EXTSR.py", "drivers/on_slave.py", "drivers/coalesce-leaf",
        "drivers/02-vhdcleanup", "drivers/XE_SR_ERRORCODES.xml", "drivers/plugins/__init__.py",
        "sm_typing/__init__.py", "systemd/SMGC@.service", "misc/fairlock/fairlock.py",
        "misc/fairlock/fairlock@.service", "scripts/stop_all_gc", "scripts/kickpipe")
PACKAGED = ("libs/sm/SR.py", "libs/sm/core/XE_SR_ERRORCODES.xml", "libs/sm/drivers/EXTSR.py",
            "compat-libs/util.py", "drivers/EXTSR", "drivers/FileSR", "drivers/LVMSR",
            "utils/cleanup", "scripts/plugins/on-slave", "scripts/stop_all_gc",
            "scripts/kickpipe", "systemd/SMGC@.service")


def checkout(root: Path, names: tuple[str, ...]) -> Path:
    """A folder with these files, each holding its own name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """Where the stage goes."""
    return tmp_path / "stage"


def test_flat_layout(tmp_path: Path, dest: Path) -> None:
    stage.install_sm(dest, checkout(tmp_path / "any name", FLAT))
    sm = dest / "opt/xensource/sm"
    assert (sm / "EXTSR").readlink() == Path("EXTSR.py")
    assert (sm / "EXTSR").read_text() == "drivers/EXTSR.py"
    assert os.access(sm / "EXTSR.py", os.X_OK)
    assert (sm / "XE_SR_ERRORCODES.xml").exists()
    assert (sm / "plugins/__init__.py").exists()
    plugins = dest / "etc/xapi.d/plugins"
    assert {path.name for path in plugins.iterdir()} == {"on-slave", "coalesce-leaf"}
    assert (plugins / "on-slave").read_text() == "drivers/on_slave.py"
    assert (dest / "usr/lib/python3/dist-packages/sm_typing.py").exists()
    assert (dest / "usr/lib/python3/dist-packages/fairlock.py").exists()
    assert (dest / "usr/lib/systemd/system/SMGC@.service").exists()
    assert (dest / "usr/lib/systemd/system/fairlock@.service").exists()
    assert (dest / "etc/xapi.d/xapi-pre-shutdown/stop_all_gc").exists()
    assert (dest / "opt/xensource/libexec/kickpipe").exists()


def test_packaged_layout(tmp_path: Path, dest: Path) -> None:
    stage.install_sm(dest, checkout(tmp_path / "any name", PACKAGED))
    assert (dest / "usr/lib/python3/dist-packages/sm/drivers/EXTSR.py").exists()
    link = dest / "opt/xensource/sm/EXTSR"
    assert link.readlink() == Path("/usr/libexec/sm/drivers/EXTSR")
    assert os.access(dest / "usr/libexec/sm/drivers/EXTSR", os.X_OK)
    assert (dest / "opt/xensource/sm/util.py").read_text() == "compat-libs/util.py"
    assert (dest / "opt/xensource/sm/cleanup.py").readlink() == Path("/usr/libexec/sm/cleanup")
    assert (dest / "usr/share/sm/XE_SR_ERRORCODES.xml").exists()
    assert (dest / "etc/xapi.d/plugins/on-slave").exists()
    assert (dest / "usr/libexec/sm/kickpipe").exists()


def test_something_else_is_refused_with_a_remedy(tmp_path: Path, dest: Path) -> None:
    with pytest.raises(stage.StageError, match=r"no SM checkout.*Give the root folder"):
        stage.install_sm(dest, tmp_path)


def test_dom0_programs_and_settings(dest: Path) -> None:
    stage.install_dom0(dest)
    for program, module in stage.PROGRAMS.items():
        assert os.access(dest / program, os.X_OK)
        assert (dest / stage.DOM0_DIR / f"{module}.py").is_file()
    for path in ("etc/lvm/lvm.conf", "etc/lvm/master/lvm.conf", "etc/xapi.conf",
                 "usr/lib/python3/dist-packages/XenAPI.py"):
        assert (dest / path).is_file()


def test_inventory_is_the_same_for_the_same_host(dest: Path) -> None:
    stage.install_dom0(dest)

    def inventory(*arguments: str) -> str:
        program = dest / stage.DOM0_DIR / "inventory.py"
        command = [sys.executable, str(program), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert inventory("alpha") == inventory("alpha", "alpha")
    assert inventory("alpha") != inventory("alpha", "other")
    assert "PRIMARY_DISK='/dev/lab-root-disk'\n" in inventory("alpha")


@pytest.mark.parametrize("name", ["stand-in", "SM"])
def test_whole_stage(dest: Path, name: str) -> None:
    given = os.environ.get("SM")
    if name == "SM" and not given:
        pytest.skip("the environment variable SM names no checkout of a real SM")
    stage.build(dest, Path(given) if name == "SM" and given else None)
    (dest / "left over").touch()
    stage.build(dest, None)
    assert {path.name for path in dest.iterdir()} <= {"etc", "opt", "usr", "var"}
    assert not list(dest.glob("var/run")) + list(dest.glob("var/lock"))
    for program in ("opt/xensource/sm/EXTSR", "opt/xensource/sm/LUKSEXTSR", "usr/bin/xe",
                    "usr/lib/lab/xapi/__main__.py"):
        assert (dest / program).exists(), program
