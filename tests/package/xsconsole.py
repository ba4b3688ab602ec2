# SPDX-License-Identifier: LGPL-2.1-only
"""The real xsconsole on a terminal of tmux, with what it reads of a dom0 made up.

It runs in a mount namespace of its own, where /etc is what dom0 has; its checkout is not changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

# The terminal that it is made for.
COLUMNS, ROWS = 80, 25

SECONDS = 30

INVENTORY = """\
BRAND_CONSOLE='xsconsole'
COMPANY_NAME_SHORT='XCP-ng'
PRODUCT_BRAND='XCP-ng'
PRODUCT_VERSION='8.3.0'
PRODUCT_VERSION_TEXT='8.3'
PRODUCT_VERSION_TEXT_SHORT='8.3'
BUILD_NUMBER='lab'"""

START = """\
#!/bin/sh -e
mount -t tmpfs tmpfs {folder}/etc
mkdir {folder}/etc/upper {folder}/etc/work
mount -t overlay -o lowerdir=/etc,upperdir={folder}/etc/upper,workdir={folder}/etc/work overlay /etc
mkdir -p /etc/sysconfig /etc/dhcp/dhclient.d
touch /etc/sysconfig/network /etc/sysconfig/clock /etc/chrony.conf /etc/dhcp/dhclient.d/chrony.sh
cp {folder}/inventory /etc/xensource-inventory
export PATH={folder}/bin:$PATH PYTHONPATH={folder}/python PYTHONDONTWRITEBYTECODE=1
exec {python} -W ignore {folder}/xsconsole/XSConsole.py 2>{folder}/errors
"""


class Screen:
    """xsconsole from `checkout`, with `plugin` among its extras and `programs` first on its PATH.

    programs: shell scripts by name. Every password is taken for root's.
    """

    def __init__(
        self, folder: Path, checkout: Path, plugin: Path, programs: dict[str, str]
    ) -> None:
        self.folder = folder
        shutil.copytree(checkout, folder / "xsconsole", ignore=shutil.ignore_patterns(".git"))
        extras = folder / "xsconsole/plugins-extras"
        extras.mkdir(exist_ok=True)
        shutil.copy(plugin, extras)
        for name in ("bin", "python", "etc", "tmux"):
            (folder / name).mkdir()
        for name, script in programs.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / "bin" / name).chmod(0o755)
        (folder / "python/pam.py").write_text("def authenticate(*a, **k):\n    return True\n")
        (folder / "inventory").write_text(INVENTORY)
        start = folder / "start"
        start.write_text(START.format(folder=folder, python=sys.executable))
        start.chmod(0o755)

    def __enter__(self) -> Screen:
        own = "--mount" if os.geteuid() == 0 else "--mount --map-root-user"
        # The window stays when the program ends, so that its last words can be read.
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS),
                   f"unshare {own} {self.folder}/start; sleep {2 * SECONDS}")
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def shows(self, text: str) -> str:
        """The whole screen once it shows `text`. Raises AssertionError when it does not come."""
        end = time.monotonic() + SECONDS
        while True:
            screen = self._tmux("capture-pane", "-p")
            if text in screen:
                return screen
            if time.monotonic() > end:
                errors = self.folder / "errors"
                raise AssertionError(f"{text!r} is not shown:\n{screen}\n" + (
                    errors.read_text() if errors.exists() else ""))
            time.sleep(0.1)

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", *arguments], check=True, stdout=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"], "TERM": "xterm", "LC_ALL": "C.UTF-8",
                 "TMUX_TMPDIR": str(self.folder / "tmux")}).stdout
