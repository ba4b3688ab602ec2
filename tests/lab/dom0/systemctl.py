#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for systemctl: enough to start the units that SM starts, without systemd as init.

It reads the real unit files and drop-ins, and knows services of Type=oneshot and Type=simple.
Dependencies between units are ignored. A unit's state is its *runner*: a process of this program
that runs the unit's commands one after the other and holds the lock of ``RUN/UNIT`` as long as the
unit is active; what is left of a unit is its result in ``RUN/UNIT.result``.
"""

from __future__ import annotations

import fcntl
import getopt
import os
import re
import shlex
import signal
import subprocess
import sys
import syslog
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: systemd's search path, the administrator's files first.
UNIT_FOLDERS = [Path("/etc/systemd/system"), Path("/run/systemd/system"),
                Path("/usr/lib/systemd/system")]
RUN = Path("/run/lab/systemctl")

#: Seconds that a unit gets to end after SIGTERM, before SIGKILL.
STOP_TIMEOUT = 10.0
POLL = 0.05

EXIT_FAILURE = 1
EXIT_NOT_ACTIVE = 3
EXIT_NO_UNIT = 5

#: Repeated assignments of these add up; an empty one forgets the earlier ones.
LISTS = ("ExecStartPre", "ExecStart", "ExecStartPost", "ExecStop", "ExecStopPost", "Environment",
         "EnvironmentFile")


class UnitError(Exception):
    """The unit cannot be read or run; the text says why."""


class Unit:
    """One unit: its name, its instance, and the [Service] settings of its file and drop-ins."""

    def __init__(self, name: str) -> None:
        has_kind = re.search(r"\.(service|timer|socket|target)$", name)
        self.name = name if has_kind else f"{name}.service"
        stem, dot, kind = self.name.rpartition(".")
        prefix, at, self.instance = stem.partition("@")
        self.file_names = [self.name] + ([f"{prefix}@{dot}{kind}"] if at else [])
        self.settings: dict[str, list[str]] = {}
        for path in self.files():
            self._read(path)

    def files(self) -> list[Path]:
        """The unit file, then its drop-ins in the order of their names. Raises UnitError."""
        candidates = [folder / name for name in self.file_names for folder in UNIT_FOLDERS]
        main = next((path for path in candidates if path.is_file()), None)
        if main is None:
            raise UnitError(f"Unit {self.name} could not be found.")
        drop_ins: dict[str, Path] = {}
        for path in reversed(candidates):
            drop_ins.update((conf.name, conf) for conf in Path(f"{path}.d").glob("*.conf"))
        return [main] + [drop_ins[name] for name in sorted(drop_ins)]

    def _read(self, path: Path) -> None:
        section = ""
        for line in path.read_text().replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line.strip("[]")
            elif section == "Service" and line and line[0] not in "#;":
                key, _, value = line.partition("=")
                self._assign(key.strip(), value.strip())

    def _assign(self, key: str, value: str) -> None:
        if key in LISTS and value:
            self.settings.setdefault(key, []).append(value)
        else:
            self.settings[key] = [value] if value else []

    def get(self, key: str, default: str) -> str:
        """The last value of a setting."""
        return (self.settings.get(key) or [default])[-1]

    def commands(self, key: str) -> list[Command]:
        """The commands of an Exec… setting."""
        return [Command(self, line) for line in self.settings.get(key, [])]

    @property
    def is_oneshot(self) -> bool:
        return self.get("Type", "simple") == "oneshot"

    def environment(self) -> dict[str, str]:
        """The variables that Environment= and EnvironmentFile= add."""
        words = [word for line in self.settings.get("Environment", [])
                 for word in shlex.split(self.expand(line))]
        for line in self.settings.get("EnvironmentFile", []):
            path = Path(self.expand(line.lstrip("-")))
            if path.is_file():
                words += shlex.split(path.read_text(), comments=True)
        return dict(word.split("=", 1) for word in words if "=" in word)

    def expand(self, text: str) -> str:
        """Replace the specifiers that SM's units use."""
        values = {"i": self.instance, "I": unescape(self.instance), "n": self.name, "%": "%"}
        return re.sub(r"%([a-zA-Z%])", lambda match: values.get(match[1], match[0]), text)


class Command:
    """One Exec… line: ``-`` in front means that its failure does not matter."""

    def __init__(self, unit: Unit, line: str) -> None:
        prefix = re.match(r"[-@:+!]*", line)[0]  # type: ignore[index]
        self.may_fail = "-" in prefix
        self.argv = [unit.expand(word) for word in shlex.split(line[len(prefix):])]


def unescape(instance: str) -> str:
    r"""Undo systemd's escaping: ``-`` stands for ``/``, ``\x2d`` for the character 0x2d."""
    slashed = instance.replace("-", "/")
    return re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), slashed)


# ---- the state of a unit

def state(unit: Unit) -> str:
    """systemd's word for the unit's state: active, activating, inactive or failed."""
    if _runner_is_there(unit):
        return "active" if _up_file(unit).exists() else "activating"
    result = _result_file(unit).read_text() if _result_file(unit).exists() else "inactive"
    if result == "success":
        return "active" if unit.get("RemainAfterExit", "no") in ("yes", "true") else "inactive"
    return result


def _lock_file(unit: Unit) -> Path:
    return RUN / unit.name


def _result_file(unit: Unit) -> Path:
    return RUN / f"{unit.name}.result"


def _up_file(unit: Unit) -> Path:
    """There while a service that is no oneshot has been started completely."""
    return RUN / f"{unit.name}.up"


def _runner_is_there(unit: Unit) -> bool:
    if not _lock_file(unit).exists():
        return False
    with _lock_file(unit).open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _runner_lock(unit: Unit) -> Iterator[bool]:
    """Hold the unit's lock, with our process group in its file; False when another runner has it.

    The lock is on the open file, so it lasts until the last child that inherited it ends: a
    service that was orphaned still counts as running.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(_lock_file(unit), os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpgid(0)).encode(), 0)
    yield True


# ---- running a unit

def run_unit(unit: Unit) -> None:
    """Be the unit's runner: run its commands, record the result. Does nothing if one runs."""
    with _runner_lock(unit) as ours:
        if not ours:
            return
        for left_over in (_result_file(unit), _up_file(unit)):
            left_over.unlink(missing_ok=True)
        _log(f"Starting {unit.name}")
        done = _execute_all(unit, "ExecStartPre")
        if unit.is_oneshot:
            done = done and _execute_all(unit, "ExecStart") and _execute_all(unit, "ExecStartPost")
        else:
            done = done and _supervise(unit)
        _execute_all(unit, "ExecStopPost")
        _result_file(unit).write_text("success" if done else "failed")
        _log(f"{'Finished' if done else 'Failed'} {unit.name}")


def _execute_all(unit: Unit, key: str) -> bool:
    """Run a setting's commands one after the other, up to the first that fails."""
    return all(_execute(unit, command) for command in unit.commands(key))


def _execute(unit: Unit, command: Command) -> bool:
    """Run one command to its end; True when the unit may go on."""
    code = _run(unit, command).wait()
    if code != 0:
        _log(f"{unit.name}: {shlex.join(command.argv)} ended with status {code}")
    return code == 0 or command.may_fail


def _supervise(unit: Unit) -> bool:
    """Run a service's main command; it counts as up once its ExecStartPost commands are done."""
    (command,) = unit.commands("ExecStart")
    process = _run(unit, command)
    if _execute_all(unit, "ExecStartPost"):
        _up_file(unit).touch()
        code = process.wait()
        _up_file(unit).unlink()
        return code == 0
    process.terminate()
    return False


def _run(unit: Unit, command: Command) -> subprocess.Popen[str]:
    """Start a command; what it prints goes to the log."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
                   "LANG": "C.UTF-8", **unit.environment()}
    try:
        process = subprocess.Popen(command.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, env=environment, close_fds=False,
                                   text=True, errors="replace")
    except OSError as error:
        _log(f"{unit.name}: cannot run {command.argv[0]}: {error.strerror}")
        return subprocess.Popen(["false"], text=True)
    name = f"{Path(command.argv[0]).name}[{process.pid}]"
    threading.Thread(target=_log_output, args=(process, name), daemon=True).start()
    return process


def _log_output(process: subprocess.Popen[str], name: str) -> None:
    for line in process.stdout or ():
        _log(f"{name}: {line.rstrip()}")


def _spawn_runner(unit: Unit) -> int:
    """Start the runner in a session of its own; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.chdir("/")  # as systemd does, whoever asks; SM asks from within the mount of an SR
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        run_unit(unit)
    finally:
        os._exit(0)


def _log(message: str) -> None:
    syslog.openlog("systemd", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(message)


# ---- the verbs

def start(unit: Unit, *, block: bool) -> int:
    """Start a unit; a oneshot that we wait for has ended when this returns."""
    if state(unit) in ("active", "activating"):
        if block and unit.is_oneshot:
            _wait_for_end(unit)
        return 0
    runner = _spawn_runner(unit)
    if not block:
        return 0
    if unit.is_oneshot:
        os.waitpid(runner, 0)
        return EXIT_FAILURE if state(unit) == "failed" else 0
    return 0 if _wait_for_start(unit, runner) else EXIT_FAILURE


def _wait_for_start(unit: Unit, runner: int) -> bool:
    """Until the runner holds its lock, or has ended already; whether the unit is up."""
    while state(unit) != "active":
        if os.waitpid(runner, os.WNOHANG) != (0, 0):
            return state(unit) == "active"
        time.sleep(POLL)
    return True


def _wait_for_end(unit: Unit) -> None:
    while _runner_is_there(unit):
        time.sleep(POLL)


def stop(unit: Unit) -> int:
    """Stop a unit: SIGTERM to its processes, SIGKILL after STOP_TIMEOUT."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if not _runner_is_there(unit):
            break
        with suppress(ProcessLookupError, ValueError):
            os.killpg(int(_lock_file(unit).read_text()), sent)
        deadline = time.monotonic() + STOP_TIMEOUT
        while _runner_is_there(unit) and time.monotonic() < deadline:
            time.sleep(POLL)
    _execute_all(unit, "ExecStopPost")
    for left_over in (_result_file(unit), _up_file(unit)):
        left_over.unlink(missing_ok=True)
    return 0


def show(unit: Unit, properties: list[str]) -> int:
    """Print the properties that scripts ask for, as ``Name=value`` lines."""
    values = {
        "Id": unit.name,
        "ActiveState": state(unit),
        "LoadState": "loaded",
        "Result": "exit-code" if state(unit) == "failed" else "success",
        "FragmentPath": str(unit.files()[0]),
        "DropInPaths": " ".join(str(path) for path in unit.files()[1:]),
    }
    for key in ("ExecStartPre", "ExecStart"):
        values[key] = "; ".join(shlex.join(command.argv) for command in unit.commands(key))
    for name in properties or values:
        print(f"{name}={values.get(name, '')}")
    return 0


def status(unit: Unit) -> int:
    """Print the state in one line; the exit code of systemctl status."""
    print(f"{unit.name} - {state(unit)}")
    return 0 if state(unit) == "active" else EXIT_NOT_ACTIVE


def is_active(unit: Unit, *, quiet: bool) -> int:
    """Print the state unless ``quiet``; 0 only when active."""
    if not quiet:
        print(state(unit))
    return 0 if state(unit) == "active" else EXIT_NOT_ACTIVE


def list_units(patterns: list[str]) -> int:
    """Print the units that were ever started and match one of the shell patterns."""
    started = {re.sub(r"\.(result|up)$", "", path.name) for path in RUN.glob("*")}
    for name in sorted(started):
        if not patterns or any(Path(name).match(pattern) for pattern in patterns):
            print(f"{name} loaded {state(Unit(name))}")
    return 0


def main(arguments: list[str]) -> int:
    """Run one systemctl command line; returns its exit code."""
    accepted = ["quiet", "property=", "no-block", "now", "all", "no-legend", "no-pager", "full"]
    pairs, (verb, *names) = getopt.gnu_getopt(arguments, "qp:", accepted)
    if verb in ("daemon-reload", "reset-failed"):
        return 0
    if verb == "list-units":
        return list_units(names)
    try:
        return max(_run_verb(verb, Unit(name), pairs) for name in names)
    except UnitError as error:
        print(error, file=sys.stderr)
        return EXIT_NO_UNIT


def _run_verb(verb: str, unit: Unit, options: list[tuple[str, str]]) -> int:
    given = dict(options)
    block = "--no-block" not in given
    if verb == "start":
        return start(unit, block=block)
    if verb == "restart":
        return stop(unit) or start(unit, block=block)
    if verb == "stop":
        return stop(unit)
    if verb == "is-active":
        return is_active(unit, quiet="-q" in given or "--quiet" in given)
    if verb == "status":
        return status(unit)
    if verb == "show":
        lists = [value for option, value in options if option in ("-p", "--property")]
        return show(unit, [name for names in lists for name in names.split(",")])
    if verb in ("enable", "disable"):
        return 0
    print(f"systemctl stand-in: unknown verb {verb}", file=sys.stderr)
    return EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
