# SPDX-License-Identifier: LGPL-2.1-only
"""What the unit tests share: a folder of fake programs, and a fake sysfs.

Programs are small shell scripts that are really run, so that argv, stdin, pipes, deadlines and
environment are tested as they are. Everything here runs on Python 3.6 and needs no root.
"""
import os
import shutil
import time

import pytest
from hypothesis import HealthCheck, settings

from fake_luks import Disk
from luksext import alive, audit, clevis, cryptsetup, devices, notes, run, tpm

# Few examples, and the same at each run, whatever the machine is busy with. For a campaign, as many
# others: pytest tests/unit --hypothesis-profile=campaign
_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=50, derandomize=True, **_PATIENT)
settings.register_profile("campaign", max_examples=2000, print_blob=True, **_PATIENT)
settings.load_profile("ci")

# What the scripts themselves call.
HELPERS = ("cat", "sleep", "env", "ln", "ls", "mkdir", "rm")


class Programs:
    """A folder that is the whole PATH; every program in it is fake."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        helpers = folder / ".helpers"
        helpers.mkdir()
        for name in HELPERS:
            (helpers / name).symlink_to(shutil.which(name))
        self.helpers = helpers

    def add(self, name, script=""):
        """A program that notes its argv and its stdin, then runs `script` (sh)."""
        path = self.folder / name
        path.write_text(
            "#!/bin/sh\n"
            # Of several at once, each has its own.
            "helpers={helpers} log={log} stdin={log}.stdin.$$\n"
            "for word in {name} \"$@\"; do printf '%s\\n' \"$word\"; done >>$log.argv\n"
            "echo >>$log.argv\n"
            "echo {name} $1 >>{order}\n"
            "$helpers/cat >$stdin\n"
            "{script}\n".format(helpers=self.helpers, log=self.folder / ("." + name), name=name,
                                order=self.folder / ".order", script=script))
        path.chmod(0o755)

    def link(self, name):
        """The real program of that name."""
        (self.folder / name).symlink_to(shutil.which(name))

    def calls(self, name):
        """The argv of every call of the program so far."""
        log = self.folder / ".{}.argv".format(name)
        if not log.exists():
            return []
        return [call.split("\n") for call in log.read_text().split("\n\n") if call]

    def order(self):
        """Every call so far, of all programs, as the program and its first argument."""
        log = self.folder / ".order"
        return log.read_text().splitlines() if log.exists() else []

    def stdin(self, name):
        """What the last call of the program read."""
        kept = self.folder.glob(".{}.stdin.*".format(name))
        return max(kept, key=lambda path: path.stat().st_mtime_ns).read_bytes()


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Fake programs on a PATH of their own, with a private directory to make."""
    made = Programs(tmp_path / "programs")
    for module in (run, clevis, tpm):
        monkeypatch.setattr(module, "PATH", str(made.folder))
    monkeypatch.setattr(run, "PRIVATE_DIR", str(tmp_path / "private"))
    monkeypatch.setattr(tpm, "DEVICE", str(tmp_path / "no-tpm"))
    return made


@pytest.fixture(autouse=True)
def all_disks_answer():
    """Forgets the disks that were silent in another test."""
    yield
    alive._silent.clear()


@pytest.fixture(autouse=True)
def audited(monkeypatch):
    """The lines of the audit, in the place of the log of this machine: verb, SR, who, result, and
    the details."""
    lines, record = [], audit.record

    def noted(*words, **details):
        lines.append((*words, details))
        record(*words, **details)

    monkeypatch.setattr(audit, "record", noted)
    monkeypatch.setattr(audit.syslog, "syslog", lambda *words: None)
    return lines


@pytest.fixture(params=[1, 2], ids=["luks1", "luks2"])
def disk(request, tmp_path, monkeypatch):
    """A disk with an empty LUKS header of either generation, and a TPM that is in order."""
    made = Disk(tmp_path / "sdb", request.param)
    for module in (cryptsetup, clevis):
        monkeypatch.setattr(module, "run", lambda *args, **kwargs: made.run(*args, **kwargs))
    monkeypatch.setattr(clevis, "check_tools", lambda pin: None)
    monkeypatch.setattr(clevis, "require", lambda *programs: None)
    monkeypatch.setattr(tpm, "check", lambda: None)
    monkeypatch.setattr(tpm, "rest", lambda: None)
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "state"))
    return made


@pytest.fixture
def on_disk(tmp_path):
    """Writes a header to a file that stands for a disk; its path."""
    def write(content):
        path = tmp_path / "sdb"
        path.write_bytes(content)
        return str(path)
    return write


class Sysfs:
    """A tree like /sys/class/block: links to folders in which partitions lie in their disk."""

    def __init__(self, root, nodes):
        self.block = root / "class"
        self.nodes = nodes
        self._devices = root / "devices"
        for folder in (self.block, self.nodes, self._devices):
            folder.mkdir(parents=True, exist_ok=True)

    def disk(self, name, size=1 << 30, number="8:16", logical=512, ro=0):
        """A disk of `size` bytes; the path of its node, an empty file."""
        folder = self._devices / name
        (folder / "queue").mkdir(parents=True)
        (folder / "queue" / "logical_block_size").write_text("{}\n".format(logical))
        self._describe(folder, size, number, ro)
        return self._node(name, folder)

    def partition(self, disk, name, size=1 << 29, number="8:17"):
        """A partition; it has no queue of its own."""
        folder = self._devices / disk / name
        folder.mkdir()
        (folder / "partition").write_text("1\n")
        self._describe(folder, size, number, 0)
        return self._node(name, folder)

    def mapping(self, kernel_name, name, uuid, below=(), number="254:0", logical=512):
        """A device of device-mapper on the disks `below`."""
        node = self.disk(kernel_name, number=number, logical=logical)
        folder = self._devices / kernel_name
        (folder / "dm").mkdir()
        (folder / "dm" / "name").write_text(name + "\n")
        (folder / "dm" / "uuid").write_text(uuid + "\n")
        for disk in below:
            (folder / "slaves" / disk).symlink_to(self.block / disk)
            (self.block / disk / "holders" / kernel_name).symlink_to(folder)
        return node

    def _describe(self, folder, size, number, ro):
        for name in ("holders", "slaves"):
            (folder / name).mkdir()
        (folder / "size").write_text("{}\n".format(size // 512))
        (folder / "dev").write_text(number + "\n")
        (folder / "ro").write_text("{}\n".format(ro))

    def _node(self, name, folder):
        (self.block / name).symlink_to(folder)
        node = self.nodes / name
        node.write_bytes(b"")
        return str(node)


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    """A host without any disk, until the test adds some."""
    made = Sysfs(tmp_path / "sys", tmp_path / "dev")
    monkeypatch.setattr(devices, "_SYSFS", str(made.block))
    return made


def wait_until_gone(pid):
    """Whether the process ends within two seconds; a zombie has ended."""
    for _ in range(100):
        try:
            with open("/proc/{}/stat".format(pid)) as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return not os.path.exists("/proc/{}".format(pid))
