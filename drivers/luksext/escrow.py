# SPDX-License-Identifier: LGPL-2.1-only
"""Escrow: a recovery key encrypted to the public key of an organisation.

What comes out opens nothing without the private key, which never comes near the host: it may lie in
the LUKS header, and be printed.
"""
import json
import re
from typing import Any, Dict, Tuple

from luksext.errors import CommandFailed, EscrowKeyInvalid, EscrowRefused
from luksext.run import run, secret_pipe

# How a recovery key is encrypted to a public key, by the key's type (RFC 7518, section 4.1). jose
# itself would choose RSA1_5.
_ALGORITHMS = {"EC": "ECDH-ES+A256KW", "RSA": "RSA-OAEP-256"}
_PUBLIC_MEMBERS = {"EC": ("kty", "crv", "x", "y"), "RSA": ("kty", "n", "e")}
_PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_USES = ("wrapKey", "encrypt", "deriveKey", "deriveBits")
_RSA_BITS = 2048

# What of a key's name is repeated in the JWE, to find the private key by.
_KEY_ID = re.compile(r"[\x21-\x7e]{1,64}\Z")


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
    kind = str(jwk.get("kty")) if isinstance(jwk, dict) else ""
    if kind not in _ALGORITHMS:
        raise EscrowKeyInvalid("it is not one EC or RSA key")
    if any(member in jwk for member in _PRIVATE_MEMBERS):
        raise EscrowKeyInvalid("it is a private key, and no longer private now")
    uses = jwk.get("key_ops", _USES)
    if jwk.get("use", "enc") != "enc" or not any(use in str(uses) for use in _USES):
        raise EscrowKeyInvalid("it is not made for encryption")
    members = _PUBLIC_MEMBERS[kind]
    public = {member: jwk.get(member) for member in members}
    if not all(isinstance(value, str) for value in public.values()):
        raise EscrowKeyInvalid("it lacks one of {}".format(", ".join(members)))
    # base64url has six bits in a character.
    if kind == "RSA" and 6 * len(jwk["n"]) < _RSA_BITS:
        raise EscrowKeyInvalid("it has less than {} bits".format(_RSA_BITS))
    protected = {"alg": _ALGORITHMS[kind], "enc": "A256GCM"}
    if isinstance(jwk.get("kid"), str) and _KEY_ID.match(jwk["kid"]):
        protected["kid"] = jwk["kid"]
    return public, protected


def unseal(jwe: str, jwk: Dict[str, Any]) -> bytes:
    """The recovery key that `seal` encrypted, by the private key `jwk`; on any machine.

    Raises EscrowRefused.
    """
    with secret_pipe(jwe.encode("ascii", "replace")) as pipe:
        try:
            return run(["jose", "jwe", "dec", "-i", pipe.path, "-k", "-"],
                       stdin=json.dumps(jwk).encode("ascii"), pipes=[pipe]).stdout
        except CommandFailed:
            raise EscrowRefused() from None
