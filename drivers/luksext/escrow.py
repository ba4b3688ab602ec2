# SPDX-License-Identifier: LGPL-2.1-only
"""Escrow: a recovery key encrypted to the public key of an organisation.

What comes out opens nothing without the private key, which never comes near the host: it may lie in
the LUKS header, and be printed.
"""
import json
import re
from typing import Any, Dict, Tuple

from luksext.errors import CommandFailed, EscrowKeyInvalid
from luksext.run import run, secret_pipe

# Elliptic curves only: built with OpenSSL 3, jose has no RSA padding but that of PKCS #1 1.5
# (`jose alg`).
_PROTECTED = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}
_CURVES = ("P-256", "P-384", "P-521")
_PUBLIC_MEMBERS = ("kty", "crv", "x", "y")
_PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_USES = ("wrapKey", "encrypt", "deriveKey", "deriveBits")

# What of a key's name is repeated in the JWE, to find the private key by.
_KEY_ID = re.compile(r"[\x21-\x7e]{1,64}\Z")

# A coordinate on the largest curve has 66 bytes, in base64url.
_COORDINATE = re.compile(r"[A-Za-z0-9_-]{1,88}\Z")


def seal(key: bytes, jwk: Dict[str, Any]) -> str:
    """`key` encrypted to the public key `jwk` (RFC 7517): a JWE in compact form.

    Raises EscrowKeyInvalid, also for a private or symmetric key: that would give the key away.
    """
    public, protected = _for_sealing(jwk)
    with secret_pipe(json.dumps(public).encode("ascii")) as pipe:
        try:
            result = run(["jose", "jwe", "enc", "-i", json.dumps({"protected": protected}),
                          "-I", "-", "-k", pipe.path, "-c"], stdin=key, pipes=[pipe])
        except CommandFailed as error:
            raise EscrowKeyInvalid("jose cannot encrypt to it") from error
    return result.stdout.decode("ascii", "replace").strip()


def _for_sealing(jwk: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """What of `jwk` to encrypt to, and the header of the JWE."""
    if not isinstance(jwk, dict):
        raise EscrowKeyInvalid("it is not one key")
    if any(member in jwk for member in _PRIVATE_MEMBERS):
        raise EscrowKeyInvalid("it is a private key, and no longer private now")
    if jwk.get("kty") != "EC" or jwk.get("crv") not in _CURVES:
        raise EscrowKeyInvalid("it is not one EC key on {}".format(" or ".join(_CURVES)))
    uses = jwk.get("key_ops", _USES)
    if jwk.get("use", "enc") != "enc" or not isinstance(uses, (list, tuple)) \
            or not any(use in uses for use in _USES):
        raise EscrowKeyInvalid("it is not made for encryption")
    public = {member: jwk.get(member) for member in _PUBLIC_MEMBERS}
    if not all(isinstance(value, str) for value in public.values()):
        raise EscrowKeyInvalid("it lacks one of {}".format(", ".join(_PUBLIC_MEMBERS)))
    if not all(_COORDINATE.match(str(public[member])) for member in ("x", "y")):
        raise EscrowKeyInvalid("its x or y is no coordinate")
    protected = dict(_PROTECTED)
    if isinstance(jwk.get("kid"), str) and _KEY_ID.match(jwk["kid"]):
        protected["kid"] = jwk["kid"]
    return public, protected
