# SPDX-License-Identifier: LGPL-2.1-only
"""run: the only place that runs a program."""
import functools
import glob
import logging
import os
import re
import stat
import subprocess
import sys
import threading
import time

import pytest

from conftest import wait_until_gone
from luksext import packages, run
from luksext.errors import (CommandFailed, CommandTimeout, LuksError, TimeOver, ToolMissing,
                            Unsupported)

SECRET = b"correct horse battery staple"


def test_a_program_gets_its_arguments_as_they_are_without_a_shell(programs):
    programs.add("tool")
    run.run(["tool", "a b", "$HOME", "*", "; rm"])
    assert programs.calls("tool") == [["tool", "a b", "$HOME", "*", "; rm"]]


def test_its_output_comes_back_as_bytes(programs):
    programs.add("tool", "printf 'out\\377'; printf 'err' >&2")
    assert run.run(["tool"]) == run.Result(0, b"out\xff", b"err")


def test_it_reads_the_given_stdin(programs):
    programs.add("tool")
    run.run(["tool"], stdin=SECRET)
    assert programs.stdin("tool") == SECRET


def test_a_program_that_asks_without_stdin_gets_end_of_file(programs):
    programs.add("tool", "read answer || echo nothing")
    assert run.run(["tool"], deadline=5).stdout == b"nothing\n"


def test_a_program_that_reads_no_stdin_is_no_error(programs):
    (programs.folder / "tool").write_text("#!/bin/sh\nexec <&-\necho done\n")
    (programs.folder / "tool").chmod(0o755)
    assert run.run(["tool"], stdin=bytes(1 << 20)).stdout == b"done\n"


def test_much_output_on_both_streams_does_not_block(programs):
    programs.add("tool", "i=0; while [ $i -lt 3000 ]; do echo $i-0123456789012345678901234567; "
                         "echo $i-0123456789012345678901234567 >&2; i=$((i+1)); done")
    result = run.run(["tool"], deadline=20)
    assert len(result.stdout) == len(result.stderr) > 65536


def test_its_environment_is_the_path_the_c_locale_and_a_private_folder_only(programs, monkeypatch):
    monkeypatch.setenv("XAPI_SECRET", "leak")
    programs.add("tool", "$helpers/env")
    lines = run.run(["tool"]).stdout.decode().splitlines()
    names = {line.split("=", 1)[0] for line in lines}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "LC_ALL", "TMPDIR"}
    assert "LC_ALL=C" in lines
    assert "TMPDIR=" + run.PRIVATE_DIR in lines


LEAVES = ": >$TMPDIR/tmp.1; $helpers/mkdir $TMPDIR/tmp.d; : >$TMPDIR/tmp.d/key; : >header; "


@pytest.mark.parametrize("script, deadline, error", [
    ("", 20, None), (LEAVES, 20, None), (LEAVES + "exit 3", 20, CommandFailed),
    (LEAVES + "exec $helpers/sleep 60", 1, CommandTimeout)])
def test_nothing_is_left_in_the_folder_of_its_own_however_it_ends(
        programs, script, deadline, error):
    programs.add("tool", "echo $TMPDIR; " + script)
    try:
        told = run.run(["tool"], deadline=deadline, own_folder=True).stdout.decode().strip()
        assert error is None
        assert os.path.dirname(told) == run.PRIVATE_DIR
    except (CommandFailed, CommandTimeout) as failure:
        assert type(failure) is error
    assert os.listdir(run.PRIVATE_DIR) == []


def test_it_starts_in_its_own_folder_which_is_for_this_user_alone(programs):
    programs.add("tool", "pwd; $helpers/ls -ld $TMPDIR")
    where, mode = run.run(["tool"], own_folder=True).stdout.decode().split("\n")[:2]
    assert os.path.dirname(os.path.realpath(where)) == os.path.realpath(run.PRIVATE_DIR)
    assert mode.startswith("drwx------")


def test_what_a_process_left_that_was_killed_itself_goes_with_the_next(programs):
    programs.add("tool", "$helpers/ls " + run.PRIVATE_DIR)
    run.make_private(run.PRIVATE_DIR)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folders = {name: os.path.join(run.PRIVATE_DIR, "own-{}-{}".format(process, "0" * 16))
               for name, process in (("dead", dead.pid), ("alive", os.getpid()))}
    for folder in folders.values():
        os.mkdir(folder)
        with open(os.path.join(folder, "key"), "w"):
            pass
    with open(os.path.join(run.PRIVATE_DIR, "lock-x"), "w"):
        pass
    seen = run.run(["tool"], own_folder=True).stdout.decode().split()
    assert os.path.basename(folders["alive"]) in seen and len(seen) == 3
    assert sorted(os.listdir(run.PRIVATE_DIR)) == ["lock-x", os.path.basename(folders["alive"])]


def test_it_has_no_terminal_and_leads_its_own_session(programs):
    programs.add("tool", "read -r stat </proc/$$/stat; echo $$ $stat")
    fields = run.run(["tool"]).stdout.decode().split()
    pid, stat_fields = fields[0], fields[1:]
    session, terminal = stat_fields[5], stat_fields[6]
    assert (session, terminal) == (pid, "0")


def test_it_inherits_no_open_file(programs):
    programs.add("tool", "$helpers/ls /proc/self/fd")
    with open(os.devnull) as other:
        os.set_inheritable(other.fileno(), True)
        listed = run.run(["tool"]).stdout.split()
    # 3 is the folder that ls itself reads.
    assert set(listed) <= {b"0", b"1", b"2", b"3"}


def test_a_program_can_be_left_alone_and_outlives_us(programs, tmp_path):
    programs.add("worker", "echo nothing; echo said >&2; $helpers/sleep 60")
    messages = tmp_path / "messages"
    script = ("import sys; sys.path.insert(0, sys.argv[1]); from luksext import run; "
              "run.PATH, run.PRIVATE_DIR = sys.argv[2:4]; "
              "print(run.spawn(['worker'], b'secret', sys.argv[4]))")
    answer = subprocess.Popen(
        [sys.executable, "-c", script, os.path.dirname(os.path.dirname(run.__file__)), run.PATH,
         run.PRIVATE_DIR, str(messages)], stdout=subprocess.PIPE).communicate(timeout=20)[0]
    process = int(answer)
    try:
        assert os.getpgid(process) == os.getsid(process) == process
        for _ in range(100):
            if messages.read_text() == "said\n":
                break
            time.sleep(0.1)
        assert messages.read_text() == "said\n"
        assert programs.stdin("worker") == b"secret"
        assert stat.S_IMODE(messages.stat().st_mode) == 0o600
    finally:
        os.killpg(process, 9)


def test_a_missing_program_cannot_be_left_alone(programs, tmp_path):
    with pytest.raises(ToolMissing):
        run.spawn(["worker"], b"", str(tmp_path / "messages"))


def test_a_missing_program_is_named_with_its_package(programs):
    with pytest.raises(ToolMissing, match=r"clevis is not installed.*yum install clevis clevis-l"):
        run.run(["clevis"])


def test_a_program_without_known_package_is_its_own_package(programs):
    with pytest.raises(ToolMissing, match=r"yum install tool$"):
        run.require("tool")


def test_require_accepts_what_is_installed(programs):
    programs.add("one")
    programs.add("two")
    run.require("one", "two")


@pytest.mark.parametrize("mode, text", [(0o644, "#!/bin/sh\n"), (0o755, "no program")])
def test_a_file_that_cannot_be_executed_is_a_luks_error(programs, mode, text):
    tool = programs.folder / "tool"
    tool.write_text(text)
    tool.chmod(mode)
    with pytest.raises(LuksError):
        run.run(["tool"])


def test_an_unexpected_status_is_an_error_with_the_command_and_its_message(programs):
    programs.add("tool", "echo two  >&2; echo lines >&2; exit 3")
    with pytest.raises(CommandFailed) as failure:
        run.run(["tool", "open", "/dev/sdb"])
    assert failure.value.sentence == "`tool open /dev/sdb` failed with status 3: two lines."
    assert failure.value.status == 3


def test_a_silent_failure_says_so(programs):
    programs.add("tool", "exit 1")
    with pytest.raises(CommandFailed, match="status 1: no message"):
        run.run(["tool"])


def test_statuses_that_are_answers_are_returned(programs):
    programs.add("tool", "exit 2")
    assert run.run(["tool"], accept=(0, 2)).status == 2


def test_death_by_a_signal_is_a_negative_status(programs):
    programs.add("tool", "kill -9 $$")
    with pytest.raises(CommandFailed, match="status -9"):
        run.run(["tool"])


def test_a_message_is_one_line_of_at_most_300_characters_from_the_end():
    message = run.Result(1, b"", b"start\n" + b"x" * 500 + b"\xff end\n").message
    assert len(message) == 300
    assert message.endswith("\ufffd end")
    assert "\n" not in message


def test_after_its_deadline_the_program_and_all_its_children_are_killed(programs, tmp_path):
    pids = tmp_path / "pids"
    programs.add("tool", "$helpers/sleep 300 & echo $! $$ >{}; wait".format(pids))
    started = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"`tool arg` did not end within 0.5 seconds"):
        run.run(["tool", "arg"], deadline=0.5)
    assert time.monotonic() - started < 5
    for pid in pids.read_text().split():
        assert wait_until_gone(pid)


def test_a_child_that_left_the_group_and_holds_the_output_does_not_hold_us_up(programs, tmp_path):
    pid = tmp_path / "pid"
    script = tmp_path / "daemon.py"
    script.write_text("import os, time\nif os.fork() == 0:\n    os.setsid()\n"
                      "    open({!r}, 'w').write(str(os.getpid()))\n    time.sleep(30)\n"
                      "time.sleep(30)\n".format(str(pid)))
    programs.add("tool", "exec {} {}".format(sys.executable, script))
    started = time.monotonic()
    try:
        with pytest.raises(CommandTimeout):
            run.run(["tool"], deadline=1)
        assert time.monotonic() - started < 10
    finally:
        os.kill(int(pid.read_text()), 9)


def test_a_program_that_cannot_be_waited_for_does_not_hold_us_up(programs, monkeypatch):
    # As one in uninterruptible sleep: the signal has no effect.
    monkeypatch.setattr(run.os, "killpg", lambda pid, number: None)
    monkeypatch.setattr(run, "_REAP_SECONDS", 0.1)
    programs.add("tool", "exec $helpers/sleep 3")
    with pytest.raises(CommandTimeout):
        run.run(["tool"], deadline=0.3)


def test_a_program_is_killed_when_we_are_interrupted(programs, monkeypatch, tmp_path):
    pid = tmp_path / "pid"
    programs.add("tool", "echo $$ >{}; exec $helpers/sleep 300".format(pid))

    def interrupted(process, stdin, timeout):
        while not (pid.exists() and pid.read_text()):
            process.stdin.close() if not process.stdin.closed else time.sleep(0.01)
        raise KeyboardInterrupt()

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(["tool"])
    assert wait_until_gone(pid.read_text().strip())


def test_a_secret_pipe_is_read_like_a_file(programs):
    programs.add("tool", '$helpers/cat "$1"')
    with run.secret_pipe(SECRET) as pipe:
        assert run.run(["tool", pipe.path], pipes=[pipe]).stdout == SECRET


def test_a_secret_pipe_is_closed_at_the_end_even_after_a_failure():
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyError):
        with run.secret_pipe(SECRET):
            raise KeyError()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_secret_of_4_kib_fits_into_the_pipe_without_a_reader():
    with run.secret_pipe(bytes(4096)) as pipe:
        assert len(os.read(pipe.fd, 5000)) == 4096


@pytest.mark.parametrize("script, failure", [
    ("exit 0", None), ("exit 1", CommandFailed), ("exec $helpers/sleep 60", CommandTimeout)])
def test_no_secret_reaches_a_log_or_an_error(programs, caplog, script, failure):
    caplog.set_level(logging.DEBUG, logger="luksext")
    programs.add("tool", '$helpers/cat "$1"; $helpers/cat $stdin; ' + script)
    text = ""
    with run.secret_pipe(b"piped-" + SECRET) as pipe:
        try:
            result = run.run(["tool", pipe.path], stdin=b"typed-" + SECRET, deadline=1,
                             pipes=[pipe])
            assert result.stdout.count(SECRET) == 2
            text = result.message
        except LuksError as error:
            assert isinstance(error, failure)
            text = "{} {!r} {}".format(error, error, error.__cause__)
    assert SECRET.decode() not in text + caplog.text


def test_every_command_is_logged_with_its_status_and_time(programs, caplog):
    caplog.set_level(logging.INFO, logger="luksext")
    programs.add("tool")
    run.run(["tool", "x"])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert re.match(r"tool x: status 0 after \d+\.\d s$", messages[0])


def test_the_private_folder_is_made_for_us_alone(programs):
    programs.add("tool")
    run.run(["tool"])
    run.run(["tool"])
    status = os.stat(run.PRIVATE_DIR)
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == os.geteuid()


def open_to_all(path):
    os.mkdir(path)
    os.chmod(path, 0o755)


def link_to_another(path):
    os.mkdir(path + ".other", 0o700)
    os.symlink(path + ".other", path)


def plain_file(path):
    with open(path, "w"):
        os.chmod(path, 0o600)


@pytest.mark.parametrize("prepare", [open_to_all, link_to_another, plain_file])
def test_a_private_folder_that_others_prepared_is_refused(programs, prepare):
    programs.add("tool")
    prepare(run.PRIVATE_DIR)
    with pytest.raises(Unsupported, match="is not a directory that belongs to this user alone"):
        run.run(["tool"])
    assert programs.calls("tool") == []


# The time of a whole


def test_programs_share_the_time_of_a_whole(programs):
    programs.add("slow", "exec $helpers/sleep 60")
    began = time.monotonic()
    with run.within(0.6):
        with pytest.raises(CommandTimeout, match=r"0\.\d+ seconds"):
            run.run(["slow"])
        with pytest.raises(TimeOver, match=r"0\.6 seconds were over before `slow`"):
            run.run(["slow"])
    assert time.monotonic() - began < 5
    assert len(programs.calls("slow")) == 1


def test_a_program_has_no_more_than_its_own_deadline_in_it(programs):
    programs.add("slow", "exec $helpers/sleep 60")
    with run.within(60):
        with pytest.raises(CommandTimeout, match=r"0\.2 seconds"):
            run.run(["slow"], deadline=0.2)


@pytest.mark.parametrize("outer, inner", [(100, 7), (7, 100)])
def test_the_shorter_of_two_counts(outer, inner):
    with run.within(outer):
        with run.within(inner):
            assert 6 < run.time_for("it", 1000) <= 7
        assert run.time_for("it", 1000) > outer - 1
    assert run.time_for("it", 1000) == 1000


def test_cleaning_up_has_some_more_once_for_all(monkeypatch):
    monkeypatch.setattr(run, "OVERTIME", 10)
    with run.within(-1):
        for _ in range(2):
            with run.overtime():
                assert 8 < run.time_for("it", 1000) <= 9
        with pytest.raises(TimeOver):
            run.time_for("it", 1000)
    with run.overtime():
        assert run.time_for("it", 1000) == 1000


# Several at once


def test_calls_run_at_once_within_the_time_of_the_caller():
    met = threading.Barrier(3, timeout=20)

    def call(number):
        met.wait()
        return number, run.time_for("it", 1000) <= 5

    with run.within(5):
        assert run.at_once([functools.partial(call, number) for number in range(3)]) == [
            (0, True), (1, True), (2, True)]


def test_time_for_cleaning_up_in_one_of_them_is_not_that_of_another():
    cleaning_up, looked_at = threading.Event(), threading.Event()

    def clean_up():
        with run.overtime():
            cleaning_up.set()
            assert looked_at.wait(20)

    def look():
        assert cleaning_up.wait(20)
        left = run.time_for("it", 1000)
        looked_at.set()
        return left

    with run.within(5):
        assert run.at_once([clean_up, look])[1] <= 5
        assert run.time_for("it", 1000) <= 5


def test_the_error_of_the_first_that_fails_comes_when_all_have_ended():
    ended = []

    def fail(number):
        time.sleep(0.2 * number)
        ended.append(number)
        raise CommandFailed("tool", number, "")

    with pytest.raises(CommandFailed, match="status 1"):
        run.at_once([lambda: None, functools.partial(fail, 1), functools.partial(fail, 2)])
    assert ended == [1, 2]


def test_one_call_has_no_thread():
    assert run.at_once([threading.current_thread]) == [threading.current_thread()]
    assert run.at_once(2 * [threading.current_thread], in_turn=True) == 2 * [
        threading.current_thread()]
    assert run.at_once([]) == []


def test_arguments_that_no_program_can_have_are_an_error(programs):
    programs.add("tool")
    with pytest.raises(CommandFailed, match="null byte"):
        run.run(["tool", "a\0b"])


def test_each_program_that_is_run_has_a_package():
    programs = set()
    for path in glob.glob(os.path.join(os.path.dirname(packages.__file__), "*.py")):
        with open(path, encoding="utf-8") as file:
            programs.update(re.findall(r'(?:run|spawn)\(\["([\w.-]+)"', file.read()))
    assert len(programs) > 20
    assert programs - set(packages.OF) <= {"python3", "systemctl"}
