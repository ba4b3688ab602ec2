# SPDX-License-Identifier: LGPL-2.1-only
"""escrow: a recovery key goes out encrypted to a public key, and to nothing else."""
import json

import pytest

from luksext import escrow
from luksext.errors import EscrowKeyInvalid

KEY = b"F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW"
EC = {"kty": "EC", "crv": "P-521", "x": "eA", "y": "eQ"}

# What the program reads as a file: the path after the option.
KEEP = '''
while [ $# -gt 0 ]; do
    [ "$1" = {} ] && $helpers/cat "$2" >$log.file
    shift
done
echo a.b.c.d.e
'''


@pytest.mark.parametrize("jwk, protected", [
    (EC, {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}),
    (dict(EC, kid="office"), {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "kid": "office"}),
    (dict(EC, kid="\n"), {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}),
    (dict(EC, alg="ECMR", use="enc", key_ops=["wrapKey"]),
     {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"})])
def test_a_key_is_encrypted_over_stdin_to_the_public_members_alone(programs, jwk, protected):
    programs.add("jose", KEEP.format("-k"))
    assert escrow.seal(KEY, jwk) == "a.b.c.d.e"
    [argv] = programs.calls("jose")
    assert argv[:4] == ["jose", "jwe", "enc", "-i"]
    assert json.loads(argv[4]) == {"protected": protected}
    assert programs.stdin("jose") == KEY
    public = json.loads((programs.folder / ".jose.file").read_bytes().decode())
    assert public == EC


@pytest.mark.parametrize("jwk, reason", [
    (dict(EC, d="secret"), "private"), ({"kty": "RSA", "p": "secret"}, "private"),
    ({"kty": "oct", "k": "secret"}, "private"), ({"keys": [EC]}, "not one EC key"),
    ([], "not one key"), ("x", "not one key"), ({"kty": ["EC"]}, "not one EC key"),
    (dict(EC, crv="secp256k1"), "not one EC key"), (dict(EC, crv=["P-256"]), "not one EC key"),
    ({"kty": "RSA", "n": "n" * 342, "e": "AQAB"}, "not one EC key"),
    (dict(EC, k="secret"), "private"), (dict(EC, use="sig"), "not made for encryption"),
    (dict(EC, key_ops=["verify"]), "not made for encryption"), (dict(EC, key_ops=7), "not made"),
    ({"kty": "EC", "crv": "P-256", "x": "eA"}, "lacks"), (dict(EC, y=7), "lacks")])
def test_what_is_no_public_key_for_encryption_is_refused(programs, jwk, reason):
    programs.add("jose")
    with pytest.raises(EscrowKeyInvalid, match=reason) as refusal:
        escrow.seal(KEY, jwk)
    assert "secret" not in str(refusal.value)
    assert programs.calls("jose") == []


def test_a_key_that_jose_refuses_is_told_without_the_recovery_key(programs):
    programs.add("jose", "$helpers/cat $stdin >&2; exit 1")
    with pytest.raises(EscrowKeyInvalid, match="cannot encrypt") as refusal:
        escrow.seal(KEY, EC)
    assert KEY.decode() not in str(refusal.value)
