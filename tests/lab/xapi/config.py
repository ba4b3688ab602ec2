# SPDX-License-Identifier: LGPL-2.1-only
"""Where everything lives. Each path can be moved by the environment, for unit tests."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "LAB_XAPI_"


@dataclass(frozen=True)
class Config:
    """Paths and periods of one emulator.

    Every field is read from the environment variable LAB_XAPI_<FIELD IN CAPITALS>.
    """

    sm_dir: Path = Path("/opt/xensource/sm")
    conf_file: Path = Path("/etc/xapi.conf")
    conf_dir: Path = Path("/etc/xapi.conf.d")
    plugin_dir: Path = Path("/etc/xapi.d/plugins")
    inventory: Path = Path("/etc/xensource-inventory")
    db_file: Path = Path("/var/lib/xcp/state.json")
    attached_file: Path = Path("/var/run/nonpersistent/xapi/storage.json")
    log_file: Path = Path("/var/log/xensource.log")
    #: Where raw answers of drivers are kept, if it exists.
    answers_dir: Path = Path("/var/log/xapi-answers")
    #: What clients connect to; a link when it differs from where the socket can live.
    socket: Path = Path("/var/lib/xcp/xapi")
    socket_target: Path = Path("/run/lab/xapi.socket")
    ready_file: Path = Path("/run/lab/xapi-ready")
    pid_file: Path = Path("/run/lab/xapi.pid")
    pool_conf: Path = Path("/etc/xensource/pool.conf")
    #: What storage-init leaves behind, and does nothing while it is there.
    storage_init_mark: Path = Path("/var/lib/misc/ran-storage-init")
    http_host: str = "0.0.0.0"
    #: 0 lets the system choose a port.
    http_port: int = 80
    #: Seconds between two automatic scans; host.other_config:auto-scan-interval overrides it.
    scan_interval: float = 30.0
    #: Seconds between the call that makes a restart necessary and the restart (xapi_fuse.ml).
    fuse: float = 1.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Config:
        """The defaults, changed by whatever LAB_XAPI_* variables are set."""
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            text = environment.get(PREFIX + field.name.upper())
            if text is not None:
                changes[field.name] = type(getattr(cls, field.name))(text)
        return dataclasses.replace(cls(), **changes)

    @classmethod
    def under(cls, root: Path) -> Config:
        """All paths below root, and a free port: an emulator that shares nothing with another."""
        changes: dict[str, Any] = {
            field.name: root / str(field.default).lstrip("/")
            for field in dataclasses.fields(cls)
            if isinstance(field.default, Path)
        }
        # A socket's path may have 107 bytes only.
        changes["socket"] = changes["socket_target"] = root / "xapi"
        return dataclasses.replace(cls(http_host="127.0.0.1", http_port=0), **changes)
