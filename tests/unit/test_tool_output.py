# SPDX-License-Identifier: LGPL-2.1-only
"""What programs print is understood in every version, or is an error; also what no version prints.

Each seed is the output of a real version (seeds/tools/README tells where it is from), and mutated.
"""
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import awkward
import headers
from luksext import (clevis, contents, cryptsetup, devices, escrow, ext4, generation, header,
                     lvm, pcrs, tables, tang, tpm)
from luksext.devices import Mapping
from luksext.errors import LuksError, TpmLockout
from luksext.lvm import PhysicalVolume, Volume
from luksext.run import Result

SEEDS = os.path.join(os.path.dirname(__file__), "seeds", "tools")

CLEVIS = "cb6e8904-81ff-40da-a84a-07ab9ab5715e"
JWK = {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}


@pytest.fixture(scope="module")
def printed():
    """What every program prints, with status 0; set by the test."""
    answer = {"stdout": b""}
    with pytest.MonkeyPatch.context() as patch:
        for module in (cryptsetup, contents, lvm, ext4, tpm, pcrs, clevis, tang, escrow):
            patch.setattr(module, "run",
                          lambda argv, **options: Result(0, answer["stdout"], b""))
        patch.setattr(tpm, "DEVICE", os.devnull)
        patch.setattr(tpm.shutil, "which", lambda program, path: "/usr/bin/" + program)
        patch.setattr(devices, "number_of", lambda device: device)
        yield answer


def checked_table(disk):
    """That an open mapping is what its header says, which is on the `disk`, major:minor."""
    tables.check(Mapping("luks-x", "dm-0"), disk, header.parse("disk", headers.real(2)))


# By the start of a seed's name: what reads it.
READERS = {
    "cryptsetup--version": cryptsetup.version,
    "luksmeta-show": lambda: cryptsetup.luksmeta_slots("/dev/sda"),
    "luksmeta-load": lambda: cryptsetup.luksmeta_load("/dev/sda", 0, CLEVIS),
    "dmsetup-table-1.02.185-luks1": lambda: checked_table("8:0"),
    "dmsetup-table-1.02.185-luks2": lambda: checked_table("8:32"),
    "wipefs": lambda: sorted(set(contents._by_wipefs("/dev/sda"))),
    "vgs": lambda: lvm.physical_volumes("group"),
    "lvs": lambda: lvm.volume("group", "volume"),
    "pvs": lambda: lvm.sr_group_on("/dev/sda"),
    "dumpe2fs": lambda: ext4.size_of("/dev/sda"),
    "tpm2_getcap": tpm.check,
    "tpm2_pcr": lambda: pcrs._from_tools("sha256", [7]),
    "clevis-encrypt": lambda: clevis.seal(clevis.Pin("tpm2", {}), b"key"),
    "jose-jwe-enc": lambda: escrow.seal(b"key", JWK),
    "curl": lambda: tang._get("http://tang", "/adv"),
}

NAMES = sorted(name for name in os.listdir(SEEDS) if name.endswith(".txt"))


def seed(name):
    with open(os.path.join(SEEDS, name), "rb") as file:
        return file.read()


def reader(name):
    return next(read for start, read in READERS.items() if name.startswith(start))


def test_there_is_a_seed_for_each_reader_and_each_has_a_source():
    assert not [start for start in READERS if not any(name.startswith(start) for name in NAMES)]
    with open(os.path.join(SEEDS, "README"), encoding="ascii") as readme:
        assert sorted(re.findall(r"^(\S+\.txt)", readme.read(), re.MULTILINE)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_a_real_version_prints_is_understood(printed, name):
    printed["stdout"] = seed(name)
    if name in EXPECTED:
        assert reader(name)() == EXPECTED[name]
    else:
        with pytest.raises(REFUSED[name]):
            reader(name)()


@given(st.sampled_from(NAMES), st.data())
def test_whatever_else_is_printed_ends_as_an_answer_or_a_named_error(printed, name, data):
    printed["stdout"] = mutated(seed(name), data)
    try:
        reader(name)()
    except LuksError as error:
        awkward.check(error)


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200) | awkward.TEXTS.map(
    lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_end_as_an_answer_or_a_named_error(printed, start, output):
    printed["stdout"] = output
    try:
        READERS[start]()
    except LuksError as error:
        awkward.check(error)


def mutated(content, data):
    """`content` with lines and words dropped, doubled, swapped or put in the place of others."""
    for _ in range(data.draw(st.integers(1, 4))):
        parts = re.split(data.draw(st.sampled_from([rb"(\n)", rb"(\s)", rb"([|,:])"])), content)
        place = data.draw(st.integers(0, len(parts) - 1))
        other = data.draw(st.sampled_from(parts) | st.sampled_from(
            [b"", b"\n", b"|", b"-1", b"9" * 5000, b"\xff", "\u00b2".encode("utf-8"), b"0x",
             b"99999999999999999999"]) | st.binary(max_size=20))
        parts[place:place + data.draw(st.integers(0, 2))] = [other]
        content = b"".join(parts)
    return content


def luksmeta(**kinds):
    """What `luksmeta show` says: "empty" in all slots but those of `kinds`, such as s3."""
    return {slot: kinds.get("s{}".format(slot), "empty") for slot in range(8)}


EXPECTED = {
    "cryptsetup--version-2.0.3.txt": (2, 0, 3),
    "cryptsetup--version-2.6.1.txt": (2, 6, 1),
    "cryptsetup--version-2.7.0.txt": (2, 7, 0),
    "luksmeta-load-9.txt": b"x",
    "luksmeta-show-9.txt": luksmeta(s0=CLEVIS, s7=generation._IDENTITY_UUID),
    "luksmeta-show-rhel8.txt": luksmeta(s1=CLEVIS, s6=CLEVIS, s7=CLEVIS),
    "dmsetup-table-1.02.185-luks1.txt": None,
    "dmsetup-table-1.02.185-luks2.txt": None,
    "wipefs-2.38.1-ext4.txt": ["ext4"],
    "wipefs-2.38.1-gpt.txt": ["PMBR", "gpt"],
    "wipefs-2.38.1-lvm.txt": ["LVM2_member"],
    "wipefs-2.38.1-none.txt": [],
    "wipefs-2.38.1-ours.txt": ["crypto_LUKS"],
    "wipefs-2.38.1-swap.txt": ["swap"],
    "vgs-2.03.16.txt": [
        PhysicalVolume("/dev/mapper/luks-" + uuid, 57, 0, 4 << 20, 239 << 20) for uuid in (
            "a0bac35a-eed9-4eac-8310-00785c4c98f2", "1b1311cc-a461-4eb5-a3cc-a807a37045ac")],
    "lvs-2.03.16.txt": Volume(
        "/dev/XSLocalEXT-0d717ac7-2b00-4338-8011-b5550f4a516c/"
        "0d717ac7-2b00-4338-8011-b5550f4a516c", "253:1", 239075328, 1),
    "lvs-2.03.16-striped.txt": Volume(
        "/dev/XSLocalEXT-26bd06c8-56e0-4e17-9c31-1b986f258a0c/"
        "26bd06c8-56e0-4e17-9c31-1b986f258a0c", "253:4", 478150656, 2),
    "pvs-2.03.16.txt": "XSLocalEXT-0d717ac7-2b00-4338-8011-b5550f4a516c",
    "dumpe2fs-1.47.0.txt": 239075328,
    "tpm2_getcap-5.4.txt": None,
    "tpm2_pcrread-5.4.txt": {0: bytes(32), 7: bytes(32), 16: bytes(32)},
    "tpm2_pcrlist-3.txt": {7: bytes.fromhex(
        "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068")},
    "clevis-encrypt-19-tpm2.txt": seed("clevis-encrypt-19-tpm2.txt").decode("ascii"),
    "jose-jwe-enc-11.txt": seed("jose-jwe-enc-11.txt").decode("ascii"),
    "curl-tang-11.txt": seed("curl-tang-11.txt")[:-3],
}

REFUSED = {"tpm2_getcap-3.txt": TpmLockout}
