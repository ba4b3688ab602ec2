# SPDX-License-Identifier: LGPL-2.1-only
"""An emulator of xapi in a folder of its own, with a fake driver: a pytest plugin."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.xapi.api import Api
from tests.lab.xapi.cli.client import Client
from tests.lab.xapi.config import Config
from tests.lab.xapi.core import Core
from tests.lab.xapi.daemon import Emulator, create
from tests.lab.xapi.member import Member

HERE = Path(__file__).resolve().parent
XE = HERE.parents[1] / "lab" / "xe"


class Sandbox:
    """One host: its files, its emulator while it runs, and what its driver saw."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = dataclasses.replace(Config.under(root), fuse=0.01)
        self.emulator: Emulator | Member | None = None
        #: Set when the emulator wants to be started again.
        self.restart_wanted = threading.Event()
        for path in (self.config.sm_dir, self.config.plugin_dir, self.config.conf_dir):
            path.mkdir(parents=True)
        self.config.inventory.write_text(
            f"INSTALLATION_UUID='{uuid.uuid4()}'\n"
            f"CONTROL_DOMAIN_UUID='{uuid.uuid4()}'\n"
            "PRODUCT_VERSION='8.3.0'\n"
        )
        self.allow("fake")
        self.install("FAKESR")
        self.behave()

    # Files -----------------------------------------------------------------------------------

    def allow(self, drivers: str) -> None:
        """Write the whitelist."""
        self.config.conf_file.write_text(f"sm-plugins={drivers}\n")

    def install(self, name: str) -> Path:
        """Put the fake driver into the drivers' folder."""
        source = (HERE / "xapi_fake_driver.py").read_text()
        return self.script(self.config.sm_dir / name, source)

    def script(self, path: Path, source: str) -> Path:
        """Write an executable Python program that starts without site packages."""
        path.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n{source}")
        path.chmod(0o755)
        return path

    def behave(self, **behaviours: dict[str, Any]) -> None:
        """Tell the driver what to do, by command."""
        (self.config.sm_dir / "behaviour.json").write_text(json.dumps(behaviours))

    def calls(self) -> list[dict[str, Any]]:
        """What the driver noted since the last look, oldest first."""
        path = self.config.sm_dir / "calls"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in text.splitlines()]

    def commands(self) -> list[str]:
        """The commands since the last look, oldest first."""
        return [call["command"] for call in self.calls()]

    def log(self) -> str:
        """All of xensource.log."""
        return self.config.log_file.read_text()

    # The emulator ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the emulator, as at boot."""
        self.restart_wanted.clear()
        self.emulator = create(self.config, self.restart_wanted.set)
        self.emulator.start()

    def stop(self) -> None:
        """Stop the emulator; nothing is detached."""
        if self.emulator is not None:
            self.emulator.stop()
            self.emulator = None

    def restart_toolstack(self) -> None:
        """Stop and start: the table of what is attached is kept."""
        self.stop()
        self.start()

    def reboot(self) -> None:
        """Stop and start without that table, as after a power cut."""
        self.stop()
        self.config.attached_file.unlink(missing_ok=True)
        self.start()

    @property
    def api(self) -> Api:
        """The running emulator's API, of a master."""
        assert isinstance(self.emulator, Emulator)
        return self.emulator.api

    @property
    def core(self) -> Core:
        """The running emulator's parts."""
        return self.api.core

    @property
    def address(self) -> str:
        """Where the running emulator listens for other hosts."""
        assert self.emulator is not None
        assert self.emulator.server is not None
        return f"127.0.0.1:{self.emulator.server.port}"

    @property
    def host(self) -> str:
        """The host's reference."""
        return self.core.host

    def client(self) -> Client:
        """A new session over the local socket."""
        return Client(str(self.config.socket))

    def sr(self, client: Client, sr_type: str = "fake", **device_config: str) -> str:
        """Make an SR; returns its reference."""
        return str(
            client.call(
                *("SR.create", self.host, device_config, "0", "sr", "", sr_type, "user", False, {})
            )
        )

    def pbd(self, sr: str) -> str:
        """The PBD of an SR."""
        return str(self.core.db.get("SR", sr, "PBDs")[0])

    def attached(self, sr: str) -> bool:
        """Whether the SR's PBD says that it is attached."""
        return bool(self.core.db.get("PBD", self.pbd(sr), "currently_attached"))

    def xe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run xe."""
        return subprocess.run(
            [sys.executable, str(XE), *arguments],
            env={**os.environ, "LAB_XAPI_SOCKET": str(self.config.socket)},
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def _sandbox() -> Iterator[Sandbox]:
    # A socket's path must be short, which pytest's own folders are not.
    root = Path(f"/tmp/lab{uuid.uuid4().hex[:12]}")
    sandbox = Sandbox(root)
    try:
        yield sandbox
    finally:
        sandbox.stop()
        shutil.rmtree(root)


@pytest.fixture
def idle() -> Iterator[Sandbox]:
    """A host whose emulator does not run yet."""
    with _sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def other() -> Iterator[Sandbox]:
    """Another host, whose emulator runs."""
    with _sandbox() as sandbox:
        sandbox.start()
        sandbox.calls()
        yield sandbox


@pytest.fixture
def sandbox(idle: Sandbox) -> Sandbox:
    """A host with a running emulator, and the calls of its start forgotten."""
    idle.start()
    idle.calls()
    return idle


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Client]:
    """A client's session."""
    client = sandbox.client()
    yield client
    client.close()
