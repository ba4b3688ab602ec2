# SPDX-License-Identifier: LGPL-2.1-only
"""Headers, notes, sealed keys, logs and backups that somebody forged: each is read or refused, by a
named error, in bounded time and memory; all that we do with a header that is read goes on."""
import base64
import contextlib
import copy
import json
import os
import resource
import shlex
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import awkward
import eventlogs
import headers
from luksext import (backupfile, clevis, cryptsetup, efivars, eventlog, generation, header,
                     keyslots, notes, pcrs, predict, run, status, tang, tpm, trust)
from luksext.clevis import Pin
from luksext.container import LuksContainer
from luksext.errors import (BackupDamaged, HeaderDamaged, HeaderMissing, LuksError, TangUnreachable,
                            open_by_hand)
from luksext.generation import GENERATIONS
from luksext.repository import Repository
from luksext.run import Result

# Seconds of the processor, and bytes, that reading any header may take.
SECONDS = 5
MEMORY = 512 << 20


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A host without TPM and server, whose programs print what the test says."""
    folder = tmp_path_factory.mktemp("host")
    host = {"stdout": b"", "disk": str(folder / "disk")}
    with pytest.MonkeyPatch.context() as patch:
        def ran(argv, **options):
            return Result(0, host["stdout"], b"")

        for module in (cryptsetup, clevis, tpm, tang, pcrs):
            patch.setattr(module, "run", ran)
        patch.setattr(clevis, "require", lambda *programs: None)
        patch.setattr(notes, "FOLDER", str(folder / "notes"))
        patch.setattr(run, "PRIVATE_DIR", str(folder / "private"))
        patch.setattr(tpm, "DEVICE", os.devnull)
        patch.setattr(pcrs, "_SYSFS", str(folder))
        patch.setattr(efivars, "FOLDER", str(folder))
        patch.setattr(eventlog, "PATH", str(folder / "log"))
        yield host


def look(host, content):
    """Does with a header all that is done before anybody trusts it. Raises LuksError only."""
    found = header.parse("the disk", content)
    with open(host["disk"], "wb") as disk:
        disk.write(content)
    container = LuksContainer(host["disk"], found)
    assert isinstance(container.record.uuid, str)
    container.generation.bindings(container.device, found)
    container.generation.notes(container.device, found)
    slots = keyslots.slots(container)
    assert all(isinstance(slot.number, int) for slot in slots)
    json.dumps(status.of(Repository(headers.SR, [container], [None])))
    with pytest.raises(LuksError):
        trust.check(host["disk"], container.record._replace(uuid="another"))


def refused_or_read(host, content):
    begin = time.process_time()
    try:
        look(host, content)
    except LuksError as error:
        awkward.check(error)
    assert time.process_time() - begin < SECONDS


def with_token(token):
    return headers.luks2(headers.metadata(slots=(0, 1), tokens={"0": token}))


# LUKS2: the metadata

@pytest.fixture(scope="module")
def metadata():
    """What real headers say: one of ours, and one in re-encryption."""
    ours = headers.real(2)
    text = ours[4096:ours.index(b"\0", 4096)]
    return [json.loads(text.decode("ascii")), headers.in_reencryption(1 << 20, 1 << 20)]


def places(value, path=()):
    """The paths to all that is in a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(
        value if isinstance(value, list) else ())
    for key, inner in inside:
        yield from places(inner, (*path, key))


def put(value, path, new):
    """`value` with `new` at `path`."""
    if not path:
        return new
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value


NUMBERS = st.sampled_from([
    "9" * 5000, "-1", -1, 0, 1 << 70, 1e308, "\u0661", "1.5", True, "0x10", " 7",
    "18446744073709551616"])


@given(st.data())
def test_any_value_in_a_real_header_may_be_another(host, metadata, data):
    content = copy.deepcopy(data.draw(st.sampled_from(metadata)))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(places(content), key=repr)))
        content = put(content, path, data.draw(NUMBERS | awkward.JSON))
        if not isinstance(content, dict):
            break
    refused_or_read(host, headers.luks2(content, subsystem="luksext", label=headers.SR + ":0:1"))


@given(st.sampled_from([1, 2]), st.data())
def test_any_byte_of_a_real_header_may_be_another_under_a_right_checksum(host, version, data):
    content = bytearray(headers.real(version).ljust(4096, b"\0"))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(6, 1500))] = data.draw(st.integers(0, 255))
    if version == 2:
        content = bytearray(headers.luks2_copy(bytes(content[4096:content.index(b"\0", 4096)])))
    refused_or_read(host, bytes(content))


@pytest.mark.parametrize("text", [
    b"[" * 4000000, b'{"keyslots":' * 300000, b'{"a":' + b"9" * 4000000 + b"}",
    b"[" + b"{}," * 1300000 + b"1]", b'"' + b"x" * 4000000 + b'"', b"\xff" * 4000000],
    ids=["arrays", "objects", "digits", "many", "string", "no text"])
def test_the_largest_header_takes_bounded_time_and_memory(host, text):
    content = headers.luks2_copy(text, size=0x400000)
    begin, before = time.process_time(), memory()
    with pytest.raises(HeaderDamaged):
        header.parse("the disk", content)
    assert time.process_time() - begin < SECONDS
    assert memory() - before < MEMORY


def memory():
    """The most that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name, value", [
    ("serial", float("inf")), ("serial", "9" * 5000), ("keyslots", [float("inf")]),
    ("keyslots", ["\u0661"]), ("keyslots", {}), ("type", []), ("serial", True)])
def test_a_note_with_a_number_that_is_none_is_no_note(name, value):
    note = {"type": "luksext-recovery", "keyslots": ["1"], "serial": 1, "name": "safe"}
    # As JSON has an infinite number: python's json writes what it itself refuses to be JSON.
    text = json.dumps(headers.metadata(slots=(0, 1), tokens={"0": dict(note, **{name: value})}))
    found = header.parse("the disk", headers.luks2(text.replace("Infinity", "1e999").encode()))
    assert GENERATIONS[2].notes("the disk", found) == []


@given(st.dictionaries(st.sampled_from(["type", "keyslots", "jwe", "serial", "name", "escrow",
                                        "until", "created", "confirmed"]),
                       awkward.JSON | st.sampled_from(["clevis", "luksext-recovery", ["1"], 1])))
def test_any_token_is_a_binding_a_note_or_nothing(host, token):
    refused_or_read(host, with_token(token))


# LUKS1: luksmeta

@given(st.binary(max_size=300) | awkward.JSON.map(lambda value: json.dumps(value).encode())
       | st.dictionaries(st.sampled_from(["kind", "slot", "serial", "mark", "name"]),
                         awkward.JSON | st.sampled_from(["recovery", "suspend", 1, 1e999])).map(
                             lambda value: json.dumps(value).encode()))
def test_whatever_luksmeta_holds_is_a_note_or_none(host, data):
    kinds = {0: generation._CLEVIS_UUID, 1: generation._NOTE_UUID, 7: generation._IDENTITY_UUID}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cryptsetup, "luksmeta_slots", lambda device: kinds)
        patch.setattr(cryptsetup, "luksmeta_load", lambda device, slot, uuid: data)
        refused_or_read(host, headers.luks1(slots=(0, 1)))


# Sealed keys

def sealed(config):
    text = json.dumps(config).encode("ascii")
    return base64.urlsafe_b64encode(text).decode("ascii").rstrip("=") + ".k.iv.text.tag"


PINS = st.recursive(
    st.builds(lambda name, config: {"clevis": {"pin": name, name: config}},
              st.sampled_from(["tpm2", "tang", "sss", "other"]),
              st.dictionaries(st.sampled_from(["url", "adv", "pcr_ids", "pcr_bank", "jwk_pub", "t",
                                               "jwe", "pins", "hash"]), awkward.JSON, max_size=5)),
    lambda inner: st.builds(
        lambda t, pins: {"clevis": {"pin": "sss", "sss": {"t": t, "jwe": list(map(sealed, pins))}}},
        st.integers(-1, 3) | awkward.JSON, st.lists(inner, max_size=3)), max_leaves=4)


@given(PINS | awkward.JSON)
def test_whatever_a_sealed_key_says_is_described_and_predicted(host, config):
    pin = clevis.describe(sealed(config))
    assert isinstance(pin, Pin)
    assert isinstance(clevis.has_pcrs(pin), bool)
    assert predict.predict(pin).state in (predict.OK, predict.BREAKS, predict.UNPREDICTABLE)
    for act in (lambda: clevis.unseal(sealed(config)), lambda: clevis.to_seal_again(pin),
                lambda: clevis.without_pcrs(clevis.to_seal_again(pin))):
        try:
            act()
        except LuksError as error:
            awkward.check(error)


@given(awkward.TEXTS)
def test_whatever_is_in_the_place_of_a_sealed_key_is_refused_without_a_program(text):
    with pytest.raises(LuksError) as refusal:
        clevis.unseal("!" + text)
    awkward.check(refusal.value)


# What a forged header makes us advise

@pytest.mark.parametrize("url", ["http://x/$(reboot)", "http://x;reboot", "http://x'`reboot`'"])
def test_a_command_to_type_runs_nothing_that_a_header_says(url):
    remedy = TangUnreachable(url, "no").remedy
    assert shlex.split(remedy[remedy.index("curl"):])[2] == url + "/adv"
    words = shlex.split(open_by_hand("/dev/sdb", url).split("cryptsetup ")[1].split(" )")[0])
    assert words == ["open", "/dev/sdb", "luks-" + url]


# Firmware

NAMES = st.sampled_from(["../../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "\u00e9", "",
                         "x" * 300, ".."]) | awkward.TEXTS


@given(NAMES)
def test_a_variable_that_no_firmware_can_have_is_not_there(host, name):
    try:
        assert efivars.read(name, efivars.GLOBAL) is None
    except OSError as error:
        assert error.strerror == "File name too long"


@given(NAMES.map(lambda name: name.encode("utf-16-le", "replace").decode("utf-16-le")),
       st.binary(max_size=40))
def test_a_forged_log_predicts_nothing(host, name, data):
    content = eventlogs.variable_data(name, efivars.GLOBAL, data)
    event = eventlog.Event(7, eventlog.VARIABLE_DRIVER_CONFIG, {"sha256": bytes(32)}, content)
    with contextlib.suppress(predict._Unknown, eventlog.LogDamaged, OSError):
        predict._next_digest(event, "sha256")


@given(st.binary(max_size=400) | st.binary(max_size=100).map(lambda raw: eventlogs.head() + raw))
def test_any_bytes_are_a_log_or_damaged(raw):
    try:
        eventlog.parse(raw)
    except eventlog.LogDamaged as damage:
        assert str(damage)


# Backups

@pytest.fixture(scope="module")
def backup():
    area = headers.real(2).ljust(headers.PAYLOAD, b"\0")
    found = header.parse("the disk", area)
    return backupfile.Backup(
        luks_uuid=found.uuid, version=2, serial=1, minimum=0, created="", reason="", device_size=1,
        disk="", payload_offset=len(area), volume_key=found.volume_key, marks={}, sha256="")


@given(st.sampled_from(backupfile.Backup._fields), awkward.JSON)
def test_a_manifest_with_another_value_is_damaged_or_of_its_types(backup, field, value):
    content = backupfile.pack(backup._replace(**{field: value}), b"area")
    try:
        found, _ = backupfile.manifest(content)
    except BackupDamaged as damage:
        awkward.check(damage)
        return
    assert [type(item) for item in found] == [type(item) for item in backup]


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_a_file_that_was_changed_anywhere_is_damaged(backup, area, place, value):
    content = bytearray(backupfile.pack(backup, area))
    place = len(content) - 1 - place % len(content)
    if content[place] == value:
        return
    content[place] = value
    with pytest.raises(BackupDamaged):
        backupfile.unpack(bytes(content))


@given(st.binary(max_size=300))
def test_any_bytes_are_no_header_and_no_backup(content):
    with pytest.raises(BackupDamaged):
        backupfile.unpack(content)
    with pytest.raises((HeaderMissing, HeaderDamaged)):
        header.parse("the disk", content)
