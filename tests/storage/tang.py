# SPDX-License-Identifier: LGPL-2.1-only
"""A tang server in the guest, whose keys can be lost or replaced."""

from __future__ import annotations

from tests.lab.machine import Machine

PORT = 7500
URL = f"http://127.0.0.1:{PORT}"


class Tang:
    """A tang server in the guest."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.machine.run("mkdir -p /tmp/tang && /usr/libexec/tangd-keygen /tmp/tang")

    def start(self) -> None:
        self.machine.run(
            f"tangd=$(ls /usr/libexec/tangd /usr/lib/tangd 2>/dev/null | head -n 1); "
            f"setsid socat TCP-LISTEN:{PORT},fork,reuseaddr EXEC:\"$tangd /tmp/tang\" "
            f">/dev/null 2>&1 & echo $! >/tmp/tang.pid; "
            f"until curl -sf {URL}/adv >/dev/null; do sleep 0.1; done")

    def stop(self) -> None:
        self.machine.run("kill $(cat /tmp/tang.pid)")

    def thumbprint(self) -> str:
        return self.machine.run("jose jwk thp -a S256 -i $(ls /tmp/tang/*.jwk | while read k; do "
                                "grep -q verify $k && echo $k; done | head -n 1)").out.strip()

    def rotate(self) -> None:
        """New keys; the old ones are advertised no more, but go on opening (tang(8))."""
        self.machine.run("cd /tmp/tang && for key in *.jwk; do mv $key .$key; done; "
                         "/usr/libexec/tangd-keygen /tmp/tang")

    def lose_keys(self) -> None:
        """New keys; what was sealed to the old ones is lost."""
        self.machine.run("rm -f /tmp/tang/*.jwk /tmp/tang/.*.jwk; "
                         "/usr/libexec/tangd-keygen /tmp/tang")

    def remove(self) -> None:
        self.machine.run("kill $(cat /tmp/tang.pid); rm -rf /tmp/tang", check=False)
