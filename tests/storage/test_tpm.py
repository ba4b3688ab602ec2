# SPDX-License-Identifier: LGPL-2.1-only
"""Unlocking by the TPM, and what an administrator reads when the TPM or a tool fails."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.storage.attacks import edit
from tests.storage.pool import Host, Sr
from tests.storage.test_plugin import alerts


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


@pytest.mark.slow
def test_a_sealed_key_with_options_for_the_tools_of_the_tpm_runs_nothing(sr: Sr) -> None:
    """clevis-decrypt-tpm2 would hand the words that a header has for PCRs to tpm2_unseal."""
    host, device = sr.host, sr.device
    host.sh(f"dd if={device} of=/tmp/before bs=1M count=16 status=none")
    edit(host, device, """
import base64
jwe = metadata["tokens"]["0"]["jwe"]
protected = json.loads(base64.urlsafe_b64decode(jwe["protected"] + "=="))
protected["clevis"]["tpm2"]["pcr_ids"] = "7,16 --tcti=cmd:touch${IFS}/tmp/owned"
jwe["protected"] = base64.urlsafe_b64encode(json.dumps(protected).encode()).decode().rstrip("=")
""")
    try:
        error = sr.refused()
    finally:
        host.sh(f"dd if=/tmp/before of={device} bs=1M conv=fsync status=none")
    assert error.code == 6244
    assert "pcr_ids" in error.text
    assert "No such file" in host.sh("ls /tmp/owned 2>&1 || true")


@pytest.mark.slow
def test_the_health_check_finds_a_stale_binding_by_itself(sr: Sr) -> None:
    host, machine = sr.host, sr.host.machine
    proofs = f"/var/lib/luksext/{sr.containers()[0]}/proofs.json"

    def checked(later: bool) -> bool:
        """Whether XAPI has the alert after a check, at which a proof is due or not."""
        if later:
            host.sh(f"""sed -i 's/"at": "[0-9]*-/"at": "2001-/' {proofs}""")
        host.check_srs()
        return "LUKS-W003" in alerts(sr)

    def status(verb: str) -> int:
        return machine.run(["luksext", verb, f"--sr-uuid={sr.uuid}"], check=False).rc

    sr.plug()
    assert not checked(later=False)
    assert not checked(later=True)
    machine.extend_pcr(16)
    assert not checked(later=False)
    for _ in range(2):
        assert checked(later=True)
        raised = host.xe("message-list", obj_uuid=sr.uuid, name="LUKS-W003", params="uuid",
                         minimal=True)
        assert len(raised.split(",")) == 1
    assert (status("status"), status("prove")) == (3, 3)
    machine.reset_pcr(16)
    assert status("prove") == 0
    assert not checked(later=True)
    sr.unplug()


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
