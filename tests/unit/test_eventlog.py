# SPDX-License-Identifier: LGPL-2.1-only
"""eventlog: the firmware's event log is parsed and replayed; what does not parse is damaged."""
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventlogs
from luksext import efivars, eventlog
from luksext.eventlog import LogDamaged


def test_a_real_log_replays_to_what_the_tpm_held():
    events = eventlog.parse(eventlogs.real())
    assert {pcr: eventlog.replay(events, pcr, "sha256").hex() for pcr in range(10)} \
        == eventlogs.REAL_PCRS


def test_a_real_log_of_enforced_secure_boot_replays_to_what_the_tpm_held():
    events = eventlog.parse(eventlogs.real("eventlog-enforced"))
    assert eventlog.replay(events, 7, "sha256").hex() == eventlogs.REAL_PCR_7_ENFORCED


def test_a_real_log_names_the_variables_of_secure_boot_in_order():
    events = eventlog.measured(eventlog.parse(eventlogs.real()), 7)
    found = [eventlog.variable(event) for event in events
             if event.kind == eventlog.VARIABLE_DRIVER_CONFIG]
    assert [(variable.name, variable.guid) for variable in found] == eventlogs.SECURE_BOOT
    assert [variable.data for variable in found] == [b"\0", b"", b"", b"", b""]


def test_a_real_log_has_all_banks_of_its_tpm():
    events = eventlog.parse(eventlogs.real())
    assert [set(event.digests) for event in eventlog.measured(events, 7)] \
        == [{"sha1", "sha256", "sha384", "sha512"}] * 6
    assert eventlog.replay(events, 7, "sha1").hex() == "518bd167271fbb64589c61e43d8c0165861431d8"


def test_the_log_is_read_from_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(eventlog, "PATH", str(tmp_path / "log"))
    (tmp_path / "log").write_bytes(eventlogs.head() + eventlogs.event(7, 4, bytes(4)))
    assert [(event.pcr, event.kind, event.content) for event in eventlog.read()] \
        == [(7, 4, bytes(4))]


def test_a_log_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(eventlog, "PATH", str(tmp_path / "log"))
    with pytest.raises(LogDamaged, match="No such file"):
        eventlog.read()


def test_a_log_without_end_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(eventlog, "PATH", "/dev/zero")
    with pytest.raises(LogDamaged, match="larger than 8 MiB"):
        eventlog.read()


def test_the_locality_that_started_the_tpm_counts_in_pcr_0_alone():
    raw = eventlogs.head() + eventlogs.event(0, eventlog.NO_ACTION, b"StartupLocality\0\3")
    events = eventlog.parse(raw)
    assert eventlog.replay(events, 0, "sha256") == bytes(31) + b"\3"
    assert eventlog.replay(events, 1, "sha256") == bytes(32)


def test_pcrs_of_the_dynamic_launch_start_with_all_bits_set():
    assert [eventlog.reset_value(pcr, 4, []) for pcr in (16, 17, 22, 23)] \
        == [bytes(4), b"\xff" * 4, b"\xff" * 4, bytes(4)]


def test_a_bank_without_digests_in_the_log_has_no_value():
    only_sha1 = (("sha1", 4),)
    events = eventlog.parse(eventlogs.head(only_sha1)
                            + eventlogs.event(7, 4, bytes(4), banks=only_sha1))
    assert eventlog.replay(events, 7, "sha256") is None
    assert eventlog.replay(events, 7, "no-such-bank") is None
    assert len(eventlog.replay(events, 7, "sha1")) == 20


def test_an_algorithm_that_we_do_not_know_is_passed_over():
    # SHA3-256 beside SHA-256.
    content = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 105, 2, 2) \
        + struct.pack("<HHHH", 0x0027, 32, 0x000B, 32) + b"\0"
    raw = struct.pack("<II20sI", 0, 3, b"", len(content)) + content
    raw += struct.pack("<III", 7, 4, 2) + struct.pack("<H32s", 0x27, b"x" * 32) \
        + struct.pack("<H32s", 0x0B, b"y" * 32) + struct.pack("<I", 0)
    assert eventlog.parse(raw) == [eventlog.Event(7, 4, {"sha256": b"y" * 32}, b"")]


@pytest.mark.parametrize("raw, reason", [
    (b"", "cut off"),
    (eventlogs.head(signature=b"Spec ID Event02\0"), "not in the crypto-agile form"),
    (eventlogs.head(sizes={"sha1": 32}), "wrong size"),
    (eventlogs.head()[:50], "cut off"),
    (eventlogs.head() + struct.pack("<III", 24, 4, 0), "an event that is none"),
    (eventlogs.head() + struct.pack("<III", 7, 4, 9), "an event that is none"),
    (eventlogs.head() + struct.pack("<IIIH", 7, 4, 1, 0x0C), "its head does not name"),
    (eventlogs.head() + struct.pack("<IIII", 7, 4, 0, 2 ** 32 - 1), "cut off"),
    (eventlogs.head() + eventlogs.event(7, 4, bytes(4))[:-1], "cut off"),
], ids=str)
def test_what_does_not_parse_is_damaged(raw, reason):
    with pytest.raises(LogDamaged, match=reason):
        eventlog.parse(raw)


@pytest.mark.parametrize("content", [
    b"", bytes(31), bytes(16) + struct.pack("<QQ", 2 ** 63, 0),
    bytes(16) + struct.pack("<QQ", 1, 2 ** 64 - 1) + b"x\0"])
def test_a_variable_that_is_cut_off_is_damaged(content):
    with pytest.raises(LogDamaged, match="cut off"):
        eventlog.variable(eventlog.Event(7, eventlog.VARIABLE_DRIVER_CONFIG, {}, content))


def test_a_variable_is_read_with_its_name():
    content = eventlogs.variable_data("dbx", efivars.IMAGE_SECURITY, b"data")
    assert eventlog.variable(eventlog.Event(7, eventlog.VARIABLE_DRIVER_CONFIG, {}, content)) \
        == eventlog.Variable("dbx", efivars.IMAGE_SECURITY, b"data")


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_log_is_parsed_or_refused(data):
    raw = bytearray(eventlogs.real())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = bytes(raw[:data.draw(st.integers(0, len(raw)))])
    try:
        events = eventlog.parse(raw)
        for event in events:
            eventlog.variable(event)
    except LogDamaged:
        pass
