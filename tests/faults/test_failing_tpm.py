# SPDX-License-Identifier: LGPL-2.1-only
"""TPMs and tang servers that fail, and clocks that jump: proofs, suspensions, backups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.campaign import Campaign
from tests.faults.survivor import RECOVERED, Survivor, survivor, within
from tests.lab.machine import Machine
from tests.storage.pool import Host, luksext
from tests.storage.tang import URL, Tang

PCR = 16
DAY = 24 * 3600


@pytest.fixture(scope="module")
def subject(host: Host, machine: Machine) -> Iterator[Survivor]:
    """Bound to a PCR that can be extended."""
    config = json.dumps({"pcr_ids": str(PCR)})
    with survivor(host, machine.add_disk("tpm", "256M"), pin_config=config) as made:
        yield made


@pytest.fixture(scope="module")
def recovery_key(subject: Survivor) -> str:
    told = json.loads(luksext(subject.sr, "recovery-add", "--name=safe", "--json"))
    luksext(subject.sr, "recovery-confirm", key=told["recovery_key"])
    return str(told["recovery_key"])


@pytest.fixture(autouse=True)
def plugged(subject: Survivor) -> None:
    subject.sr.plug()


@contextmanager
def clock_moved(host: Host, seconds: int) -> Iterator[None]:
    """Within, the host's clock is wrong by so much."""
    host.sh(f"date -s @$(($(date +%s) + {seconds}))")
    try:
        yield
    finally:
        host.sh(f"date -s @$(($(date +%s) - {seconds}))")


def test_a_tpm_that_hangs(campaign: Campaign, subject: Survivor) -> None:
    with campaign.trial("TPM that hangs") as trial:
        subject.unplug()
        with subject.host.machine.hanging_tpm(), within(180):
            error = subject.refused()
        assert error.code == 6235, error.text
        assert "dmesg" in error.text
        subject.check()
        trial.outcome = f"plug says 6235, {RECOVERED}"


def test_a_slow_tpm(campaign: Campaign, subject: Survivor) -> None:
    machine = subject.host.machine
    with campaign.trial("TPM that needs half a second for each request") as trial:
        subject.unplug()
        with machine.slow_tpm(0.5), within(90):
            subject.check()
        trial.outcome = "works"
    with campaign.trial("TPM that answers after 20 seconds") as trial:
        subject.unplug()
        # Longer than Linux waits for some requests (drivers/char/tpm/tpm2-cmd.c).
        with machine.slow_tpm(20), within(180):
            error = subject.refused()
        assert error.code == 6235, error.text
        # It still works on what nobody waits for any more.
        subject.host.sh("until timeout 10 tpm2_getcap properties-variable >/dev/null 2>&1; "
                        "do sleep 1; done", timeout=180)
        subject.check()
        trial.outcome = f"plug says 6235, {RECOVERED}"


def test_a_tpm_in_lockout(campaign: Campaign, subject: Survivor) -> None:
    machine = subject.host.machine
    with campaign.trial("TPM in dictionary-attack lockout") as trial:
        subject.unplug()
        machine.lock_out_tpm()
        try:
            error = subject.refused()
        finally:
            machine.clear_lockout()
        assert error.code == 6233
        subject.check()
        trial.outcome = f"plug says 6233, {RECOVERED}"


def test_a_changed_pcr(campaign: Campaign, subject: Survivor, recovery_key: str) -> None:
    with campaign.trial("PCR changed") as trial:
        subject.unplug()
        subject.host.machine.extend_pcr(PCR)
        error = subject.refused()
        assert error.code == 6234
        assert "luksext unlock" in error.text
        rebound(subject, recovery_key)
        # As the next start of the host does.
        subject.unplug()
        subject.host.machine.reset_pcr(PCR)
        assert subject.refused().code == 6234
        rebound(subject, recovery_key)
        trial.outcome = "plug says 6234, works after unlock and rebind with the recovery key"


def test_a_cleared_tpm(campaign: Campaign, subject: Survivor, recovery_key: str) -> None:
    with campaign.trial("TPM cleared") as trial:
        subject.unplug()
        subject.host.machine.clear_tpm()
        error = subject.refused()
        assert error.code == 6234
        rebound(subject, recovery_key)
        trial.outcome = "plug says 6234, works after unlock and rebind with the recovery key"


def rebound(subject: Survivor, recovery_key: str) -> None:
    """What the error tells an administrator to type helps."""
    luksext(subject.sr, "unlock", key=recovery_key)
    subject.check()
    luksext(subject.sr, "rebind", key=recovery_key)
    subject.unplug()
    subject.check()


def test_a_clock_that_jumps(campaign: Campaign, subject: Survivor) -> None:
    host, sr = subject.host, subject.sr
    for days in (400, -20000):
        with campaign.trial(f"clock wrong by {days} days") as trial:
            subject.unplug()
            with clock_moved(host, days * DAY):
                subject.check()
                assert '"ok": true' in luksext(sr, "prove", "--json")
                luksext(sr, "recovery-add", "--name=late")
                subject.unplug()
                subject.check()
            status = json.loads(luksext(sr, "status", "--json"))
            assert status["disks"][0]["header_backup_fresh"], status
            luksext(sr, "recovery-revoke", "--name=late")
            status = json.loads(luksext(sr, "status", "--json"))
            assert status["disks"][0]["header_backup_fresh"], status
            assert "LUKS-W003" not in status["alerts"], status
            subject.unplug()
            subject.check()
            trial.outcome = "works; the newest header backup is the last one made"


def test_a_clock_that_jumps_over_the_end_of_a_suspension(
        campaign: Campaign, subject: Survivor) -> None:
    host, sr = subject.host, subject.sr

    def roles() -> list[str]:
        return [slot["role"] for slot in
                json.loads(luksext(sr, "status", "--json"))["disks"][0]["slots"]]

    def plug_again() -> None:
        subject.unplug()
        subject.check()

    for event, happen in (("plug", plug_again), ("health check", host.check_srs)):
        with campaign.trial(
                f"clock that jumps over the end of a suspension before a {event}") as trial:
            luksext(sr, "suspend", "--hours=1")
            host.check_srs()
            assert "suspend" in roles()
            with clock_moved(host, 2 * DAY):
                happen()
            assert "suspend" not in roles()
            plug_again()
            trial.outcome = "the suspension is over, the binding with PCRs opens"


def test_a_replaced_and_an_absent_tpm(campaign: Campaign, subject: Survivor) -> None:
    machine = subject.host.machine
    for fault, code, away, back in (
            ("TPM replaced", 6234, machine.swap_tpm, machine.swap_tpm),
            ("TPM absent", 6232, machine.remove_tpm, machine.insert_tpm)):
        with campaign.trial(fault) as trial:
            machine.shutdown()
            away()
            machine.start()
            error = subject.refused()
            assert error.code == code, error.text
            machine.shutdown()
            back()
            machine.start()
            subject.check()
            trial.outcome = f"plug says {code}, {RECOVERED}"


@pytest.fixture
def by_tang(host: Host, machine: Machine, tang: Tang) -> Iterator[Survivor]:
    config = json.dumps({"url": URL, "thp": tang.thumbprint()})
    with survivor(host, machine.add_disk("tang", "256M"), pin="tang", pin_config=config) as made:
        yield made
    machine.remove_disk("tang")


# A server that takes a connection, and says nothing; or a byte now and then.
_SILENT = "socat TCP-LISTEN:7500,fork,reuseaddr SYSTEM:'sleep 600'"
_DRIPPING = ("socat TCP-LISTEN:7500,fork,reuseaddr "
             "SYSTEM:'printf \"HTTP/1.1 200 OK\\r\\n\\r\\n\"; while sleep 1; do printf x; done'")


def test_a_tang_server_that_fails(campaign: Campaign, by_tang: Survivor, subject: Survivor,
                                  tang: Tang) -> None:
    subject.sr.unplug()
    host = by_tang.host
    with campaign.trial("tang server gone") as trial:
        by_tang.unplug()
        tang.stop()
        assert by_tang.refused().code == 6236
        tang.start()
        by_tang.check()
        trial.outcome = f"plug says 6236, {RECOVERED}"
    for fault, server in (("tang server that is silent", _SILENT),
                          ("tang server that sends a byte a second", _DRIPPING)):
        with campaign.trial(fault) as trial:
            by_tang.unplug()
            tang.stop()
            host.sh(f"setsid {server} > /dev/null 2>&1 & echo $! > /tmp/tang.pid; sleep 1")
            try:
                with within(120):
                    error = by_tang.refused()
            finally:
                tang.stop()
                tang.start()
            assert error.code in (6236, 6238), error.text
            by_tang.check()
            trial.outcome = f"plug says {error.code}, {RECOVERED}"
    with campaign.trial("tang server with other keys") as trial:
        by_tang.unplug()
        host.sh("cp -a /tmp/tang /tmp/tang.kept")
        tang.lose_keys()
        assert by_tang.refused().code == 6237
        host.sh("rm -rf /tmp/tang; mv /tmp/tang.kept /tmp/tang")
        by_tang.check()
        trial.outcome = f"plug says 6237, {RECOVERED}"
