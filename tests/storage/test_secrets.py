# SPDX-License-Identifier: LGPL-2.1-only
"""No key is left anywhere: not in a file or log, a process's arguments, a core dump, on a disk; and
nobody but root can write, or read, what we make."""

from __future__ import annotations

import json
import secrets as randoms
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.lab.disks import Disk
from tests.lab.machine import Machine
from tests.storage import leaks
from tests.storage.kills import killed_after
from tests.storage.pool import Host, Sr, XeError, luksext
from tests.storage.test_plugin import call, slots

PLUGIN = b"/etc/xapi.d/plugins/luksext"

CORES = "/var/cores"

# All that is installed, and made while the SR lives; and the part of it that is root's alone.
_PRIVATE = "/run/luksext /var/lib/luksext"
_OURS = f"""
find / -xdev \\( -iname '*luksext*' -o -path '*luksext*' \\) ! -path '/proc/*'
find {_PRIVATE} /etc/xapi.conf.d
for path in /opt/xensource/sm /opt/xensource/libexec /etc/xapi.d/plugins /usr/sbin {_PRIVATE}; do
    while [ "$path" != / ]; do path=$(dirname $path); echo $path; done
done
"""
_WRITTEN_BY_OTHERS = """
sort -u | xargs -d '\\n' sh -c 'find "$@" -maxdepth 0 ! -type l -perm /022 ! -perm -1000' sh
"""

# `clevis luks pass` does not see a binding behind another token of its keyslot, as of a suspension.
_UNSEAL = """
import sys
sys.path.insert(0, "/opt/xensource/sm")
from luksext import container, header, keyslots
device, slot = sys.argv[1:]
found = container.LuksContainer(device, header.read(device))
print(keyslots.key_of(found, int(slot)).decode())
"""

# LVM and udev look into a container that was just opened.
_CLOSE = """
udevadm settle
vgchange --quiet -an {group}
until cryptsetup close luks-{uuid}; do sleep 0.5; done
"""

# Writes what the kernel hands it; a program, for which the kernel heeds no limit of a core's size.
_CATCHER = f"""#!/bin/sh
cat > {CORES}/piped.$1
"""


@pytest.fixture(params=[pytest.param("1", marks=pytest.mark.slow), "2"], ids=["luks1", "luks2"],
                scope="module")
def luks_version(request: pytest.FixtureRequest) -> str:
    return request.param


@contextmanager
def core_dumps(host: Host, pattern: str) -> Iterator[None]:
    """Within, what xapi starts leaves a core in CORES when it crashes. pattern: the kernel's."""
    host.sh(f"mkdir -p {CORES}; echo '{pattern}' > /proc/sys/kernel/core_pattern; "
            "prlimit --core=unlimited --pid $(cat /run/lab/xapi.pid)")
    host.sh("ulimit -c unlimited; sh -c 'kill -SEGV $$' || true")
    assert host.sh(f"ls {CORES}").split(), "no crash leaves a core here"
    host.sh(f"rm {CORES}/*")
    yield
    host.sh("echo core > /proc/sys/kernel/core_pattern")


@dataclass
class Life:
    """What was lived through. volume: what a VM wrote. processes: arguments and environments."""

    secrets: dict[str, bytes] = field(default_factory=dict)
    volume: dict[str, bytes] = field(default_factory=dict)
    processes: list[bytes] = field(default_factory=list)
    cores: list[str] = field(default_factory=list)
    in_guest: list[str] = field(default_factory=list)
    in_folder: list[str] = field(default_factory=list)
    after_destroy: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    written_by_others: list[str] = field(default_factory=list)
    read_by_others: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def life(host: Host, machine: Machine, luks_version: str) -> Life:
    """Creation with a passphrase, verbs, failures, crashes, unplug, destruction."""
    life = Life()
    disk = machine.add_disk(f"secrets{luks_version}", "256M")
    passphrase = f"planted {randoms.token_hex(12)} passphrase"
    marker = f"planted {randoms.token_hex(12)} of a VM".encode()
    life.secrets["passphrase"] = passphrase.encode()
    life.volume["data of a VM"] = marker
    with leaks.sampled_processes(host) as life.processes:
        sr = host.create_sr_with_passphrase(disk.by_id, passphrase, luks_version=luks_version)
        vdi = sr.create_vdi()
        host.write_vdi(vdi, marker * 1000)
        first = unsealed(sr)
        life.secrets |= {"unsealed key": first.encode(), "volume key": volume_key(sr, first)}
        use_keys(sr, life)
        sr.unplug()
        luksext(sr, "unlock", key=life.secrets["second recovery key"].decode())
        sr.plug()
        sr.unplug()
        life.cores = crash(sr)
        host.sh("sync")
        life.in_guest = leaks.in_guest(host, {**life.secrets, **life.volume})
        life.in_folder = leaks.in_folder(machine, {**life.secrets, **life.volume})
        sr.plug()
        look_at_modes(host, life)
        host.xe("vdi-destroy", uuid=vdi)
        sr.destroy()
    host.sh("sync")
    life.after_destroy = leaks.in_guest(host, life.secrets) + leaks.in_folder(
        machine, {**life.secrets, **life.volume})
    return life


def look_at_modes(host: Host, life: Life) -> None:
    life.ours = host.sh(_OURS).split()
    life.written_by_others = host.sh(_WRITTEN_BY_OTHERS, input="\n".join(life.ours)).split()
    life.read_by_others = host.sh(f"find {_PRIVATE} -perm /077").split()
    life.temporary = host.sh("find /tmp /var/tmp /dev/shm -mindepth 1").split()


def use_keys(sr: Sr, life: Life) -> None:
    """Makes recovery keys and bindings, uses them in all ways, a wrong key too, and removes them.
    One recovery key and one binding are left."""
    key = call(sr, "recovery-add", name="safe")["recovery_key"]
    wrong = f"no key of it {randoms.token_hex(12)}"
    life.secrets |= {"recovery key": key.encode(), "recovery key as typed": key.lower().encode(),
                     "recovery key without dashes": key.replace("-", "").encode(),
                     "another passphrase": wrong.encode()}
    call(sr, "recovery-confirm", key=key.lower())
    told = sr.host.machine.run(
        ["luksext", "recovery-test", "--key-stdin"], input=wrong, check=False)
    assert (told.rc, "6251" in told.err) == (1, True)
    second = call(sr, "recovery-rotate", **{"name": "safe", "new-name": "safer"})["recovery_key"]
    life.secrets["second recovery key"] = second.encode()
    call(sr, "recovery-confirm", key=second)
    call(sr, "recovery-revoke", name="safe")
    call(sr, "rebind", key=second, force="true", pin="tpm2", pin_config='{"pcr_ids":"16"}')
    life.secrets["unsealed key of the second binding"] = unsealed(sr).encode()
    luksext(sr, "binding-add", "--pin=null", "--pin-config={}", key=second)
    (added,) = (slot["slot"] for slot in slots(sr) if slot.get("pin") == "null")
    luksext(sr, "binding-remove", f"--slot={added}")
    call(sr, "suspend", hours="1")
    life.secrets["unsealed key of a suspension"] = unsealed(sr, "suspend").encode()
    call(sr, "resume")
    luksext(sr, "header-export", "--to=/root")
    sr.host.sh("rm /root/luksext-*.header")


def unsealed(sr: Sr, role: str = "binding") -> str:
    """The key of the keyslot of that kind, as clevis tells it to root."""
    (number,) = (slot["slot"] for slot in slots(sr) if slot["role"] == role)
    return sr.host.machine.run(
        ["python3", "-c", _UNSEAL, sr.device, str(number)]).out.rstrip("\n")


def volume_key(sr: Sr, unsealed: str) -> bytes:
    """As cryptsetup tells it to whoever has a key."""
    dump = sr.host.sh("cryptsetup luksDump --batch-mode --dump-master-key --key-file - "
                      + sr.device, input=unsealed)
    lines = dump.split("MK dump:")[-1].splitlines()
    key = bytes.fromhex("".join(line.strip() for line in lines))
    assert len(key) == 64
    return key


def crash(sr: Sr) -> list[str]:
    """The cores that are left when the driver crashes with a key in its hand: written as a file,
    and handed to a program."""
    left = []
    sr.host.machine.put("/run/catch-core", _CATCHER.encode(), 0o755)
    for pattern in (f"{CORES}/core.%p", "|/run/catch-core %p"):
        with core_dumps(sr.host, pattern):
            with killed_after(sr.host, "cryptsetup", "open*", signal="ABRT"):
                with pytest.raises(XeError):
                    sr.plug()
            left += sr.host.sh(f"ls {CORES}").split()
        # The driver crashed after the container was opened, and before it answered.
        sr.host.sh(_CLOSE.format(group=f"XSLocalEXT-{sr.uuid}", uuid=sr.containers()[0]))
    sr.host.sh("rm /run/catch-core; find /var/log/xapi-answers -empty -delete")
    return left


def test_no_secret_is_in_a_file_of_the_guest(life: Life) -> None:
    assert life.in_guest == []


def test_no_secret_and_no_data_of_a_vm_is_on_a_raw_disk_or_in_a_log(life: Life) -> None:
    assert life.in_folder == []


def test_nothing_is_left_after_the_sr_was_destroyed(life: Life) -> None:
    assert life.after_destroy == []


def test_a_driver_that_crashes_leaves_no_core(life: Life) -> None:
    assert life.cores == []


def test_no_process_is_told_a_secret_by_arguments_or_environment(life: Life) -> None:
    assert len(life.processes) > 100
    assert any(b"cryptsetup\0open" in process for process in life.processes)
    showing = [process for process in life.processes
               if any(secret in process for secret in leaks.forms(life.secrets).values())]
    # XAPI starts plugins with their arguments on the command line; ours overwrites it first of all.
    assert [process for process in showing if PLUGIN not in process] == []


def test_nobody_but_root_can_write_what_we_install_and_make(life: Life) -> None:
    for path in ("/opt/xensource/sm/luksext/run.py", "/opt/xensource/sm/LUKSEXTSR.py",
                 "/etc/xapi.d/plugins/luksext", "/usr/sbin/luksext", "/etc/xapi.conf.d",
                 "/opt/xensource/libexec/luksext-gc", "/run/luksext", "/var/lib"):
        assert path in life.ours
    assert life.written_by_others == []


def test_nobody_but_root_can_read_what_we_note(life: Life) -> None:
    assert any(path.startswith("/var/lib/luksext/") for path in life.ours)
    assert life.read_by_others == []


def test_nothing_is_made_in_a_folder_of_all(life: Life) -> None:
    assert life.temporary == []


def test_nothing_was_swapped(host: Host) -> None:
    assert len(host.sh("cat /proc/swaps").splitlines()) == 1


def test_what_is_planted_is_found(host: Host, machine: Machine, life: Life, disk: Disk) -> None:
    """That the search would find a secret in each of the places."""
    planted = {"planted": randoms.token_bytes(16).hex().encode()}
    text = planted["planted"].decode()
    places = ["/etc/planted", "/run/planted", "/tmp/planted", "/var/log/planted"]
    for place in places:
        host.machine.put(place, text.encode())
    assert sorted(leaks.in_guest(host, planted)) == places
    host.sh(f"rm {' '.join(places)}")
    host.sh(f"dd of={disk.by_id} conv=notrunc oflag=sync status=none", input=" " * 512 + text)
    assert leaks.in_folder(machine, planted) == [f"disks/{disk.path.name}: planted"]
    with leaks.sampled_processes(host) as processes:
        host.sh(f"sleep 1 # {text}")
        host.sh("sleep 1", input="")
    assert any(text.encode() in process for process in processes)


def test_the_description_of_an_sr_has_no_secret(host: Host, life: Life) -> None:
    told = json.dumps([host.xe("sr-list", params="all"), host.xe("pbd-list", params="all"),
                       host.xe("secret-list", params="all"), host.xe("message-list", params="all")])
    assert not any(secret.decode() in told for name, secret in life.secrets.items()
                   if name != "volume key")
