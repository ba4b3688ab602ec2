# SPDX-License-Identifier: LGPL-2.1-only
"""The TPM's PCRs: their values now, and the policy that a clevis binding ties a key to.

clevis seals with TPM2_PolicyPCR alone, so the policy can be computed from the values of the PCRs:
"TPM 2.0 Library Specification" 1.59, part 3, 23.7, and part 1, 19.7.7.9.
"""
import base64
import os
import re
import struct
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from luksext import eventlog, tpm, untrusted
from luksext.clevis import Pin
from luksext.errors import ToolMissing, TpmBroken
from luksext.run import run

# The kernel shows the values from 5.12 on (Documentation/ABI/stable/sysfs-class-tpm).
_SYSFS = "/sys/class/tpm/tpm0"

_DEADLINE = 20

# One line of what tpm2-tools print: "  7 : 0x65CAF8…"; version 3 leaves 0x out.
_LINE = re.compile(r"^\s*(\d{1,2})\s*:\s*(?:0x)?((?:[0-9A-Fa-f]{2})+)\s*$", re.MULTILINE)

_KEYEDHASH = 0x0008
_POLICY_PCR = 0x0000017F

# Bytes of a selection of 24 PCRs: what all tools that seal use.
_SELECTION = 3


class PolicyUnknown(Exception):
    """A sealed key whose policy is not one that clevis makes; its text says why, in a sentence."""


class Policy(NamedTuple):
    """The PCRs that a key is tied to.

    bank: as clevis names it. numbers: of the PCRs, ascending. algorithm: that the policy is
    computed with. digest: the policy.
    """

    bank: str
    numbers: List[int]
    algorithm: str
    digest: bytes


def policy_of(pin: Pin) -> Optional[Policy]:
    """The policy of a sealed key of the pin tpm2, None where it depends on no PCR.

    Raises PolicyUnknown.
    """
    if any(key.startswith("policy_") for key in pin.config):
        raise PolicyUnknown("its policy can be changed by whoever signs policies")
    algorithm, digest = _public_area(str(pin.config.get("jwk_pub", "")))
    numbers = _numbers(pin.config.get("pcr_ids"))
    if bool(numbers) != bool(digest):
        raise PolicyUnknown("its PCRs and its policy do not belong together")
    if not numbers:
        return None
    return Policy(str(pin.config.get("pcr_bank", "sha1")), numbers, algorithm, digest)


def _numbers(pcr_ids: object) -> List[int]:
    """The numbers in a sealed key's pcr_ids, which clevis takes as a text or as a list."""
    words = pcr_ids if isinstance(pcr_ids, list) else str(pcr_ids or "").split(",")
    try:
        numbers = {untrusted.number(word if isinstance(word, int) else str(word).strip())
                   for word in words if str(word).strip()}
    except ValueError:
        raise PolicyUnknown("its PCRs cannot be read") from None
    if not numbers <= set(range(eventlog.PCRS)):
        raise PolicyUnknown("its PCRs cannot be read")
    return sorted(numbers)


def _public_area(jwk_pub: str) -> Tuple[str, bytes]:
    """The hash algorithm and the policy of a sealed object.

    jwk_pub is a TPM2B_PUBLIC: size, type, name algorithm, attributes, policy (part 2, 12.2.4).
    """
    try:
        blob = base64.urlsafe_b64decode(jwk_pub + "=" * (-len(jwk_pub) % 4))
        size, kind, algorithm, length = struct.unpack_from(">HHH4xH", blob)
    except (ValueError, struct.error):
        raise PolicyUnknown("its public part cannot be read") from None
    digest = blob[12:12 + length]
    if size != len(blob) - 2 or kind != _KEYEDHASH or length != len(digest) \
            or algorithm not in eventlog.ALGORITHMS:
        raise PolicyUnknown("its public part is not as clevis makes it")
    return eventlog.ALGORITHMS[algorithm][0], digest


def policy_digest(policy: Policy, values: Mapping[int, bytes]) -> bytes:
    """The policy that `values` of the PCRs fulfil. Raises PolicyUnknown for an algorithm that this
    Python has not."""
    mask = sum(1 << number for number in policy.numbers)
    banks = {name: algorithm for algorithm, (name, _) in eventlog.ALGORITHMS.items()}
    if policy.bank not in banks:
        raise PolicyUnknown("its PCR bank is not known")
    selection = struct.pack(">IHB", 1, banks[policy.bank], _SELECTION) \
        + mask.to_bytes(_SELECTION, "little")
    start = _digest(policy.algorithm, b"")
    content = _digest(policy.algorithm, b"".join(values[number] for number in policy.numbers))
    return _digest(policy.algorithm,
                   bytes(len(start)) + struct.pack(">I", _POLICY_PCR) + selection + content)


def _digest(algorithm: str, data: bytes) -> bytes:
    value = eventlog.digest(algorithm, data)
    if value is None:
        raise PolicyUnknown("its hash algorithm {} is not known".format(algorithm))
    return value


def read(bank: str, numbers: List[int]) -> Dict[int, bytes]:
    """The values of PCRs now. Raises ToolMissing, CommandFailed, CommandTimeout or TpmBroken."""
    try:
        return {number: _from_sysfs(bank, number) for number in numbers}
    except (OSError, ValueError):
        return _from_tools(bank, numbers)


def _from_sysfs(bank: str, number: int) -> bytes:
    with open(os.path.join(_SYSFS, "pcr-" + bank, str(number))) as file:
        return bytes.fromhex(file.read().strip())


def _from_tools(bank: str, numbers: List[int]) -> Dict[int, bytes]:
    selection = "{}:{}".format(bank, ",".join(map(str, numbers)))
    tcti = "device:" + tpm.DEVICE
    try:
        result = run(["tpm2_pcrread", "-T", tcti, selection], deadline=_DEADLINE)
    except ToolMissing:
        # What version 3 of the tools calls it.
        result = run(["tpm2_pcrlist", "-T", tcti, "-L", selection], deadline=_DEADLINE)
    lines = _LINE.findall(result.stdout.decode("utf-8", "replace"))
    found = {int(number): bytes.fromhex(value) for number, value in lines}
    if not set(numbers) <= set(found):
        raise TpmBroken("it has no PCR bank {}".format(bank))
    return found
