# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a sealed key is one that clevis makes, before clevis is given it.

A sealed key comes from a header, which anybody may have written, and clevis trusts it: its script
for tpm2 puts the PCRs that it names among the arguments of a program, where they can be options
that run commands (`--tcti=cmd:`); for tang it has curl ask the URL that it names; for sss it starts
a process for each share, in which there can be shares again; and jose unpacks and stretches as it
is told. So what clevis uses has to have the form that clevis writes, and is bounded in number.
"""
import base64
import re
from typing import Any, Dict, List

from luksext import untrusted

# Characters: a key shared among ten tang servers, with their signed keys, has thirty thousand.
LARGEST = 128 * 1024

# Shares of all levels together, and levels.
MOST_SHARES = 32
DEEPEST = 4

# Five parts; the second, an encrypted key, is empty for the keys that clevis makes.
_JWE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*){4}\Z")

_PIN = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:-]{0,31}\Z")
_PCR_IDS = re.compile(r"([0-9]{1,2}(,[0-9]{1,2})*)?\Z")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")
_URL = re.compile(r"(https?://)?[A-Za-z0-9\[][A-Za-z0-9._~:\[\]/%-]*\Z")

# What clevis's pins (tang; all others) have jose do; `zip` and PBES2 are not among it.
_ALGORITHMS = ("dir", "ECDH-ES")
_MEMBERS_OF_OTHERS = ("zip", "p2c", "p2s", "jku", "x5u")


def read(jwe: str) -> Dict[str, Any]:
    """The header of the sealed key `jwe`. Raises ValueError with what is wrong with it."""
    first = _read(jwe)
    level, count, depth = _shares(first), 0, 0
    while level:
        count, depth = count + len(level), depth + 1
        if count > MOST_SHARES or depth > DEEPEST:
            raise ValueError("it has more than {} shares, or more than {} deep".format(
                MOST_SHARES, DEEPEST))
        level = [below for share in level for below in _shares(_read(share))]
    return first


def _read(jwe: str) -> Dict[str, Any]:
    if len(jwe) > LARGEST:
        raise ValueError("it has {} characters".format(len(jwe)))
    if not _JWE.match(jwe):
        raise ValueError("it has not five parts")
    header = _header(jwe.split(".", 1)[0])
    if header.get("alg", "dir") not in _ALGORITHMS or any(
            name in header for name in _MEMBERS_OF_OTHERS):
        raise ValueError("it is encrypted in another way than clevis does")
    name = header["clevis"]["pin"]
    _match("pin", name, _PIN)
    check = {"tpm2": _check_tpm2, "tang": _check_tang}.get(name)
    if check is not None:
        check(header, header["clevis"][name])
    return header


def _shares(header: Dict[str, Any]) -> List[str]:
    """The sealed keys within one of the pin sss."""
    if header["clevis"]["pin"] != "sss":
        return []
    shares = header["clevis"]["sss"].get("jwe")
    if not isinstance(shares, list) or not shares:
        raise ValueError("it has no shares")
    return list(map(str, shares))


def _header(part: str) -> Dict[str, Any]:
    try:
        header = untrusted.parse(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        # Which of them cannot be told is an error here.
        dict(header["clevis"][header["clevis"]["pin"]])
    except (ValueError, KeyError, TypeError):
        raise ValueError("its header cannot be read") from None
    return dict(header)


def _check_tpm2(header: Dict[str, Any], config: Dict[str, Any]) -> None:
    pcrs = config.get("pcr_ids", "")
    if isinstance(pcrs, list):
        pcrs = ",".join(map(str, pcrs))
    _match("pcr_ids", str(pcrs), _PCR_IDS)
    for name in ("hash", "key", "pcr_bank"):
        _match(name, config.get(name, "sha256"), _WORD)
    for name in ("jwk_pub", "jwk_priv"):
        _match(name, config.get(name, ""), _BASE64URL)


def _check_tang(header: Dict[str, Any], config: Dict[str, Any]) -> None:
    url = config.get("url", "")
    _match("url", url, _URL)
    if not url.startswith(("http://", "https://")) and ":/" in url:
        raise ValueError("its url is not one of a tang server")
    _match("kid", header.get("kid", ""), _BASE64URL)
    _match("crv", dict(header.get("epk", {})).get("crv", "P-521"), _WORD)


def _match(name: str, value: Any, form: Any) -> None:
    if not isinstance(value, str) or not form.match(value):
        raise ValueError("its {} is not one that clevis writes".format(name))
