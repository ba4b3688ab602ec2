# SPDX-License-Identifier: LGPL-2.1-only
"""Tools that are missing, fail, print nonsense, are killed or hang, at a create and at a plug.

Each is an error with a code of ours that leaves nothing behind, and works once the tool is back.
"""
import contextlib

import pytest

from luksext import header, run
from test_driver import SR, created, driver, lab  # noqa: F401  fixtures

MODES = {"missing": None, "fails": "exit 1", "prints nonsense": "printf wrong",
         "prints nothing": "", "is killed": "kill -9 $$", "hangs": "exec $helpers/sleep 600"}

# Seconds, which no end of the program can come before: it has none.
IMPATIENT = 0.2

# jose is only asked whether it is there; the others print nothing when all is well.
HARMLESS = {("jose", mode) for mode in MODES if mode != "missing"} | {
    ("dd", "prints nonsense"), ("dd", "prints nothing"), ("wipefs", "prints nothing")}


@contextlib.contextmanager
def broken(lab, name, mode):  # noqa: F811
    """Within, a program is broken. Of one that hangs nobody waits for the end."""
    path = lab.programs.folder / name
    before = path.read_bytes()
    path.unlink()
    if MODES[mode] is not None:
        lab.programs.add(name, MODES[mode])
    with pytest.MonkeyPatch.context() as patch:
        if mode == "hangs":
            real = run.time_for
            patch.setattr(run, "time_for", lambda what, seconds: (
                IMPATIENT if what.startswith("`" + name) else real(what, seconds)))
        yield
    path.write_bytes(before)
    path.chmod(0o755)


def code_of(lab, call, *args):  # noqa: F811
    """The code of the error of a call, 0 where it succeeds."""
    try:
        call(*args)
    except lab.life.xs_errors.SROSError as error:
        assert "SR " + SR in str(error)
        return error.errno
    return 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["cryptsetup", "clevis", "dmsetup"])
def test_a_plug(lab, name, mode):  # noqa: F811
    made, _ = created(lab)
    with broken(lab, name, mode):
        assert 6200 < code_of(lab, made.attach, SR) < 6300
    assert lab.open_mappings() == []
    made.attach(SR)
    assert lab.open_mappings() == ["dm-sdb"]
    made.detach(SR)
    assert lab.open_mappings() == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["cryptsetup", "clevis", "jose", "dmsetup", "wipefs", "dd"])
def test_a_create(lab, name, mode):  # noqa: F811
    disk = lab.disk("sdb")
    made = lab.sr(device=disk, pin="any")
    with broken(lab, name, mode):
        code = code_of(lab, made.create, SR, 0)
    if (name, mode) in HARMLESS:
        assert code == 0
        return
    assert 6200 < code < 6300
    assert lab.open_mappings() == []
    assert header.find(disk) is None
    assert made.session.sm_config == {}
    made.create(SR, 0)
    assert header.read(disk).label == SR + ":0:1"
