# SPDX-License-Identifier: LGPL-2.1-only
"""A tang server: does it answer, and which keys does it offer that we have reason to trust?"""
import base64
import hashlib
import json
from typing import Any, Dict

from luksext.errors import CommandFailed, OptionInvalid, TangRefuses, TangUnreachable
from luksext.run import run, secret_pipe

# Seconds.
_DEADLINE = 5

# Bytes; an advertisement has a few KiB.
_LARGEST = 1 << 20

_NOT_FOUND = 404

# What of an EC key its thumbprint is made of (RFC 7638, section 3.2).
_THUMBED = ("crv", "kty", "x", "y")


def check(url: str) -> None:
    """Raises TangUnreachable where the server does not answer as one."""
    if _get(url, "/adv") is None:
        raise TangUnreachable(url, "it answers with HTTP status {}".format(_NOT_FOUND))


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
            return dict(json.loads(offer.decode("utf-8")))
        except (CommandFailed, ValueError, TypeError):
            raise TangRefuses(url) from None


def _get(url: str, path: str) -> Any:
    """The bytes that the server has at `path`, None where it has nothing there."""
    # Imported here because every VDI operation loads this module, and few ask a server.
    import http.client
    import urllib.error
    import urllib.request
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url + path, timeout=_DEADLINE) as answer:
            return answer.read(_LARGEST)
    except urllib.error.HTTPError as error:
        if error.code == _NOT_FOUND:
            return None
        raise TangUnreachable(url, "it answers with HTTP status {}".format(error.code)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise TangUnreachable(url, str(getattr(error, "reason", error))) from error


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
