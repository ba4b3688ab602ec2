# SPDX-License-Identifier: LGPL-2.1-only
"""Unlocking by the TPM, and what an administrator reads when the TPM or a tool fails."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.storage.pool import Host, Sr


@pytest.fixture(scope="module")
def sr(host: Host, machine: Machine) -> Iterator[Sr]:
    """A locked SR that is bound to two PCRs."""
    sr = host.create_sr(machine.add_disk("tpm", "256M"),
                        pin_config=json.dumps({"pcr_ids": "7,16"}))
    sr.unplug()
    yield sr
    sr.plug()
    sr.destroy()


def test_the_tpm_in_lockout(sr: Sr) -> None:
    sr.host.machine.lock_out_tpm()
    try:
        error = sr.refused()
    finally:
        sr.host.machine.clear_lockout()
    assert error.code == 6233
    assert "tpm2_dictionarylockout" in error.text
    sr.plug()
    sr.unplug()


@pytest.mark.parametrize("program", ["clevis", "cryptsetup", "jose", "tpm2_createprimary"])
def test_a_missing_tool_is_named_with_its_package(sr: Sr, program: str) -> None:
    path = sr.host.sh(f"command -v {program}").strip()
    sr.host.sh(f"mv {path} {path}.away")
    try:
        error = sr.refused()
    finally:
        sr.host.sh(f"mv {path}.away {path}")
    assert error.code == 6203
    assert program in error.text
    assert "yum install" in error.text


def test_a_hung_clevis_ends_as_an_error(sr: Sr) -> None:
    path = sr.host.sh("command -v clevis-decrypt-tpm2").strip()
    sr.host.sh(f"mv {path} {path}.away")
    sr.host.machine.put(path, b"#!/bin/sh\nsleep 1000\n", 0o755)
    try:
        error = sr.refused()
    finally:
        sr.host.sh(f"mv {path}.away {path}")
    assert error.code in (6235, 6238)
    assert "60 seconds" in error.text
    assert "sleep 1000" not in sr.host.sh("ps ax")


def test_a_changed_pcr_is_refused_until_the_next_boot(sr: Sr) -> None:
    machine = sr.host.machine
    machine.extend_pcr(16)
    error = sr.refused()
    assert error.code == 6234
    assert "PCRs 7,16" in error.text
    assert "cryptsetup open" in error.text
    machine.reboot()
    assert sr.attached
    sr.unplug()
