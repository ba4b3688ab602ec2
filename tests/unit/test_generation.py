# SPDX-License-Identifier: LGPL-2.1-only
"""generation: where LUKS1 and LUKS2 keep bindings and whose disk it is."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headers
from luksext import header
from luksext.errors import HeaderMissing
from luksext.generation import (GENERATIONS, Binding, Generation, Identity, identity_of,
                                parse_identity)

LUKS1, LUKS2 = GENERATIONS[1], GENERATIONS[2]

CLEVIS = "cb6e8904-81ff-40da-a84a-07ab9ab5715e"
OURS = Identity(headers.SR, 1, 3)


# Identity


@given(st.uuids().map(str), st.integers(1, 999), st.data())
def test_an_identity_is_parsed_back_from_its_text(sr_uuid, disks, data):
    identity = Identity(sr_uuid, data.draw(st.integers(0, disks - 1)), disks)
    assert parse_identity(str(identity)) == identity


def test_the_longest_identity_fits_into_a_luks2_label():
    assert len(str(Identity(headers.SR, 998, 999))) <= 47


@pytest.mark.parametrize("text", [
    "", "my disk", "a:0:1", headers.SR, headers.SR + ":0", headers.SR + ":0:1:2",
    headers.SR + ":-1:2", headers.SR + ":0:", headers.SR + ":2:2", headers.SR + ":0:0",
    headers.SR + ":0:1\n", headers.SR + ":0:\xb2", headers.SR + ":0:\u0661",
    headers.SR.upper() + ":0:1", headers.SR + ":" + "9" * 5000 + ":1"])
def test_any_other_text_is_no_identity(text):
    assert parse_identity(text) is None


@given(st.text())
def test_a_text_is_parsed_only_to_what_is_written_the_same(text):
    identity = parse_identity(text)
    assert identity is None or str(identity) == text


# LUKS2


def test_luks2_keeps_the_identity_in_label_and_subsystem(on_disk):
    path = on_disk(headers.ours(1, 3))
    assert identity_of(path) == OURS
    assert identity_of(on_disk(headers.real(2))) == Identity(headers.SR, 0, 1)


@pytest.mark.parametrize("fields", [
    {"label": str(OURS)}, {"label": str(OURS), "subsystem": "other"},
    {"label": "backup", "subsystem": "luksext"}, {}])
def test_a_luks2_container_without_our_mark_is_not_ours(on_disk, fields):
    assert identity_of(on_disk(headers.luks2(**fields))) is None


def test_the_identity_of_a_disk_without_header_is_an_error(on_disk):
    with pytest.raises(HeaderMissing):
        identity_of(on_disk(b""))


def test_luks2_keeps_a_binding_as_clevis_does(programs):
    programs.add("cryptsetup")
    LUKS2.write_identity("/dev/sdb", OURS)
    LUKS2.write_binding("/dev/sdb", Binding(3, "a..c.d.e"))
    assert programs.calls("cryptsetup") == [["cryptsetup", "token", "import", "/dev/sdb"]]
    assert json.loads(programs.stdin("cryptsetup").decode()) == headers.binding_token(3, "a..c.d.e")


def bindings(on_disk, tokens, slots=(0, 1)):
    path = on_disk(headers.luks2(headers.metadata(slots=slots, tokens=tokens)))
    return LUKS2.bindings(path, header.read(path))


def test_luks2_bindings_come_in_the_order_of_their_tokens(on_disk):
    assert bindings(on_disk, {"10": headers.binding_token(0, "x.b.c.d.e"),
                           "2": headers.binding_token(1, "a..c.d.e")}) == [
        Binding(1, "a..c.d.e"), Binding(0, "x.b.c.d.e")]


def test_a_binding_of_a_real_header_is_found(on_disk):
    path = on_disk(headers.real(2))
    [found] = LUKS2.bindings(path, header.read(path))
    assert found.slot == 0
    assert found.jwe.endswith("..iv.text.tag")


@pytest.mark.parametrize("token", [
    {}, {"type": "systemd-tpm2", "keyslots": ["0"]}, {"type": "clevis", "keyslots": ["0"]},
    {"type": "clevis", "keyslots": ["0"], "jwe": "a.b.c.d.e"}, headers.binding_token(7),
    {"type": "clevis", "jwe": {}}, {"type": ["clevis"], "jwe": {}}, {"type": None}])
def test_a_token_that_binds_no_active_keyslot_is_no_binding(on_disk, token):
    assert bindings(on_disk, {"0": token}) == []


@pytest.mark.parametrize("keyslots", [None, 0, True])
def test_a_token_with_keyslots_of_another_type_is_no_binding(on_disk, keyslots):
    assert bindings(on_disk, {"0": dict(headers.binding_token(), keyslots=keyslots)}) == []


def test_keyslots_that_are_a_text_are_no_binding(on_disk):
    assert bindings(on_disk, {"0": dict(headers.binding_token(), keyslots="10")}) == []


# LUKS1


def test_luks1_keeps_identity_and_binding_in_luksmeta(programs):
    programs.add("luksmeta")
    LUKS1.write_identity("/dev/sdb", OURS)
    assert programs.stdin("luksmeta") == str(OURS).encode()
    LUKS1.write_binding("/dev/sdb", Binding(0, "a.b.c.d.e"))
    assert programs.stdin("luksmeta") == b"a.b.c.d.e"
    init, identity, binding = programs.calls("luksmeta")
    assert init == ["luksmeta", "init", "-f", "-d", "/dev/sdb"]
    assert identity[:6] == ["luksmeta", "save", "-d", "/dev/sdb", "-s", "7"]
    assert binding == ["luksmeta", "save", "-d", "/dev/sdb", "-s", "0", "-u", CLEVIS]
    assert identity[-1] != CLEVIS


def test_luks1_identity_is_read_back(programs, on_disk):
    path = on_disk(headers.luks1())
    programs.add("luksmeta", "printf '{}'".format(OURS))
    assert identity_of(path) == OURS
    programs.add("luksmeta", "exit 65")
    assert identity_of(path) is None
    programs.add("luksmeta", "printf '\\377\\377:1:2:3'")
    assert identity_of(path) is None


def test_luks1_bindings_are_those_of_clevis_whose_keyslot_is_active(programs, on_disk):
    path = on_disk(headers.luks1(slots=(0, 2, 3)))
    programs.add("luksmeta", """
        [ "$1" = show ] || {{ [ "$5" = 3 ] && exit; echo "sealed.$5"; exit; }}
        echo '2 active {0}'; echo '0 active {0}'; echo '1 inactive {0}'; echo '3 active {0}'
        echo '7 inactive 6b5b6f0e-4c1d-4be1-9d0c-3c8f5f0a5a6e'""".format(CLEVIS))
    assert LUKS1.bindings(path, header.read(path)) == [Binding(0, "sealed.0"),
                                                       Binding(2, "sealed.2")]


def test_luks1_without_luksmeta_has_no_bindings(programs, on_disk):
    programs.add("luksmeta", "exit 74")
    path = on_disk(headers.luks1())
    assert LUKS1.bindings(path, header.read(path)) == []


def test_each_generation_names_the_programs_it_needs():
    assert sorted(GENERATIONS) == [1, 2]
    assert "luksmeta" in LUKS1.programs
    assert "luksmeta" not in LUKS2.programs


@pytest.mark.parametrize("name", [name for name in vars(Generation) if not name.startswith("_")])
def test_each_generation_does_what_differs_in_its_own_way(name):
    assert name in vars(type(LUKS1))
    assert name in vars(type(LUKS2))
