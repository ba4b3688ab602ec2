# SPDX-License-Identifier: LGPL-2.1-only
"""Firmware to predict: event logs, PCRs and variables of a host that was booted, and a real log.

Layout: "TCG PC Client Platform Firmware Profile Specification" 1.05, section 10.
"""
import base64
import gzip
import hashlib
import os
import struct
import uuid

from luksext import efivars, eventlog
from luksext.clevis import Pin

SECURE_BOOT = list(efivars.ALWAYS_MEASURED)

SEPARATOR = 0x00000004
S_CRTM_VERSION = 0x00000008

BANKS = (("sha1", 0x0004), ("sha256", 0x000B))

# What the TPM of the guest held after the boot that wrote the real log, and PCR 7 of the one that
# enforced Secure Boot.
REAL_PCR_7_ENFORCED = "e7464f7da51f5233ec73099241393582911631ac64128d52eaa0207e6c7709af"
REAL_PCRS = {
    0: "87ed0d849299ff67de70a6da0449c93b8aa52ab1eef86bfa5b7bd471e3613e63",
    1: "8e9d1fe23131f12d6a523e9c32eb3223d4dc25e14eb5fd60163e7ba8de0f248c",
    2: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    3: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    4: "3aabf241826c07370fb6c8e77832510e71ab80e43f4e7bfd204925363b3b3488",
    5: "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0",
    6: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    7: "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068",
    8: "00" * 32,
    9: "4696781b85954b3c213a0cb7480cfc14e26ae32524020b346b81930ba70a7462",
}


def real(name="eventlog"):
    """The log of a guest that OVMF 2022.11 booted, its kernel an EFI program.

    It was in setup mode; in the log "eventlog-enforced", it enforced Secure Boot by the keys of
    Microsoft and Debian. There, QEMU's loader started the kernel, so nobody's signature counted.
    """
    with gzip.open(os.path.join(os.path.dirname(__file__), "seeds", name + ".gz")) as packed:
        return packed.read()


def head(banks=BANKS, signature=b"Spec ID Event03\0", sizes=None):
    """The first event, which names the banks."""
    content = signature + struct.pack("<IBBBBI", 0, 0, 2, 105, 2, len(banks))
    for name, algorithm in banks:
        size = (sizes or {}).get(name) or len(eventlog.digest(name, b""))
        content += struct.pack("<HH", algorithm, size)
    content += b"\0"
    return struct.pack("<II20sI", 0, eventlog.NO_ACTION, b"", len(content)) + content


def event(pcr, kind, content, measured=None, banks=BANKS):
    """One event of the log, whose digests are those of `measured`."""
    measured = content if measured is None else measured
    raw = struct.pack("<III", pcr, kind, len(banks))
    for name, algorithm in banks:
        raw += struct.pack("<H", algorithm) + eventlog.digest(name, measured)
    return raw + struct.pack("<I", len(content)) + content


def variable_data(name, guid, data):
    """UEFI_VARIABLE_DATA: the content of an event about a variable."""
    return (uuid.UUID(guid).bytes_le + struct.pack("<QQ", len(name), len(data))
            + name.encode("utf-16-le") + data)


class Firmware:
    """The firmware of a host and what its kernel shows of it, in files below `folder`."""

    def __init__(self, folder):
        self.log = folder / "binary_bios_measurements"
        self.efivars = folder / "efivars"
        self.sysfs = folder / "tpm0"
        self.efivars.mkdir()
        self.raw = b""
        self.set("SetupMode", efivars.GLOBAL, b"\1")

    def set(self, name, guid, data):
        """Gives a variable a new content; None removes it."""
        path = self.efivars / "{}-{}".format(name, guid)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(struct.pack("<I", 7) + data)

    def measure(self, pcr, kind, content, measured=None):
        """One more event of this boot."""
        self.raw += event(pcr, kind, content, measured)

    def measure_variable(self, name, guid, pcr=7, kind=eventlog.VARIABLE_DRIVER_CONFIG,
                         alone=False):
        """Measures a variable as it is now; `alone` is without its name."""
        data = efivars.read(name, guid) or b""
        self.measure(pcr, kind, variable_data(name, guid, data), data if alone else None)

    def boot(self, then=()):
        """Boots: PCR 7 as all firmware does it, then what a test has to say of others."""
        self.raw = head()
        self.measure(0, S_CRTM_VERSION, b"1.0")
        for name, guid in SECURE_BOOT:
            self.measure_variable(name, guid)
        for pcr in range(8):
            self.measure(pcr, SEPARATOR, bytes(4))
        for step in then:
            step(self)
        self.show()

    def show(self):
        """Lets the kernel show the log, and the TPM hold what it replays to."""
        self.log.write_bytes(self.raw)
        events = eventlog.parse(self.raw)
        for bank, _ in BANKS:
            for pcr in range(24):
                self.set_pcr(pcr, eventlog.replay(events, pcr, bank), bank)

    def set_pcr(self, pcr, value, bank="sha256"):
        """What the TPM holds."""
        folder = self.sysfs / ("pcr-" + bank)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(pcr)).write_text(value.hex().upper() + "\n")

    def extend(self, pcr, bank="sha256"):
        """Extends a PCR without a word in the log."""
        self.set_pcr(pcr, eventlog.digest(bank, self.pcr(pcr, bank) + b"more"), bank)

    def pcr(self, number, bank="sha256"):
        """What the TPM holds."""
        return bytes.fromhex((self.sysfs / ("pcr-" + bank) / str(number)).read_text().strip())

    def seal(self, *numbers, **options):
        """The pin of a key that is sealed to PCRs as they are now."""
        bank = options.get("bank", "sha256")
        return sealed(bank, {number: self.pcr(number, bank) for number in numbers})


def sealed(bank, values, algorithm="sha256"):
    """The pin of a key that is sealed to `values` of PCRs.

    Written after part 3, 23.7 of the TPM's specification, apart from the code that is tested.
    """
    numbers = sorted(values)
    mask = bytearray(3)
    for number in numbers:
        mask[number // 8] |= 1 << number % 8
    bank_id = {"sha1": b"\0\4", "sha256": b"\0\x0b"}[bank]
    content = hashlib.new(algorithm, b"".join(values[number] for number in numbers)).digest()
    policy = hashlib.new(algorithm, bytes(len(content)) + b"\0\0\1\x7f" + b"\0\0\0\1" + bank_id
                         + b"\3" + bytes(mask) + content).digest()
    return tpm2_pin(policy if numbers else b"", algorithm, pcr_bank=bank,
                    pcr_ids=",".join(map(str, numbers)))


def tpm2_pin(policy, algorithm="sha256", **config):
    """A pin as clevis.describe reads it from a sealed key."""
    algorithm_id = {"sha1": 4, "sha256": 11}[algorithm]
    body = struct.pack(">HHIH", 8, algorithm_id, 0x492, len(policy)) + policy \
        + struct.pack(">HH", 0x10, 32) + bytes(32)
    public = base64.urlsafe_b64encode(struct.pack(">H", len(body)) + body).decode().rstrip("=")
    return Pin("tpm2", dict(config, hash=algorithm, key="ecc", jwk_pub=public))
