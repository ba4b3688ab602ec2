# SPDX-License-Identifier: LGPL-2.1-only
"""Notes on keyslots in both generations of headers, and what of a header is taken for one.

How they change with the keyslots is told by test_keyslots and test_bindings.
"""
import json

import pytest

import headers
from luksext import header
from luksext.generation import GENERATIONS, Note

LUKS1, LUKS2 = GENERATIONS[1], GENERATIONS[2]


def test_luks2_keeps_notes_in_tokens_that_name_their_keyslot(on_disk, programs):
    programs.add("cryptsetup")
    path = on_disk(headers.luks2(headers.metadata(slots=(0, 1))))
    LUKS2.write_note(path, header.read(path), Note("recovery", 1, {"name": "safe"}))
    assert json.loads(programs.stdin("cryptsetup").decode()) == {
        "type": "luksext-recovery", "keyslots": ["1"], "serial": 1, "name": "safe"}


@pytest.mark.parametrize("token", [
    {}, {"type": "luksext-other"}, {"type": "recovery"}, {"type": ["luksext-recovery"]},
    {"keyslots": []}, {"keyslots": ["0", "1"]}, {"keyslots": ["x"]}, {"keyslots": None},
    {"serial": "x"}, {"serial": None}, {"keyslots": ["5"]}])
def test_a_token_that_is_no_note_on_one_active_keyslot_is_none(on_disk, token):
    note = {"type": "luksext-recovery", "keyslots": ["1"], "serial": 1, "name": "safe"}
    note = dict(note, **token) if token else {}
    path = on_disk(headers.luks2(headers.metadata(slots=(0, 1), tokens={"0": note})))
    assert LUKS2.notes(path, header.read(path)) == []


def test_only_tokens_of_the_keyslot_or_of_none_are_removed(on_disk, programs):
    programs.add("cryptsetup")
    tokens = {"0": headers.binding_token(0), "1": headers.binding_token(1),
              "2": dict(headers.binding_token(1), keyslots=[]),
              "3": dict(headers.binding_token(1), keyslots=["0", "1"]),
              "4": dict(headers.binding_token(1), type="systemd-tpm2")}
    path = on_disk(headers.luks2(headers.metadata(slots=(0, 1), tokens=tokens)))
    LUKS2.remove_binding(path, header.read(path), 1)
    assert [call[4] for call in programs.calls("cryptsetup")] == ["1", "2"]


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b"{}", b'{"kind":"recovery","slot":"x"}',
                                  b'{"kind":"other","slot":0,"serial":1}', b"\xff"])
@pytest.mark.parametrize("disk", [1], indirect=True)
def test_luksmeta_of_our_kind_that_is_no_note_is_none(disk, data):
    disk.bind(0, "null", {}, b"key")
    disk.luksmeta[3] = ("3f2a7c58-9b1e-4d06-8a77-5e0c1f6b2d94", data)
    assert LUKS1.notes(disk.path, header.read(disk.path)) == []


@pytest.mark.parametrize("disk", [1], indirect=True)
def test_luksmeta_keeps_the_places_of_identity_and_of_the_binding_to_come_free(disk):
    del disk.luksmeta[7]
    disk.keys.update(dict.fromkeys(range(8), b"key"))
    disk.write()
    found = header.read(disk.path)
    LUKS1.write_note(disk.path, found, Note("suspend", 0, {}))
    LUKS1.write_note(disk.path, found, Note("recovery", 7, {}))
    assert not {0, 7} & set(disk.luksmeta)
    assert [note.slot for note in LUKS1.notes(disk.path, found)] == [0, 7]
