# SPDX-License-Identifier: LGPL-2.1-only
"""How fast a disk of this host is, and its ciphers: what encryption will cost, before it is chosen.

Only reads: the disk may be in use, then it is slower than it can be.
"""
import mmap
import os
import random
import re
import time
from typing import Any, Dict, List

from luksext import configuration, cryptsetup, devices, status
from luksext.errors import DiskFails

_SECONDS = 3.0
_LARGE = 1 << 20
_SMALL = 4096
_CPUINFO = "/proc/cpuinfo"


def measure(device: str) -> Dict[str, Any]:
    """The speed of `device` when one reads it, and of the ciphers that an SR may have, in memory on
    one CPU. Rates are in MiB/s.

    Raises DeviceMissing, DeviceUnsuitable, DiskFails, ToolMissing, CommandFailed.
    """
    devices.check_exists(device)
    disk = {"sequential": _read(device, _LARGE, scattered=False) / (1 << 20),
            "random": _read(device, _SMALL, scattered=True) / (1 << 20)}
    ciphers = [dict(zip(("cipher", "key_bits", "encrypt", "decrypt"), (cipher, bits, *rates)))
               for cipher in configuration.CIPHERS for bits in (256, 512)
               for rates in [cryptsetup.benchmark(cipher, bits)] if rates]
    return {"schema": status.SCHEMA, "device": device, "in_use_by": devices.holders(device),
            "disk": {name: round(rate, 1) for name, rate in disk.items()}, "ciphers": ciphers,
            "aes_instructions": _has_aes(), "next": _advice(disk["sequential"], ciphers)}


def _read(device: str, size: int, scattered: bool) -> float:
    """Bytes a second, read past the kernel's cache in pieces of `size`, one after the other."""
    places, chance = max(1, devices.size_of(device) // size), random.SystemRandom()
    disk = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        # O_DIRECT reads into aligned memory only (open(2)); an anonymous mapping is.
        with mmap.mmap(-1, size) as buffer:
            done, begin = 0, time.monotonic()
            while time.monotonic() - begin < _SECONDS:
                place = chance.randrange(places) if scattered else done % places
                os.lseek(disk, place * size, os.SEEK_SET)
                os.readv(disk, [buffer])
                done += 1
            return done * size / (time.monotonic() - begin)
    except OSError as error:
        raise DiskFails(device, "it cannot be read ({})".format(error.strerror)) from error
    finally:
        os.close(disk)


def _has_aes() -> bool:
    """Whether the CPU has instructions for AES (proc(5), flags)."""
    with open(_CPUINFO, encoding="utf-8") as file:
        return re.search(r"^flags\s*:.*\baes\b", file.read(), re.MULTILINE) is not None


def _advice(disk: float, ciphers: List[Dict[str, Any]]) -> str:
    """What to give to sr-create, besides the device."""
    default = [found for found in ciphers
               if found["cipher"] == configuration.CIPHERS[0] and found["key_bits"] == 512]
    if not default:
        return "The kernel has no AES-XTS: choose one of the ciphers that are shown."
    if _rate(default[0]) >= disk:
        return "The defaults do: one CPU encrypts as fast as this disk reads."
    fastest = max([*default, *ciphers], key=_rate)
    if fastest is default[0]:
        return "The defaults do: nothing is faster. This disk is faster than one CPU encrypts."
    return "This disk is faster than one CPU encrypts. The fastest is device-config:cipher={} " \
           "device-config:key-size={}".format(fastest["cipher"], fastest["key_bits"])


def _rate(cipher: Dict[str, Any]) -> float:
    return min(cipher["encrypt"], cipher["decrypt"])
