# SPDX-License-Identifier: LGPL-2.1-only
"""xapi.conf and xapi.conf.d (xen-api: ocaml/xapi-idl/lib/xcp_service.ml, Config_file)."""

from __future__ import annotations

from pathlib import Path

#: Compiled into xapi, the same in every version from 1.249 to 26.
DEFAULT_PLUGINS = (
    "ext nfs iscsi lvmoiscsi dummy file hba rawhba udev iso lvm lvmohba lvmofcoe shm smb"
)


def read(conf_file: Path, conf_dir: Path) -> dict[str, str]:
    """All keys. Each definition replaces the one before: list options cannot be appended to.

    Every entry of the folder is read, in byte order of the names, whatever its suffix.
    """
    settings: dict[str, str] = {}
    files = [conf_file] if conf_file.exists() else []
    if conf_dir.is_dir():
        files += sorted(conf_dir.iterdir(), key=lambda path: path.name.encode())
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            key, equals, text = line.partition("#")[0].partition("=")
            if equals:
                settings[key.strip()] = _unquoted(text.strip())
    return settings


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def accepts(settings: dict[str, str], driver: str) -> bool:
    """Whether sm-plugins lets this driver in: `*`, or its name in any case."""
    allowed = settings.get("sm-plugins", DEFAULT_PLUGINS).lower().split()
    return "*" in allowed or driver.lower() in allowed
