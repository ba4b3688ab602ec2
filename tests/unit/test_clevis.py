# SPDX-License-Identifier: LGPL-2.1-only
"""clevis: sealing, unsealing, describing sealed keys, and why unsealing failed."""
import base64
import http.server
import json
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headers
from luksext import clevis, tpm
from luksext.clevis import Pin
from luksext.errors import (LuksError, NoTpm, OptionInvalid, PinRefuses, SealedKeyForeign,
                            TangRefuses, TangUnreachable, ToolMissing, TpmLockout, TpmRefuses,
                            UnlockRefused)

KEY = b"the-volume-key"
NOBODY = "http://127.0.0.1:9"


def part(value):
    """`value` as one base64url part of a JWE."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def jwe(pin, config):
    """A sealed key of the pin; only its header has content."""
    return part({"alg": "dir", "clevis": {"pin": pin, pin: config}}) + ".k.iv.text.tag"


@pytest.fixture
def tpm_works(programs, tmp_path, monkeypatch):
    """A TPM that is in order."""
    node = tmp_path / "tpmrm0"
    node.write_text("")
    monkeypatch.setattr(tpm, "DEVICE", str(node))
    return node


@pytest.fixture
def no_tpm(tmp_path, monkeypatch):
    """A host without TPM."""
    monkeypatch.setattr(tpm, "DEVICE", str(tmp_path / "no-tpm"))


@pytest.fixture
def tang():
    """A tang server that advertises its keys below /, but nothing below /broken."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/adv" else 500)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield "http://127.0.0.1:{}".format(server.server_port)
    server.shutdown()
    server.server_close()


@pytest.fixture
def garbage_server():
    """A server that speaks something else than HTTP."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)

    def answer():
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            client.recv(4096)
            client.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
            client.close()

    threading.Thread(target=answer, daemon=True).start()
    yield "http://127.0.0.1:{}".format(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


# Which pins there are


def test_pins_are_those_that_clevis_can_seal_with(programs):
    for name in ("clevis-encrypt-tpm2", "clevis-encrypt-sss", "clevis-decrypt-tang", "clevis"):
        programs.add(name)
    assert clevis.available_pins() == ["sss", "tpm2"]


def test_a_folder_of_the_path_that_is_missing_is_no_error(monkeypatch):
    monkeypatch.setattr(clevis, "PATH", "/nowhere:/nowhere-else")
    assert clevis.available_pins() == []


def install(programs, *names):
    for name in names:
        programs.add(name)


def test_the_tpm2_pin_needs_tpm2_tools(programs):
    install(programs, "clevis", "jose", "clevis-encrypt-tpm2")
    with pytest.raises(ToolMissing, match="tpm2_createprimary"):
        clevis.check_tools(Pin("tpm2", {}))
    for name in ("tpm2_createprimary", "tpm2_load", "tpm2_unseal"):
        programs.add(name)
    clevis.check_tools(Pin("tpm2", {}))


def test_the_tpm2_pin_in_one_program_needs_no_tpm2_tools(programs):
    install(programs, "clevis", "jose", "clevis-encrypt-tpm2", "clevis-pin-tpm2")
    clevis.check_tools(Pin("tpm2", {}))


def test_a_pin_that_clevis_has_not_is_refused_with_those_it_has(programs):
    install(programs, "clevis", "jose", "clevis-encrypt-tang", "clevis-encrypt-sss")
    with pytest.raises(OptionInvalid, match=r"device-config:pin=tpm3 .*Allowed: sss or tang"):
        clevis.check_tools(Pin("tpm3", {}))


def test_every_pin_of_a_shared_secret_must_be_installed(programs):
    install(programs, "clevis", "jose", "curl", "clevis-encrypt-tang")
    shared = Pin("sss", {"t": 1, "pins": {"tang": [{}, {}], "sss": {"t": 1, "pins": {"nbde": {}}}}})
    with pytest.raises(OptionInvalid, match="pin=sss"):
        clevis.check_tools(shared)
    programs.add("clevis-encrypt-sss")
    with pytest.raises(OptionInvalid, match="pin=nbde"):
        clevis.check_tools(shared)


def test_the_tang_pin_needs_curl(programs):
    install(programs, "clevis", "jose", "clevis-encrypt-tang")
    with pytest.raises(ToolMissing, match="program curl"):
        clevis.check_tools(Pin("tang", {}))


def test_without_clevis_nothing_else_is_looked_for(programs):
    with pytest.raises(ToolMissing, match="program clevis"):
        clevis.check_tools(Pin("tang", {}))


def test_the_leaves_of_a_shared_secret_are_all_pins_in_it():
    shared = Pin("sss", {"t": 1, "pins": {
        "tang": [{"url": "a"}, {"url": "b"}], "sss": {"t": 1, "pins": {"tpm2": {}}}}})
    assert list(clevis.leaves(shared)) == [
        Pin("tang", {"url": "a"}), Pin("tang", {"url": "b"}), Pin("tpm2", {})]
    assert list(clevis.leaves(Pin("sss", {}))) == []


# Sealing


def test_a_key_is_sealed_over_stdin_and_never_in_an_argument(programs):
    programs.add("clevis", "echo " + headers.JWE)
    assert clevis.seal(Pin("tpm2", {"pcr_ids": "7", "key": "rsa"}), KEY) == headers.JWE
    assert programs.calls("clevis") == [
        ["clevis", "encrypt", "tpm2", '{"key": "rsa", "pcr_ids": "7"}']]
    assert programs.stdin("clevis") == KEY


BY_TANG = jwe("tang", {"url": NOBODY})
SHARED = {"t": 1, "jwe": [BY_TANG, jwe("tpm2", {})]}


@pytest.mark.parametrize("sealed, rests", [
    (jwe("tpm2", {}), True), (jwe("sss", SHARED), True), (BY_TANG, False),
    (headers.JWE, False)])
def test_a_tpm_that_served_is_told_that_power_may_go(programs, tpm_works, sealed, rests):
    programs.add("clevis", "printf key")
    clevis.unseal(sealed)
    assert bool(tpm_works.read_bytes()) == rests


def test_a_tpm_that_hangs_is_asked_for_nothing_more(programs, tpm_works, monkeypatch):
    monkeypatch.setattr(clevis, "DEADLINE", 0.2)
    programs.add("clevis", "exec $helpers/sleep 60")
    with pytest.raises(LuksError):
        clevis.unseal(jwe("tpm2", {}))
    assert tpm_works.read_bytes() == b""


def test_sealing_without_tpm_says_so(programs, no_tpm):
    programs.add("clevis", "exit 1")
    with pytest.raises(NoTpm):
        clevis.seal(Pin("tpm2", {}), KEY)


def test_sealing_to_several_pins_names_the_one_that_fails(programs, tpm_works):
    programs.add("clevis", "exit 1")
    programs.link("curl")
    shared = Pin("sss", {"t": 2, "pins": {"tpm2": {}, "tang": {"url": NOBODY}}})
    with pytest.raises(TangUnreachable, match=NOBODY):
        clevis.seal(shared, KEY)


def test_sealing_that_fails_for_another_reason_quotes_clevis_and_no_key(programs, tpm_works):
    programs.add("clevis", "$helpers/cat $stdin; echo 'bad bank' >&2; exit 1")
    with pytest.raises(PinRefuses, match=r"pin tpm2 fails.*bad bank") as refusal:
        clevis.seal(Pin("tpm2", {"pcr_bank": "sha1"}), KEY)
    assert KEY.decode() not in str(refusal.value)


def test_sealing_that_hangs_is_stopped(programs, tpm_works, monkeypatch):
    monkeypatch.setattr(clevis, "DEADLINE", 0.3)
    programs.add("clevis", "exec $helpers/sleep 60")
    with pytest.raises(PinRefuses, match=r"did not end within 0.3 seconds"):
        clevis.seal(Pin("tpm2", {}), KEY)


# Unsealing


def test_a_key_is_unsealed_as_it_is(programs):
    programs.add("clevis", "printf ' key\\n\\000'")
    assert clevis.unseal(headers.JWE) == b" key\n\0"
    assert programs.calls("clevis") == [["clevis", "decrypt"]]
    assert programs.stdin("clevis") == headers.JWE.encode()


def refusal(sealed):
    with pytest.raises(UnlockRefused) as caught:
        clevis.unseal(sealed)
    return caught.value


@pytest.fixture
def clevis_fails(programs):
    programs.add("clevis", "$helpers/cat $stdin; echo 'it said' no. >&2; exit 1")
    programs.link("curl")
    for name in ("jose", "tpm2_createprimary", "tpm2_load", "tpm2_unseal"):
        programs.add(name)
    return programs


@pytest.mark.parametrize("program", ["jose", "tpm2_createprimary", "tpm2_load", "tpm2_unseal"])
def test_a_missing_program_is_not_said_to_be_a_refusal(clevis_fails, tpm_works, program):
    (clevis_fails.folder / program).unlink()
    with pytest.raises(ToolMissing, match=program):
        clevis.unseal(jwe("tpm2", {}))


def test_without_tpm_unsealing_says_so(clevis_fails, no_tpm):
    assert isinstance(refusal(jwe("tpm2", {})), NoTpm)


def test_a_tpm_in_lockout_is_told_apart(clevis_fails, tpm_works):
    clevis_fails.add("tpm2_getcap", "echo inLockout: set")
    assert isinstance(refusal(jwe("tpm2", {})), TpmLockout)
    assert refusal(jwe("tpm2", {})).may_pass


def test_a_tpm_in_order_that_says_no_has_other_pcrs_or_is_another(clevis_fails, tpm_works):
    with_pcrs = refusal(jwe("tpm2", {"pcr_ids": "7,14"}))
    assert isinstance(with_pcrs, TpmRefuses)
    assert not with_pcrs.may_pass
    assert "PCRs 7,14 changed" in str(with_pcrs)
    assert "cleared, replaced" in str(refusal(jwe("tpm2", {})))


def test_a_tpm_that_is_too_slow_is_not_said_to_refuse(programs, tpm_works, monkeypatch):
    monkeypatch.setattr(clevis, "DEADLINE", 0.3)
    programs.add("clevis", "exec $helpers/sleep 60")
    install(programs, "jose", "tpm2_createprimary", "tpm2_load", "tpm2_unseal")
    slow = refusal(jwe("tpm2", {}))
    assert isinstance(slow, PinRefuses)
    assert "did not end within 0.3 seconds" in str(slow)
    assert slow.may_pass


def test_a_tang_server_that_answers_lost_its_key(clevis_fails, tang):
    lost = refusal(jwe("tang", {"url": tang}))
    assert isinstance(lost, TangRefuses)
    assert tang in str(lost)


def test_a_tang_server_that_fails_is_told_with_its_status(clevis_fails, tang):
    failing = refusal(jwe("tang", {"url": tang + "/broken"}))
    assert isinstance(failing, TangUnreachable)
    assert "HTTP status 500" in str(failing)


@pytest.mark.parametrize("url", [NOBODY, "http://nowhere.invalid", "http://[", "http://tang:port"])
def test_a_tang_server_that_cannot_be_asked_is_unreachable(clevis_fails, url):
    assert isinstance(refusal(jwe("tang", {"url": url})), TangUnreachable)


def test_a_sealed_key_that_clevis_did_not_make_is_not_given_to_it(programs):
    programs.add("clevis", "printf key")
    for foreign in ("garbage", jwe("tang", {"url": "--output=/tmp/x"}), jwe("sss", {"jwe": []})):
        assert isinstance(refusal(foreign), SealedKeyForeign)
        assert clevis.describe(foreign) == Pin("unknown", {})
    assert programs.order() == []


def test_a_server_that_speaks_no_http_is_unreachable(clevis_fails, garbage_server):
    assert isinstance(refusal(jwe("tang", {"url": garbage_server})), TangUnreachable)


def test_a_proxy_of_the_environment_is_not_asked(clevis_fails, tang, monkeypatch):
    monkeypatch.setenv("http_proxy", NOBODY)
    assert isinstance(refusal(jwe("tang", {"url": tang})), TangRefuses)


def test_an_unknown_pin_is_quoted(clevis_fails):
    assert "clevis pin yubikey fails" in str(refusal(jwe("yubikey", {})))


def test_of_a_shared_secret_every_reason_is_told(clevis_fails, no_tpm):
    shared = refusal(jwe("sss", {"t": 1, "jwe": [jwe("tpm2", {}), jwe("tang", {"url": NOBODY})]}))
    assert isinstance(shared, PinRefuses)
    assert "no usable TPM" in str(shared)
    assert NOBODY in str(shared)


def test_a_shared_secret_may_open_later_where_one_of_its_pins_may(clevis_fails, tpm_works, tang):
    def share(url):
        return jwe("sss", {"t": 2, "jwe": [jwe("tpm2", {}), jwe("tang", {"url": url})]})

    assert refusal(share(NOBODY)).may_pass
    assert not refusal(share(tang)).may_pass


def test_of_a_shared_secret_only_what_it_lacks_is_blamed(clevis_fails, tpm_works):
    shared = refusal(jwe("sss", {"t": 2, "jwe": [jwe("tpm2", {}), jwe("tang", {"url": NOBODY})]}))
    assert isinstance(shared, TangUnreachable)
    inner = jwe("sss", {"t": 1, "jwe": [jwe("tang", {"url": NOBODY})]})
    shared = refusal(jwe("sss", {"t": 2, "jwe": [jwe("tpm2", {}), inner]}))
    assert isinstance(shared, TangUnreachable)


def test_a_shared_secret_of_one_pin_has_the_reason_of_that_pin(clevis_fails, no_tpm):
    inner = jwe("sss", {"t": 1, "jwe": [jwe("tpm2", {})]})
    assert isinstance(refusal(jwe("sss", {"t": 1, "jwe": [inner]})), NoTpm)


def test_a_sealed_key_that_is_not_ascii_is_refused(clevis_fails):
    with pytest.raises(LuksError):
        clevis.unseal("\xe4.\ufffd.c.d.e")


def test_no_refusal_tells_what_clevis_printed_on_stdout(clevis_fails):
    sealed = jwe("other", {"secret": "s3cret"})
    assert sealed not in "{0} {0!r}".format(refusal(sealed))


# Describing


def test_a_sealed_key_is_described_by_its_pin_and_configuration():
    assert clevis.describe(jwe("tpm2", {"pcr_ids": "7"})) == Pin("tpm2", {"pcr_ids": "7"})


@pytest.mark.parametrize("text", [
    "", ".", "....", "a", "\xe4", "!!!!.b", part(None), part([]), part("x"), part({}),
    part({"clevis": None}), part({"clevis": []}), part({"clevis": "pin"}), part({"clevis": {}}),
    part({"clevis": {"pin": []}}), part({"clevis": {"pin": "a"}}),
    part({"clevis": {"pin": "a", "a": 7}}), part({"clevis": {"pin": "a", "a": "text"}})])
def test_what_is_no_sealed_key_is_unknown(text):
    assert clevis.describe(text) == Pin("unknown", {})


def test_deep_json_is_unknown():
    deep = base64.urlsafe_b64encode(b"[" * 200000).decode()
    assert clevis.describe(deep) == Pin("unknown", {})


@given(st.text())
def test_any_text_is_described(text):
    assert isinstance(clevis.describe(text), Pin)


@given(st.recursive(st.none() | st.integers() | st.text(),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["clevis", "pin", "sss", "jwe", ""]), inner),
                    max_leaves=12))
def test_any_json_is_described(value):
    assert isinstance(clevis.describe(part(value) + ".a.b.c.d"), Pin)


def test_a_jwe_has_five_parts_some_of_which_may_be_empty():
    assert clevis.split("a..c.d.e") == ("a", "", "c", "d", "e")


# Sealing again


def test_a_tpm_binding_is_sealed_again_by_its_policy():
    policy = {"hash": "sha256", "key": "ecc", "pcr_bank": "sha256", "pcr_ids": "7"}
    sealed = Pin("tpm2", dict(policy, jwk_pub="pub", jwk_priv="priv"))
    assert clevis.to_seal_again(sealed) == Pin("tpm2", policy)
    assert clevis.without_pcrs(Pin("tpm2", policy)) == Pin("tpm2", {"hash": "sha256", "key": "ecc"})


def test_a_tang_binding_is_sealed_again_to_what_the_server_offers_now(monkeypatch):
    monkeypatch.setattr(clevis.tang, "advertised", lambda url, known: {"payload": [url, known]})
    assert clevis.to_seal_again(Pin("tang", {"url": "http://t", "adv": {"keys": []}})) == Pin(
        "tang", {"url": "http://t", "adv": {"payload": ["http://t", {"keys": []}]}})


def test_a_shared_secret_is_sealed_again_with_all_its_pins():
    shares = [jwe("tpm2", {"pcr_ids": "7", "jwk_pub": "a", "jwk_priv": "b"}), jwe("null", {}),
              jwe("tpm2", {})]
    again = clevis.to_seal_again(Pin("sss", {"t": 2, "p": "prime", "jwe": shares}))
    assert again == Pin("sss", {"t": 2, "pins": {"tpm2": [{"pcr_ids": "7"}, {}], "null": [{}]}})
    assert clevis.without_pcrs(again).config["pins"] == {"tpm2": [{}, {}], "null": [{}]}
    assert list(clevis.leaves(again)) == [Pin("tpm2", {"pcr_ids": "7"}), Pin("tpm2", {}),
                                          Pin("null", {})]


def test_a_damaged_sealed_key_cannot_be_sealed_again():
    for pin in (Pin("unknown", {}), Pin("sss", {"t": 1, "jwe": ["damaged"]})):
        with pytest.raises(OptionInvalid, match="pin=unknown"):
            clevis.to_seal_again(pin)


@pytest.mark.parametrize("pin, depends", [
    (Pin("tpm2", {"pcr_ids": "7"}), True), (Pin("tpm2", {}), False), (Pin("tang", {}), False),
    (Pin("sss", {"jwe": [jwe("tang", {}), jwe("tpm2", {"pcr_ids": "7"})]}), True),
    (Pin("sss", {"jwe": [jwe("tang", {"pcr_ids": "7"})]}), False), (Pin("sss", {}), False)])
def test_whether_a_sealed_key_depends_on_pcrs(pin, depends):
    assert clevis.has_pcrs(pin) is depends
