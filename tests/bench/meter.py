# SPDX-License-Identifier: LGPL-2.1-only
"""What one call of a driver costs: its time, and all that it makes the kernel do.

The guest's kernel counts (Documentation/trace/events.rst, histogram.rst): starts, forks and ends of
processes are events, system calls and time on the CPU are histograms by thread. A call is the
program that begins it, and all that came from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.lab.machine import Machine

TRACING = "/sys/kernel/tracing"

_EVENTS = ("sched_process_exec", "sched_process_fork", "sched_process_exit")

_START = f"""
set -e
mountpoint -q {TRACING} || mount -t tracefs tracefs {TRACING}
cd {TRACING}
echo 0 >tracing_on
echo mono >trace_clock
echo 16384 >buffer_size_kb
for event in {" ".join(_EVENTS)}; do echo 1 >events/sched/$event/enable; done
for hist in raw_syscalls/sys_enter:hist:keys=common_pid:size=16384 \\
            sched/sched_stat_runtime:hist:keys=pid:vals=runtime:size=16384; do
  echo "!${{hist#*:}}" >events/${{hist%%:*}}/trigger 2>/dev/null || true
  echo "${{hist#*:}}" >events/${{hist%%:*}}/trigger
done
echo >trace
echo 1 >tracing_on
"""

# XAPI goes on for a moment after some calls, and has a driver scan or check the SR.
_STOP = f"""
idle=0
while [ $idle -lt 5 ]; do
  idle=$((idle + 1))
  pgrep -f "^[^ ]*python3? /opt/xensource/sm/" >/dev/null && idle=0
  sleep 0.1
done
cd {TRACING}
echo 0 >tracing_on
grep '^[^#]' trace
echo ==
cat events/raw_syscalls/sys_enter/hist
echo ==
cat events/sched/sched_stat_runtime/hist
"""

_EVENT = re.compile(r"^.*-(\d+)\s+\[\d+\] \S+\s+([\d.]+): (\w+): (.*)$")
_HITS = re.compile(r"\{ (?:common_)?pid:\s*(\d+) \} hitcount:\s*(\d+)(?:\s+runtime:\s*(\d+))?")


@dataclass(frozen=True)
class Program:
    """What a call started itself, by its first program: one may become another.

    begin, end: seconds since the call began.
    """

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Cost:
    """What a call cost. programs: started by it and by those that it started, itself included."""

    seconds: float
    cpu_seconds: float
    programs: int
    syscalls: int
    steps: tuple[Program, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds,
                    self.programs + other.programs, self.syscalls + other.syscalls,
                    self.steps + tuple(Program(step.name, step.begin + self.seconds,
                                               step.end + self.seconds) for step in other.steps))


@dataclass
class _Process:
    parent: int
    begin: float
    end: float | None = None
    programs: list[str] = field(default_factory=list)


class Meter:
    """Measures what a running machine does. It has to be idle besides."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def costs(self, call: Callable[[], object], programs: Sequence[str]) -> list[Cost]:
        """The cost of each run of one of `programs` (paths) that came from `call`, in order."""
        self._machine.run(_START)
        try:
            call()
        finally:
            trace, syscalls, runtimes = self._machine.run(_STOP, timeout=300).out.split("==\n")
        return read(trace, syscalls, runtimes, programs)


def read(trace: str, syscalls: str, runtimes: str, programs: Sequence[str]) -> list[Cost]:
    """The costs, from what the kernel prints of its events and histograms; of what was begun at
    last and has not ended, none."""
    processes, roots = _processes(trace.splitlines(), programs)
    hits = {int(pid): int(count) for pid, count, _ in _HITS.findall(syscalls)}
    spent = {int(pid): int(runtime) for pid, _, runtime in _HITS.findall(runtimes)}
    costs = []
    for root in roots:
        own = _descendants(processes, root)
        begin, end = processes[root].begin, processes[root].end
        if end is None:
            break
        costs.append(Cost(
            end - begin, sum(spent.get(pid, 0) for pid in own) / 1e9,
            sum(len(processes[pid].programs) for pid in own),
            sum(hits.get(pid, 0) for pid in own),
            tuple(sorted(_steps(processes, root), key=lambda step: step.begin))))
    return costs


def _processes(lines: Iterable[str],
               programs: Sequence[str]) -> tuple[dict[int, _Process], list[int]]:
    """All threads by number, and those that became one of `programs`, in order."""
    found: dict[int, _Process] = {}
    roots = []
    for line in lines:
        match = _EVENT.match(line)
        assert match, line
        pid, time, event = int(match[1]), float(match[2]), match[3]
        if event == "sched_process_fork":
            child = int(match[4].rsplit("child_pid=", 1)[1])
            found[child] = _Process(pid, time)
        elif event == "sched_process_exec":
            name = match[4].split("filename=", 1)[1].split(" pid=")[0]
            process = found.setdefault(pid, _Process(0, time))
            process.programs.append(name)
            if name in programs:
                process.begin = time
                roots.append(pid)
        elif pid in found:
            found[pid].end = time
    return found, roots


def _descendants(processes: dict[int, _Process], root: int) -> set[int]:
    """A process and all that came from it; a child has a line of its own after its parent's."""
    found = {root}
    for pid, process in processes.items():
        if process.parent in found:
            found.add(pid)
    return found


def _steps(processes: dict[int, _Process], root: int) -> Iterable[Program]:
    start = processes[root].begin
    for process in processes.values():
        if process.parent == root and process.programs and process.end is not None:
            yield Program(process.programs[0].rsplit("/", 1)[1], process.begin - start,
                          process.end - start)
