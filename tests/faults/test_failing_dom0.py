# SPDX-License-Identifier: LGPL-2.1-only
"""A dom0 that runs out: a root filesystem without room, too little memory for a passphrase."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.faults.campaign import Campaign
from tests.faults.survivor import RECOVERED, Survivor, replaced
from tests.lab.disks import Disk
from tests.storage.pool import Host, XeError, luksext

PASSPHRASE = "correct horse battery staple"

# Not /tmp: XAPI keeps there what a driver answers (forkhelpers.ml, with_logfile_fd). Without room
# for that, the driver of no SR type can answer anything.
_ON_ROOT = ("/var/lib/luksext", "/etc/lvm/archive", "/etc/lvm/backup", "/var/tmp")

# KiB of address space: enough for cryptsetup, too little for 128 MiB besides.
_NO_MEMORY = "ulimit -v 120000; exec $real \"$@\""


@pytest.fixture(autouse=True)
def plugged(subject: Survivor) -> None:
    subject.sr.plug()


@contextmanager
def full_root(host: Host) -> Iterator[None]:
    """Within, no folder of dom0's root filesystem that a plug or create writes to has a free block.

    Folders, and not all of it: in a guest it is in memory.
    """
    for folder in _ON_ROOT:
        host.sh(f"mkdir -p {folder}; mount -t tmpfs -o size=64k,mode=700 tmpfs {folder}; "
                f"! cat /dev/zero > {folder}/filler")
    try:
        yield
    finally:
        host.sh(f"umount {' '.join(_ON_ROOT)}")


def test_a_full_root_filesystem(campaign: Campaign, subject: Survivor, luks_version: str,
                                new_disk: Callable[..., Disk]) -> None:
    host, sr = subject.host, subject.sr
    told = json.loads(luksext(sr, "recovery-add", "--name=safe", "--json"))
    luksext(sr, "recovery-confirm", key=told["recovery_key"])
    luksext(sr, "recovery-add", "--name=second")
    with campaign.trial("full root filesystem at a plug", luks_version) as trial:
        subject.unplug()
        with full_root(host):
            subject.check()
            subject.unplug()
        subject.check()
        trial.outcome = "works"
    with campaign.trial("full root filesystem at a revocation", luks_version) as trial:
        with full_root(host):
            answer = luksext(sr, "recovery-revoke", "--name=second")
            assert "error 6266" in answer, answer
        assert '"second"' in luksext(sr, "status", "--json")
        luksext(sr, "recovery-revoke", "--name=second")
        status = json.loads(luksext(sr, "status", "--json"))
        assert status["disks"][0]["header_backup_fresh"]
        trial.outcome = f"refused with 6266, no key is gone, {RECOVERED}"
    with campaign.trial("full root filesystem at a new key", luks_version) as trial:
        with full_root(host):
            answer = luksext(sr, "recovery-add", "--name=third")
            assert "warning: The header of" in answer, answer
        subject.unplug()
        subject.check()
        luksext(sr, "recovery-revoke", "--name=third")
        trial.outcome = "made, with a warning that its header was not backed up"
    with campaign.trial("full root filesystem at a create", luks_version) as trial:
        disk = new_disk()
        trial.outcome = f"works, and {RECOVERED}"
        with full_root(host):
            try:
                host.create_unbound_sr(disk, luks_version=luks_version).destroy()
            except XeError as error:
                # LVM makes no volume of which it cannot archive the metadata.
                trial.outcome = f"create says {error.code}, {RECOVERED}"
        assert host.sh(f"wipefs {disk.by_id}") == ""
        host.create_unbound_sr(disk, luks_version=luks_version).destroy()


def test_too_little_memory(campaign: Campaign, subject: Survivor, luks_version: str,
                           new_disk: Callable[..., Disk]) -> None:
    host = subject.host
    if luks_version == "1":
        pytest.skip("LUKS1 stretches passphrases without memory")
    disk = new_disk()
    with campaign.trial("too little memory for a passphrase at a create", luks_version) as trial:
        with replaced(host, "cryptsetup", _NO_MEMORY), pytest.raises(XeError) as caught:
            host.create_sr_with_passphrase(disk.by_id, PASSPHRASE, pin="null")
        assert caught.value.code == 6293, caught.value.text
        assert host.sh(f"wipefs {disk.by_id}") == ""
        trial.outcome = "create says 6293, the disk is empty"
    made = host.create_sr_with_passphrase(disk.by_id, PASSPHRASE, pin="null")
    with campaign.trial("too little memory for a passphrase at a plug", luks_version) as trial:
        made.unplug()
        with replaced(host, "cryptsetup", _NO_MEMORY):
            made.plug()
            answer = luksext(made, "recovery-test", key=PASSPHRASE)
        assert "error 6293" in answer, answer
        assert "slots" in luksext(made, "recovery-test", key=PASSPHRASE)
        trial.outcome = f"the binding opens, the passphrase says 6293, {RECOVERED}"
    made.destroy()
