# SPDX-License-Identifier: LGPL-2.1-only
"""Our plugin in the real xsconsole, on a terminal, while XAPI is down: XSCONSOLE=<checkout>."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.xsconsole import Screen

CHECKOUT = os.environ.get("XSCONSOLE")
PLUGIN = Path(__file__).resolve().parents[2] / "xsconsole/XSFeatureLuksExt.py"

pytestmark = [
    pytest.mark.skipif(not CHECKOUT, reason="needs xsconsole (XSCONSOLE=checkout)"),
    pytest.mark.skipif(importlib.util.find_spec("imp") is None,
                       reason="xsconsole imports imp, which Python has no longer since 3.12"),
]

SR = "0b9b0d2a-3c4d-4e5f-8a6b-1c2d3e4f5a6b"
KEY = "ABCD-EFGH-JKMN-PQRS-TVWX-YZ01-2345"

# One SR, which is open once the right key was read.
LUKSEXT = """\
case $1 in
status) open=; [ ! -e {folder}/key ] || open=/dev/mapper/luks-U
    echo '{status}' | sed "s,OPEN,$open,"; exit 3 ;;
unlock) read -r key
    [ "$key" = {key} ] || {{ echo 'luksext: error 6251: It opens no keyslot.' >&2; exit 1; }}
    echo "$@" >{folder}/key ;;
esac
"""
STATUS = {"srs": [{"sr_uuid": SR, "recovery": "confirmed", "alerts": ["LUKS-W003"],
                   "disks": [{"device": "/dev/sdb", "open": "OPEN"}]}]}
XE = """\
echo "$@" >>{folder}/xe
[ $1 = pbd-plug ] || echo the-pbd
"""


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    """The list of encrypted SRs, of somebody who has logged in."""
    programs = {"luksext": LUKSEXT.format(folder=tmp_path, status=json.dumps(STATUS), key=KEY),
                "xe": XE.format(folder=tmp_path)}
    with Screen(tmp_path, Path(str(CHECKOUT)), PLUGIN, programs) as screen:
        screen.shows("xapi is not running")
        screen.press("Escape")
        screen.shows("Status Display")
        screen.press("D")
        screen.shows("Suspend Image SR")
        screen.press("Enter")
        screen.shows("Current Storage Repositories")
        screen.press("E")
        screen.shows("unlock one by its recovery key")
        screen.press("Enter")
        screen.shows("Password")
        screen.press("Enter")
        screen.type("root's")
        screen.press("Enter")
        screen.shows("Select a Storage Repository")
        yield screen


def test_a_locked_sr_is_unlocked_and_plugged(screen: Screen) -> None:
    screen.shows(SR + " locked")
    screen.press("Enter")
    shown = screen.shows("Recovery key ")
    assert "Recovery key: confirmed" in shown
    assert "/dev/sdb: locked" in shown
    assert "LUKS-W003" in shown
    screen.type(KEY)
    assert KEY not in screen.shows("*" * len(KEY))
    screen.press("Enter")
    shown = screen.shows("Unlocked and Plugged")
    assert "luksext rebind" in shown
    assert (screen.folder / "key").read_text() == f"unlock --sr-uuid={SR} --key-stdin\n"
    assert (screen.folder / "xe").read_text() == (
        f"pbd-list sr-uuid={SR} params=uuid --minimal\npbd-plug uuid=the-pbd\n")
    screen.press("Enter")
    screen.shows(SR + " open")
    screen.press("Enter")
    screen.shows("/dev/sdb: open")


def test_a_wrong_key_is_told_and_can_be_typed_again(screen: Screen) -> None:
    screen.press("Enter")
    screen.shows("Recovery key ")
    screen.type("WRONG")
    screen.press("Enter")
    assert "It opens no keyslot." in screen.shows("Not Unlocked")
    assert not (screen.folder / "xe").exists()
    screen.press("Enter")
    screen.shows(SR + " locked")


def test_escape_leads_back(screen: Screen) -> None:
    screen.press("Enter")
    screen.shows("Recovery key ")
    screen.press("Escape")
    screen.shows(SR + " locked")
    screen.press("Escape")
    screen.shows("Press <Enter> to see the encrypted")
