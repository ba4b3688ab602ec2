# SPDX-License-Identifier: LGPL-2.1-only
"""The tests for XCP-ng's own suite use nothing of ours, and fit into that suite.

The second needs a checkout of it: XCPNG_TESTS=<checkout>; its Python is that of the folder .venv
in it, as its README has it made.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SIBLING = Path(__file__).resolve().parents[1] / "sibling/luksext"
MODULES = sorted(SIBLING.rglob("*.py"))

# What that suite has, and what comes with it.
THEIRS = {"lib", "pkgfixtures", "pytest", "tests.storage"}


def imported(module: Path) -> set[str]:
    """The names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SIBLING)))
def test_it_uses_nothing_of_ours(module: Path) -> None:
    for name in imported(module):
        assert name.split(".")[0] in sys.stdlib_module_names or any(
            name == known or name.startswith(known + ".") for known in THEIRS), name


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of their checkout, with our tests in it."""
    checkout = os.environ.get("XCPNG_TESTS")
    if not checkout:
        pytest.skip("needs a checkout of xcp-ng-tests (XCPNG_TESTS=checkout)")
    copy = tmp_path_factory.mktemp("suite") / "xcp-ng-tests"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", ".venv"))
    shutil.copytree(SIBLING, copy / "tests/storage/luksext")
    for example in ("data", "vm_data"):
        shutil.copy(copy / f"{example}.py-dist", copy / f"{example}.py")
    return copy


def test_its_types_fit(suite: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--disallow-untyped-defs", "--explicit-package-bases",
         "--ignore-missing-imports", "--follow-imports=silent", "tests/storage/luksext"],
        cwd=suite, check=False, text=True, stdout=subprocess.PIPE)
    assert result.returncode == 0, result.stdout


def test_its_tests_are_found_with_their_markers(suite: Path) -> None:
    python = Path(os.environ["XCPNG_TESTS"], ".venv/bin/python").absolute()
    if not python.exists():
        pytest.skip(f"needs the Python of xcp-ng-tests: {python}")
    result = subprocess.run(
        [python, "-m", "pytest", "--collect-only", "-q", "--strict-markers",
         "tests/storage/luksext"],
        cwd=suite, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout
    found = set(re.findall(r"tests/storage/luksext/\S+\.py", result.stdout))
    assert found == {
        f"tests/storage/luksext/{path.relative_to(SIBLING)}" for path in MODULES
        if path.name.startswith("test_")}
