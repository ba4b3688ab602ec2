# SPDX-License-Identifier: LGPL-2.1-only
"""Examines this host: has it all that encrypted SRs need? Looks, and changes nothing.

What XAPI knows is not looked at: its plugin adds that (luksext_doctor.py).
"""
import os
import shutil
import stat
from typing import Any, Callable, Dict, Iterator, List

from luksext import (VERSION, clevis, cryptsetup, defaultstorage, keyslots, lvmfilter,
                     packages, repository, smplugins, tpm)
from luksext.container import LuksContainer
from luksext.errors import LuksError, NoTpm, ToolMissing, TpmBroken, TpmLockout
from luksext.findings import found
from luksext.run import PATH, run

SCHEMA = 1

# What XCP-ng 8.3 has, with which the package was proven.
_OLDEST_CRYPTSETUP = (2, 0, 3)

# tpm2-tools 4 gave a program another name.
_OTHER_NAMES = {"tpm2_pcrread": "tpm2_pcrlist", "tpm2_pcrlist": "tpm2_pcrread"}

_ROOT = "/"

_LIBEXEC = "/opt/xensource/libexec/"

# What XAPI and systemd start; XAPI passes over what is not executable.
_PROGRAMS = ("/opt/xensource/sm/LUKSEXTSR", "/etc/xapi.d/plugins/luksext",
             _LIBEXEC + "luksext-gc", _LIBEXEC + "luksext-sm-plugins",
             _LIBEXEC + "luksext-storage-guard")

# Where XAPI looks for drivers on XCP-ng 9; 8.3 has no such folder.
_DRIVERS = "/usr/libexec/sm/drivers"

Found = Dict[str, str]


def examine() -> List[Found]:
    """All that is found on this host, without XAPI."""
    return [one for part, check in _CHECKS for one in _safely(part, check)]


def _safely(part: str, check: Callable[[], Iterator[Found]]) -> Iterator[Found]:
    """What `check` finds. That it cannot look is a finding too, and keeps no other from looking."""
    try:
        yield from check()
    except (LuksError, OSError, ValueError) as error:
        yield found("LUKS-D029", PART=part, REASON=str(error))


def report(findings: List[Found]) -> Dict[str, Any]:
    """What the verb answers."""
    return {"schema": SCHEMA, "version": VERSION, "ok": not findings, "findings": findings}


def _programs() -> Iterator[Found]:
    missing: Dict[str, List[str]] = {}
    for program, package in packages.OF.items():
        names = (program, _OTHER_NAMES.get(program, program))
        if not any(shutil.which(name, path=PATH) for name in names):
            missing.setdefault(package, []).append(program)
    for package, programs in sorted(missing.items()):
        yield found("LUKS-D001", PROGRAMS=", ".join(programs),
                    PACKAGE=packages.for_yum(package))


def _cryptsetup() -> Iterator[Found]:
    if shutil.which("cryptsetup", path=PATH):
        version = cryptsetup.version()
        if version < _OLDEST_CRYPTSETUP:
            yield found("LUKS-D002", VERSION=cryptsetup.dotted(version),
                        PACKAGE=packages.of("cryptsetup"))


def _clevis() -> Iterator[Found]:
    if shutil.which("clevis", path=PATH) and "tpm2" not in clevis.available_pins():
        yield found("LUKS-D003", PACKAGE=packages.of("clevis"))


def _tpm() -> Iterator[Found]:
    if not _needs_tpm():
        return
    try:
        tpm.check()
        problem = tpm.owner_problem()
    except NoTpm:
        yield found("LUKS-D010")
    except TpmLockout:
        yield found("LUKS-D011")
    except TpmBroken as error:
        yield found("LUKS-D012", DETAIL=error.sentence)
    else:
        if problem:
            yield found("LUKS-D013", REASON=problem)


def _needs_tpm() -> bool:
    """Whether an encrypted SR of this host is bound to the TPM. It is needed for the first one."""
    try:
        pins = _bound_pins()
    except LuksError:
        return True
    return not pins or "tpm2" in pins


def _bound_pins() -> List[str]:
    return [leaf.name for container in _containers()
            for slot in keyslots.slots(container) if slot.pin is not None
            for leaf in clevis.sealed_leaves(slot.pin)]


def _containers() -> List[LuksContainer]:
    return [container for sr in repository.all_of_host() for container in sr.readable]


def _lvm() -> Iterator[Found]:
    for rejection in lvmfilter.rejections():
        yield found("LUKS-D020", FILTER=rejection.filter, FILE=rejection.path)


def _units() -> Iterator[Found]:
    """Whether systemd has our drop-ins in effect: not whether their files are there."""
    for code, unit, setting, program in (
            ("LUKS-D021", "SMGC@luksext.service", "ExecStart", "luksext-gc"),
            ("LUKS-D022", "xapi.service", "ExecStartPre", "luksext-sm-plugins"),
            ("LUKS-D028", "storage-init.service", "ExecStartPre", "luksext-storage-guard")):
        try:
            shown = run(["systemctl", "show", "--property=" + setting, unit]).stdout
        except LuksError:
            shown = b""
        if (_LIBEXEC + program).encode("ascii") not in shown:
            yield found(code)


def _sm_plugins() -> Iterator[Found]:
    plugins, path = smplugins.in_effect(_ROOT)
    if smplugins.accepts(plugins):
        return
    behind = os.path.basename(path) > smplugins.DROP_IN
    yield found("LUKS-D024" if behind else "LUKS-D023", FILE=path or "no file")


def _python() -> Iterator[Found]:
    """Whether the Python that the storage manager's plugins are run by loads what teaches them."""
    try:
        told = run(["python3", "-c", "import sys; print('luksext_plugins' in sys.modules)"]).stdout
    except LuksError:
        told = b""
    if told.strip() != b"True":
        yield found("LUKS-D025")


def _files() -> Iterator[Found]:
    here = [os.path.join(_DRIVERS, "LUKSEXTSR")] if os.path.isdir(_DRIVERS) else []
    for path in [*_PROGRAMS, *here]:
        problem = _problem_of(path)
        if problem:
            yield found("LUKS-D026", FILE=path, PROBLEM=problem)


def _problem_of(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "cannot be found ({})".format(error.strerror)
    if not mode & stat.S_IXUSR:
        return "is not executable: XAPI and systemd pass over it"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be changed by others than root, and is run as root"
    return ""


def _default_storage() -> Iterator[Found]:
    """Whether a start of this host alone would overwrite an encrypted disk."""
    try:
        disks = defaultstorage.endangered()
    except ToolMissing:
        return  # a finding of its own; the guard lets nothing be overwritten
    for disk in disks:
        yield found("LUKS-D027", DISK=disk, FILE=defaultstorage.FILE)


# What is looked at, in words, and how.
_CHECKS = (
    ("The programs that are needed", _programs), ("The version of cryptsetup", _cryptsetup),
    ("The pins of clevis", _clevis), ("The TPM", _tpm), ("The filter of LVM", _lvm),
    ("What systemd starts", _units), ("The list of SR types", _sm_plugins),
    ("What Python loads", _python), ("Our files", _files),
    ("The default storage", _default_storage))
