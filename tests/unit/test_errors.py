# SPDX-License-Identifier: LGPL-2.1-only
"""errors: one cause a class, a stable code, a sentence and a remedy."""
import glob
import inspect
import os
import re
import xml.etree.ElementTree as ElementTree

import pytest

import doc_rows
from luksext import errors
from luksext.errors import LuksError

ALL = sorted((found for _, found in inspect.getmembers(errors, inspect.isclass)
              if issubclass(found, LuksError)), key=lambda found: found.code)

# One value for each argument that any error takes.
ARGUMENTS = {
    "sentence": "/dev/sdb is not suitable.", "remedy": "Use another disk.", "key": "cipher",
    "value": "rot13", "allowed": "aes", "reason": "is too short", "program": "clevis",
    "package": "clevis", "command": "clevis decrypt", "status": 1, "stderr": "no", "seconds": 30,
    "device": "/dev/sdb", "holders": ["the mount /mnt"], "signatures": ["ext4"],
    "sr_uuid": "SR-UUID", "found": "LUKS UUID a", "expected": "b", "uuid": "LUKS-UUID",
    "devices": ["/dev/sdb", "/dev/sdc"], "pcrs": "7", "detail": "it hangs", "url": "http://tang",
    "pin": "tang", "slot": 3, "name": "luks-LUKS-UUID", "wanted": "a binding", "what": "a note",
    "until": "yesterday", "excess": "keyslot 1 asks for too much",
    "holder": "4711", "path": "/var/lib/luksext/x", "since": "today",
    "luks_uuid": "LUKS-UUID", "mib": 256, "created": "yesterday", "slots": [1, 3],
    "alert": "LUKS-W099", "known": ["LUKS-W001", "LUKS-W002"],
    "verb": "rebind", "problem": "needs the argument slot",
    "vdis": ["VDI-1", "VDI-2"], "printed": "garbage", "container": 1 << 30, "disk": 1 << 29,
    "given": ["pin=tang", "discard=true"], "sr_uuids": ["SR-1", "SR-2"],
}

# What an error must name so that an administrator knows where to look.
PLACES = ("/dev/", "/dev/mapper/", "device-config:", "host", "server", "TPM", "`", "passphrase",
          "program", "pin", "key", "Unlocking", "The SR", "verb")


def made(error):
    """An example of the error."""
    names = list(inspect.signature(error).parameters)
    return error(*(ARGUMENTS[name] for name in names))


def test_every_code_is_used_once_and_in_our_range():
    codes = [error.code for error in ALL]
    assert len(set(codes)) == len(codes)
    assert all(6200 <= code <= 6299 for code in codes)


def test_codes_are_stable():
    assert {error.__name__: error.code for error in ALL} == {
        "LuksError": 6200, "OptionInvalid": 6201, "SecretInvalid": 6202, "ToolMissing": 6203,
        "CommandFailed": 6204, "CommandTimeout": 6205, "Unsupported": 6206,
        "DeviceMissing": 6210, "DeviceUnsuitable": 6211, "DeviceInUse": 6212,
        "DeviceNotEmpty": 6213, "DeviceIsOurs": 6214,
        "HeaderMissing": 6220, "HeaderDamaged": 6221, "HeaderMismatch": 6222, "NotOurs": 6223,
        "Ambiguous": 6224, "Busy": 6260, "BackupMissing": 6261, "BackupDamaged": 6262,
        "BackupOfAnother": 6263, "OldHeader": 6264, "AlertUnknown": 6265, "NotWritten": 6266,
        "HeaderOutdated": 6267,
        "NoBinding": 6230, "UnlockRefused": 6231, "NoTpm": 6232,
        "TpmLockout": 6233, "TpmRefuses": 6234, "TpmBroken": 6235, "TangUnreachable": 6236,
        "TangRefuses": 6237, "PinRefuses": 6238, "KeyRefused": 6239, "MappingMismatch": 6240,
        "KeyCost": 6241, "ContainerReplaced": 6242, "RevokedKeyBack": 6243,
        "SealedKeyForeign": 6244, "BindingChanged": 6245, "VolumeForeign": 6246,
        "RecoveryKeyInvalid": 6250, "WrongRecoveryKey": 6251, "LastWayIn": 6252,
        "BindingHealthy": 6253, "WrongSlot": 6254, "NameRefused": 6255, "HeaderFull": 6256,
        "EscrowKeyInvalid": 6257,
        "NotAdoptable": 6270, "SrNotAdoptable": 6271, "AdoptionUnfinished": 6272,
        "SrNotEmpty": 6273,
        "NotPlugged": 6275, "DiskShrank": 6276, "InPlaceImpossible": 6277, "NoRoom": 6278,
        "InPlaceBegun": 6279, "InPlaceDoubt": 6289,
        "DiskFails": 6292, "MemoryShort": 6293,
        "TimeOver": 6294, "ToolBroken": 6295,
        "ReencryptionKeys": 6280, "ReencryptionUnfinished": 6281, "ReencryptionForeign": 6282,
        "ReencryptionStuck": 6283, "RecordDamaged": 6284, "HalfDestroyed": 6290,
        "HalfCreated": 6291, "InsideFails": 6299, "InsideNotMade": 6274,
        "ArgumentInvalid": 6285, "VerbUnknown": 6286, "NoSuchKey": 6287, "SrUnknown": 6288,
        "HostUnknown": 6296, "NoSr": 6297, "SeveralSrs": 6298}


# Of these only their children are raised.
PARENTS = (errors.LuksError, errors.UnlockRefused)


def test_the_docs_have_a_row_for_each_code_that_is_raised_and_no_other():
    rows = doc_rows.rows("errors.md", "62")
    assert [row[0] for row in rows] == [str(error.code) for error in ALL if error not in PARENTS]
    for code, cause, remedy in rows:
        assert cause and remedy, code


def test_an_error_that_is_raised_has_a_code_of_its_own():
    drivers = os.path.dirname(os.path.dirname(errors.__file__))
    sources = glob.glob(os.path.join(drivers, "**", "*.py"), recursive=True)
    assert sources
    for path in sources:
        with open(path, encoding="utf-8") as source:
            text = re.sub(r"class \w+\(.*", "", source.read())
        for error in PARENTS:
            assert not re.search(r"\b{}\(".format(error.__name__), text), path


@pytest.mark.skipif(not os.environ.get("SM"), reason="needs the storage manager (SM=checkout)")
def test_no_code_is_one_of_the_storage_managers():
    found = glob.glob(os.path.join(os.environ["SM"], "**", "XE_SR_ERRORCODES.xml"), recursive=True)
    assert found
    for path in found:
        theirs = {int(value.text) for value in ElementTree.parse(path).iter("value")}
        assert theirs
        assert not theirs & {error.code for error in ALL}


@pytest.mark.parametrize("error", ALL)
def test_the_cause_is_documented(error):
    assert error.__doc__ and error.__doc__ != getattr(error.__base__, "__doc__", None)


@pytest.mark.parametrize("error", ALL)
def test_the_text_says_what_happened_where_and_what_to_do(error):
    example = made(error)
    assert str(example) == "{} {}".format(example.sentence, example.remedy)
    assert re.search(r"\.$", example.sentence)
    assert len(example.remedy) > 10
    assert any(place in example.sentence for place in PLACES)
    assert "None" not in str(example)


@pytest.mark.parametrize("error", ALL)
def test_the_text_names_what_it_was_given(error):
    names = list(inspect.signature(error).parameters)
    for name in names:
        value = ARGUMENTS[name]
        for part in value if isinstance(value, list) else [value]:
            assert str(part) in str(made(error))


def test_an_error_without_details_is_still_a_sentence():
    assert "in use by another program." in str(errors.DeviceInUse("/dev/sdb", []))
    assert "it gives no reason" in str(errors.PinRefuses("yubikey", ""))
    assert "cleared, replaced, or belongs to another host" in str(errors.TpmRefuses(""))
    assert "no message" in str(errors.CommandFailed("x", 1, ""))


@pytest.mark.parametrize("error", [
    errors.NoTpm, errors.TpmLockout, errors.TpmRefuses, errors.TpmBroken, errors.TangUnreachable,
    errors.TangRefuses, errors.PinRefuses, errors.KeyRefused, errors.SealedKeyForeign])
def test_all_reasons_of_a_binding_can_be_caught_as_one(error):
    assert issubclass(error, errors.UnlockRefused)


def test_what_a_disk_says_does_nothing_to_the_terminal_that_shows_it():
    text = str(errors.HeaderMismatch("/dev/sdb", "cipher \33[2Jaes\r\nJan  1 all is well", "aes"))
    assert r"cipher \x1b[2Jaes\r\nJan  1 all is well where" in text
    assert text.isprintable()


def test_the_way_in_by_hand_is_a_command_to_type():
    assert "cryptsetup open /dev/sdb luks-U" in errors.open_by_hand("/dev/sdb", "U")
