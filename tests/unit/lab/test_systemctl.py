# SPDX-License-Identifier: LGPL-2.1-only
"""The stand-in systemctl: unit files with drop-ins, and the life of a unit."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "lab" / "dom0" / "systemctl.py"
SR = "0f4d1d2e-8f6d-4f6e-9d3c-6a1b2c3d4e5f"
ESCAPED = SR.replace("-", r"\x2d")


class Systemctl:
    """The program with folders of its own."""

    def __init__(self, module: ModuleType, units: Path) -> None:
        self.module = module
        self.units = units

    def __call__(self, *arguments: str) -> int:
        return self.module.main(list(arguments))  # type: ignore[no-any-return]

    def unit(self, name: str, *lines: str) -> None:
        """Write a unit file or drop-in with these [Service] lines."""
        path = self.units / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("[Unit]\nDescription=test\n[Service]\n" + "\n".join(lines) + "\n")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    """The program, without units."""
    spec = importlib.util.spec_from_file_location("lab_systemctl", PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    units = tmp_path / "units"
    units.mkdir()
    monkeypatch.setattr(module, "UNIT_FOLDERS", [units])
    monkeypatch.setattr(module, "RUN", tmp_path / "run")
    monkeypatch.setattr(module, "STOP_TIMEOUT", 2.0)
    return Systemctl(module, units)


def wait_for(path: Path) -> str:
    """The file's text, once it has one."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} did not appear")


def test_a_unit_keeps_no_mount_busy_from_which_it_is_started(
    systemctl: Systemctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl.unit("where.service", "Type=oneshot", f"ExecStart=sh -c 'pwd > {tmp_path}/where'")
    monkeypatch.chdir(tmp_path)
    assert systemctl("start", "where") == 0
    assert wait_for(tmp_path / "where") == "/\n"


def test_oneshot_runs_in_the_foreground_with_the_unescaped_instance(
    systemctl: Systemctl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch = f"/usr/bin/touch {tmp_path}/instance-%I {tmp_path}/escaped-%i"
    systemctl.unit("SMGC@.service", "Type=oneshot", f"ExecStart={touch}")
    assert systemctl("--quiet", "start", f"SMGC@{ESCAPED}") == 0
    assert (tmp_path / f"instance-{SR}").exists()
    assert (tmp_path / f"escaped-{ESCAPED}").exists()
    assert systemctl("is-active", f"SMGC@{ESCAPED}") == 3
    assert capsys.readouterr().out == "inactive\n"


def test_drop_in_replaces_the_command(systemctl: Systemctl, tmp_path: Path) -> None:
    out = tmp_path / "out"
    systemctl.unit("SMGC@.service", "Type=oneshot", f"ExecStart=/bin/sh -c 'echo stock > {out}'")
    systemctl.unit("SMGC@.service.d/luksext.conf", "ExecStart=",
                   f"ExecStart=/bin/sh -c 'echo ours > {out}'")
    assert systemctl("start", "SMGC@x.service") == 0
    assert out.read_text() == "ours\n"


def test_drop_in_of_one_instance(systemctl: Systemctl, tmp_path: Path) -> None:
    out = tmp_path / "out"
    systemctl.unit("SMGC@.service", "Type=oneshot", f"ExecStart=/bin/sh -c 'echo stock > {out}'")
    systemctl.unit(rf"SMGC@{ESCAPED}.service.d/a.conf", f"ExecStart=/bin/sh -c 'echo too >> {out}'")
    assert systemctl("start", f"SMGC@{ESCAPED}") == 0
    assert out.read_text() == "stock\ntoo\n"
    assert systemctl("start", "SMGC@other") == 0
    assert out.read_text() == "stock\n"


def test_oneshot_in_the_background_is_activating_until_it_is_stopped(
    systemctl: Systemctl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    systemctl.unit("gc@.service", "Type=oneshot",
                   f"ExecStart=/bin/sh -c 'echo begun > {out}; exec sleep 60'")
    assert systemctl("start", "--no-block", "gc@1") == 0
    wait_for(out)
    assert systemctl("is-active", "gc@1") == 3
    assert capsys.readouterr().out == "activating\n"
    assert systemctl("list-units", "gc@*", "--all", "--no-legend") == 0
    assert capsys.readouterr().out.startswith("gc@1.service ")
    begun = time.monotonic()
    assert systemctl("stop", "gc@1") == 0
    assert time.monotonic() - begun < 2
    systemctl("is-active", "gc@1")
    assert capsys.readouterr().out == "inactive\n"


def test_starting_twice_runs_once(systemctl: Systemctl, tmp_path: Path) -> None:
    out = tmp_path / "out"
    systemctl.unit("gc@.service", "Type=oneshot",
                   f"ExecStart=/bin/sh -c 'echo run >> {out}; exec sleep 1'")
    systemctl("start", "--no-block", "gc@1")
    wait_for(out)
    systemctl("start", "--no-block", "gc@1")
    assert systemctl("start", "gc@1") == 0
    assert out.read_text() == "run\n"


def test_simple_service_is_active_at_once_and_survives_our_exit(
    systemctl: Systemctl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    systemctl.unit("fairlock@.service", "Type=simple",
                   f"ExecStartPre=/bin/sh -c 'echo pre > {out}'", "ExecStart=/bin/sleep 60")
    assert systemctl("start", "fairlock@devicemapper.service") == 0
    assert systemctl("--quiet", "is-active", "fairlock@devicemapper.service") == 0
    assert wait_for(out) == "pre\n"
    assert capsys.readouterr().out == ""
    assert systemctl("stop", "fairlock@devicemapper") == 0
    assert systemctl("--quiet", "is-active", "fairlock@devicemapper") == 3


def test_failure_of_a_command(systemctl: Systemctl, capsys: pytest.CaptureFixture[str]) -> None:
    systemctl.unit("bad.service", "Type=oneshot", "ExecStart=-/bin/false", "ExecStart=/bin/false")
    assert systemctl("start", "bad") == 1
    systemctl("is-active", "bad")
    assert capsys.readouterr().out == "failed\n"


def test_environment_and_show(
    systemctl: Systemctl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    systemctl.unit("e@.service", "Type=oneshot", "Environment=A=1 'B=two words'",
                   f"ExecStart=/bin/sh -c 'echo $A $B > {out}'")
    assert systemctl("start", "e@i") == 0
    assert out.read_text() == "1 two words\n"
    systemctl.unit("e@.service.d/x.conf", "Nice=19", "ExecStartPre=-/bin/true %i")
    assert systemctl("show", "-p", "DropInPaths,ActiveState,ExecStartPre", "e@i") == 0
    assert capsys.readouterr().out == (
        f"DropInPaths={systemctl.units}/e@.service.d/x.conf\nActiveState=inactive\n"
        "ExecStartPre=/bin/true i\n"
    )


def test_unknown_unit(systemctl: Systemctl, capsys: pytest.CaptureFixture[str]) -> None:
    assert systemctl("start", "nothing") == 5
    assert "nothing.service could not be found" in capsys.readouterr().err
    assert systemctl("daemon-reload") == 0


def test_start_of_a_service_waits_for_its_post_commands(
    systemctl: Systemctl, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    systemctl.unit("slow.service", f"ExecStart=/bin/sh -c 'sleep 0.5; touch {out}; exec sleep 60'",
                   f"ExecStartPost=/bin/sh -c 'until [ -e {out} ]; do sleep 0.02; done'",
                   f"ExecStopPost=/bin/rm {out}")
    assert systemctl("start", "slow") == 0
    assert out.exists()
    assert systemctl("--quiet", "is-active", "slow") == 0
    assert systemctl("stop", "slow") == 0
    assert not out.exists()
