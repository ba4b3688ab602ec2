# SPDX-License-Identifier: LGPL-2.1-only
"""A tang server: does it answer, and which keys does it offer that we have reason to trust?"""
import base64
import hashlib
import json
from typing import Any, Dict, Optional

from luksext import untrusted
from luksext.errors import (CommandFailed, CommandTimeout, OptionInvalid, TangRefuses,
                            TangUnreachable)
from luksext.run import run, secret_pipe

# Seconds for an answer.
_SECONDS = 5

# Bytes; an advertisement has a few KiB.
_LARGEST = 1 << 20

# As curl prints them behind the content.
_OK, _NOT_FOUND = b"200", b"404"
_STATUS_DIGITS = 3

# What of an EC key its thumbprint is made of (RFC 7638, section 3.2).
_THUMBED = ("crv", "kty", "x", "y")


def check(url: str) -> None:
    """Raises TangUnreachable where the server does not answer as one."""
    if _get(url, "/adv") is None:
        raise _unexpected(url, _NOT_FOUND)


def advertised(url: str, known: Any) -> Dict[str, Any]:
    """What the server offers now (a JWS, RFC 7515), proved to be signed by a key in `known`, which
    is a JWK set as clevis keeps it in a sealed key.

    clevis itself looks for a trusted key among those that are offered, where a replaced one is no
    more; the server goes on signing with it for who asks by its thumbprint (tang(8)).
    Raises OptionInvalid where `known` has no signing key, TangUnreachable, TangRefuses.
    """
    key = _signing_key(url, known)
    offer = _get(url, "/adv/" + _thumbprint(key))
    if offer is None:
        raise TangRefuses(url)
    with secret_pipe(json.dumps(key).encode("ascii")) as pipe:
        try:
            run(["jose", "jws", "ver", "-i", "-", "-k", pipe.path], stdin=offer, pipes=[pipe])
            return dict(untrusted.parse(offer))
        except (CommandFailed, ValueError, TypeError):
            raise TangRefuses(url) from None


def _get(url: str, path: str) -> Optional[bytes]:
    """The bytes that the server has at `path`, None where it has nothing there.

    Asked by curl, as clevis asks: it ends in time, whatever a name server or the server do. The URL
    may come from a header that anybody wrote: it is no option, and leads to no file.
    """
    try:
        answer = run(["curl", "--silent", "--show-error", "--globoff", "--noproxy", "*",
                      "--max-time", str(_SECONDS), "--max-filesize", str(_LARGEST),
                      "--write-out", "%{http_code}", "--proto", "=http,https",
                      "--url", url + path], deadline=2 * _SECONDS)
    except (CommandFailed, CommandTimeout) as error:
        raise TangUnreachable(url, error.sentence.rstrip(".")) from error
    content, status = answer.stdout[:-_STATUS_DIGITS], answer.stdout[-_STATUS_DIGITS:]
    if status == _NOT_FOUND:
        return None
    if status != _OK:
        raise _unexpected(url, status)
    return content


def _unexpected(url: str, status: bytes) -> TangUnreachable:
    return TangUnreachable(
        url, "it answers with HTTP status {}".format(status.decode("ascii", "replace")))


def _signing_key(url: str, known: Any) -> Dict[str, Any]:
    try:
        return next(key for key in known["keys"] if "verify" in key["key_ops"]
                    and all(isinstance(key[name], str) for name in _THUMBED))
    except (StopIteration, KeyError, TypeError):
        raise OptionInvalid("pin-config", json.dumps({"url": url}),
                            "a tang url with thp, the thumbprint of its key") from None


def _thumbprint(key: Dict[str, Any]) -> str:
    """The thumbprint of an EC key (RFC 7638) with SHA-256, which every version of tang knows."""
    members = {name: key[name] for name in _THUMBED}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")
