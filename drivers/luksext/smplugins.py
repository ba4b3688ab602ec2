# SPDX-License-Identifier: LGPL-2.1-only
"""The SR types that XAPI accepts: its setting `sm-plugins`, to which ours is added.

XAPI reads /etc/xapi.conf, then every file in /etc/xapi.conf.d in byte order of their names,
whatever their suffix; a later definition replaces an earlier one (xcp_service.ml, Config_file). So
a last file of ours repeats the list in effect and adds our type. It is made anew each time before
XAPI starts, since packages change their lists.
"""
import contextlib
import os
from typing import List, Optional, Tuple

# The tilde sorts behind every letter and digit.
DROP_IN = "~luksext.conf"

SR_TYPE = "luksext"

_KEY = "sm-plugins"


def refresh(root: str) -> None:
    """Makes our file as it should be, below the folder `root`.

    Copies of it that editors and package managers leave are removed: XAPI would read them too.
    """
    folder = _folder(root)
    os.makedirs(folder, 0o755, exist_ok=True)
    for name in os.listdir(folder):
        if name.startswith(DROP_IN) and name != DROP_IN:
            os.unlink(os.path.join(folder, name))
    ours = os.path.join(folder, DROP_IN)
    plugins = (_definition([path for path in _files(root) if path != ours]) or ("", ""))[1].split()
    if not accepts(plugins):
        plugins.append(SR_TYPE)
    _replace(ours,
             "# Written by luksext-sm-plugins at each start of XAPI: changes here are lost.\n"
             "sm-plugins = {}\n".format(" ".join(plugins)))


def in_effect(root: str) -> Tuple[List[str], str]:
    """The list that XAPI finds at its next start, and the file that it comes from: "" for none."""
    path, value = _definition(_files(root)) or ("", "")
    return value.split(), path


def accepts(plugins: List[str]) -> bool:
    """Whether XAPI takes our driver with that list."""
    return "*" in plugins or SR_TYPE in (plugin.lower() for plugin in plugins)


def _folder(root: str) -> str:
    return os.path.join(root, "etc", "xapi.conf.d")


def _files(root: str) -> List[str]:
    folder = _folder(root)
    names = sorted(os.listdir(folder), key=os.fsencode) if os.path.isdir(folder) else []
    return [os.path.join(root, "etc", "xapi.conf"), *(os.path.join(folder, name) for name in names)]


def _definition(paths: List[str]) -> Optional[Tuple[str, str]]:
    """The last definition in those files: (file, value)."""
    found = None
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as config:
                lines = [line.split("#", 1)[0].partition("=") for line in config]
        except OSError:
            continue
        for key, _, value in lines:
            if key.strip() == _KEY:
                found = (path, value.strip().strip("'\""))
    return found


def _replace(path: str, text: str) -> None:
    """Makes `path` contain `text`, at once or not at all, for all to read whatever the umask is."""
    # Not beside it: XAPI reads every file there.
    temporary = os.path.join(os.path.dirname(os.path.dirname(path)), ".luksext-sm-plugins")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with open(handle, "w", encoding="utf-8") as new:
        os.fchmod(handle, 0o644)
        new.write(text)
        new.flush()
        os.fsync(new.fileno())
    os.replace(temporary, path)
