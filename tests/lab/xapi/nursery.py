# SPDX-License-Identifier: LGPL-2.1-only
"""A process that Python scripts are forked from, which is how drivers start fast (see scripts.py).

It has imported what the scripts use of the standard library, and nothing else: what a script is
made of it imports anew each time, in a process, session and environment of its own.

One request is one datagram on the socket whose number is the only argument: a JSON object with
`argv` and `env`, and the descriptors of stdout, of stderr and of a pipe. When the script has ended,
its exit code is written to that pipe (negative: the signal that ended it).
"""

import importlib
import json
import os
import signal
import socket
import sys
import types
from contextlib import suppress

import interrupt  # type: ignore[import-not-found]  # it lies beside this file

#: Modules of the standard library that storage managers and drivers import.
MODULES = (
    "argparse", "base64", "bisect", "contextlib", "copy", "ctypes", "datetime", "errno", "fcntl",
    "functools", "gettext", "glob", "hashlib", "hmac", "http.client", "importlib.util", "locale",
    "logging", "platform", "random", "re", "secrets", "shutil", "ssl", "stat", "struct",
    "subprocess", "syslog", "tempfile", "threading", "traceback", "typing", "urllib.request",
    "uuid", "xml.dom.minidom", "xml.etree.ElementTree", "xmlrpc.client", "zlib",
)  # fmt: skip

#: Longest request, in bytes: a driver's argument may be 128 KiB long (Linux's MAX_ARG_STRLEN).
REQUEST = 1 << 18


def serve(control: socket.socket) -> list[str] | None:
    """Fork for every request. Returns None at the end, and in a fork what it shall run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the guardians
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, REQUEST, 3)
        if not data:
            return None
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            return _guard(json.loads(data), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _guard(request: dict, stdout: int, stderr: int, report: int) -> list[str]:
    """Wait for the script in this process; return in a child of it, which is to run the script."""
    child = os.fork()
    if child:
        os.close(stdout)
        os.close(stderr)
        _, status = os.waitpid(child, 0)
        os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for descriptor in (stdout, stderr, report):
        os.close(descriptor)
    os.chdir("/")
    os.environ.clear()
    os.environ.update(request["env"])
    interrupt.obey(request["argv"])
    return request["argv"]


def run(argv: list[str]) -> None:
    """Be the interpreter of a script, to its end."""
    path = argv[0]
    with suppress(OSError), open("/proc/self/comm", "w", encoding="utf-8") as name:
        name.write(os.path.basename(path)[:15])
    sys.argv = argv
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    exec(code, main.__dict__)


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    script = serve(socket.socket(fileno=int(sys.argv[1])))
    if script is not None:
        run(script)
