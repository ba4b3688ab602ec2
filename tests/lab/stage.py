# SPDX-License-Identifier: LGPL-2.1-only
"""Lay out what dom0 has and a plain Debian has not.

The guest's root is an overlay: a tmpfs over the *stage*, over the unpacked distribution. The stage
holds SM (a real checkout of either layout, or our stand-in), the driver under test, the XAPI
emulator, and stand-ins for the dom0 programs and settings that SM relies on.

Only real directories that Debian has too may appear in the stage (``usr``, ``etc``, ``opt``): a
directory named ``bin``, ``sbin``, ``lib`` or ``var/run`` would hide the guest's symbolic link of
that name.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

LAB = Path(__file__).resolve().parent
CHECKOUT = LAB.parent.parent
STAND_IN_SM = LAB / "sm"

SM_DIR = "opt/xensource/sm"
LIBEXEC_DIR = "opt/xensource/libexec"
PLUGINS_DIR = "etc/xapi.d/plugins"
PRE_SHUTDOWN_DIR = "etc/xapi.d/xapi-pre-shutdown"
UNITS_DIR = "usr/lib/systemd/system"
PACKAGES_DIR = "usr/lib/python3/dist-packages"
SM_LIBEXEC_DIR = "usr/libexec/sm"
DOM0_DIR = "usr/lib/lab/dom0"
XAPI_DIR = "usr/lib/lab/xapi"

#: Stock drivers that are made executable. xapi runs each one it finds at every start, which is
#: slow in an emulated machine, so only those that tests compare with are there.
STOCK_DRIVERS = ("EXTSR", "FileSR", "LVMSR")

#: Commands of the packaged SM that are also where the flat one has them.
LINKED_COMMANDS = ("cleanup", "lvhdutil", "mpathcount", "resetvdis", "sr_health_check")

#: Where each stand-in program is found in dom0, and the module that stands in for it.
PROGRAMS = {
    "usr/bin/systemctl": "systemctl",
    "usr/bin/vhd-util": "vhd_util",
    "usr/lib/lab/vhd-io": "vhd_io",
    "usr/libexec/fairlock": "fairlock",
    "usr/sbin/tap-ctl": "tap_ctl",
    "usr/sbin/td-util": "td_util",
}
INVENTORY = "usr/lib/lab/inventory"

#: What starts such a program. SM runs them often, so they start fast: without the site's packages,
#: and as modules, which unlike scripts are compiled once.
LAUNCHER = """\
#!/usr/bin/python3 -sES
import sys

sys.path.insert(0, "/{folder}")
import {module}

sys.exit({module}.main(sys.argv[1:]))
"""


class StageError(Exception):
    """The stage cannot be built; the text says what to do."""


def build(dest: Path, sm: Path | None) -> None:
    """Write the whole stage into ``dest``, which is emptied first.

    ``sm`` is a checkout of a real SM, flat (3.x) or packaged (4.x); None takes our stand-in.
    Raises StageError when ``sm`` is no SM checkout or a Python package is missing on this machine.
    """
    if dest.exists():
        shutil.rmtree(dest)
    install_dom0(dest)
    install_sm(dest, sm or STAND_IN_SM)
    install_driver(dest)
    install_xapi(dest)


def install_dom0(dest: Path) -> None:
    """Install the stand-in programs, dom0's settings and the XenAPI module."""
    _copy_tree(LAB / "dom0" / "files", dest)
    for module in sorted((LAB / "dom0").glob("*.py")):
        _copy(module, dest / DOM0_DIR / module.name, executable=True)
    for program, name in PROGRAMS.items():
        _write(dest / program, LAUNCHER.format(folder=DOM0_DIR, module=name))
    _link(dest / INVENTORY, f"/{DOM0_DIR}/inventory.py")
    _link(dest / PLUGINS_DIR / "lsblk.py", f"/{DOM0_DIR}/lsblk.py")
    _copy(_xenapi_module(), dest / PACKAGES_DIR / "XenAPI.py")
    _link(dest / PACKAGES_DIR / "XenAPIPlugin.py", f"/{DOM0_DIR}/xenapi_plugin.py")


def install_sm(dest: Path, sm: Path) -> None:
    """Install the SM checkout ``sm``; its layout is told by its files, never by its name."""
    if (sm / "libs" / "sm" / "SR.py").is_file():
        _install_packaged_sm(dest, sm)
    elif (sm / "drivers" / "SR.py").is_file():
        _install_flat_sm(dest, sm)
    else:
        raise StageError(
            f"{sm} is no SM checkout: it has neither drivers/SR.py nor libs/sm/SR.py. "
            "Give the root folder of a checkout of xcp-ng/sm or xapi-project/sm."
        )


def install_driver(dest: Path) -> None:
    """Install the driver under test, by its own Makefile."""
    subprocess.run(
        ["make", "--silent", "-C", str(CHECKOUT), "install", f"DESTDIR={dest.resolve()}",
         f"PYTHON_SITE=/{PACKAGES_DIR}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def install_xapi(dest: Path) -> None:
    """Install the XAPI emulator and its commands."""
    _copy_tree(LAB / "xapi", dest / XAPI_DIR)
    for command in ("xe", "xe-toolstack-restart"):
        _copy(LAB / command, dest / "usr/bin" / command, executable=True)


def _install_flat_sm(dest: Path, sm: Path) -> None:
    """The 3.x layout: modules and drivers side by side in /opt/xensource/sm."""
    drivers = sm / "drivers"
    for source in sorted(drivers.iterdir()):
        if source.suffix in (".py", ".xml"):
            _copy(source, dest / SM_DIR / source.name, executable=True)
        elif source.is_file() and re.fullmatch(r"[a-z-]+", source.name):
            _copy(source, dest / PLUGINS_DIR / source.name, executable=True)
    _copy(drivers / "on_slave.py", dest / PLUGINS_DIR / "on-slave", executable=True)
    if (drivers / "plugins").is_dir():
        _copy_tree(drivers / "plugins", dest / SM_DIR / "plugins")
    for name in STOCK_DRIVERS:
        if (drivers / f"{name}.py").is_file():
            _link(dest / SM_DIR / name, f"{name}.py")
    if (sm / "sm_typing").is_dir():
        _copy(sm / "sm_typing" / "__init__.py", dest / PACKAGES_DIR / "sm_typing.py")
    _install_shared_parts(dest, sm, LIBEXEC_DIR)


def _install_packaged_sm(dest: Path, sm: Path) -> None:
    """The 4.x layout: a Python package, thin executables, and compatibility links."""
    package = sm / "libs" / "sm"
    _copy_tree(package, dest / PACKAGES_DIR / "sm")
    _copy(package / "core" / "XE_SR_ERRORCODES.xml", dest / "usr/share/sm/XE_SR_ERRORCODES.xml")
    for source in sorted((sm / "compat-libs").glob("*.py")):
        _copy(source, dest / SM_DIR / source.name, executable=True)
    for name in STOCK_DRIVERS:
        target = f"{SM_LIBEXEC_DIR}/drivers/{name}"
        _copy(sm / "drivers" / name, dest / target, executable=True)
        _link(dest / SM_DIR / name, f"/{target}")
    for source in _files(sm / "utils"):
        _copy(source, dest / SM_LIBEXEC_DIR / source.name, executable=True)
    for name in LINKED_COMMANDS:
        _link(dest / SM_DIR / f"{name}.py", f"/{SM_LIBEXEC_DIR}/{name}")
    for source in _files(sm / "scripts" / "plugins"):
        _copy(source, dest / PLUGINS_DIR / source.name, executable=True)
    _install_shared_parts(dest, sm, SM_LIBEXEC_DIR)


def _install_shared_parts(dest: Path, sm: Path, scripts_dir: str) -> None:
    """What both layouts have in the same place of the checkout."""
    for unit in _files(sm / "systemd"):
        _copy(unit, dest / UNITS_DIR / unit.name)
    for script in _files(sm / "scripts"):
        folder = PRE_SHUTDOWN_DIR if script.name == "stop_all_gc" else scripts_dir
        _copy(script, dest / folder / script.name, executable=True)
    fairlock = sm / "misc" / "fairlock"
    if fairlock.is_dir():
        _copy(fairlock / "fairlock.py", dest / PACKAGES_DIR / "fairlock.py")
        _copy(fairlock / "fairlock@.service", dest / UNITS_DIR / "fairlock@.service")


def _xenapi_module() -> Path:
    """The file of the installed PyPI package XenAPI that dom0 has as a single module."""
    spec = importlib.util.find_spec("XenAPI")
    if spec is None or spec.origin is None:
        raise StageError("The Python package XenAPI is missing: pip install XenAPI")
    origin = Path(spec.origin)
    return origin.with_name("XenAPI.py") if origin.name == "__init__.py" else origin


def _files(folder: Path) -> Iterable[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_file()) if folder.is_dir() else []


def _copy(source: Path, target: Path, *, executable: bool = False) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if executable else 0o644)


def _write(target: Path, program: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(program)
    target.chmod(0o755)


def _copy_tree(source: Path, target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
