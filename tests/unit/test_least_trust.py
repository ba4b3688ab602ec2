# SPDX-License-Identifier: LGPL-2.1-only
"""What we make is ours alone, whatever umask, environment and other users say; what we load is
root's. tests/storage/test_secrets.py looks at the same in a host."""
import ast
import glob
import os
import re
import stat
import subprocess

import pytest

from conftest import Programs
from luksext import console, notes, run, smplugins, state
from luksext.errors import CommandFailed, NotWritten, Unsupported

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What is started by itself; the driver is started by SM's rules, with the folder of SM in its path.
STARTED = ("bin/luksext", "libexec/luksext-gc", "libexec/luksext-sm-plugins",
           "drivers/plugins/luksext")
DRIVER = "drivers/LUKSEXTSR.py"

# Only root can write into these, in any dom0.
OF_ROOT = ("/opt/xensource/sm", "/sbin", "/usr/sbin", "/bin", "/usr/bin", "/run/luksext",
           "/var/lib/luksext")


def sources():
    """All of our files that dom0 runs."""
    return [os.path.join(CHECKOUT, *path.split("/")) for path in STARTED] + glob.glob(
        os.path.join(CHECKOUT, "drivers", "**", "*.py"), recursive=True) + glob.glob(
            os.path.join(CHECKOUT, "python", "*.py"))


def read(path):
    with open(os.path.join(CHECKOUT, path), encoding="utf-8") as file:
        return file.read()


def mode(path):
    return stat.S_IMODE(os.lstat(str(path)).st_mode)


@pytest.fixture
def no_umask():
    """A process that would let everybody write whatever it makes."""
    before = os.umask(0)
    yield
    os.umask(before)


# What is installed

def test_whatever_the_umask_is_nobody_else_can_write_what_is_installed(tmp_path, no_umask):
    subprocess.check_call(
        ["make", "--silent", "-C", CHECKOUT, "install", "DESTDIR={}".format(tmp_path / "root"),
         "PYTHON_SITE=/usr/lib/python3"], stdout=subprocess.DEVNULL)
    made = [os.path.join(folder, name) for folder, folders, files in os.walk(str(tmp_path / "root"))
            for name in folders + files]
    assert len(made) > 60
    for path in made:
        if os.path.islink(path):
            assert os.readlink(path) == "LUKSEXTSR.py"
            continue
        runs = os.path.isdir(path) or read(path).startswith("#!")
        assert mode(path) == (0o755 if runs else 0o644), path


# What is made

def test_folders_files_and_locks_are_for_root_alone(tmp_path, monkeypatch, no_umask):
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    monkeypatch.setattr(run, "PRIVATE_DIR", str(tmp_path / "private"))
    store = state.Store("11111111-2222-4333-8444-555555555555")
    store.save("note", {"a": 1})
    with state.locked("name"):
        pass
    for folder, _, files in os.walk(str(tmp_path)):
        if folder != str(tmp_path):
            assert mode(folder) == 0o700, folder
        for name in files:
            assert mode(os.path.join(folder, name)) == 0o600, name


@pytest.mark.parametrize("plant", [
    lambda path, other: os.symlink(other, path), lambda path, other: os.mkdir(path, 0o777),
    lambda path, other: open(path, "w").close()], ids=["link", "open folder", "file"])
def test_a_folder_that_somebody_planted_is_not_used(tmp_path, no_umask, plant):
    other = tmp_path / "other"
    other.mkdir(0o700)
    plant(str(tmp_path / "ours"), str(other))
    with pytest.raises(Unsupported, match="tampered"):
        run.make_private(str(tmp_path / "ours"))
    assert not list(other.iterdir())


def test_what_is_exported_into_a_folder_of_all_follows_no_link(tmp_path, no_umask):
    """As `luksext header-export --to=/tmp`."""
    victim, path = tmp_path / "victim", tmp_path / "exported"
    victim.write_text("untouched")
    path.symlink_to(victim)
    state.write(str(path), b"content")
    assert victim.read_text() == "untouched"
    assert path.read_bytes() == b"content"
    assert mode(path) == 0o600


def test_xapi_reads_a_file_that_only_root_writes(tmp_path, no_umask):
    (tmp_path / "etc").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "etc/.luksext-sm-plugins").symlink_to(victim)
    for _ in range(2):
        smplugins.refresh(str(tmp_path))
    assert victim.read_text() == "untouched"
    assert mode(tmp_path / "etc/xapi.conf.d") == 0o755
    assert mode(tmp_path / "etc/xapi.conf.d/~luksext.conf") == 0o644
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["xapi.conf.d"]


def test_the_messages_of_a_program_that_is_left_alone_follow_no_link(programs, tmp_path):
    programs.add("worker")
    victim, messages = tmp_path / "victim", tmp_path / "messages"
    victim.write_text("untouched")
    messages.symlink_to(victim)
    with pytest.raises(NotWritten, match="symbolic links"):
        run.spawn(["worker"], b"", str(messages))
    assert victim.read_text() == "untouched"


def test_nothing_lies_in_a_folder_of_all():
    for path in sources():
        assert not re.search(r"/tmp|/var/tmp|/dev/shm|gettempdir", read(path)), path
    assert run.PRIVATE_DIR.startswith("/run/")


# What is loaded

def test_programs_are_found_in_folders_of_root_whatever_the_caller_says(programs, monkeypatch,
                                                                       tmp_path):
    assert run.PATH != "/sbin:/usr/sbin:/bin:/usr/bin"
    evil = Programs(tmp_path / "evil")
    evil.add("tool", "echo evil")
    programs.add("tool", "$helpers/env; pwd")
    monkeypatch.chdir(str(evil.folder))
    for name in ("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV",
                 "ENV", "TMPDIR", "HOME", "LUKSMETA", "TPM2TOOLS_TCTI", "LVM_SYSTEM_DIR"):
        monkeypatch.setenv(name, str(evil.folder))
    told = run.run(["tool"]).stdout.decode("ascii")
    assert str(evil.folder) not in told
    assert told.splitlines()[-1] == run.PRIVATE_DIR


def test_the_path_of_programs_is_that_of_root():
    assert set(re.search(r'^PATH = "(.*)"$', read("drivers/luksext/run.py"),
                         re.MULTILINE).group(1).split(":")) <= set(OF_ROOT)


@pytest.mark.parametrize("path", STARTED)
def test_python_heeds_no_environment_no_folder_of_the_user_and_not_the_one_it_is_in(path):
    assert read(path).splitlines()[0] == "#!/usr/bin/python3 -I"


@pytest.mark.parametrize("path", [*STARTED, DRIVER])
def test_modules_come_from_folders_of_root(path):
    added = re.findall(r"sys\.path\.(?:append|insert)\((?:0, )?(.*)\)", read(path))
    named = [re.search(r'^{} = "(.*)"$'.format(word), read(path), re.MULTILINE).group(1)
             if word.isidentifier() else word.strip('"') for word in added]
    assert set(named) <= set(OF_ROOT)


def test_a_module_that_somebody_planted_is_not_loaded(tmp_path):
    evil = tmp_path / "evil"
    evil.mkdir()
    for name in ("argparse", "os", "contextlib", "sitecustomize", "usercustomize"):
        (evil / (name + ".py")).write_text("raise SystemExit('evil')\n")
    program = evil / "luksext-sm-plugins"
    program.write_text(read("libexec/luksext-sm-plugins").replace(
        "/opt/xensource/sm", os.path.join(CHECKOUT, "drivers")))
    program.chmod(0o755)
    (tmp_path / "etc").mkdir()
    subprocess.check_call(
        [str(program), "--root", str(tmp_path)], cwd=str(evil),
        env={"PYTHONPATH": str(evil), "PYTHONHOME": "", "HOME": str(evil), "PATH": "/usr/bin:/bin",
             "PYTHONUSERBASE": str(evil)})
    assert (tmp_path / "etc/xapi.conf.d/~luksext.conf").exists()


def test_what_every_python_of_the_host_loads_is_one_module_that_imports_nothing():
    assert read("python/luksext.pth") == "import luksext_plugins\n"
    tree = ast.parse(read("python/luksext_plugins.py"))
    assert [name.name for node in tree.body if isinstance(node, ast.Import)
            for name in node.names] == ["sys"]


def test_the_plugin_hides_its_arguments_before_it_loads_anything():
    imported = []
    for node in ast.parse(read("drivers/plugins/luksext")).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imported += [name.name for name in node.names]
        elif isinstance(node, ast.If):
            assert ast.dump(node).count("attr='hide'") == 1
            break
    assert imported == ["sys", "luksext_argv"]
    tree = ast.parse(read("drivers/luksext_argv.py"))
    assert [name.name for node in tree.body if isinstance(node, ast.Import)
            for name in node.names] == ["ctypes"]


# What is left behind

def test_programs_and_we_leave_no_core(programs):
    programs.add("tool", "$helpers/cat /proc/self/limits /proc/$PPID/limits")
    limits = re.findall(r"Max core file size +(\S+) +(\S+)",
                        run.run(["tool"]).stdout.decode("ascii"))
    assert limits == [("1", "1")] * 2


def test_the_console_is_kept_out_of_core_dumps_before_a_key_is_typed(monkeypatch):
    order = []
    monkeypatch.setattr(run, "keep_out_of_core_dumps", lambda: order.append("limit"))
    monkeypatch.setattr("getpass.getpass", lambda prompt: order.append("typed") or "")
    console.main(["unlock"])
    assert order == ["limit", "typed"]


@pytest.mark.parametrize("secret", [b"x" * 4097, b"x" * (1 << 20)])
def test_a_secret_that_no_pipe_holds_is_refused_and_does_not_wait_for_a_reader(secret):
    with pytest.raises(Unsupported, match="at most 4096 bytes"):
        with run.secret_pipe(secret):
            pass


def test_a_command_is_logged_in_one_line_of_bounded_length(programs, caplog):
    caplog.set_level("INFO", logger="luksext")
    programs.add("tool")
    run.run(["tool", "a\nb\x1b[2J", "x" * 5000])
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 700


def test_an_argument_with_a_zero_byte_is_no_crash(programs):
    programs.add("tool")
    with pytest.raises(CommandFailed):
        run.run(["tool", "a\0b"])
