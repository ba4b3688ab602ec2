# SPDX-License-Identifier: LGPL-2.1-only
"""`make bench`: luksext beside ext and beside the article's way, in one run in the lab.

Writes a report in Markdown, a picture of where the time of an attach goes, and the raw data.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from tests.bench import operations, scale, throughput
from tests.lab.machine import Machine
from tests.storage.pool import Host

_PARTS = {"operations": scale.Part(operations.measure, operations.shown),
          "throughput": scale.Part(throughput.measure, throughput.shown), **scale.PARTS}

_VERSIONS = {
    "kernel": "uname -r",
    "cryptsetup": "cryptsetup --version",
    "LVM": "lvm version | sed -n 's/.*LVM version: *//p'",
    "fio": "fio --version",
    "processor": "sed -n 's/^model name.*: //p' /proc/cpuinfo",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--part", action="append", choices=_PARTS, help="only this; repeatable")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sm = os.environ.get("SM")
    raw = {}
    with tempfile.TemporaryDirectory(prefix="luksext-bench-") as folder:
        for part in options.part or _PARTS:
            path = Path(folder) / part
            with Machine("bench", path, sm=Path(sm).resolve() if sm else None, cpus=1,
                         counted=True) as machine:
                machine.start()
                host = Host(machine)
                raw[part] = _PARTS[part].measure(host, options.rounds)
                about = {name: host.sh(command).strip() for name, command in _VERSIONS.items()}
            print(_PARTS[part].shown(raw[part]), flush=True)
    about.update({"date": time.strftime("%Y-%m-%d", time.gmtime()), "rounds": str(options.rounds),
                  "storage manager": Path(sm).name if sm else "stand-in"})
    _write(options.out, about, raw)


def _write(folder: Path, about: dict[str, str], raw: dict[str, dict]) -> None:
    (folder / "raw.json").write_text(json.dumps({"about": about, **raw}, indent=1) + "\n")
    facts = "".join(f"- {name}: {value}\n" for name, value in about.items())
    parts = [f"## {part.capitalize()}\n\n{_PARTS[part].shown(found)}"
             for part, found in raw.items()]
    (folder / "report.md").write_text("\n".join([facts, *parts]))
    if "operations" in raw:
        (folder / "attach.svg").write_text(operations.attach_bars(raw["operations"]))


if __name__ == "__main__":
    main()
