# SPDX-License-Identifier: LGPL-2.1-only
"""clevis pins: seal a key, unseal it, describe a sealed key, and tell why unsealing failed.

A sealed key is a JWE in compact form: five base64url parts (RFC 7516, section 7.1), of which the
first holds the pin and its configuration (clevis(1)).
"""
import base64
import json
import os
import shutil
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from luksext import sealed, tang, tpm
from luksext.errors import (CommandFailed, CommandTimeout, OptionInvalid, PinRefuses,
                            SealedKeyForeign, TangRefuses, TpmRefuses, UnlockRefused)
from luksext.run import PATH, require, run

# Seconds. A slow TPM needs several for a key; clevis itself has no limit.
DEADLINE = 60


class Pin(NamedTuple):
    """A pin and its configuration, for sealing or as read from a sealed key."""

    name: str
    config: Dict[str, Any]


def available_pins() -> List[str]:
    """The names of the pins that this host's clevis can seal with."""
    prefix = "clevis-encrypt-"
    found = {name[len(prefix):] for directory in PATH.split(":") if os.path.isdir(directory)
             for name in os.listdir(directory) if name.startswith(prefix)}
    return sorted(found)


def check_tools(pin: Pin) -> None:
    """Raises ToolMissing where a program that `pin` needs is not installed, OptionInvalid where
    clevis has no such pin."""
    require("clevis", "jose")
    installed = available_pins()
    for leaf in [pin, *leaves(pin)]:
        if leaf.name not in installed:
            raise OptionInvalid("pin", leaf.name, " or ".join(installed))
        _require_tools_of(leaf)


def _require_tools_of(leaf: Pin) -> None:
    require("clevis", "jose")
    if leaf.name == "tpm2" and shutil.which("clevis-pin-tpm2", path=PATH) is None:
        require("tpm2_createprimary", "tpm2_load", "tpm2_unseal")
    if leaf.name == "tang":
        require("curl")


def new_key() -> bytes:
    """A random key of 256 bits to seal, in printable characters as clevis makes its own."""
    # As secrets.token_urlsafe, whose module would take longer to load than all of this package.
    return base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=")


def seal(pin: Pin, key: bytes) -> str:
    """Seals `key`, returns the JWE.

    Raises UnlockRefused's children where the TPM or server cannot do it now.
    """
    try:
        result = run(["clevis", "encrypt", pin.name, json.dumps(pin.config, sort_keys=True)],
                     stdin=key, deadline=DEADLINE, own_folder=True)
    except (CommandFailed, CommandTimeout) as error:
        raise _sealing_refused(pin, error) from error
    _rest(leaves(pin))
    jwe = result.stdout.decode("ascii", "replace").strip()
    try:
        sealed.read(jwe)
    except ValueError as error:
        raise PinRefuses(pin.name, "what it printed is no sealed key: {}".format(error)) from None
    return jwe


def unseal(jwe: str) -> bytes:
    """The key in `jwe`.

    Raises ToolMissing, or a child of UnlockRefused that names the cause.
    """
    try:
        sealed.read(jwe)
    except ValueError as error:
        raise SealedKeyForeign(str(error)) from None
    try:
        key = run(["clevis", "decrypt"], stdin=jwe.encode("ascii"), deadline=DEADLINE,
                  own_folder=True).stdout
    except (CommandFailed, CommandTimeout) as error:
        raise _unsealing_refused(describe(jwe), error) from error
    _rest(sealed_leaves(describe(jwe)))
    return key


def _rest(pins: Iterator[Pin]) -> None:
    if any(pin.name == "tpm2" for pin in pins):
        tpm.rest()


def describe(jwe: str) -> Pin:
    """The pin that sealed `jwe`; `Pin("unknown", {})` where it is not as clevis writes it."""
    try:
        header = sealed.read(jwe)["clevis"]
    except ValueError:
        return Pin("unknown", {})
    return Pin(header["pin"], dict(header[header["pin"]]))


def leaves(pin: Pin) -> Iterator[Pin]:
    """`pin` itself, or for the pin sss (clevis-encrypt-sss(1)) all pins that it shares among."""
    if pin.name != "sss":
        yield pin
        return
    for name, configs in dict(pin.config.get("pins", {})).items():
        for config in configs if isinstance(configs, list) else [configs]:
            yield from leaves(Pin(name, config))


def shares(pin: Pin) -> List[Pin]:
    """The pins among which a sealed key of the pin sss is shared: it keeps their JWEs."""
    jwes = pin.config.get("jwe")
    return [describe(str(jwe)) for jwe in jwes] if isinstance(jwes, list) else []


def sealed_leaves(pin: Pin) -> Iterator[Pin]:
    """As `leaves`, of a pin as `describe` reads it from a sealed key."""
    if pin.name != "sss":
        yield pin
        return
    for share in shares(pin):
        yield from sealed_leaves(share)


def to_seal_again(pin: Pin) -> Pin:
    """`pin` as `seal` takes it, from `pin` as `describe` reads it from a sealed key.

    A tang server is trusted for its present keys when they are signed by one that it had before.
    Raises OptionInvalid where the sealed key does not say enough, TangUnreachable, TangRefuses.
    """
    if pin.name == "unknown":
        raise OptionInvalid("pin", pin.name, "the pin to bind to, such as tpm2")
    if pin.name == "tpm2":
        return Pin("tpm2", {key: value for key, value in pin.config.items()
                            if key not in ("jwk_pub", "jwk_priv")})
    if pin.name == "tang":
        url = str(pin.config.get("url", ""))
        return Pin("tang", {"url": url, "adv": tang.advertised(url, pin.config.get("adv"))})
    if pin.name == "sss":
        pins: Dict[str, List[Any]] = {}
        for share in shares(pin):
            leaf = to_seal_again(share)
            pins.setdefault(leaf.name, []).append(leaf.config)
        return Pin("sss", {"t": pin.config.get("t"), "pins": pins})
    return pin


def has_pcrs(pin: Pin) -> bool:
    """Whether a sealed key, whose pin this is, depends on PCRs."""
    return any(leaf.name == "tpm2" and leaf.config.get("pcr_ids") for leaf in sealed_leaves(pin))


def without_pcrs(pin: Pin) -> Pin:
    """`pin` as `seal` takes it, with no PCR left in it; the same where it has none."""
    config = {key: value for key, value in pin.config.items()
              if pin.name != "tpm2" or not key.startswith("pcr_")}
    if pin.name == "sss":
        config["pins"] = {
            name: [without_pcrs(Pin(name, leaf)).config for leaf in
                   (configs if isinstance(configs, list) else [configs])]
            for name, configs in dict(pin.config["pins"]).items()}
    return Pin(pin.name, config)


def _sealing_refused(pin: Pin, error: Exception) -> UnlockRefused:
    for leaf in leaves(pin):
        reason = _state_of(leaf)
        if reason is not None:
            return reason
    return PinRefuses(pin.name, _detail(error))


def _unsealing_refused(pin: Pin, error: Exception) -> UnlockRefused:
    for leaf in sealed_leaves(pin):
        _require_tools_of(leaf)
    states = [(leaf, _state_of(leaf)) for leaf in sealed_leaves(pin)]
    found = [state for _, state in states if state is not None]
    if not _is_short(pin, iter([state is None for _, state in states])):
        found = [state or _refusal_of(leaf, error) for leaf, state in states]
    if len(found) == 1:
        return found[0]
    sentences = [reason.sentence for reason in found] or [_detail(error)]
    refusal = PinRefuses(pin.name, " ".join(sentences))
    refusal.may_pass = any(reason.may_pass for reason in found)
    return refusal


def _is_short(pin: Pin, in_order: Iterator[bool]) -> bool:
    """Whether `pin` cannot open with those of its leaves that are `in_order`, which is told in the
    order of `sealed_leaves`: fewer shares are left of the pin sss than it needs."""
    if pin.name != "sss":
        return not next(in_order)
    left = sum(not _is_short(share, in_order) for share in shares(pin))
    needed = pin.config.get("t")
    return isinstance(needed, int) and left < needed


def _detail(error: Exception) -> str:
    return getattr(error, "sentence", str(error))


def _state_of(pin: Pin) -> Optional[UnlockRefused]:
    """What is wrong with the thing that `pin` depends on, None when it is in order."""
    checks: Dict[str, Callable[[Pin], None]] = {
        "tpm2": lambda leaf: tpm.check(),
        "tang": lambda leaf: tang.check(str(leaf.config.get("url", ""))),
    }
    try:
        if pin.name in checks:
            checks[pin.name](pin)
    except UnlockRefused as reason:
        return reason
    return None


def _refusal_of(pin: Pin, error: Exception) -> UnlockRefused:
    """Why `pin` said no although what it depends on is in order."""
    if pin.name == "tpm2" and isinstance(error, CommandFailed):
        return TpmRefuses(str(pin.config.get("pcr_ids", "")))
    if pin.name == "tang" and isinstance(error, CommandFailed):
        return TangRefuses(str(pin.config.get("url", "")))
    refusal = PinRefuses(pin.name, _detail(error))
    refusal.may_pass = isinstance(error, CommandTimeout)
    return refusal


def split(jwe: str) -> Tuple[str, str, str, str, str]:
    """The five parts of a JWE that `seal` made: protected, encrypted_key, iv, ciphertext, tag."""
    protected, encrypted_key, iv, ciphertext, tag = jwe.split(".")
    return protected, encrypted_key, iv, ciphertext, tag
