# SPDX-License-Identifier: LGPL-2.1-only
"""bench.meter: what the kernel prints of events and histograms, as the cost of a call."""

from __future__ import annotations

import pytest

from tests.bench import meter

DRIVER = "/opt/xensource/sm/EXTSR"

TRACE = """\
          xapi-1-x-90      [000] d..2.    10.000000: sched_process_fork: comm=a pid=90 child_comm=a child_pid=100
          python3-100     [000] .....    10.500000: sched_process_exec: filename=/opt/xensource/sm/EXTSR pid=100 old_pid=100
          python3-100     [000] .....    10.600000: sched_process_fork: comm=p pid=100 child_comm=p child_pid=101
              lvs-101     [000] .....    10.700000: sched_process_exec: filename=/sbin/lvs pid=101 old_pid=101
              lvs-101     [000] .....    11.200000: sched_process_exit: comm=lvs pid=101 prio=120
          python3-100     [000] .....    11.300000: sched_process_fork: comm=p pid=100 child_comm=p child_pid=102
               sh-102     [000] .....    11.400000: sched_process_exec: filename=/bin/sh pid=102 old_pid=102
               sh-102     [000] .....    11.500000: sched_process_fork: comm=p pid=102 child_comm=sh child_pid=103
              cat-103     [000] .....    11.600000: sched_process_exec: filename=/bin/cat pid=103 old_pid=103
              cat-103     [000] .....    11.700000: sched_process_exit: comm=cat pid=103 prio=120
             other-50     [000] .....    11.750000: sched_process_exec: filename=/bin/other pid=50 old_pid=50
               sh-102     [000] .....    11.800000: sched_process_exit: comm=sh pid=102 prio=120
          python3-100     [000] .....    12.000000: sched_process_exit: comm=python3 pid=100 prio=120
"""  # noqa: E501
SYSCALLS = """\
{ common_pid:         90 } hitcount:        999
{ common_pid:        100 } hitcount:       1000
{ common_pid:        101 } hitcount:        200
{ common_pid:        103 } hitcount:         30
"""
RUNTIMES = """\
{ pid:         50 } hitcount:          7  runtime:    5000000000
{ pid:        100 } hitcount:          7  runtime:     500000000
{ pid:        102 } hitcount:          1  runtime:     250000000
"""


def test_a_call_is_its_program_and_all_that_came_from_it():
    [cost] = meter.read(TRACE, SYSCALLS, RUNTIMES, [DRIVER])
    assert cost.seconds == pytest.approx(1.5)
    assert cost.cpu_seconds == pytest.approx(0.75)
    assert (cost.programs, cost.syscalls) == (4, 1230)
    assert [step.name for step in cost.steps] == ["lvs", "sh"]
    assert [round(step.end - step.begin, 3) for step in cost.steps] == [0.6, 0.5]


def test_what_is_no_driver_is_no_call():
    assert meter.read(TRACE, SYSCALLS, RUNTIMES, ["/opt/xensource/sm/OTHERSR"]) == []


def test_what_has_not_ended_is_left_out():
    begun = TRACE + TRACE.splitlines()[1].replace("100", "200").replace("10.5", "12.5") + "\n"
    assert len(meter.read(begun, SYSCALLS, RUNTIMES, [DRIVER])) == 1


def test_calls_one_after_the_other_cost_what_both_cost():
    [cost] = meter.read(TRACE, SYSCALLS, RUNTIMES, [DRIVER])
    both = cost + cost
    assert (both.seconds, both.programs) == (pytest.approx(3.0), 8)
    assert both.steps[2].begin == pytest.approx(1.5 + cost.steps[0].begin)


def test_what_the_kernel_never_prints_is_not_taken_for_nothing():
    with pytest.raises(AssertionError):
        meter.read("garbage\n", SYSCALLS, RUNTIMES, [DRIVER])
