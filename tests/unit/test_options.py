# SPDX-License-Identifier: LGPL-2.1-only
"""options: every option is checked before anything is touched; an error quotes what is allowed."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luksext import configuration, options
from luksext.clevis import Pin
from luksext.cryptsetup import Flags
from luksext.errors import OptionInvalid, SecretInvalid


def parse(**config):
    """The options of a device-config with the device /dev/sdb; `_` stands for `-`."""
    given_config = {"device": "/dev/sdb"}
    given_config.update({key.replace("_", "-"): value for key, value in config.items()})
    return options.parse(given_config)


def pin(name, config):
    """The pin that is parsed from these two options."""
    return parse(pin=name, pin_config=json.dumps(config)).pin


def test_only_the_device_is_required_all_else_has_a_default():
    assert parse() == options.Options(
        devices=["/dev/sdb"], force=False, pin=Pin("tpm2", {}), luks_version=None,
        cipher="aes-xts-plain64", key_bits=512, flags=Flags())


def test_every_option_can_be_given():
    assert parse(device="/dev/sdb,/dev/disk/by-id/x", force="true", pin="tang",
                 pin_config='{"url":"http://t","thp":"x"}', luks_version="1",
                 cipher="serpent-xts-plain64", key_size="256", sector_size="512",
                 discard="true", workqueues="false") == options.Options(
        devices=["/dev/sdb", "/dev/disk/by-id/x"], force=True,
        pin=Pin("tang", {"url": "http://t", "thp": "x"}), luks_version=1,
        cipher="serpent-xts-plain64", key_bits=256, flags=Flags(discard=True, workqueues=False))


def test_options_of_the_ext_driver_are_left_alone():
    assert parse(preferred_image_formats="vhd", SRmaster="true") == parse()


@pytest.mark.parametrize("key, value", [
    ("force", "yes"), ("force", "True"), ("force", ""), ("discard", "1"), ("luks-version", "3"),
    ("luks-version", "luks2"), ("cipher", "aes-cbc-essiv:sha256"), ("cipher", "cipher_null-ecb"),
    ("cipher", ""), ("key-size", "128"), ("key-size", "512 "), ("sector-size", "4096"),
    ("pin", ""), ("pin", "TPM2"), ("pin", "a b"), ("pin", "../tpm2"), ("pin", "tpm2\n"),
    ("pin", "x" * 33), ("pin-config", ""), ("pin-config", "{"), ("pin-config", "[]"),
    ("pin-config", "7"), ("pin-config", "null"), ("pin-config", "[" * 200000)])
def test_a_value_that_cannot_be_used_is_quoted_with_what_is_allowed(key, value):
    with pytest.raises(OptionInvalid) as refusal:
        options.parse({"device": "/dev/sdb", key: value})
    quoted = value.replace("\n", "\\n")[:120]
    assert "device-config:{}={}".format(key, quoted) in refusal.value.sentence
    assert len(str(refusal.value)) < 600
    assert "Allowed: " in refusal.value.remedy


@pytest.mark.parametrize("device", [
    "", ",", "sdb", "/dev", "/dev/sdb,", ",/dev/sdb", "/dev/sdb, /dev/sdc", "/dev/sd b",
    "/dev/sdb\n", "/dev/sdb\0", "/etc/passwd", "/dev/../etc/passwd", "/dev/x/../../etc/passwd",
    "/dev/sdb,/dev/sdb", "-/dev/sdb", "/dev/sdb\x7f"])
def test_a_device_is_a_path_below_dev_and_named_once(device):
    with pytest.raises(OptionInvalid, match="device-config:device="):
        parse(device=device)


def test_a_device_is_named_in_ascii():
    with pytest.raises(OptionInvalid):
        parse(device="/dev/d\xe9p\xf4t")


def test_tpm2_may_have_no_configuration():
    assert pin("tpm2", {"key": "rsa"}) == Pin("tpm2", {"key": "rsa"})


@pytest.mark.parametrize("pcrs, text", [
    ("7", "7"), (7, "7"), ("0,7,23", "0,7,23"), ([0, 7], "0,7"), (["1", 2], "1,2")])
def test_pcrs_in_any_form_become_a_text_with_a_bank_that_every_clevis_reads(pcrs, text):
    assert pin("tpm2", {"pcr_ids": pcrs}).config == {
        "pcr_ids": text, "pcr_bank": "sha256", "pcr_hash": "sha256"}


@pytest.mark.parametrize("key", ["pcr_bank", "pcr_hash"])
def test_the_bank_may_be_named_by_the_key_of_either_clevis(key):
    assert pin("tpm2", {"pcr_ids": "7", key: "sha1"}).config == {
        "pcr_ids": "7", "pcr_bank": "sha1", "pcr_hash": "sha1"}


@pytest.mark.parametrize("config", [
    {"pcr_ids": ""}, {"pcr_ids": "24"}, {"pcr_ids": "7,"}, {"pcr_ids": "7 8"}, {"pcr_ids": True},
    {"pcr_ids": []}, {"pcr_ids": {}}, {"pcr_ids": [[7]]}, {"pcr_ids": "7\n"}, {"pcr_ids": -1},
    {"pcr_ids": "\u0667"}, {"pcr_ids": 7.0}, {"pcr_ids": "7", "pcr_bank": "md5"},
    {"pcr_ids": "7", "pcr_bank": None}, {"pcr_ids": "7", "pcr_bank": ["sha256"]}])
def test_pcrs_and_banks_that_do_not_exist_are_refused(config):
    with pytest.raises(OptionInvalid, match="pcr_"):
        pin("tpm2", config)


@pytest.mark.parametrize("config", [
    {"url": "http://t", "thp": "x"}, {"url": "https://t", "adv": {"payload": ""}},
    {"url": "http://t", "adv": "/etc/adv.jws"}])
def test_a_tang_server_is_given_with_a_known_key(config):
    assert pin("tang", config) == Pin("tang", config)


@pytest.mark.parametrize("config, text", [
    ({}, "tang url"), ({"url": "t", "thp": "x"}, "tang url"), ({"url": None, "thp": "x"}, "url"),
    ({"url": ["http://t"], "thp": "x"}, "url"), ({"url": "ftp://t", "thp": "x"}, "url"),
    ({"url": "http://t"}, "thp, the thumbprint"), ({"url": "http://t", "thp": ""}, "thp"),
    ({"url": "http://t", "adv": {}}, "tang-show-keys")])
def test_a_tang_server_without_url_or_known_key_is_refused(config, text):
    with pytest.raises(OptionInvalid, match=text):
        pin("tang", config)


def test_every_pin_of_a_shared_secret_is_checked_and_completed():
    config = {"t": 2, "pins": {
        "tpm2": {"pcr_ids": 7}, "tang": [{"url": "http://a", "thp": "x"}],
        "sss": {"t": 1, "pins": {"tpm2": {}}}, "yubikey": {"slot": 1}}}
    assert pin("sss", config).config == {"t": 2, "pins": {
        "tpm2": [{"pcr_ids": "7", "pcr_bank": "sha256", "pcr_hash": "sha256"}],
        "tang": [{"url": "http://a", "thp": "x"}],
        "sss": [{"t": 1, "pins": {"tpm2": [{}]}}], "yubikey": [{"slot": 1}]}}


@pytest.mark.parametrize("config", [
    {}, {"t": 1}, {"t": 1, "pins": {}}, {"t": 1, "pins": []}, {"t": 1, "pins": None},
    {"t": 1, "pins": {"tpm2": None}}, {"t": 1, "pins": {"tpm2": [[]]}},
    {"t": 1, "pins": {"tpm2": []}}, {"t": 0, "pins": {"tpm2": {}}},
    {"t": 2, "pins": {"tpm2": {}}}, {"t": True, "pins": {"tpm2": {}}},
    {"t": "1", "pins": {"tpm2": {}}}, {"t": 1.0, "pins": {"tpm2": {}}}, {"pins": {"tpm2": {}}},
    {"t": 1, "pins": {"tang": {"url": "http://t"}}}, {"t": 1, "pins": {"sss": {}}},
    {"t": 1, "pins": {"tpm2": {"pcr_ids": "99"}}}])
def test_a_shared_secret_of_another_shape_is_refused(config):
    with pytest.raises(OptionInvalid, match="pin-config"):
        pin("sss", config)


@pytest.mark.parametrize("name, config", [
    ("pkcs11", {"uri": "pkcs11:token=host?pin-value=hush-hush"}),
    ("tang", {"url": "http://admin:hush-hush@tang", "thp": "x"}),
    ("sss", {"t": 1, "pins": {"tang": {"url": "http://:hush-hush@tang", "thp": "x"}}})])
def test_a_secret_in_a_configuration_is_refused_and_not_repeated(name, config):
    with pytest.raises(OptionInvalid, match="secret") as refusal:
        pin(name, config)
    assert "hush-hush" not in str(refusal.value)


def test_an_url_with_a_port_has_no_secret():
    assert pin("tang", {"url": "http://tang:8080/a@b", "thp": "x"}).name == "tang"


def test_a_shared_secret_that_is_nested_too_deep_is_refused():
    config = '{"t":1,"pins":{"sss":' * 450 + '{"t":1,"pins":{"tpm2":{}}}' + "}}" * 450
    with pytest.raises(OptionInvalid):
        parse(pin="sss", pin_config=config)


def test_the_threshold_of_a_shared_secret_counts_every_pin_of_a_kind():
    tangs = [{"url": "http://{}".format(name), "thp": "x"} for name in "ab"]
    assert pin("sss", {"t": 2, "pins": {"tang": tangs}}).config["t"] == 2
    with pytest.raises(OptionInvalid, match="t from 1 to 2"):
        pin("sss", {"t": 3, "pins": {"tang": tangs}})


def test_the_configuration_of_any_other_pin_is_its_own_matter():
    assert pin("yubikey", {"any": ["thing"]}) == Pin("yubikey", {"any": ["thing"]})


KEYS = [key for key, _ in configuration.DESCRIPTIONS if key != "device"]
VALUES = (st.text() | st.sampled_from(
    ["true", "false", "1", "2", "tpm2", "tang", "sss", "{}", "512", "{\"t\":1,\"pins\":{}}"])
    | st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                   lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                       st.sampled_from(["t", "pins", "tpm2", "tang", "sss", "url", "thp",
                                        "pcr_ids", "pcr_bank"]), inner, max_size=4),
                   max_leaves=12).map(json.dumps))


@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_device_config_is_parsed_or_refused(config):
    try:
        parsed = options.parse(dict(config, device="/dev/sdb"))
    except OptionInvalid as refusal:
        assert "device-config:" in str(refusal)
        return
    assert parsed.cipher in configuration.CIPHERS
    assert parsed.key_bits in (256, 512)
    assert parsed.luks_version in (None, 1, 2)
    json.dumps(parsed.pin.config)


@given(st.text() | st.lists(st.text()).map(lambda names: ",".join("/dev/" + n for n in names)))
def test_any_device_is_a_list_of_paths_below_dev_or_refused(text):
    try:
        paths = options.parse_devices({"device": text})
    except OptionInvalid:
        return
    assert paths and len(set(paths)) == len(paths)
    for path in paths:
        assert path.startswith("/dev/")
        assert not set(path) & set(" \t\n\r\0")


# The recovery passphrase


def test_a_passphrase_is_taken_without_the_newline_that_ends_its_file():
    assert options.check_passphrase("correct horse\n") == b"correct horse"
    assert options.check_passphrase("correct horse") == b"correct horse"
    assert options.check_passphrase("corr\xe9ct hors\xe9") == "corr\xe9ct hors\xe9".encode()


@pytest.mark.parametrize("length, accepted", [(11, False), (12, True), (512, True), (513, False)])
def test_a_passphrase_has_12_to_512_characters(length, accepted):
    if accepted:
        assert options.check_passphrase("x" * length) == b"x" * length
    else:
        with pytest.raises(SecretInvalid, match="has {} characters".format(length)):
            options.check_passphrase("x" * length)


@pytest.mark.parametrize("text", ["correct\nhorse battery", "correct horse\n\n", "correct horse\0",
                                  "correct horse\r\n", "correct horse\x7f", "correct hors\ud800e"])
def test_a_passphrase_is_one_printable_line(text):
    with pytest.raises(SecretInvalid, match="more than one line, or unprintable"):
        options.check_passphrase(text)


def test_a_passphrase_can_always_be_typed_in():
    with pytest.raises(SecretInvalid):
        options.check_passphrase("\xe9" * 512)


@given(st.text())
def test_any_text_is_a_passphrase_or_refused_without_being_quoted(text):
    try:
        passphrase = options.check_passphrase(text)
    except SecretInvalid as refusal:
        assert len(text) < 8 or text not in str(refusal)
        return
    assert b"\n" not in passphrase and b"\0" not in passphrase
    assert len(passphrase) <= 2048


def test_every_option_is_described_once():
    keys = [key for key, _ in configuration.DESCRIPTIONS]
    assert len(set(keys)) == len(keys)
    assert options.RECOVERY_SECRET_KEY == "recovery_password_secret"
    assert "recovery_password" in keys


def test_a_pin_that_is_made_elsewhere_is_completed_and_checked_alike():
    pin = options.check_pin(Pin("tpm2", {"pcr_ids": [7, 8]}))
    assert pin == Pin("tpm2", {"pcr_ids": "7,8", "pcr_bank": "sha256", "pcr_hash": "sha256"})
    for bad in (Pin("tpm2", {"pcr_ids": "24"}), Pin("t\n", {}), Pin("tang", {"url": "http://t"})):
        with pytest.raises(OptionInvalid):
            options.check_pin(bad)
