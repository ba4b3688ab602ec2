#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Runs commands in a guest for the host. Runs in the guest; the other end is guest.py.

Requests and replies are JSON objects, one a line, over a virtio-serial port. A request has an `id`
that its replies repeat, and an `op`; several are served at once. Bytes travel as base64.

    {"op": "run", "argv": [...], "stdin": B64|null, "env": {...}, "timeout": seconds}
        -> {"rc": ..., "out": B64, "err": B64, "seconds": ..., "timed_out": bool}
    {"op": "put", "path": ..., "data": B64, "mode": ...} -> {}
    {"op": "get", "path": ...} -> {"data": B64}
    {"op": "terminal", "argv": [...], "env": {...}, "rows": ..., "columns": ...}
        -> {"data": B64} for each piece of output, at the end {"rc": ...}
    {"op": "type", "terminal": ID, "data": B64} -> {}
    {"op": "resize", "terminal": ID, "rows": ..., "columns": ...} -> {}

Any of them may be answered by {"error": sentence}. The first line sent is {"hello": true}, once the
guest has booted.
"""

# Only cheap modules: a boot waits for these imports.
import binascii
import fcntl
import io
import json
import os
import signal
import struct
import subprocess
import termios
import threading
import time

PORT = "org.luksext.lab"
BOOTED = "/run/lab/booted"
HOME = "/root"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    "HOME": HOME,
    "LANG": "C.UTF-8",
}

# JSON objects; what is in them is in the description above.
Request = dict
Reply = dict


class Daemon:
    """Serves requests from one port, each in its own thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._write_lock = threading.Lock()
        self._terminals: dict[int, int] = {}

    def serve(self) -> None:
        """Say hello, then serve until the guest goes down."""
        self._send({"hello": True})
        pending = b""
        while True:
            data = os.read(self._port, 65536)
            if not data:  # the host's end is not open yet
                time.sleep(0.05)
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                threading.Thread(target=self._answer, args=[json.loads(line)], daemon=True).start()

    def _answer(self, request: Request) -> None:
        try:
            reply = getattr(self, f"op_{request['op']}")(request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        self._send({"id": request["id"], **reply})

    def _send(self, message: Reply) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        with self._write_lock:
            while data:
                data = data[os.write(self._port, data) :]

    def op_run(self, request: Request) -> Reply:
        """Run a program to its end. What it leaves in the background goes on running."""
        # Files, not pipes: nobody waits for a daemon that holds on to its parent's output.
        with _memory_file() as stdin, _memory_file() as out, _memory_file() as err:
            stdin.write(_decode(request["stdin"]))
            stdin.seek(0)
            start = time.monotonic()
            process = subprocess.Popen(
                request["argv"],
                stdin=stdin,
                stdout=out,
                stderr=err,
                env=ENVIRONMENT | request["env"],
                cwd=HOME,
                start_new_session=True,
            )
            try:
                process.wait(request["timeout"])
                timed_out = False
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                timed_out = True
            seconds = time.monotonic() - start
            out.seek(0)
            err.seek(0)
            return {
                "rc": process.returncode,
                "out": _encode(out.read()),
                "err": _encode(err.read()),
                "seconds": seconds,
                "timed_out": timed_out,
            }

    def op_put(self, request: Request) -> Reply:
        """Write a file and the folders that lead to it."""
        path = request["path"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(_decode(request["data"]))
        os.chmod(path, request["mode"])
        return {}

    def op_get(self, request: Request) -> Reply:
        """Read a file."""
        with open(request["path"], "rb") as file:
            return {"data": _encode(file.read())}

    def op_terminal(self, request: Request) -> Reply:
        """Run a program on a terminal of its own."""
        pid, terminal = os.forkpty()
        if pid == 0:
            # Here, so that the program never sees a terminal without a size.
            _resize(0, request)
            os.chdir(HOME)
            os.execvpe(request["argv"][0], request["argv"], ENVIRONMENT | request["env"])
        self._terminals[request["id"]] = terminal
        try:
            while data := os.read(terminal, 65536):
                self._send({"id": request["id"], "data": _encode(data)})
        except OSError:  # EIO is how a terminal says that the last program on it has ended
            pass
        del self._terminals[request["id"]]
        os.close(terminal)
        return {"rc": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}

    def op_type(self, request: Request) -> Reply:
        """Type on a terminal."""
        os.write(self._terminals[request["terminal"]], _decode(request["data"]))
        return {}

    def op_resize(self, request: Request) -> Reply:
        """Tell a terminal its size."""
        _resize(self._terminals[request["terminal"]], request)
        return {}


def _memory_file() -> io.BufferedRandom:
    return os.fdopen(os.memfd_create("guestd"), "w+b")


def _resize(terminal: int, request: Request) -> None:
    size = struct.pack("HHHH", request["rows"], request["columns"], 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


def _encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _decode(text: str | None) -> bytes:
    return binascii.a2b_base64(text or "")


def _open_port() -> int:
    folder = "/sys/class/virtio-ports"
    for port in os.listdir(folder):
        with open(f"{folder}/{port}/name") as file:
            if file.read().strip() == PORT:
                return os.open(f"/dev/{port}", os.O_RDWR)
    raise SystemExit(f"guestd: this machine has no virtio-serial port {PORT}")


def main() -> None:
    """Wait until the init has done its part, then serve."""
    # A shell's background jobs, which this is one of, are deaf to Ctrl-C; commands must not be.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    port = _open_port()
    with open(BOOTED):
        pass
    Daemon(port).serve()


if __name__ == "__main__":
    main()
