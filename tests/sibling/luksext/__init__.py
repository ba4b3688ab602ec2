# SPDX-License-Identifier: LGPL-2.1-only
from __future__ import annotations

import contextlib

from lib.host import Host

from typing import Generator

@contextlib.contextmanager
def without_program(host: Host, name: str) -> Generator[None, None, None]:
    """ A program that the driver needs is gone; not by yum, which would take the driver too. """
    path = host.ssh(f'command -v {name}')
    host.ssh(f'mv {path} {path}.away')
    try:
        yield
    finally:
        host.ssh(f'mv {path}.away {path}')
