# SPDX-License-Identifier: LGPL-2.1-only
"""The options of an encrypted SR, as given in its device-config.

`parse` checks every one before anything is touched. Each has a default; a key that is not ours is
left to the ext driver.
"""
import json
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from luksext import untrusted
from luksext.clevis import Pin
from luksext.configuration import CIPHERS
from luksext.cryptsetup import Flags
from luksext.errors import OptionInvalid, SecretInvalid

_KEY_BITS = ("256", "512")

# How XAPI names the key after it moved a *password into a secret (xapi_secret.ml).
RECOVERY_SECRET_KEY = "recovery_password_secret"

_PCR_IDS = re.compile(r"([0-9]|1[0-9]|2[0-3])(,([0-9]|1[0-9]|2[0-3]))*\Z")
_BANKS = ("sha1", "sha256", "sha384", "sha512", "sm3_256")
_PIN_NAME = re.compile(r"[a-z0-9_-]{1,32}\Z")
# The PIN of a PKCS#11 token (RFC 7512, section 2.4); a name and password in a URL.
_SECRET = re.compile(r'pin-value|://[^/@"]*:[^/@"]*@')
_UNSAFE_IN_DEVICE = re.compile(r"[^\x21-\x7e]")

# As many as the mark in their headers can number.
_MOST_DEVICES = 999

# Characters. The kernel takes twice as many for an argument of a program.
_LONGEST_PIN_CONFIG = 65536


class Options(NamedTuple):
    """The options of an SR, checked. luks_version is None where the host shall choose."""

    devices: List[str]
    force: bool
    pin: Pin
    luks_version: Optional[int]
    cipher: str
    key_bits: int
    flags: Flags


def parse(config: Mapping[str, str]) -> Options:
    """The options in a device-config. Raises OptionInvalid for the first that cannot be used."""
    version = _choice(config, "luks-version", ("1", "2"), "")
    _choice(config, "sector-size", ("512",), "512")
    return Options(
        devices=parse_devices(config),
        force=_boolean(config, "force"),
        pin=parse_pin(config),
        luks_version=int(version) if version else None,
        cipher=_choice(config, "cipher", CIPHERS, CIPHERS[0]),
        key_bits=int(_choice(config, "key-size", _KEY_BITS, "512")),
        flags=parse_flags(config))


def parse_flags(config: Mapping[str, str]) -> Flags:
    """`discard` and `workqueues`. Raises OptionInvalid."""
    return Flags(discard=_boolean(config, "discard"),
                 workqueues=_boolean(config, "workqueues", default="true"))


def flags_as_given(flags: Flags) -> Dict[str, str]:
    """`flags` as a device-config has them."""
    return {name: json.dumps(value) for name, value in flags._asdict().items()
            if value != getattr(Flags(), name)}


def parse_devices(config: Mapping[str, str]) -> List[str]:
    """The paths in `device`. Raises OptionInvalid."""
    value = config.get("device", "")
    paths = value.split(",")
    allowed = "at most {} paths of disks below /dev, separated by commas, each once".format(
        _MOST_DEVICES)
    if any(not path.startswith("/dev/") or _UNSAFE_IN_DEVICE.search(path) or ".." in path.split("/")
           for path in paths):
        raise OptionInvalid("device", value, allowed)
    if len(set(paths)) != len(paths) or len(paths) > _MOST_DEVICES:
        raise OptionInvalid("device", value, allowed)
    return paths


def check_passphrase(text: str) -> bytes:
    """The recovery passphrase, without the newline that ends a file. Raises SecretInvalid."""
    passphrase = text[:-1] if text.endswith("\n") else text
    if not passphrase.isprintable():
        raise SecretInvalid("has more than one line, or unprintable characters")
    encoded = passphrase.encode("utf-8")
    # cryptsetup reads at most 512 bytes from a terminal (cryptsetup(8), passphrase processing).
    if len(passphrase) < 12 or len(encoded) > 512:
        raise SecretInvalid("has {} characters, {} bytes".format(len(passphrase), len(encoded)))
    return encoded


def check_pin(pin: Pin) -> Pin:
    """`pin` with its configuration completed. Raises OptionInvalid."""
    return parse_pin({"pin": pin.name, "pin-config": json.dumps(pin.config)})


def _choice(config: Mapping[str, str], key: str, allowed: Any, default: str) -> str:
    value = config.get(key, default)
    if value not in allowed and value != default:
        raise OptionInvalid(key, value, " or ".join(allowed))
    return value


def _boolean(config: Mapping[str, str], key: str, default: str = "false") -> bool:
    return _choice(config, key, ("true", "false"), default) == "true"


def parse_pin(config: Mapping[str, str]) -> Pin:
    """The pin in `pin` and `pin-config`, its configuration completed. Raises OptionInvalid."""
    name = config.get("pin", "tpm2")
    if not _PIN_NAME.match(name):
        raise OptionInvalid("pin", name, "the name of a clevis pin, such as tpm2, tang or sss")
    text = config.get("pin-config", "{}")
    if len(text) > _LONGEST_PIN_CONFIG:
        raise OptionInvalid("pin-config", text,
                            "at most {} characters".format(_LONGEST_PIN_CONFIG))
    try:
        value = untrusted.parse(text)
    except ValueError:
        raise OptionInvalid("pin-config", text, "a JSON object, such as {}") from None
    if _SECRET.search(json.dumps(value)):
        raise OptionInvalid("pin-config", "(not repeated: it has a secret in it)",
                            "no pin-value of a token, no password in a URL: XAPI and the disk's "
                            "header would keep them for all to read. Change this one: XAPI's "
                            "logs have it now")
    try:
        return _checked_pin(name, value, text)
    except RecursionError:
        raise OptionInvalid("pin-config", text, "fewer pins within pins") from None


def _checked_pin(name: str, config: Any, text: str) -> Pin:
    if not isinstance(config, dict):
        raise OptionInvalid("pin-config", text, "a JSON object for the pin " + name)
    check = {"tpm2": _tpm2, "tang": _tang, "sss": _sss}.get(name)
    return Pin(name, check(config, text) if check else config)


def _tpm2(config: Dict[str, Any], text: str) -> Dict[str, Any]:
    """Adds the PCR bank: clevis 7 reads it by another key than later versions, and defaults
    to sha1, which current TPMs have no longer (clevis-encrypt-tpm2(1))."""
    pcrs = config.get("pcr_ids")
    if pcrs is None:
        return config
    if isinstance(pcrs, list):
        pcrs = ",".join(str(pcr) for pcr in pcrs)
    pcrs = str(pcrs)
    if not _PCR_IDS.match(pcrs):
        raise OptionInvalid("pin-config", text, "pcr_ids with numbers from 0 to 23, such as "
                                                "{\"pcr_ids\":\"7\"}")
    bank = config.get("pcr_bank", config.get("pcr_hash", "sha256"))
    if bank not in _BANKS:
        raise OptionInvalid("pin-config", text, "pcr_bank " + " or ".join(_BANKS))
    return dict(config, pcr_ids=pcrs, pcr_bank=bank, pcr_hash=bank)


def _tang(config: Dict[str, Any], text: str) -> Dict[str, Any]:
    """Insists on a known key: without, clevis asks a person whether to trust the server's."""
    if not str(config.get("url", "")).startswith(("http://", "https://")):
        raise OptionInvalid("pin-config", text, "a tang url, such as {\"url\":\"http://tang\"}")
    if not config.get("thp") and not config.get("adv"):
        raise OptionInvalid("pin-config", text, "a tang url with thp, the thumbprint of its key "
                                                "(`tang-show-keys` on the server), or adv")
    return config


def _sss(config: Dict[str, Any], text: str) -> Dict[str, Any]:
    pins = config.get("pins")
    if not isinstance(pins, dict) or not pins:
        raise OptionInvalid("pin-config", text, "an sss object with pins, such as "
                                                "{\"t\":1,\"pins\":{\"tpm2\":{}}}")
    checked = {}
    total = 0
    for name, value in pins.items():
        values = value if isinstance(value, list) else [value]
        checked[name] = [_checked_pin(name, item, text).config for item in values]
        total += len(values)
    threshold = config.get("t")
    if not isinstance(threshold, int) or isinstance(threshold, bool) \
            or not 1 <= threshold <= total:
        raise OptionInvalid("pin-config", text, "a threshold t from 1 to {}".format(total))
    return dict(config, pins=checked)
