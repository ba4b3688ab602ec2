# SPDX-License-Identifier: LGPL-2.1-only
"""sealed: clevis gets only what clevis makes; the rest is named, and costs nothing."""
import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luksext import sealed

KEYS = {"jwk_pub": "AC4ACA", "jwk_priv": "AK4AIA"}
TPM2 = dict(KEYS, hash="sha256", key="ecc", pcr_bank="sha256", pcr_ids="0,7")
TANG = {"url": "http://tang:7500", "adv": {"keys": []}}


def jwe(pin, config, **header):
    text = header.pop("text", None) or json.dumps(
        dict({"alg": "dir", "enc": "A256GCM", "clevis": {"pin": pin, pin: config}}, **header))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=") + "..iv.text.tag"


def sss(*shares):
    return jwe("sss", {"t": 1, "p": "x", "jwe": list(shares)})


@pytest.mark.parametrize("key", [
    jwe("tpm2", TPM2), jwe("tpm2", dict(KEYS, hash="sha256", key="rsa")),
    jwe("tpm2", dict(TPM2, pcr_ids="")), jwe("tpm2", dict(TPM2, pcr_ids=[0, 7])),
    jwe("tang", TANG), jwe("tang", dict(TANG, url="https://tang.example.org/a/b%20c")),
    jwe("tang", dict(TANG, url="tang.example.org:80")), jwe("tang", dict(TANG, url="[::1]:80")),
    jwe("tang", TANG, alg="ECDH-ES", kid="a-Z_9", epk={"crv": "P-521"}),
    jwe("null", {}), jwe("pkcs11", {"uri": "pkcs11:token=t"}),
    sss(jwe("tpm2", TPM2), sss(jwe("tang", TANG), jwe("tang", TANG)))])
def test_what_clevis_makes_is_read(key):
    assert sealed.read(key)["clevis"]["pin"] in ("tpm2", "tang", "sss", "null", "pkcs11")


# In clevis-decrypt-tpm2: tpm2_unseal -c load.context ${pcr_spec:+-p pcr:$pcr_spec}
OPTIONS = ["7 --tcti=cmd:reboot", "7 -o /etc/passwd", "7\n", "7\t-T\tcmd:x", "7,*", "$(x)", "-7",
           "a"]


@pytest.mark.parametrize("value", [*OPTIONS, ["7", "x y"], ["7 -o /etc/passwd"], {"a": 1}])
def test_pcrs_are_numbers(value):
    with pytest.raises(ValueError, match="pcr_ids"):
        sealed.read(jwe("tpm2", dict(TPM2, pcr_ids=value)))


@pytest.mark.parametrize("name", ["pcr_bank", "hash", "key"])
@pytest.mark.parametrize("value", [*OPTIONS[:-1], "", "sha256 ", "a" * 33, None, 7, ["sha256"]])
def test_names_of_the_tpm_are_words(name, value):
    with pytest.raises(ValueError, match=name):
        sealed.read(jwe("tpm2", dict(TPM2, **{name: value})))


@pytest.mark.parametrize("name", ["jwk_pub", "jwk_priv"])
def test_the_parts_for_the_tpm_are_base64url(name):
    for value in ("a b", "a\n", "a=", 7, None):
        with pytest.raises(ValueError, match=name):
            sealed.read(jwe("tpm2", dict(TPM2, **{name: value})))


@pytest.mark.parametrize("url", [
    "", "-o/etc/passwd", "--config=/x", "file:///etc/passwd", "gopher://tang/x", "ftp://tang",
    "FILE:/etc/passwd", "http://tang/ -o /etc/passwd", "http://tang/\n", "http://a@tang/",
    "http://tang/?x", "http://tang/$(x)", "http://{a,b}", "http://t\xe4ng", None, 7])
def test_a_tang_server_is_asked_by_http(url):
    with pytest.raises(ValueError, match="url"):
        sealed.read(jwe("tang", dict(TANG, url=url)))


@pytest.mark.parametrize("header", [
    {"kid": "../../x"}, {"kid": 7}, {"epk": {"crv": 'P-521","x":"'}}, {"alg": "PBES2-HS256+A128KW"},
    {"alg": "RSA1_5"}, {"alg": None}, {"zip": "DEF"}, {"p2c": 2 ** 31}, {"jku": "http://x"}])
def test_jose_is_asked_for_nothing_that_clevis_does_not_ask_for(header):
    with pytest.raises(ValueError):
        sealed.read(jwe("tang", TANG, **header))


@pytest.mark.parametrize("pin", ["", "-x", "../tpm2", "a/b", "a b", "a\n", "TPM2", "x" * 33])
def test_a_pin_is_a_name(pin):
    with pytest.raises(ValueError, match="pin"):
        sealed.read(jwe(pin, {}))


@pytest.mark.parametrize("key", [
    "", ".", "a.b.c.d", "a.b.c.d.e.f", "....", "a.b.c.d.e", "=.b.c.d.e", "\xe4.b.c.d.e",
    jwe("", {}, text="[]"), jwe("", {}, text="{}"), jwe("", {}, text='{"clevis": 7}'),
    jwe("", {}, text='{"clevis": {"pin": "null"}}'), jwe("", {}, text='{"clevis": {"pin": []}}'),
    jwe("", {}, text='{"clevis": {"pin": "null", "null": 7}}'),
    jwe("", {}, text='{"clevis": {"pin": "null", "null": {}, "pin": "x", "x": {}}}'),
    jwe("", {}, text="[" * 90000)])
def test_what_cannot_be_read_is_refused(key):
    with pytest.raises(ValueError):
        sealed.read(key)


@pytest.mark.parametrize("shares", [None, 7, [], {}, [7], [None], [{}], ["a.b.c.d.e"]])
def test_a_share_is_a_sealed_key(shares):
    with pytest.raises(ValueError):
        sealed.read(jwe("sss", {"t": 1, "jwe": shares}))


def test_every_share_is_looked_at():
    with pytest.raises(ValueError, match="pcr_ids"):
        sealed.read(sss(jwe("null", {}), sss(jwe("tpm2", dict(TPM2, pcr_ids=OPTIONS[0])))))


def test_shares_within_shares_have_an_end():
    key, levels = jwe("null", {}), 0
    with pytest.raises(ValueError, match="deep"):
        for _ in range(50):
            key, levels = sss(key), levels + 1
            sealed.read(key)
    assert levels == sealed.DEEPEST + 1


def test_many_shares_are_too_many_on_whatever_level():
    one = jwe("null", {})
    sealed.read(sss(*[one] * sealed.MOST_SHARES))
    for many in (sss(*[one] * (sealed.MOST_SHARES + 1)), sss(*[sss(*[one] * 10)] * 10)):
        with pytest.raises(ValueError, match="more than 32 shares"):
            sealed.read(many)


def test_the_largest_bomb_is_refused_at_once():
    bomb = sss(*[jwe("null", {})] * 40000)
    begin = time.monotonic()
    with pytest.raises(ValueError):
        sealed.read(bomb)
    assert time.monotonic() - begin < 5


@given(text=st.text())
def test_any_text_is_read_or_refused(text):
    with pytest.raises(ValueError):
        sealed.read(text)


@given(name=st.sampled_from(sorted(TPM2)), value=st.text(max_size=20))
def test_nothing_of_a_tpm2_key_can_become_an_option_or_a_second_word(name, value):
    try:
        sealed.read(jwe("tpm2", dict(TPM2, **{name: value})))
    except ValueError:
        return
    assert not value.startswith("-") or name.startswith("jwk")
    assert len(value.split()) <= 1
    assert not set(value) & set("*?[]$`\"'\\;|&<>(){}~\n\t ")
