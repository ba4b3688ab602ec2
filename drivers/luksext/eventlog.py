# SPDX-License-Identifier: LGPL-2.1-only
"""The firmware's event log: what it measured into the TPM's PCRs while this host booted.

Layout: "TCG PC Client Platform Firmware Profile Specification" 1.05, section 10 (crypto-agile log).
A log is data that anybody who can change the firmware may have written: sizes are bounded, and what
does not parse is `LogDamaged`.
"""
import hashlib
import struct
import uuid
from typing import Dict, List, NamedTuple, Optional, Tuple

# The kernel's copy. It is there where the kernel's EFI stub, or the firmware's table, gave it one.
PATH = "/sys/kernel/security/tpm0/binary_bios_measurements"

# Bytes. Logs have tens of kilobytes; firmware's areas for them, at most some megabytes.
_MAXIMUM = 8 << 20

# TCG Algorithm Registry 1.32, table 3: the name that clevis uses and the bytes of a digest.
ALGORITHMS = {0x0004: ("sha1", 20), 0x000B: ("sha256", 32), 0x000C: ("sha384", 48),
              0x000D: ("sha512", 64), 0x0012: ("sm3_256", 32)}

PCRS = 24

# Types of events (10.4.1).
NO_ACTION = 0x00000003
VARIABLE_DRIVER_CONFIG = 0x80000001
VARIABLE_BOOT = 0x80000002
VARIABLE_BOOT2 = 0x8000000C
VARIABLE_AUTHORITY = 0x800000E0

_SIGNATURE = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"


class LogDamaged(Exception):
    """An event log that cannot be read or trusted; its text says why, as part of a sentence."""


class Event(NamedTuple):
    """One measurement.

    pcr: its number. kind: the type of the event. digests: by bank. content: what the firmware says
    that it measured; the digest need not be of all of it.
    """

    pcr: int
    kind: int
    digests: Dict[str, bytes]
    content: bytes


class Variable(NamedTuple):
    """The content of an event about an EFI variable (UEFI_VARIABLE_DATA, 10.2.6)."""

    name: str
    guid: str
    data: bytes


def digest(bank: str, data: bytes) -> Optional[bytes]:
    """The digest of `data` in `bank`, None where this Python has not its algorithm."""
    try:
        return hashlib.new("sm3" if bank == "sm3_256" else bank, data).digest()
    except ValueError:
        return None


def read() -> List[Event]:
    """The events of this boot. Raises LogDamaged where there is no log, or one that is damaged."""
    try:
        with open(PATH, "rb") as file:
            raw = file.read(_MAXIMUM + 1)
    except OSError as error:
        raise LogDamaged("it cannot be read ({})".format(error.strerror)) from error
    if len(raw) > _MAXIMUM:
        raise LogDamaged("it is larger than {} MiB".format(_MAXIMUM >> 20))
    return parse(raw)


def parse(raw: bytes) -> List[Event]:
    """The events in a crypto-agile log. Raises LogDamaged."""
    try:
        return _parse(raw)
    except struct.error as error:
        raise LogDamaged("it is cut off") from error


def _parse(raw: bytes) -> List[Event]:
    sizes, offset = _parse_head(raw)
    events = []
    while offset < len(raw):
        event, offset = _parse_event(raw, offset, sizes)
        events.append(event)
    return events


def _parse_head(raw: bytes) -> Tuple[Dict[int, int], int]:
    """The size of each algorithm's digests, and where the first event after the head starts.

    The head is an event of the older form (TCG_PCClientPCREvent) with TCG_EfiSpecIdEvent in it.
    """
    _, kind, size = struct.unpack_from("<II20xI", raw)
    content = raw[32:32 + size]
    if kind != NO_ACTION or content[:16] != _SIGNATURE:
        raise LogDamaged("it is not in the crypto-agile form")
    (count,) = struct.unpack_from("<I", content, 24)
    sizes = {}
    for number in range(min(count, len(content))):
        algorithm, digest_size = struct.unpack_from("<HH", content, 28 + 4 * number)
        if ALGORITHMS.get(algorithm, ("", digest_size))[1] != digest_size:
            raise LogDamaged("it has digests of a wrong size")
        sizes[algorithm] = digest_size
    return sizes, 32 + size


def _parse_event(raw: bytes, offset: int, sizes: Dict[int, int]) -> Tuple[Event, int]:
    """One TCG_PCR_EVENT2, and where the next starts."""
    pcr, kind, count = struct.unpack_from("<III", raw, offset)
    if count > len(sizes) or (pcr >= PCRS and kind != NO_ACTION):
        raise LogDamaged("it has an event that is none")
    offset += 12
    digests = {}
    for _ in range(count):
        (algorithm,) = struct.unpack_from("<H", raw, offset)
        if algorithm not in sizes:
            raise LogDamaged("it uses an algorithm that its head does not name")
        value = _slice(raw, offset + 2, sizes[algorithm])
        if algorithm in ALGORITHMS:
            digests[ALGORITHMS[algorithm][0]] = value
        offset += 2 + sizes[algorithm]
    (size,) = struct.unpack_from("<I", raw, offset)
    return Event(pcr, kind, digests, _slice(raw, offset + 4, size)), offset + 4 + size


def _slice(raw: bytes, offset: int, size: int) -> bytes:
    if size > len(raw) - offset:
        raise LogDamaged("it is cut off")
    return raw[offset:offset + size]


def variable(event: Event) -> Variable:
    """The variable that an event is about. Raises LogDamaged where it is about none."""
    try:
        name_length, data_length = struct.unpack_from("<QQ", event.content, 16)
    except struct.error as error:
        raise LogDamaged("it has a variable that is cut off") from error
    name = _slice(event.content, 32, 2 * name_length)
    return Variable(name.decode("utf-16-le", "replace").rstrip("\0"),
                    str(uuid.UUID(bytes_le=event.content[:16])),
                    _slice(event.content, 32 + len(name), data_length))


def reset_value(pcr: int, size: int, events: List[Event]) -> bytes:
    """What PCR `pcr`, of `size` bytes, holds before the first measurement of a boot.

    Those of the dynamic launch, 17 to 22, start with all bits set (TCG PC Client Platform TPM
    Profile, table 6); PCR 0 with the locality that started the TPM (10.4.5.3).
    """
    if 17 <= pcr <= 22:
        return b"\xff" * size
    if pcr == 0:
        for event in events:
            if event.kind == NO_ACTION and event.content[:16] == _STARTUP_LOCALITY:
                return bytes(size - 1) + event.content[16:17].rjust(1, b"\0")
    return bytes(size)


def replay(events: List[Event], pcr: int, bank: str) -> Optional[bytes]:
    """The value of a PCR after all its events; None where the log has no digests for the bank."""
    empty = digest(bank, b"")
    if empty is None:
        return None
    value: Optional[bytes] = reset_value(pcr, len(empty), events)
    for event in measured(events, pcr):
        if value is None or bank not in event.digests:
            return None
        value = digest(bank, value + event.digests[bank])
    return value


def measured(events: List[Event], pcr: int) -> List[Event]:
    """The events that extended PCR `pcr`: the others only inform."""
    return [event for event in events if event.pcr == pcr and event.kind != NO_ACTION]
