# SPDX-License-Identifier: LGPL-2.1-only
"""What storage-init would overwrite when the host starts alone, and the guard before it."""
import os
import runpy
import sys
from types import SimpleNamespace

import pytest

from luksext import container, contents, defaultstorage

GUARD = os.path.join(os.path.dirname(__file__), "..", "..", "libexec", "luksext-storage-guard")


@pytest.fixture
def host(sysfs, tmp_path, monkeypatch):
    """A host with disks sdb, with a partition, and sdc; what they carry is for the test to say."""
    made = SimpleNamespace(
        conf=tmp_path / "default-storage.conf", carries={}, containers=[],
        nodes={"sdb": sysfs.disk("sdb"), "sdb1": sysfs.partition("sdb", "sdb1"),
               "sdc": sysfs.disk("sdc", number="8:32")})
    monkeypatch.setattr(defaultstorage, "FILE", str(made.conf))
    monkeypatch.setattr(contents, "kinds", lambda path: made.carries.get(path, []))
    monkeypatch.setattr(container, "all_containers", lambda: iter(
        [SimpleNamespace(device=made.nodes[name]) for name in made.containers]))
    return made


@pytest.mark.parametrize("text, found", [
    ("PARTITIONS='{sdb1}'\nTYPE='ext'\n", True), ("PARTITIONS='{sdc} {sdb1}'\n", True),
    # Zeros over the start of a disk are zeros over the start of its first partition.
    ("PARTITIONS={sdb}\n", True), ("PARTITIONS='{sdc}'\n", False), ("PARTITIONS=''\n", False),
    ("# PARTITIONS='{sdb1}'\n", False), ("PARTITIONS='/dev/gone'\n", False),
    ("TYPE='{sdb1}'\n", False)])
def test_an_encrypted_disk_that_is_named_is_in_danger(host, text, found):
    host.containers = ["sdb1"]
    host.carries = {host.nodes["sdb1"]: ["crypto_LUKS"]}
    host.conf.write_text(text.format(**host.nodes))
    assert defaultstorage.endangered() == ([host.nodes["sdb1"]] if found else [])


def test_so_is_one_whose_header_is_damaged(host):
    host.carries = {host.nodes["sdb1"]: ["crypto_LUKS"], host.nodes["sdc"]: ["crypto_LUKS"]}
    host.conf.write_text("PARTITIONS='{sdb1}'\n".format(**host.nodes))
    assert defaultstorage.endangered() == [host.nodes["sdb1"]]


def test_a_disk_that_is_not_encrypted_is_for_storage_init(host):
    host.containers = ["sdc"]
    host.carries = {host.nodes["sdb1"]: ["LVM2_member", "ext4"]}
    host.conf.write_text("PARTITIONS='{sdb1}'\n".format(**host.nodes))
    assert defaultstorage.endangered() == []


def test_without_the_file_storage_init_makes_no_storage(host):
    host.containers = ["sdb1"]
    assert defaultstorage.endangered() == []


def guard(monkeypatch):
    """How the guard ends: 0, or what it says."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        runpy.run_path(GUARD, run_name="__main__")
    except SystemExit as ended:
        return ended.code
    return 0


def test_the_guard_names_the_disk_and_what_to_type(host, monkeypatch):
    host.carries = {host.nodes["sdb1"]: ["crypto_LUKS"]}
    host.conf.write_text("PARTITIONS='{sdb1}'\n".format(**host.nodes))
    said = guard(monkeypatch)
    assert said.startswith(host.nodes["sdb1"])
    assert said.endswith("Type: mv {} /root/ ; systemctl start storage-init".format(host.conf))


def test_the_guard_lets_storage_init_go_on(host, monkeypatch):
    host.containers = ["sdb1"]
    host.conf.write_text("PARTITIONS='{sdc}'\n".format(**host.nodes))
    assert guard(monkeypatch) == 0


@pytest.mark.parametrize("text", ["PARTITIONS='{sdb1}", "PARTITIONS='{sdc}' \"\n"])
def test_the_guard_refuses_what_it_cannot_read(host, monkeypatch, text):
    host.conf.write_text(text.format(**host.nodes))
    said = guard(monkeypatch)
    assert str(host.conf) in said and "No closing quotation" in said
    assert said.endswith("Type: luksext doctor")
