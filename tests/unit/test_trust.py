# SPDX-License-Identifier: LGPL-2.1-only
"""trust: a header is compared with what was recorded, before a key is tried on it."""
import pytest

import headers
from luksext import begun, costs, header, notes, rollback, trust
from luksext.errors import (ContainerReplaced, HeaderMismatch, KeyCost, ReencryptionForeign,
                            RevokedKeyBack)
from luksext.record import Record

OTHER = "99999999-2222-4333-8444-555555555555"
RECORD = Record(headers.UUID, headers.CIPHER, 512, "dGhlIHZvbHVtZSBrZXk=", headers.PAYLOAD)
OLD_RECORD = RECORD._replace(volume_key="", payload_offset=0)
RECORD1 = RECORD._replace(volume_key=(b"k" * 20).hex())


@pytest.fixture(autouse=True)
def noted(tmp_path, programs, monkeypatch):
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))


def luks2(**fields):
    """A LUKS2 header of the recorded volume key."""
    return headers.luks2(headers.metadata(**dict({"volume_key": RECORD.volume_key}, **fields)))


def luks1(**fields):
    """A LUKS1 header of the recorded volume key."""
    return headers.luks1(**dict({"volume_key": b"k" * 20}, **fields))


@pytest.mark.parametrize("content, record", [
    (luks2(), RECORD), (luks2(), OLD_RECORD), (luks2(), None),
    (luks1(), RECORD1), (luks1(), OLD_RECORD), (luks1(), None)])
def test_what_was_recorded_is_trusted(on_disk, content, record):
    trust.check(on_disk(content), record)


@pytest.mark.parametrize("content, record, text", [
    (headers.luks2(uuid=OTHER), RECORD, "LUKS UUID " + OTHER),
    (luks2(cipher="serpent-xts-plain64"), RECORD, "cipher serpent"),
    (luks2(key_bytes=32), RECORD, "key size 256 where 512"),
    (luks1(mode="cbc-plain"), RECORD1, "cipher aes-cbc-plain"),
    (luks1(key_bytes=32), RECORD1, "key size 256 where 512"),
    (luks2(cipher="aes-cbc-plain64"), None, "aes-xts-plain64 or serpent-xts-plain64"),
    (luks2(sector_size=4096), RECORD, "sector size 4096 where 512"),
    (luks2(offset=32 << 20), RECORD, "payload offset 33554432 where 16777216"),
    (luks1(payload_sectors=4096), RECORD1, "payload offset 2097152 where 16777216"),
    (luks2(requirements=["online-reencrypt"]), RECORD, "requirements online-reencrypt where none")])
def test_a_header_of_another_kind_is_named(on_disk, content, record, text):
    path = on_disk(content)
    with pytest.raises(HeaderMismatch, match=text) as refusal:
        trust.check(path, record)
    assert path in str(refusal.value)


SHIFTED = luks2(offset=headers.PAYLOAD + 512 * 4096, iv_tweak=4096)


@pytest.mark.parametrize("record", [RECORD._replace(payload_offset=0), None])
@pytest.mark.parametrize("content, text", [
    (SHIFTED, "iv_tweak 4096 in segment 0"), (luks2(iv_tweak=8), "iv_tweak 8 in segment 0"),
    (luks2(size="1048576"), "size 1048576")])
def test_data_are_shown_from_their_start_and_whole(on_disk, content, text, record):
    with pytest.raises(HeaderMismatch, match=text + " where a layout that cryptsetup makes"):
        trust.check(on_disk(content), record)


def test_data_that_begin_elsewhere_are_known_by_their_record(on_disk):
    for content, record in ((luks2(offset=4 << 20), RECORD),
                            (luks1(payload_sectors=4096), RECORD1)):
        path = on_disk(content)
        offset = header.read(path).payload_offset
        for known in (offset, 0):
            trust.check(path, record._replace(payload_offset=known))
        trust.check(path, None)
        assert trust.record_of(header.read(path)).payload_offset == offset


@pytest.mark.parametrize("change", [{"iv_tweak": "0"}, {"iv_tweak": "131073"}])
@pytest.mark.parametrize("make", [
    lambda: headers.in_reencryption(64 << 20, 0), lambda: headers.in_encryption(64 << 20)])
def test_in_reencryption_each_part_has_its_numbers(on_disk, make, change):
    content = make()
    before = header.read(on_disk(headers.luks2(content)))
    assert before.unusual == ""
    begun.save(headers.UUID, begun.Begun("", before.volume_key, "", []))
    trust.check(on_disk(headers.luks2(content)), None)
    part = next(segment for segment in content["segments"].values()
                if segment.get("iv_tweak", "0") != "0")
    part.update(change)
    with pytest.raises(HeaderMismatch, match="iv_tweak"):
        trust.check(on_disk(headers.luks2(content)), None)


def test_a_header_does_not_say_how_it_is_opened(on_disk):
    path = on_disk(luks2(flags=["no-read-workqueue", "allow-discards"]))
    with pytest.raises(HeaderMismatch, match="persistent flags allow-discards where none"):
        trust.check(path, RECORD)
    trust.check(path, RECORD, discard=True)
    trust.check(on_disk(luks2(flags=["no-read-workqueue"])), RECORD)
    for flags in (["what-is-to-come"], [["allow-discards"]]):
        with pytest.raises(HeaderMismatch, match="persistent flags"):
            trust.check(on_disk(luks2(flags=flags)), RECORD, discard=True)


NULL = ("cipher_null-ecb", "cipher_null", "null", "capi:ecb(cipher_null)-plain64", "aes-ecb")


@pytest.mark.parametrize("cipher", NULL)
@pytest.mark.parametrize("record", [RECORD, None], ids=["recorded", "unknown"])
def test_neither_data_nor_keyslots_have_a_cipher_that_hides_nothing(on_disk, cipher, record):
    for fields in ({"cipher": cipher}, {"keyslot_cipher": cipher}):
        with pytest.raises(HeaderMismatch, match="cipher"):
            trust.check(on_disk(luks2(**fields)), record)


def test_a_null_cipher_that_was_recorded_is_not_trusted_either(on_disk):
    with pytest.raises(HeaderMismatch, match="cipher cipher_null"):
        trust.check(on_disk(luks2(cipher="cipher_null-ecb")), RECORD._replace(
            cipher="cipher_null-ecb"))


@pytest.mark.parametrize("content, record", [
    (luks2(volume_key="YW5vdGhlciBrZXk="), RECORD), (luks2(volume_key=""), RECORD),
    (luks1(volume_key=b"x" * 20), RECORD1), (luks1(volume_key=b""), RECORD1)])
def test_the_same_uuid_with_another_volume_key_is_another_container(on_disk, content, record):
    with pytest.raises(ContainerReplaced):
        trust.check(on_disk(content), record)


@pytest.mark.parametrize("serials", [(1, 2), (2, 1), (1, 1)])
@pytest.mark.parametrize("forged", [0, 1])
def test_each_copy_that_cryptsetup_might_take_is_compared(on_disk, serials, forged):
    copies = [headers.metadata(volume_key=RECORD.volume_key) for _ in range(2)]
    copies[forged] = headers.metadata(volume_key="forged")
    with pytest.raises(ContainerReplaced):
        trust.check(on_disk(headers.luks2_of(*copies, serials=serials)), RECORD)


def test_a_volume_key_that_this_host_put_in_its_place_is_known(on_disk):
    path = on_disk(luks2(volume_key="new"))
    begun.end(headers.UUID, "another")
    with pytest.raises(ContainerReplaced):
        trust.check(path, RECORD)
    begun.end(headers.UUID, "new")
    trust.check(path, RECORD)


def test_an_unfinished_reencryption_that_was_not_begun_here_is_foreign(on_disk):
    with pytest.raises(ReencryptionForeign):
        trust.check(on_disk(headers.luks2(headers.in_reencryption(0, 0))), OLD_RECORD)


def test_a_header_from_before_a_key_was_removed_is_an_old_one(on_disk):
    for content, record in ((luks2(slots=(0, 1)), RECORD), (luks1(slots=(0, 1)), None)):
        path = on_disk(content)
        mark = header.read(path).marks[1]
        rollback.note(headers.UUID, mark)
        with pytest.raises(RevokedKeyBack, match="keyslots 0, 1 have keys that were removed"):
            trust.check(path, record)
        rollback.forgive(headers.UUID, [mark])
        trust.check(path, record)


def test_of_keys_that_were_removed_the_newest_are_remembered(on_disk):
    for number in range(300):
        rollback.note(headers.UUID, "mark {}".format(number))
    found = header.read(on_disk(luks2()))
    assert rollback.revived(found._replace(marks={3: "mark 299", 4: "mark 44", 5: "mark 43"})) == [
        3, 4]


PBKDF2 = {"type": "pbkdf2", "iterations": costs.MOST_ITERATIONS}
ARGON2 = {"type": "argon2id", "time": costs.MOST_PASSES, "memory": costs.MOST_KIB,
          "cpus": costs.MOST_THREADS}


@pytest.mark.parametrize("content, record", [
    (luks2(**PBKDF2), RECORD), (luks2(**ARGON2), RECORD),
    (luks1(iterations=(costs.MOST_ITERATIONS, costs.MOST_ITERATIONS)), RECORD1)])
def test_all_that_cryptsetup_chooses_by_itself_is_within_the_bounds(on_disk, content, record):
    trust.check(on_disk(content), record)


@pytest.mark.parametrize("content, text", [
    (luks2(**dict(PBKDF2, iterations=costs.MOST_ITERATIONS + 1)), "keyslot 0 .* iterations"),
    (luks2(**dict(ARGON2, memory=costs.MOST_KIB + 1)), "keyslot 0 .* memory"),
    (luks2(**dict(ARGON2, time=2 ** 32 - 1)), "keyslot 0 .* time"),
    (luks2(**dict(ARGON2, cpus=2 ** 32 - 1)), "keyslot 0 .* cpus"),
    (luks2(**dict(ARGON2, time=-1)), "keyslot 0 asks for -1 time"),
    (luks1(iterations=(2 ** 32 - 1, 1000)), "volume key .* iterations"),
    (luks1(iterations=(1000, 2 ** 32 - 1)), "keyslot 0 .* iterations"),
    (luks1(stripes=2 ** 31), "keyslot 0 .* stripes")])
@pytest.mark.parametrize("record", [OLD_RECORD, None], ids=["recorded", "unknown"])
def test_work_that_no_key_takes_is_refused_before_it_begins(on_disk, content, text, record):
    with pytest.raises(KeyCost, match=text):
        trust.check(on_disk(content), record)


def test_the_cost_of_the_volume_key_and_of_its_parts_is_bounded_too(on_disk):
    for change in (lambda content: content["digests"]["0"].update(iterations=2 ** 32),
                   lambda content: content["keyslots"]["0"].update(af={"stripes": 4001})):
        content = headers.metadata()
        change(content)
        with pytest.raises(KeyCost):
            trust.check(on_disk(headers.luks2(content)), OLD_RECORD)


@pytest.mark.parametrize("version", [1, 2])
def test_what_cryptsetup_writes_asks_for_nothing_absurd(on_disk, version):
    trust.check(on_disk(headers.real(version).ljust(4096, b"\0")), None)
