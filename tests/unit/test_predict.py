# SPDX-License-Identifier: LGPL-2.1-only
"""predict: a binding that the next boot breaks is told before; what is not known is never ok."""
import base64
import json
import struct

import pytest

import eventlogs
from luksext import efivars, eventlog, pcrs, predict, run, started, state
from luksext.clevis import Pin
from luksext.errors import NotWritten
from luksext.eventlog import VARIABLE_AUTHORITY, VARIABLE_BOOT, VARIABLE_BOOT2
from luksext.predict import BREAKS, OK, UNPREDICTABLE

GLOBAL, SECURITY = efivars.GLOBAL, efivars.IMAGE_SECURITY
PLATFORM_KEY, CERTIFICATE = b"a platform key", b"owner and certificate"


@pytest.fixture
def firmware(tmp_path, monkeypatch):
    """A host with Secure Boot in use, booted."""
    made = eventlogs.Firmware(tmp_path)
    monkeypatch.setattr(eventlog, "PATH", str(made.log))
    monkeypatch.setattr(efivars, "FOLDER", str(made.efivars))
    monkeypatch.setattr(pcrs, "_SYSFS", str(made.sysfs))
    monkeypatch.setattr(run, "PRIVATE_DIR", str(tmp_path / "run"))
    made.set("SecureBoot", GLOBAL, b"\1")
    made.set("PK", GLOBAL, PLATFORM_KEY)
    made.set("KEK", GLOBAL, b"a key exchange key")
    made.set("db", SECURITY, b"list:" + CERTIFICATE)
    made.set("dbx", SECURITY, b"hashes")
    made.boot()
    return made


def sealed_sss(threshold, *pins):
    """The pin of a key that is shared among `pins`."""
    def jwe(pin):
        text = json.dumps({"clevis": {"pin": pin.name, pin.name: pin.config}}).encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=") + ".k.iv.text.tag"
    return Pin("sss", {"t": threshold, "p": "x", "jwe": [jwe(pin) for pin in pins]})


TANG = Pin("tang", {"url": "http://tang"})


def fits_now(pin):
    """Whether the PCRs are now as the pin tpm2 asks for."""
    policy = pcrs.policy_of(pin)
    values = pcrs.read(policy.bank, policy.numbers)
    return pcrs.policy_digest(policy, values) == policy.digest


# What needs no prediction

@pytest.mark.parametrize("pin", [TANG, eventlogs.sealed("sha256", {})], ids=["tang", "tpm2"])
def test_what_depends_on_no_pcr_is_ok_also_without_a_log(pin, tmp_path, monkeypatch):
    monkeypatch.setattr(eventlog, "PATH", str(tmp_path / "none"))
    assert predict.predict(pin).state == OK
    assert "does not depend on PCRs" in predict.predict(pin).reason


# PCR 7

@pytest.mark.parametrize("bank", ["sha1", "sha256"])
def test_nothing_changed(firmware, bank):
    pin = firmware.seal(7, bank=bank)
    assert predict.predict(pin) == (OK, "PCRs 7 will be as the key is sealed to.")
    assert fits_now(pin) is True


@pytest.mark.parametrize("name, guid, content", [
    ("db", SECURITY, b"list:" + CERTIFICATE + b"one more"), ("dbx", SECURITY, b"hashes, more"),
    ("db", SECURITY, None), ("KEK", GLOBAL, b"another"), ("PK", GLOBAL, b"another"),
    ("PK", GLOBAL, None), ("SecureBoot", GLOBAL, b"\0")])
def test_a_changed_variable_breaks_what_is_sealed_now(firmware, name, guid, content):
    pin = firmware.seal(7)
    firmware.set(name, guid, content)
    state, reason = predict.predict(pin)
    assert state == BREAKS
    assert reason == "PCR 7 will change at the next boot: the firmware's variable {} was " \
                     "changed.".format(name)
    assert fits_now(pin) is True

    firmware.boot()
    assert fits_now(pin) is False
    assert predict.predict(pin).state == BREAKS


def test_a_change_that_is_taken_back_breaks_nothing(firmware):
    pin = firmware.seal(7)
    firmware.set("dbx", SECURITY, b"other")
    firmware.set("dbx", SECURITY, b"hashes")
    assert predict.predict(pin).state == OK


def test_a_key_that_does_not_fit_now_but_will_is_ok(firmware):
    pin = firmware.seal(7)
    firmware.set("dbx", SECURITY, b"other")
    firmware.boot()
    assert predict.predict(pin).state == BREAKS
    firmware.set("dbx", SECURITY, b"hashes")
    assert fits_now(pin) is False
    assert predict.predict(pin).state == OK


def test_variables_that_the_firmware_has_not_are_measured_as_empty(firmware):
    for name, guid in eventlogs.SECURE_BOOT:
        firmware.set(name, guid, None)
    firmware.boot()
    pin = firmware.seal(7)
    assert predict.predict(pin).state == OK
    firmware.set("db", SECURITY, b"x")
    assert predict.predict(pin).state == BREAKS


def test_secure_boot_that_will_be_switched_on_leaves_the_value_open(firmware):
    pin = firmware.seal(7)
    firmware.set("PK", GLOBAL, None)
    firmware.set("SecureBoot", GLOBAL, b"\0")
    firmware.boot()
    before = firmware.seal(7)
    # The firmware shows SecureBoot=1 only after the reboot.
    firmware.set("PK", GLOBAL, PLATFORM_KEY)
    assert predict.predict(before).state == BREAKS
    assert predict.predict(pin).state == UNPREDICTABLE


def test_a_pcr_that_was_extended_without_a_word_in_the_log_is_unpredictable(firmware):
    pin = firmware.seal(7)
    firmware.extend(7)
    state, reason = predict.predict(pin)
    assert state == UNPREDICTABLE
    assert "extended by more than" in reason
    assert fits_now(pin) is False


def test_firmware_that_measures_the_content_alone(firmware):
    def vendor(booted):
        booted.measure_variable("dbt", SECURITY, alone=True)
    firmware.set("dbt", SECURITY, b"times")
    firmware.boot([vendor])
    pin = firmware.seal(7)
    assert predict.predict(pin).state == OK
    firmware.set("dbt", SECURITY, b"other")
    assert predict.predict(pin).state == BREAKS
    firmware.boot([vendor])
    assert predict.predict(firmware.seal(7)).state == OK


def test_firmware_that_measures_something_else_is_unpredictable(firmware):
    content = eventlogs.variable_data("dbt", SECURITY, b"")
    firmware.boot([lambda booted: booted.measure(
        7, eventlog.VARIABLE_DRIVER_CONFIG, content, b"something else")])
    state, reason = predict.predict(firmware.seal(7))
    assert state == UNPREDICTABLE
    assert "in a way of its own" in reason


def test_a_variable_that_only_the_firmware_sees_is_unpredictable(firmware):
    content = eventlogs.variable_data("Vendor", GLOBAL, b"hidden")
    firmware.boot([lambda booted: booted.measure(7, eventlog.VARIABLE_DRIVER_CONFIG, content)])
    state, reason = predict.predict(firmware.seal(7))
    assert state == UNPREDICTABLE
    assert "variable Vendor cannot be seen" in reason


def test_a_variable_without_an_end_is_unpredictable(firmware):
    firmware.boot([lambda booted: booted.measure(
        7, eventlog.VARIABLE_DRIVER_CONFIG, bytes(16) + struct.pack("<QQ", 9, 9))])
    assert predict.predict(firmware.seal(7)).state == UNPREDICTABLE


def test_a_real_log_of_enforced_secure_boot(firmware):
    firmware.raw = eventlogs.real("eventlog-enforced")
    for event in eventlog.measured(eventlog.parse(firmware.raw), 7):
        if event.kind == eventlog.VARIABLE_DRIVER_CONFIG:
            firmware.set(*eventlog.variable(event))
    firmware.show()
    pin = firmware.seal(7)
    assert predict.predict(pin).state == OK
    # An update of the forbidden signatures, as fwupd and Windows bring them.
    firmware.set("dbx", SECURITY, efivars.read("dbx", SECURITY) + bytes(48))
    assert predict.predict(pin).state == BREAKS


# Who signed the boot loader

def authority(booted):
    """Measures the certificate that a signed boot loader was found good by."""
    booted.measure(7, VARIABLE_AUTHORITY,
                   eventlogs.variable_data("db", SECURITY, CERTIFICATE))


def test_the_signer_of_the_boot_loader_is_not_known_beforehand(firmware):
    firmware.boot([authority])
    state, reason = predict.predict(firmware.seal(7))
    assert state == UNPREDICTABLE
    assert "who signed the boot loader" in reason


def test_a_changed_variable_breaks_whoever_signed(firmware):
    firmware.boot([authority])
    pin = firmware.seal(7)
    firmware.set("dbx", SECURITY, b"other")
    assert predict.predict(pin).state == BREAKS
    firmware.boot([authority])
    # The key does not fit now, and what it would fit to cannot be told from one digest.
    assert predict.predict(pin).state == UNPREDICTABLE


# Other PCRs

@pytest.mark.parametrize("pcr", [0, 1, 2, 3, 6])
def test_pcrs_of_the_firmware_stay(firmware, pcr):
    assert predict.predict(firmware.seal(pcr, 7)).state == OK


def test_settings_in_other_pcrs_of_the_firmware_are_compared_too(firmware):
    firmware.boot([lambda booted: booted.measure_variable("dbt", SECURITY, 3)])
    pin = firmware.seal(3)
    firmware.set("dbt", SECURITY, b"new")
    assert predict.predict(pin).state == BREAKS


@pytest.mark.parametrize("pcr", [4, 5])
def test_pcrs_of_the_boot_loader_are_unpredictable(firmware, pcr):
    state, reason = predict.predict(firmware.seal(pcr))
    assert state == UNPREDICTABLE
    assert "PCR {} depends on what is on the disks".format(pcr) in reason


@pytest.mark.parametrize("pcr", [8, 10, 15, 16, 17, 23])
def test_a_pcr_that_nobody_extends_stays_until_somebody_does(firmware, pcr):
    pin = firmware.seal(7, pcr)
    assert predict.predict(pin).state == OK
    firmware.extend(pcr)
    assert predict.predict(pin).state == UNPREDICTABLE
    assert predict.predict(firmware.seal(7, pcr)).state == UNPREDICTABLE


def test_a_change_in_one_pcr_breaks_although_another_is_unknown(firmware):
    pin = firmware.seal(4, 7)
    firmware.set("dbx", SECURITY, b"other")
    state, reason = predict.predict(pin)
    assert state == BREAKS
    assert "PCR 7 will change" in reason
    firmware.extend(16)
    assert predict.predict(firmware.seal(7, 16)).state == BREAKS


@pytest.mark.parametrize("kind, alone", [(VARIABLE_BOOT, True), (VARIABLE_BOOT2, False)])
def test_boot_entries(firmware, kind, alone):
    def measure(booted):
        for name in ("BootOrder", "Boot0000"):
            booted.measure_variable(name, GLOBAL, 1, kind, alone)
    firmware.set("BootOrder", GLOBAL, b"\0\0")
    firmware.set("Boot0000", GLOBAL, b"a boot loader")
    firmware.boot([measure])
    pin = firmware.seal(1)
    assert predict.predict(pin).state == OK
    firmware.set("Boot0000", GLOBAL, b"another")
    state, reason = predict.predict(pin)
    assert state == UNPREDICTABLE
    assert "boot entry Boot0000 was changed" in reason
    firmware.set("Boot0000", GLOBAL, None)
    assert predict.predict(pin).state == UNPREDICTABLE


# What was asked for at the next boot

@pytest.mark.parametrize("name, content", [
    ("OsIndications", struct.pack("<Q", 4)), ("OsIndications", struct.pack("<Q", 1)),
    ("BootNext", b"\1\0")])
def test_an_unusual_next_boot_is_unpredictable(firmware, name, content):
    pin = firmware.seal(0, 7)
    firmware.set(name, GLOBAL, content)
    state, reason = predict.predict(pin)
    assert state == UNPREDICTABLE
    assert "next boot" in reason
    firmware.set("dbx", SECURITY, b"other")
    assert predict.predict(pin).state == BREAKS


def test_a_wish_that_was_taken_back_counts_not(firmware):
    firmware.set("OsIndications", GLOBAL, bytes(8))
    assert predict.predict(firmware.seal(7)).state == OK


# Hosts that show too little

def test_without_a_log_nothing_is_predicted(firmware):
    pin = firmware.seal(7)
    firmware.log.unlink()
    state, reason = predict.predict(pin)
    assert state == UNPREDICTABLE
    assert "event log is not usable, it cannot be read" in reason
    assert fits_now(pin) is True


@pytest.mark.parametrize("hide", [
    lambda firmware, patch: firmware.log.unlink(),
    lambda firmware, patch: patch.setattr(efivars, "FOLDER", "/nowhere")],
    ids=["log", "variables"])
def test_no_program_is_run_for_what_cannot_be_predicted(firmware, programs, monkeypatch, tmp_path,
                                                        hide):
    """Every ten minutes, of each binding, on hosts whose kernel does not show the PCRs itself."""
    pin = firmware.seal(7)
    programs.add("tpm2_pcrread", "printf '    7 : 0x00\n'")
    monkeypatch.setattr(pcrs, "_SYSFS", str(tmp_path / "none"))
    started.note()
    hide(firmware, monkeypatch)
    assert predict.predict(pin).state == UNPREDICTABLE
    assert programs.order() == []
    assert fits_now(pin) is False
    assert len(programs.calls("tpm2_pcrread")) == 1


@pytest.mark.parametrize("name, guid", eventlogs.SECURE_BOOT)
def test_without_a_log_a_variable_that_changed_since_the_start_is_told(firmware, name, guid):
    firmware.log.unlink()
    pin = firmware.seal(7, 4)
    started.note()
    assert predict.predict(pin).state == UNPREDICTABLE
    firmware.set(name, guid, b"another")
    started.note()
    assert predict.predict(pin) == (BREAKS, "PCR 7 will change at the next boot: the firmware's "
                                            "variable {} was changed.".format(name))
    assert predict.predict(firmware.seal(0)).state == UNPREDICTABLE
    firmware.extend(4)
    assert predict.predict(pin).state == UNPREDICTABLE


@pytest.mark.parametrize("text", ["", "{}", "[]", "1", '{"SecureBoot": 1}', "\xff"])
def test_a_damaged_note_of_the_start_tells_nothing(firmware, text):
    firmware.log.unlink()
    started.note()
    with open(run.PRIVATE_DIR + "/secure-boot", "w", encoding="latin-1") as file:
        file.write(text)
    assert started.changed() == []
    assert predict.predict(firmware.seal(7)).state == UNPREDICTABLE


def test_variables_that_went_out_of_sight_did_not_change(firmware, tmp_path, monkeypatch):
    started.note()
    monkeypatch.setattr(efivars, "FOLDER", str(tmp_path / "none"))
    assert started.changed() == []


def test_without_variables_nothing_is_noted(firmware, tmp_path, monkeypatch):
    monkeypatch.setattr(efivars, "FOLDER", str(tmp_path / "none"))
    started.note()
    assert not (tmp_path / "run" / "secure-boot").exists()


def test_a_note_that_cannot_be_made_is_no_reason_to_fail(firmware, monkeypatch):
    def full(path, content):
        raise NotWritten(path, "No space left on device")
    monkeypatch.setattr(state, "write", full)
    started.note()
    assert started.changed() == []


def test_a_damaged_log_predicts_nothing(firmware):
    firmware.log.write_bytes(firmware.raw[:-1])
    assert predict.predict(firmware.seal(7)).state == UNPREDICTABLE


def test_a_log_without_the_bank_predicts_nothing(firmware):
    pin = eventlogs.tpm2_pin(b"p" * 32, pcr_ids="7", pcr_bank="sha384")
    firmware.set_pcr(7, bytes(48), "sha384")
    assert predict.predict(pin).state == UNPREDICTABLE


def test_a_log_that_leaves_events_out_predicts_nothing(firmware):
    pin = firmware.seal(7)
    firmware.raw = eventlogs.head()
    firmware.log.write_bytes(firmware.raw)
    assert predict.predict(pin).state == UNPREDICTABLE


def test_without_the_variables_nothing_is_predicted(firmware, tmp_path, monkeypatch):
    pin = firmware.seal(7)
    for folder in (tmp_path / "empty", tmp_path / "none"):
        monkeypatch.setattr(efivars, "FOLDER", str(folder))
        assert predict.predict(pin).state == UNPREDICTABLE
        (tmp_path / "empty").mkdir(exist_ok=True)
    assert "efivarfs" in predict.predict(pin).reason


def test_a_variable_that_cannot_be_read_predicts_nothing(firmware):
    pin = firmware.seal(7)
    firmware.set("dbx", SECURITY, None)
    (firmware.efivars / ("dbx-" + SECURITY)).mkdir()
    state, reason = predict.predict(pin)
    assert state == UNPREDICTABLE
    assert "not readable" in reason


def test_without_the_values_nothing_is_known(firmware, programs, monkeypatch, tmp_path):
    pin = firmware.seal(7)
    monkeypatch.setattr(pcrs, "_SYSFS", str(tmp_path / "none"))
    assert predict.predict(pin).state == UNPREDICTABLE


@pytest.mark.parametrize("pin", [
    Pin("unknown", {}), Pin("tpm2", {}), Pin("sss", {}), Pin("sss", {"t": 1, "jwe": "x"}),
    Pin("sss", {"t": "1", "jwe": ["x"]}), Pin("sss", {"t": 2, "jwe": ["x"]}),
    Pin("sss", {"t": 1, "jwe": ["x"]})], ids=str)
def test_a_key_that_cannot_be_read_is_unpredictable(pin):
    assert predict.predict(pin).state == UNPREDICTABLE


# Several pins

@pytest.mark.parametrize("threshold, broken, unknown, expected", [
    (1, True, False, OK), (2, True, False, BREAKS), (2, False, False, OK),
    (1, False, True, OK), (2, False, True, UNPREDICTABLE)])
def test_a_threshold(firmware, threshold, broken, unknown, expected):
    pin = sealed_sss(threshold, firmware.seal(7), TANG)
    if broken:
        firmware.set("db", SECURITY, b"other")
    if unknown:
        firmware.log.unlink()
    assert predict.predict(pin).state == expected
    assert predict.predict(sealed_sss(1, pin)).state == expected


def test_a_threshold_names_what_breaks(firmware):
    pin = sealed_sss(2, firmware.seal(7), TANG)
    firmware.set("db", SECURITY, b"other")
    assert predict.predict(pin).reason.startswith("PCR 7 will change")
