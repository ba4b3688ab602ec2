# SPDX-License-Identifier: LGPL-2.1-only
"""Looks for secrets wherever a host could leave them: files, disks, processes."""

from __future__ import annotations

import base64
import mmap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.lab.machine import Machine
from tests.storage.pool import Host

# Looked for by name: what a secret is, and its bytes.
Secrets = Mapping[str, bytes]

_PATTERNS = "/run/looked-for"
_SAMPLES = "/run/sampled"

# All that is written is in a filesystem of one of these types, and was changed since the boot. SRs
# are left out: what is in them is a VM's. The lab's own folders are seen in their other places.
_SEARCH = f"""
set -e
boot=$(awk '$1 == "btime" {{ print $2 }}' /proc/stat)
awk '$3 ~ /^(overlay|tmpfs|devtmpfs|ext4|9p)$/ && $2 !~ "sr-mount|^/lab/" {{ print $2 }}' \\
    /proc/mounts | sort -u | while read -r mount; do
    find "$mount" -xdev -type f -newerct "@$boot" ! -path {_PATTERNS} ! -path {_SAMPLES} -print0
done | xargs -0 -r grep -alF -f {_PATTERNS} || [ $? = 123 ]
"""

# Each process's arguments and environment, once; until the file that it writes is asked for.
_SAMPLER = f"""
import os, time
seen = set()
def sample():
    for entry in filter(str.isdigit, os.listdir("/proc")):
        for kind in ("cmdline", "environ"):
            try:
                with open("/proc/%s/%s" % (entry, kind), "rb") as file:
                    seen.add(file.read())
            except OSError:
                pass
while not os.path.exists("{_SAMPLES}.end"):
    sample()
    time.sleep(0.05)
with open("{_SAMPLES}", "wb") as file:
    file.write(b"\\n".join(text.replace(b"\\n", b" ") for text in seen))
os.rename("{_SAMPLES}.end", "{_SAMPLES}.done")
"""


def forms(secrets: Secrets) -> dict[str, bytes]:
    """The secrets as they are, and as programs write them: in hexadecimal, in base64."""
    found = {}
    for name, secret in secrets.items():
        found[name] = secret
        found[name + " in hexadecimal"] = secret.hex().encode()
        # The last characters depend on what follows.
        found[name + " in base64"] = base64.b64encode(secret).rstrip(b"=")[:-1]
        found[name + " in base64url"] = base64.urlsafe_b64encode(secret).rstrip(b"=")[:-1]
    return found


def in_guest(host: Host, secrets: Secrets) -> list[str]:
    """The files of the running guest that hold one of them."""
    # A secret of any bytes may hold the end of a line, which would make two patterns of it.
    lines = [form for form in forms(secrets).values() if b"\n" not in form and b"\0" not in form]
    host.machine.put(_PATTERNS, b"\n".join(lines) + b"\n", 0o600)
    try:
        return host.sh(_SEARCH, timeout=300).split()
    finally:
        host.sh(f"rm {_PATTERNS}")


def in_folder(machine: Machine, secrets: Secrets) -> list[str]:
    """All that the machine keeps while it is off, raw disks included, and that holds one of them:
    "file: secret"."""
    return [f"{path.relative_to(machine.folder)}: {name}"
            for path in sorted(machine.folder.rglob("*")) if path.is_file()
            for name in _held(path, forms(secrets))]


def _held(path: Path, patterns: Secrets) -> Iterator[str]:
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield from (name for name, pattern in patterns.items() if content.find(pattern) >= 0)


@contextmanager
def sampled_processes(host: Host) -> Iterator[list[bytes]]:
    """Within, arguments and environments of all processes are noted; afterwards they are in the
    list, one an entry, words separated by zero bytes."""
    samples: list[bytes] = []
    host.machine.put(_SAMPLES + ".py", _SAMPLER.encode())
    host.sh(f"setsid python3 -ISE {_SAMPLES}.py < /dev/null > /dev/null 2>&1 &")
    try:
        yield samples
    finally:
        host.sh(f"touch {_SAMPLES}.end")
        for _ in range(100):
            if host.sh(f"[ -e {_SAMPLES}.done ] && echo yes || true").strip():
                break
            time.sleep(0.1)
        samples += host.machine.get(_SAMPLES).splitlines()
        host.sh(f"rm {_SAMPLES}*")
