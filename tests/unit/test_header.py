# SPDX-License-Identifier: LGPL-2.1-only
"""header: what a LUKS header says; what does not parse is damaged, and nothing else happens."""
import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headers
from luksext import header
from luksext.errors import HeaderDamaged, HeaderMissing



@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Writes bytes to a file that stands for a disk; the path of it."""
    path = str(tmp_path_factory.mktemp("disks") / "disk")

    def write(content):
        with open(path, "wb") as file:
            file.write(content)
        return path

    return write


def test_a_real_luks2_header_is_read_completely(disk):
    found = header.read(disk(headers.real(2)))
    assert found._replace(tokens={}) == header.Header(
        version=2, uuid=headers.UUID, label=headers.SR + ":0:1", subsystem="luksext",
        cipher="aes-xts-plain64", key_bits=512, sector_size=512, payload_offset=headers.PAYLOAD,
        keyslots=[0], keyslot_ciphers=["aes-xts-plain64"], tokens={}, requirements=[],
        volume_key="YtAjJ7wc+gxtUbgwPa+YM+oWJ8cajRml4wyo/tdQvt8=", reencryption=None, unbound=[],
        marks=found.marks)
    assert list(found.marks) == [0]
    assert found.tokens[0]["type"] == "clevis"
    assert sorted(found.tokens[0]["jwe"]) == ["ciphertext", "encrypted_key", "iv", "protected",
                                              "tag"]


def test_a_real_luks1_header_is_read_completely(disk):
    found = header.read(disk(headers.real(1).ljust(4096, b"\0")))
    assert list(found.marks) == [0]
    assert found == header.Header(
        version=1, uuid=headers.UUID, label="", subsystem="", cipher="aes-xts-plain64",
        key_bits=512, sector_size=512, payload_offset=headers.PAYLOAD, keyslots=[0],
        keyslot_ciphers=["aes-xts-plain64"], tokens={}, requirements=[],
        volume_key="a8e5b35b4035c7a1b8dd313de398b39b44fea50e", reencryption=None, unbound=[],
        marks=found.marks)


def test_only_active_keyslots_of_luks1_are_listed(disk):
    assert header.read(disk(headers.luks1(slots=(1, 7)))).keyslots == [1, 7]


@pytest.mark.parametrize("version", [1, 2])
def test_content_is_parsed_as_a_disk_is_read(disk, version):
    content = headers.real(version).ljust(4096, b"\0")
    assert header.parse("a backup", content) == header.read(disk(content))
    with pytest.raises(HeaderMissing, match="a backup"):
        header.parse("a backup", bytes(4096))


def test_another_key_in_the_same_slot_has_another_mark():
    luks1 = bytearray(headers.luks1(slots=(0, 1)))
    before = header.parse("disk", bytes(luks1)).marks
    luks1[216 + 48] ^= 1
    after = header.parse("disk", bytes(luks1)).marks
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    metadata = headers.metadata(slots=(0, 1))
    metadata["keyslots"]["1"]["kdf"] = {"salt": "c2FsdA=="}
    marks = header.parse("disk", headers.luks2(metadata)).marks
    assert sorted(marks) == [0, 1]
    assert marks[0] != marks[1]


def test_keyslots_of_luks2_are_listed_by_number(disk):
    content = headers.luks2(headers.metadata(slots=(10, 2, 0)))
    assert header.read(disk(content)).keyslots == [0, 2, 10]


def test_a_luks2_header_without_keyslots_has_no_key(disk):
    found = header.read(disk(headers.luks2(headers.metadata(slots=()))))
    assert (found.keyslots, found.key_bits) == ([], 0)


def test_requirements_and_keyslot_ciphers_are_told(disk):
    found = header.read(disk(headers.luks2(headers.metadata(
        requirements=["online-reencrypt"], keyslot_cipher="cipher_null-ecb"))))
    assert found.requirements == ["online-reencrypt"]
    assert found.keyslot_ciphers == ["cipher_null-ecb"]


MIB = 1 << 20


@pytest.mark.parametrize("done, hot", [(0, 0), (0, 32), (64, 0), (64, 32)])
def test_in_reencryption_the_keys_of_the_new_volume_key_are_told(disk, done, hot):
    found = header.read(disk(headers.luks2(headers.in_reencryption(done * MIB, hot * MIB))))
    assert found.reencryption == header.Reencryption(done * MIB, "new")
    assert (found.volume_key, found.keyslots, found.unbound) == ("old", [2], [0])
    assert found.tokens[0]["keyslots"] == ["2"]
    assert (found.payload_offset, found.cipher, found.key_bits, found.sector_size) == (
        headers.PAYLOAD, headers.CIPHER, 512, 512)
    assert found.requirements == [header.REENCRYPTION]


def test_keyslots_of_a_reencryption_that_never_began_open_nothing(disk):
    content = headers.in_reencryption(0, 0)
    content["segments"] = headers.metadata()["segments"]
    content["digests"]["1"]["segments"] = []
    del content["config"]["requirements"]
    found = header.read(disk(headers.luks2(content)))
    assert (found.reencryption, found.keyslots, found.unbound) == (None, [0], [2])
    assert found.tokens[0]["keyslots"] == ["0"]


@pytest.mark.parametrize("change", [
    {"encryption": "aes-cbc-essiv:sha256"}, {"sector_size": 4096}, {"offset": "33554432"},
    {"type": "linear"}, {"iv_tweak": "8"}, {"flags": []}])
def test_a_reencryption_of_another_kind_is_not_read(disk, change):
    content = headers.in_reencryption(64 * MIB, 0)
    content["segments"]["3"].update(change)
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2(content)))


def test_at_its_end_a_reencryption_is_done_with_all(disk):
    content = headers.in_reencryption(0, 0)
    content["digests"]["0"]["segments"].remove("0")
    content["digests"]["1"]["segments"].append("0")
    found = header.read(disk(headers.luks2(content)))
    assert found.reencryption == header.Reencryption(None, "new")


@pytest.mark.parametrize("done", [0, 64 * MIB, headers.DATA - headers.PAYLOAD, None])
def test_in_encryption_it_is_told_where_the_start_of_the_data_lies(disk, done):
    found = header.read(disk(headers.luks2(headers.in_encryption(done))))
    assert found.reencryption == header.Reencryption(done, "new", headers.PAYLOAD + headers.DATA)
    assert (found.volume_key, found.keyslots, found.unbound) == ("", [0], [])
    assert (found.payload_offset, found.cipher, found.key_bits, found.sector_size) == (
        headers.PAYLOAD, headers.CIPHER, 512, 512)


@pytest.mark.parametrize("change", [
    {"encryption": "cipher_null-ecb"}, {"sector_size": 4096}, {"type": "zero"}, {"size": "x"}])
def test_an_encryption_to_more_than_one_kind_of_data_is_not_read(disk, change):
    content = headers.in_encryption(64 * MIB)
    content["segments"]["2"].update(change)
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2(content)))


@pytest.mark.parametrize("requirements", [None, [], ["online-reencrypt"], ["something-else"]])
def test_a_reencryption_without_proof_of_both_keys_is_not_read(disk, requirements):
    content = headers.in_reencryption(64 * MIB, 0)
    content["config"]["requirements"] = {"mandatory": requirements or []}
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2(content)))


def test_a_null_cipher_in_a_keyslot_of_any_volume_key_is_told(disk):
    content = headers.in_reencryption(64 * MIB, 0)
    content["keyslots"]["0"]["area"]["encryption"] = "cipher_null-ecb"
    assert "cipher_null-ecb" in header.read(disk(headers.luks2(content))).keyslot_ciphers


def test_metadata_without_config_has_no_requirements(disk):
    content = headers.metadata()
    del content["config"]
    assert header.read(disk(headers.luks2(content))).requirements == []


@pytest.mark.parametrize("size", [0x4000 << n for n in range(9)])
def test_when_the_first_copy_is_lost_the_second_is_read_at_every_allowed_offset(disk, size):
    content = headers.luks2(size=size)
    assert header.read(disk(bytes(4096) + content[4096:])).uuid == headers.UUID


def test_when_the_first_copy_is_damaged_the_second_is_read(disk):
    content = bytearray(headers.luks2())
    content[5000] ^= 1
    assert header.read(disk(bytes(content))).uuid == headers.UUID


def test_of_two_copies_that_differ_the_one_is_read_that_cryptsetup_takes(disk):
    first, second = headers.metadata(volume_key="first"), headers.metadata(volume_key="second")
    for serials, expected in (((2, 1), "first"), ((1, 2), "second"), ((1, 1), "first")):
        path = disk(headers.luks2_of(first, second, serials=serials))
        assert header.read(path).volume_key == expected
        assert sorted(found.volume_key for found in header.copies(path)) == ["first", "second"]


def test_the_copies_are_those_that_are_intact(disk):
    content = bytearray(headers.luks2())
    assert len(header.copies(disk(bytes(content)))) == 2
    content[5000] ^= 1
    assert len(header.copies(disk(bytes(content)))) == 1
    assert len(header.copies(disk(headers.luks1()))) == 1


def test_a_segment_with_two_volume_keys_is_damaged(disk):
    content = headers.metadata(volume_key="ours")
    content["digests"]["1"] = dict(content["digests"]["0"], digest="theirs")
    with pytest.raises(HeaderDamaged, match="several volume keys"):
        header.read(disk(headers.luks2(content)))


def test_when_both_copies_are_damaged_the_header_is_damaged(disk):
    content = bytearray(headers.luks2())
    content[5000] ^= 1
    content[0x4000 + 5000] ^= 1
    with pytest.raises(HeaderDamaged, match="neither of its two copies"):
        header.read(disk(bytes(content)))


@pytest.mark.parametrize("content", [
    b"", b"\0" * 4096, b"LUKS", b"LUKS\xba", b"SKUL\xba\xbe\0\2" + bytes(5000),
    bytes(1 << 16)], ids=["empty", "zeros", "cut magic", "magic", "secondary only", "64 KiB"])
def test_without_a_header_it_is_missing(disk, content):
    with pytest.raises(HeaderMissing):
        header.read(disk(content))


def test_a_luks1_header_that_is_cut_off_is_damaged(disk):
    with pytest.raises(HeaderDamaged, match="cut off"):
        header.read(disk(headers.luks1()[:500]))


@pytest.mark.parametrize("length", [6, 8, 100, 4095, 4096, 0x3fff])
def test_a_luks2_header_that_is_cut_off_is_damaged(disk, length):
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2()[:length]))


@pytest.mark.parametrize("version", [0, 3, 0xffff])
def test_a_version_of_the_future_is_damaged(disk, version):
    content = headers.luks2()
    with pytest.raises(HeaderDamaged):
        header.read(disk(content[:6] + version.to_bytes(2, "big") + content[8:0x4000]))


@pytest.mark.parametrize("size", [0, 1, 0x3fff, 0x8000000, 1 << 40, (1 << 64) - 1])
def test_an_absurd_size_is_not_believed_and_not_allocated(disk, size):
    text = json.dumps(headers.metadata()).encode()
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2_copy(text, claimed=size)))


def test_a_copy_that_is_not_where_it_says_is_not_believed(disk):
    text = json.dumps(headers.metadata()).encode()
    elsewhere = headers.luks2_copy(text, offset=0x8000)
    with pytest.raises(HeaderMissing):
        header.read(disk(bytes(0x4000) + elsewhere))


def test_an_unknown_checksum_is_damaged(disk):
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2(digest="crc32")))


@pytest.mark.parametrize("digest", ["sha1", "sha512"])
def test_other_checksums_are_verified_too(disk, digest):
    assert header.read(disk(headers.luks2(digest=digest))).uuid == headers.UUID


def test_a_checksum_without_a_length_of_its_own_is_damaged(disk):
    assert "shake_128" in hashlib.algorithms_available
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2(digest="shake_128")))


def changed(**parts):
    """Metadata with some of its top objects exchanged."""
    content = headers.metadata()
    content.update(parts)
    return content


SEGMENT = headers.metadata()["segments"]["0"]
SLOT = headers.metadata()["keyslots"]["0"]


@pytest.mark.parametrize("content", [
    b"", b"{", b"null", b"[]", b"7", b"\xff\xfe", b"{}", b"[" * 11000, b'{"a":' * 2000,
    changed(segments={}), changed(segments=["0"]), changed(segments=None),
    changed(segments={"0": SEGMENT, "1": SEGMENT}), changed(segments={"1": SEGMENT}),
    changed(segments={"0": dict(SEGMENT, type="linear")}), changed(segments={"0": {}}),
    changed(segments={"0": dict(SEGMENT, integrity={"type": "hmac(sha256)"})}),
    changed(segments={"0": dict(SEGMENT, flags=["backup-final"])}),
    changed(segments={"0": dict(SEGMENT, offset="x")}),
    changed(segments={"0": dict(SEGMENT, iv_tweak="x")}), changed(config={"flags": 7}),
    changed(segments={"0": dict(SEGMENT, offset=None)}),
    changed(segments={"0": dict(SEGMENT, sector_size=[])}),
    changed(keyslots=[]), changed(keyslots=None), changed(keyslots={"x": SLOT}),
    changed(keyslots={"0": None}), changed(keyslots={"0": dict(SLOT, area=[])}),
    changed(keyslots={"0": dict(SLOT, key_size="long")}),
    changed(keyslots={"0": SLOT, "1": dict(SLOT, key_size=32)}),
    changed(tokens=None), changed(tokens=[]), changed(tokens={"x": {}}), changed(tokens={"0": 7}),
    changed(tokens={"0": "clevis"}), changed(tokens={"0": None}),
    changed(config=None), changed(config=[]), changed(config={"requirements": 7}),
    changed(config={"requirements": {"mandatory": 7}}),
], ids=lambda content: repr(content)[:40])
def test_metadata_of_another_shape_is_damaged(disk, content):
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2(content)))


@pytest.mark.parametrize("content", [
    changed(segments={"0": dict(SEGMENT, offset=float("inf"))}),
    changed(segments={"0": dict(SEGMENT, sector_size=float("inf"))}),
    changed(keyslots={"0": dict(SLOT, key_size=float("inf"))}),
], ids=["offset", "sector size", "key size"])
def test_an_infinite_number_is_damaged(disk, content):
    with pytest.raises(HeaderDamaged):
        header.read(disk(headers.luks2(content)))


def test_text_after_the_end_of_the_metadata_is_ignored(disk):
    text = json.dumps(headers.metadata()).encode() + b"\0garbage"
    assert header.read(disk(headers.luks2(text))).uuid == headers.UUID


def test_names_that_are_not_ascii_are_replaced(disk):
    assert header.read(disk(headers.luks2(label="d\xe9p"))).label == "d\ufffd\ufffdp"


def test_non_ascii_metadata_is_kept(disk):
    content = json.dumps(changed(tokens={"0": {"type": "cl\xe9vis"}}), ensure_ascii=False)
    assert header.read(disk(headers.luks2(content.encode()))).tokens == {0: {"type": "cl\xe9vis"}}


def read_or_damaged(path):
    try:
        return header.read(path)
    except (HeaderMissing, HeaderDamaged):
        return None


@pytest.mark.parametrize("content", [headers.real(1), headers.luks1(), headers.real(2)],
                         ids=["real LUKS1", "LUKS1", "LUKS2"])
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_bytes_change_it_is_read_or_missing_or_damaged(disk, content, data):
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, min(1023, len(broken) - 1)))] = data.draw(
            st.integers(0, 255))
    read_or_damaged(disk(bytes(broken[:data.draw(st.integers(0, len(broken)))])))


@settings(max_examples=60)
@given(content=st.binary(max_size=5000))
def test_random_bytes_are_no_header(disk, content):
    with pytest.raises((HeaderMissing, HeaderDamaged)):
        header.read(disk(b"LUKS\xba\xbe\0\2" + content))


@settings(max_examples=40)
@given(offset=st.integers(0, 0x7fff), bit=st.integers(0, 7))
def test_one_flipped_bit_never_changes_what_is_read(disk, offset, bit):
    content = bytearray(headers.real(2))
    content[offset] ^= 1 << bit
    try:
        assert header.read(disk(bytes(content))) == header.read(disk(headers.real(2)))
    except HeaderDamaged:
        # The version of LUKS is in no checksum's reach: it selects the layout.
        assert offset in (6, 7)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10)


@settings(max_examples=100)
@given(part=st.sampled_from(["segments", "keyslots", "tokens", "config"]), value=JSON,
       depth=st.integers(0, 2))
def test_values_of_any_type_are_read_or_damaged(disk, part, value, depth):
    content = headers.metadata(tokens={"0": headers.binding_token()})
    for _ in range(depth):
        value = {"0": value}
    content[part] = value
    read_or_damaged(disk(headers.luks2(content)))


def test_a_header_that_has_only_its_second_copy_is_found(disk):
    content = headers.ours()
    assert header.find(disk(bytes(4096) + content[4096:])).subsystem == "luksext"


def test_find_gives_none_instead_of_an_error(disk, tmp_path):
    assert header.find(disk(headers.luks1())).version == 1
    assert header.find(disk(b"")) is None
    assert header.find(disk(headers.luks1()[:300])) is None
    assert header.find(str(tmp_path / "missing")) is None
    assert header.find(str(tmp_path)) is None


def test_the_payload_is_what_lies_behind_the_offset(disk):
    path = disk(headers.luks1())
    os.truncate(path, headers.PAYLOAD + 1000)
    assert header.payload_size(path, header.read(path)) == 1000
