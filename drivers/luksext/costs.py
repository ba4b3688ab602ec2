# SPDX-License-Identifier: LGPL-2.1-only
"""What a header may ask for before a key is tried on it.

Stretching a key takes the time and memory that the header names. Whoever writes a header could
have a host work for days, or take memory that dom0 and its VMs need. The bounds lie above all that
cryptsetup chooses by itself on any machine, and above what people ask it for.
"""
import struct
from typing import Any, Iterator, Sequence, Tuple

from luksext.untrusted import number

# PBKDF2. A fast processor makes six million in a second, and two seconds are what cryptsetup takes.
MOST_ITERATIONS = 100 * 1000 * 1000

# Argon2: passes, KiB and threads. cryptsetup takes 1 GiB and 4 threads at most by default.
MOST_PASSES = 1000
MOST_KIB = 1 << 20
MOST_THREADS = 16

# How many times as long as a key what a keyslot holds is (AF_STRIPES, lib/luks1/luks.h).
_STRIPES = 4000

# As LUKS2 names the costs of PBKDF2, then of Argon2.
_LIMITS = {"iterations": MOST_ITERATIONS,
           "time": MOST_PASSES, "memory": MOST_KIB, "cpus": MOST_THREADS}


def excess_of_luks1(start: bytes, slots: Sequence[int]) -> str:
    """What the LUKS1 header in `start` asks for beyond the bounds, for an error; "" for nothing."""
    found = [("its volume key", "iterations", struct.unpack_from(">I", start, 164)[0],
              MOST_ITERATIONS)]
    for slot in slots:
        name, place = "keyslot {}".format(slot), 208 + 48 * slot
        iterations, = struct.unpack_from(">I", start, place + 4)
        stripes, = struct.unpack_from(">I", start, place + 44)
        found += [(name, "iterations", iterations, MOST_ITERATIONS),
                  (name, "stripes", stripes, _STRIPES)]
    return _first(found)


def excess_of_luks2(metadata: Any) -> str:
    """As `excess_of_luks1`, of LUKS2 metadata. Raises ValueError, KeyError, TypeError."""
    return _first(_asked(metadata))


def _asked(metadata: Any) -> Iterator[Tuple[str, str, int, int]]:
    stretched = [("digest " + place, digest) for place, digest in metadata["digests"].items()]
    for place, slot in metadata["keyslots"].items():
        name = "keyslot " + place
        yield name, "stripes", number(slot.get("af", {}).get("stripes", 0)), _STRIPES
        # A keyslot of a re-encryption has no key to stretch.
        stretched.append((name, slot.get("kdf", {})))
    for name, kdf in stretched:
        for cost, most in _LIMITS.items():
            yield name, cost, number(kdf.get(cost, 0)), most


def _first(found: Any) -> str:
    for name, cost, asked, most in found:
        if not 0 <= asked <= most:
            return "{} asks for {} {}, more than {}".format(name, asked, cost, most)
    return ""
