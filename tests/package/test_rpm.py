# SPDX-License-Identifier: LGPL-2.1-only
"""The package: installed, upgraded and removed in a tree shaped like dom0's, by the real rpm."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from luksext import VERSION
from luksext import packages as of_programs
from tests.package.dom0 import XCP_NG_8, XCP_NG_9, Dom0, RpmError

CHECKOUT = Path(__file__).resolve().parents[2]
SPEC = CHECKOUT / "specs/luksext.spec"
SR = "0b9b0d2a-3c4d-4e5f-8a6b-1c2d3e4f5a6b"
DROP_IN = "etc/xapi.conf.d/~luksext.conf"

RELEASES = {"xcpng8.3": XCP_NG_8, "xcpng9": XCP_NG_9}
PYTHON = {"xcpng8.3": "usr/lib/python3.6/site-packages",
          "xcpng9": "usr/lib/python3.12/site-packages"}
DRIVERS = {"xcpng8.3": ["opt/xensource/sm"],
           "xcpng9": ["opt/xensource/sm", "usr/libexec/sm/drivers"]}


def build(checkout: Path, folder: Path, *options: str) -> dict[str, Path]:
    """The packages of a checkout, by release."""
    subprocess.run([checkout / "tools/build-rpm", folder, *options], check=True)
    return {release: next((folder / "RPMS").rglob(f"*.{release}.noarch.rpm"))
            for release in RELEASES}


def earlier_checkout(folder: Path) -> Path:
    """That of an earlier release, which had a module more and another driver."""
    checkout = folder / "luksext"
    shutil.copytree(CHECKOUT, checkout, ignore=shutil.ignore_patterns(".*", "build", "tests"))
    (checkout / "drivers/luksext/gone.py").write_text("")
    with (checkout / "drivers/LUKSEXTSR.py").open("a") as driver:
        driver.write("# earlier\n")
    spec = checkout / "specs/luksext.spec"
    spec.write_text(spec.read_text().replace("Release: 1%", "Release: 0%"))
    return checkout


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(CHECKOUT, tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="session")
def old_packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    checkout = earlier_checkout(tmp_path_factory.mktemp("checkout"))
    return build(checkout, tmp_path_factory.mktemp("old"))


@pytest.fixture(params=sorted(RELEASES))
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dom0(tmp_path: Path, release: str) -> Dom0:
    return Dom0(tmp_path / "root", RELEASES[release])


@pytest.fixture
def installed(dom0: Dom0, packages: dict[str, Path], release: str) -> Dom0:
    """A dom0 with the package, after XAPI was started once and Python has compiled."""
    dom0.rpm("--install", str(packages[release]))
    dom0.write(DROP_IN, "sm-plugins = ext luksext\n")
    dom0.write("opt/xensource/sm/luksext/__pycache__/run.cpython-36.pyc", "")
    dom0.write("opt/xensource/sm/__pycache__/luksext_xapi.cpython-36.pyc", "")
    dom0.set_srs()
    return dom0


def test_rpmlint_finds_nothing(packages: dict[str, Path]) -> None:
    told = subprocess.run(
        ["rpmlint", "--config", CHECKOUT / "specs/rpmlint.toml", SPEC, *packages.values()],
        capture_output=True, text=True, check=False)
    assert "0 errors, 0 warnings" in told.stdout, told.stdout + told.stderr


def test_the_version_is_the_same_everywhere() -> None:
    version = re.search(r"^Version: (\S+)", SPEC.read_text(), re.MULTILINE)
    assert version
    assert version[1] == VERSION
    assert f'version = "{VERSION}"' in (CHECKOUT / "pyproject.toml").read_text()
    told = re.findall(r"luksext-([\d.]+)-", (CHECKOUT / "docs/install.md").read_text())
    assert set(told) == {VERSION}
    assert f"- {version[1]}-" in SPEC.read_text().split("%changelog")[1]


def test_every_package_that_we_run_programs_of_is_required(
    packages: dict[str, Path], release: str
) -> None:
    required = subprocess.run(["rpm", "-qp", "--requires", packages[release]],
                              capture_output=True, text=True, check=True).stdout.split()
    wanted = {name for names in of_programs.OF.values() for name in names.split()}
    assert wanted - {"coreutils"} <= set(required)


def test_it_holds_what_make_installs(
    dom0: Dom0, packages: dict[str, Path], release: str, tmp_path: Path
) -> None:
    before = set(dom0.contents())
    dom0.rpm("--install", str(packages[release]))
    installed = {name for name, what in dom0.contents().items() if what != "folder"} - before
    subprocess.run(
        ["make", "--silent", "-C", CHECKOUT, "install", f"DESTDIR={tmp_path / 'made'}",
         f"PYTHON_SITE=/{PYTHON[release]}",
         "DRIVER_DIRS=" + " ".join(f"/{folder}" for folder in DRIVERS[release])], check=True)
    made = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*")
            if path.is_symlink() or path.is_file()}
    assert {name for name in installed
            if not name.startswith(("usr/share/doc/", "usr/share/licenses/"))} == made


@pytest.mark.parametrize("given", [True, False], ids=["folders given", "folders found"])
def test_make_takes_away_what_it_installs(tmp_path: Path, release: str, given: bool) -> None:
    """Also where Python has compiled, and a driver's folder is that of XCP-ng 9."""
    for folder in DRIVERS[release]:
        (tmp_path / folder).mkdir(parents=True)

    def make(target: str) -> None:
        dirs = ["DRIVER_DIRS=" + " ".join(f"/{folder}" for folder in DRIVERS[release])]
        subprocess.run(["make", "--silent", "-C", CHECKOUT, target, f"DESTDIR={tmp_path}",
                        f"PYTHON_SITE=/{PYTHON[release]}", *(dirs if given else [])], check=True)

    def files() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file()]

    make("install")
    assert {path.parent for path in files() if path.name == "LUKSEXTSR"} == {
        tmp_path / folder for folder in DRIVERS[release]}
    for path in files():
        if path.suffix == ".py":
            compiled = path.parent / "__pycache__" / f"{path.stem}.cpython-36.pyc"
            compiled.parent.mkdir(exist_ok=True)
            compiled.touch()
    make("uninstall")
    assert files() == []


def test_the_driver_is_where_xapi_looks(
    dom0: Dom0, packages: dict[str, Path], release: str
) -> None:
    dom0.rpm("--install", str(packages[release]))
    for folder in DRIVERS[release]:
        driver = dom0.root / folder / "LUKSEXTSR"
        assert driver.resolve() == dom0.root.resolve() / "opt/xensource/sm/LUKSEXTSR.py"
        assert driver.stat().st_mode & 0o111
    assert (dom0.root / PYTHON[release] / "luksext.pth").is_file()


def test_it_changes_no_file_of_others_and_restarts_nothing(
    dom0: Dom0, packages: dict[str, Path], release: str
) -> None:
    before = dom0.contents()
    dom0.rpm("--install", str(packages[release]))
    assert {name: what for name, what in dom0.contents().items() if name in before} == before
    assert dom0.systemctl_calls() == ["daemon-reload"]


def test_it_says_what_to_do_next(dom0: Dom0, packages: dict[str, Path], release: str) -> None:
    told = dom0.rpm("--install", str(packages[release]))
    assert "xe-toolstack-restart" in told
    assert "luksext doctor" in told


@pytest.mark.parametrize("name, version", [
    ("clevis", None), ("cryptsetup", "1.7.4-1"), ("sm", "2.30.8-13"), ("lvm2", "7:2.02.100-1")])
def test_a_host_without_what_it_needs_is_refused(
    packages: dict[str, Path], tmp_path: Path, name: str, version: str | None
) -> None:
    there = {key: value for key, value in XCP_NG_8.items() if key != name}
    if version:
        there[name] = version
    dom0 = Dom0(tmp_path / "root", there)
    with pytest.raises(RpmError, match=rf"{name} >= .* is needed by luksext"):
        dom0.rpm("--install", str(packages["xcpng8.3"]))


def test_an_upgrade_replaces_files_and_touches_nothing_else(
    dom0: Dom0, packages: dict[str, Path], old_packages: dict[str, Path], release: str
) -> None:
    dom0.rpm("--install", str(old_packages[release]))
    dom0.write(DROP_IN, "sm-plugins = ext luksext\n")
    dom0.write("var/lib/luksext/LUKS-UUID/1.header", "header")
    dom0.set_srs(SR)
    dom0.rpm("--upgrade", str(packages[release]))
    there = dom0.contents()
    assert "opt/xensource/sm/luksext/gone.py" not in there
    assert "earlier" not in (dom0.root / "opt/xensource/sm/LUKSEXTSR.py").read_text()
    assert (dom0.root / DROP_IN).read_text() == "sm-plugins = ext luksext\n"
    assert "var/lib/luksext/LUKS-UUID/1.header" in there
    assert set(dom0.systemctl_calls()) == {"daemon-reload"}
    assert dom0.rpm("--query", "luksext").count("luksext") == 1


def test_a_removal_while_an_sr_exists_is_refused(installed: Dom0) -> None:
    installed.set_srs(SR)
    before = installed.contents()
    with pytest.raises(RpmError) as caught:
        installed.rpm("--erase", "luksext")
    assert SR in str(caught.value)
    assert "sr-destroy" in str(caught.value)
    assert installed.contents() == before
    assert "luksext-1" in installed.rpm("--query", "luksext")


def test_a_removal_leaves_the_host_as_it_was_but_for_header_backups(
    dom0: Dom0, packages: dict[str, Path], release: str,
    request: pytest.FixtureRequest
) -> None:
    before = dom0.contents()
    request.getfixturevalue("installed")
    dom0.write("var/lib/luksext/LUKS-UUID/1.header", "header")
    dom0.rpm("--erase", "luksext")
    left = {name: what for name, what in dom0.contents().items() if name not in before}
    files = [name for name, what in left.items() if what != "folder"]
    assert files == ["var/lib/luksext/LUKS-UUID/1.header"]
    assert not [name for name in left if "luksext" in name and not name.startswith("var/lib")]
    assert {name: what for name, what in dom0.contents().items() if name in before} == before
    assert dom0.systemctl_calls() == ["daemon-reload", "daemon-reload"]


def test_it_can_be_installed_again(
    installed: Dom0, packages: dict[str, Path], release: str
) -> None:
    before = installed.contents()
    installed.rpm("--erase", "luksext")
    installed.rpm("--install", str(packages[release]))
    after = installed.contents()
    assert {name for name in before if "__pycache__" not in name} - set(after) == {DROP_IN}
    assert installed.rpm("--verify", "--noghost", "luksext") == ""
