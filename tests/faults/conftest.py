# SPDX-License-Identifier: LGPL-2.1-only
"""Fixtures and options of the fault campaign: those of the storage tests, trials, and the report.

A test of the campaign is part of `make test` when it is marked `short`; all others are slow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import VERSIONS, Campaign, Trial, report, trials_in
from tests.faults.survivor import Survivor, survivor
from tests.lab.machine import Machine
from tests.storage.conftest import (  # noqa: F401  fixtures
    disk, firmware, host, luks_version, machine, new_disk, pytest_report_header, real_sm, tang)
from tests.storage.pool import Host

# Clevis and jose cannot tell theirs.
_VERSIONS = {
    "kernel": "uname -r",
    "cryptsetup": "cryptsetup --version",
    "LVM": "lvm version | sed -n 's/.*LVM version: *//p'",
    "tpm2-tools": "tpm2_unseal --version",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fault campaign")
    group.addoption("--trials", type=int, default=1, metavar="N",
                    help="how often a fault with something random in it is tried, and at how many "
                         "programs of a call the driver is killed (default: 1)")
    group.addoption("--campaign-seed", type=int, metavar="N",
                    help="repeats the run that printed this seed (default: another each time)")
    group.addoption("--campaign-report", type=Path, metavar="FILE",
                    help="writes the table of all trials, in markdown")


def pytest_configure(config: pytest.Config) -> None:
    # Other processes of the same run get the options of this one.
    if config.option.campaign_seed is None:
        config.option.campaign_seed = int(time.time())
    config.pluginmanager.register(_Reporter(config), "fault-campaign")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("short"):
            item.add_marker("slow")


class _Reporter:
    """Gathers the trials of all tests, from all processes."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._trials: list[Trial] = []
        self._versions: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._trials += trials_in(report.user_properties)
            for name, value in report.user_properties:
                if name == VERSIONS:
                    self._versions.update(value)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._trials:
            return
        option = self._config.option
        text = report(self._trials, {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "storage manager": real_sm().name if real_sm() else "stand-in",
            **self._versions,
            "run": f"--trials {option.trials} --campaign-seed {option.campaign_seed}",
        })
        terminalreporter.section("fault campaign")
        terminalreporter.write(text)
        if option.campaign_report:
            option.campaign_report.write_text(text, encoding="utf-8")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test whose trials failed, when it has made them all."""
    result = yield
    campaign = pyfuncitem.funcargs.get("campaign")
    if isinstance(campaign, Campaign):
        campaign.check()
    return result


@pytest.fixture(scope="module")
def versions(request: pytest.FixtureRequest) -> dict[str, str]:
    """What the trials ran with in the guest."""
    guest: Host = request.getfixturevalue("host")
    return {name: guest.sh(command).strip() for name, command in _VERSIONS.items()}


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Campaign:
    """Where a test records its trials."""
    properties = request.node.user_properties
    if "machine" in request.fixturenames:
        properties.append((VERSIONS, request.getfixturevalue("versions")))
    return Campaign(properties)


@pytest.fixture(scope="module")
def subject(host: Host, machine: Machine,  # noqa: F811
            luks_version: str) -> Iterator[Survivor]:  # noqa: F811
    """An SR that opens without asking anything, for a module."""
    own = machine.add_disk(f"subject{luks_version}", "256M")
    with survivor(host, own, pin="null", luks_version=luks_version) as made:
        yield made


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int:
    """How often to try what has something random in it."""
    count: int = request.config.option.trials
    return count


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The random numbers of a test: the same for the same seed, whatever other tests run."""
    return random.Random(f"{request.config.option.campaign_seed} {request.node.nodeid}")
