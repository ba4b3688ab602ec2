# SPDX-License-Identifier: LGPL-2.1-only
"""What is recorded of a container off its disk, to know it again: see trust.py."""
from typing import NamedTuple


class Record(NamedTuple):
    """What was noted of a container when it was made, to recognise it by.

    volume_key: as in `Header`, "" where it was not noted. A container to which others have a key
    has another: cryptsetup opens none whose volume key is not the one that its header tells of.
    payload_offset: as in `Header`, 0 where it was not noted.
    """

    uuid: str
    cipher: str
    key_bits: int
    volume_key: str = ""
    payload_offset: int = 0
