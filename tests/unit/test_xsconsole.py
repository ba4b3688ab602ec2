# SPDX-License-Identifier: LGPL-2.1-only
"""Our plugin of xsconsole, on a small stand-in for the classes that it builds on.

tests/package/test_xsconsole.py runs it in the real xsconsole, on a terminal.
"""
import importlib.util
import json
import os
import sys
import types

import pytest

PLUGIN = os.path.join(os.path.dirname(__file__), "..", "..", "xsconsole", "XSFeatureLuksExt.py")
SR = "0b9b0d2a-3c4d-4e5f-8a6b-1c2d3e4f5a6b"
LOCKED = {"sr_uuid": SR, "recovery": "confirmed", "alerts": ["LUKS-W003"],
          "disks": [{"device": "/dev/sdb", "open": ""}]}
OPEN = dict(LOCKED, alerts=[], disks=[{"device": "/dev/sdb", "open": "/dev/mapper/luks-U"}])
BROKEN = dict(LOCKED, disks=[*OPEN["disks"], {"error": {"code": 6220, "text": "No header."}}])
KEY = "ABCD-EFGH-JKMN"


class Pane:
    """Notes what is put on it, as (kind of field, arguments)."""

    def __init__(self, parent=None):
        self.fields = []

    def __getattr__(self, name):
        def note(*arguments):
            if name.startswith("Add"):
                self.fields.append((name, *arguments))
        return note

    def texts(self):
        return [argument for field in self.fields for argument in field[1:]]


class Dialogue:
    parent = None

    def __init__(self):
        self.pane = None

    def NewPane(self, pane):
        self.pane = pane
        return pane

    def Pane(self):
        return self.pane


class InputDialogue(Dialogue):
    def __init__(self):
        Dialogue.__init__(self)
        self.NewPane(Pane())
        self.UpdateFields()


class InfoDialogue(Dialogue):
    def __init__(self, text, info=None):
        Dialogue.__init__(self)
        self.text, self.info = text, info


class Layout:
    """The dialogues that are shown, and the banners in between."""

    def __init__(self):
        self.dialogues, self.banners = [], []
        self.PushDialogue, self.TransientBanner = self.dialogues.append, self.banners.append
        self.PopDialogue = self.dialogues.pop

    def Inst(self):
        return self


class Menu:
    def __init__(self, owner, parent, title, choices):
        self.choices = choices

    def HandleKey(self, key):
        if key == "KEY_ENTER":
            self.choices[0].action()
        return key == "KEY_ENTER"


class Choice:
    def __init__(self, name, action=None):
        self.name, self.action = name, action


@pytest.fixture
def xs(monkeypatch):
    """The module XSConsoleStandard."""
    made = types.ModuleType("XSConsoleStandard")
    made.Lang = lambda text, width=None: text
    made.registered = []
    made.Dialogue, made.InputDialogue, made.InfoDialogue = Dialogue, InputDialogue, InfoDialogue
    made.DialoguePane, made.Menu, made.ChoiceDef, made.Layout = Pane, Menu, Choice, Layout()
    made.DialogueUtils = types.SimpleNamespace(AuthenticatedOnly=lambda call: call())
    made.Importer = types.SimpleNamespace(
        RegisterNamedPlugIn=lambda plugin, name, entry: made.registered.append((name, entry)))
    monkeypatch.setitem(sys.modules, "XSConsoleStandard", made)
    return made


@pytest.fixture
def plugin(xs):
    spec = importlib.util.spec_from_file_location("XSFeatureLuksExt", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def host(programs, monkeypatch):
    """The programs luksext and xe, on a host with the SRs of `srs`."""
    monkeypatch.setenv("PATH", str(programs.folder))
    programs.srs = lambda *srs: programs.add(
        "luksext", "[ $1 = unlock ] || echo '{}'; exit 3".format(json.dumps({"srs": srs})))
    programs.srs(LOCKED)
    programs.add("xe", "[ $1 = pbd-plug ] || echo the-pbd")
    return programs


def opened(xs):
    """The dialogue that the menu's entry leads to."""
    xs.registered[0][1]["activatehandler"]()
    return xs.Layout.dialogues[-1]


def test_it_is_an_entry_of_the_menu_of_disks(xs, plugin):
    (name, entry), = xs.registered
    assert name == "LUKSEXT"
    assert entry["menuname"] == "MENU_DISK"
    pane = Pane()
    entry["statusupdatehandler"](pane)
    assert "recovery key" in " ".join(str(text) for text in pane.texts())


def test_the_status_of_the_menu_runs_no_program(xs, plugin, host):
    xs.registered[0][1]["statusupdatehandler"](Pane())
    assert host.order() == []


def test_only_who_logged_in_gets_in(xs, plugin, host):
    asked = []
    xs.DialogueUtils.AuthenticatedOnly = asked.append
    xs.registered[0][1]["activatehandler"]()
    assert len(asked) == 1
    assert xs.Layout.dialogues == []


@pytest.mark.parametrize("sr, state", [(LOCKED, "locked"), (OPEN, "open"), (BROKEN, "locked")])
def test_each_sr_is_listed_with_its_state(xs, plugin, host, sr, state):
    host.srs(sr)
    assert [choice.name for choice in opened(xs).menu.choices] == ["{} {}".format(SR, state)]


def test_a_host_without_any_is_told_so(xs, plugin, host):
    host.srs()
    choice, = opened(xs).menu.choices
    assert "No encrypted SR" in choice.name
    assert choice.action is None


def test_an_error_is_shown(xs, plugin, host):
    host.add("luksext", "echo 'luksext: error 6203: no' >&2; exit 1")
    assert opened(xs).info == "luksext: error 6203: no"


def test_a_missing_program_is_shown(xs, plugin, host):
    (host.folder / "luksext").unlink()
    assert opened(xs).info.startswith("luksext: No such file or directory")


def test_an_open_sr_is_described(xs, plugin, host):
    host.srs(OPEN)
    opened(xs).HandleKey("KEY_ENTER")
    shown = xs.Layout.dialogues[-1]
    assert shown.info.split("\n") == ["Recovery key: confirmed", "/dev/sdb: open"]


def test_what_keeps_a_disk_from_being_read_and_what_needs_attention_is_shown(plugin):
    assert plugin.describe(BROKEN)[2:] == [
        "No header.", "Needs attention (luksext explain CODE): LUKS-W003"]


def test_a_locked_sr_asks_for_the_key_without_showing_it(xs, plugin, host):
    opened(xs).HandleKey("KEY_ENTER")
    asked = xs.Layout.dialogues[-1].Pane()
    assert ("AddPasswordField", "Recovery key", "", "key") in asked.fields
    assert "/dev/sdb: locked" in asked.texts()


def test_the_key_unlocks_and_the_sr_is_plugged(xs, plugin, host):
    owner = opened(xs)
    owner.HandleKey("KEY_ENTER")
    host.srs(OPEN)
    title, text = xs.Layout.dialogues[-1].HandleCommit({"key": KEY})
    assert title == "Unlocked and Plugged"
    assert "luksext rebind --key-stdin --sr-uuid=" + SR in text
    assert ["luksext", "unlock", "--sr-uuid=" + SR, "--key-stdin"] in host.calls("luksext")
    assert host.calls("xe") == [["xe", "pbd-list", "sr-uuid=" + SR, "params=uuid", "--minimal"],
                                ["xe", "pbd-plug", "uuid=the-pbd"]]
    assert [choice.name for choice in owner.menu.choices] == [SR + " open"]


def test_the_key_is_on_stdin_only(xs, plugin, host):
    plugin.unlock(SR, KEY)
    assert host.stdin("luksext") == KEY.encode() + b"\n"
    assert KEY not in str(host.calls("luksext"))


def test_a_wrong_key_plugs_nothing(xs, plugin, host):
    opened(xs).HandleKey("KEY_ENTER")
    host.add("luksext", "echo 'luksext: error 6251: opens no keyslot' >&2; exit 1")
    assert xs.Layout.dialogues[-1].HandleCommit({"key": KEY}) == (
        "Not Unlocked", "luksext: error 6251: opens no keyslot")
    assert host.calls("xe") == []


@pytest.mark.parametrize("script, why", [
    ("echo 'Connection refused' >&2; exit 1", "Connection refused"), ("exit 7", "status 7"),
    ("", "does not know the SR")])
def test_where_xapi_does_not_plug_the_disks_are_open_all_the_same(xs, plugin, host, script, why):
    opened(xs).HandleKey("KEY_ENTER")
    host.add("xe", script)
    title, text = xs.Layout.dialogues[-1].HandleCommit({"key": KEY})
    assert title == "Unlocked, Not Plugged"
    assert text.startswith("The disks are open.") and why in text


def test_escape_leaves(xs, plugin, host):
    dialogue = opened(xs)
    assert dialogue.HandleKey("KEY_ESCAPE")
    assert xs.Layout.dialogues == []
    assert not dialogue.HandleKey("x")
