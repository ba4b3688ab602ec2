# SPDX-License-Identifier: LGPL-2.1-only
"""One function for each thing that we do with cryptsetup (cryptsetup(8)) and luksmeta.

Every option is given, none is left to the default of a version: defaults differ between 2.0.3 and
2.7 in type, key size, PBKDF, data offset and sector size. Keys travel on stdin or in a pipe.
"""
import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from luksext.errors import (CommandFailed, HeaderFull, KeyRefused, MemoryShort, ToolBroken,
                            Unsupported)
from luksext.run import log, run, secret_pipe, spawn

# 16 MiB for both versions, in sectors of 512 bytes: what current cryptsetup gives LUKS2. LUKS1 has
# room for luksmeta then, and can be converted to LUKS2 in place later.
PAYLOAD_SECTORS = 32768

# LUKS2 tokens can be imported since this version; without, there is no place for a binding.
TOKENS_SINCE = (2, 0, 4)

# Before, whoever had the disk in hand could feign a re-encryption (CVE-2021-4122).
REENCRYPTION_SINCE = (2, 4, 3)

# Exit statuses (cryptsetup(8), RETURN CODES).
_FAILURE = 1
_WRONG_KEY = 2
_NO_DEVICE = 4
_BUSY = 5

# In re-encryption a wrong key has no status of its own (2.6.1: 1, as for any failure).
_NO_KEYSLOT = b"No usable keyslot is available"

# It said so itself, or the kernel killed it to get memory (SIGKILL, as Python tells it).
_NO_MEMORY = (3, -9)

# A random key of 256 bits needs no stretching: the least that cryptsetup accepts.
_RANDOM_KEY_PBKDF = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]

# For a passphrase, twice the memory and more passes than RFC 9106 recommends where memory is scarce
# (64 MiB, 3). Fixed, not measured: the slot must open in any dom0, and create must be quick.
_PASSPHRASE_ARGON2 = ["--pbkdf", "argon2id", "--pbkdf-memory", "131072", "--pbkdf-parallel", "2",
                      "--pbkdf-force-iterations", "4"]

# LUKS1 knows PBKDF2 only; as many iterations as this host makes in two seconds.
_PASSPHRASE_PBKDF2 = ["--pbkdf", "pbkdf2", "--iter-time", "2000"]

# luksmeta's status where the header has too little space (EX_CANTCREAT, luksmeta.c).
_LUKSMETA_FULL = 73

# Bytes. Beside anything larger, luksmeta 8 and 9 save the next thing into the middle of it
# (overlap() in libluksmeta.c).
_LUKSMETA_LARGEST = 8192

# After a power cut, checksums tell which sectors were written. Writers wait for the part in work:
# at the speed of a slow disk, less than a second for this much.
_REENCRYPTION = ["--resilience", "checksum", "--resilience-hash", "sha256", "--hotzone-size", "32M"]

# What `luksmeta show` prints of each slot: its number, the state of the keyslot, what is in it.
_LUKSMETA_SLOT = re.compile(r"^ *([0-7]) +[a-z]+ +(\S+) *$", re.MULTILINE)

# The last line of `cryptsetup benchmark`: algorithm, bits of the key, and two rates.
_BENCHMARK = re.compile(r"[0-9]b +([0-9.]{1,12}) MiB/s +([0-9.]{1,12}) MiB/s")

# What dm-crypt needs to work without queues (kernel, admin-guide/device-mapper/dm-crypt.rst: since
# 5.9), and what cryptsetup needs to ask for it (2.3.4 Release Notes).
_BYPASS_KERNEL = (5, 9)
_BYPASS_SINCE = (2, 3, 4)

_FORMAT_DEADLINE = 120
_UNLOCK_DEADLINE = 60


class Format(NamedTuple):
    """What a new container shall be: see `Header` for the fields; label for LUKS2 only."""

    version: int
    uuid: str
    cipher: str
    key_bits: int
    label: str
    subsystem: str


class Flags(NamedTuple):
    """How the kernel works on an open container.

    discard: discards go through to the disk. workqueues: encryption has queues and threads of its
    own, else it is done where the request is: sooner, but by one CPU for each that asks.
    """

    discard: bool = False
    workqueues: bool = True


def version() -> Tuple[int, ...]:
    """The version of cryptsetup as numbers, for example (2, 0, 3). Raises ToolBroken."""
    output = run(["cryptsetup", "--version"]).stdout.decode("ascii", "replace")
    match = re.search(r"\b(\d{1,6})\.(\d{1,6})\.(\d{1,6})\b", output)
    if match is None:
        raise ToolBroken("cryptsetup --version", output)
    return tuple(int(part) for part in match.groups())


def luks_format(device: str, wanted: Format, slot: int, key: bytes) -> None:
    """Writes a new header to `device`, with the random `key` in `slot`. Destroys what was there."""
    argv = ["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks{}".format(wanted.version),
            "--cipher", wanted.cipher, "--key-size", str(wanted.key_bits), "--hash", "sha256",
            "--align-payload", str(PAYLOAD_SECTORS), "--uuid", wanted.uuid,
            "--use-urandom", "--key-slot", str(slot), "--key-file", "-"]
    argv += _RANDOM_KEY_PBKDF
    if wanted.version == 2:
        argv += ["--sector-size", "512", "--label", wanted.label, "--subsystem", wanted.subsystem]
    run([*argv, device], stdin=key, deadline=_FORMAT_DEADLINE)


def add_passphrase(device: str, luks_version: int, slot: int, key: bytes,
                   passphrase: bytes) -> None:
    """Puts `passphrase`, chosen by a person and so stretched, into `slot`; `key` opens already."""
    _add_key(device, slot, key, passphrase,
             _PASSPHRASE_ARGON2 if luks_version == 2 else _PASSPHRASE_PBKDF2)


def _add_key(device: str, slot: int, key: bytes, new: bytes, pbkdf: List[str]) -> None:
    with secret_pipe(new) as pipe:
        status = run(["cryptsetup", "luksAddKey", "--batch-mode", "--key-slot", str(slot),
                      "--key-file", "-", *pbkdf, device, pipe.path], stdin=key, pipes=[pipe],
                     deadline=_FORMAT_DEADLINE, accept=(0, *_NO_MEMORY)).status
    if status in _NO_MEMORY:
        raise MemoryShort(device)


def why_no_bypass() -> str:
    """Why containers cannot be opened without work queues on this host; empty where they can."""
    release = os.uname().release
    numbers = re.match(r"(\d{1,6})\.(\d{1,6})", release)
    if numbers is None or tuple(map(int, numbers.groups())) < _BYPASS_KERNEL:
        return "needs kernel {}, this host has {}".format(dotted(_BYPASS_KERNEL), release)
    if version() < _BYPASS_SINCE:
        return "needs cryptsetup {}, this host has {}".format(
            dotted(_BYPASS_SINCE), dotted(version()))
    return ""


def open_device(device: str, name: str, slot: Optional[int], key: bytes, flags: Flags) -> None:
    """Opens `device` as /dev/mapper/`name` with the `key` of `slot`. Raises KeyRefused,
    MemoryShort.

    slot: None for a container in re-encryption, where cryptsetup wants no slot to be named: it
    needs one for each volume key. A disk that came from another host is opened with work queues
    where this one cannot do without.
    """
    options = ["--allow-discards"] if flags.discard else []
    if not flags.workqueues:
        why_not = why_no_bypass()
        if why_not:
            log.warning("%s has work queues: to do without %s", device, why_not)
        else:
            options += ["--perf-no_read_workqueue", "--perf-no_write_workqueue"]
    if not _open(device, slot, key, *options, name=[name]):
        raise KeyRefused(device, slot)


def opens(device: str, slot: Optional[int], key: bytes) -> bool:
    """Whether `key` opens `slot` of `device`, without opening the volume. slot: as above.

    Raises MemoryShort.
    """
    return _open(device, slot, key, "--test-passphrase")


def _open(device: str, slot: Optional[int], key: bytes, *options: str,
          name: Sequence[str] = ()) -> bool:
    named = [] if slot is None else ["--key-slot", str(slot)]
    argv = ["cryptsetup", "open", "--type", "luks", *named, "--key-file", "-", *options, device,
            *name]
    result = run(argv, stdin=key, deadline=_UNLOCK_DEADLINE,
                 accept=(0, _FAILURE, _WRONG_KEY, *_NO_MEMORY))
    if result.status in _NO_MEMORY:
        raise MemoryShort(device)
    if result.status == _FAILURE and _NO_KEYSLOT not in result.stderr:
        raise CommandFailed(" ".join(argv), result.status, result.message)
    return result.status == 0


def add_key(device: str, slot: int, key: bytes, new: bytes) -> None:
    """Puts the random key `new` into `slot`; `key` opens already."""
    _add_key(device, slot, key, new, _RANDOM_KEY_PBKDF)


def kill_slot(device: str, slot: int) -> None:
    """Destroys `slot` of `device`, even the last one: in batch mode no key is asked for."""
    run(["cryptsetup", "luksKillSlot", "--batch-mode", device, str(slot)])


def resize(name: str, key: bytes) -> None:
    """Lets the open mapping `name` use all of its disk. LUKS2 asks for a `key`, of any keyslot."""
    run(["cryptsetup", "resize", "--key-file", "-", name], stdin=key, deadline=_UNLOCK_DEADLINE)


def close(name: str) -> bool:
    """Closes the mapping `name`. False: something still uses it. Closing twice is no error."""
    return run(["cryptsetup", "close", name], accept=(0, _NO_DEVICE, _BUSY)).status != _BUSY


def erase(device: str) -> None:
    """Destroys every keyslot of `device`: nothing opens it any more."""
    run(["cryptsetup", "erase", "--batch-mode", device])


def set_label(device: str, label: str, subsystem: str) -> None:
    """Writes both labels of a LUKS2 header, in one step."""
    run(["cryptsetup", "config", "--label", label, "--subsystem", subsystem, device])


def import_token(device: str, token: Dict[str, Any]) -> None:
    """Adds a token object to the LUKS2 header of `device`. Raises Unsupported where it cannot."""
    try:
        run(["cryptsetup", "token", "import", device], stdin=json.dumps(token).encode("ascii"))
    except CommandFailed:
        if version() < TOKENS_SINCE:
            raise Unsupported(
                "The keys of {} cannot be changed here: it is a LUKS2 container, which needs "
                "cryptsetup {}, and this host has {}.".format(
                    device, dotted(TOKENS_SINCE), dotted(version())),
                "Change its keys on a host with a later version. On this one, its bindings and "
                "recovery keys go on opening it.") from None
        raise


def dotted(numbers: Tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, numbers))


def remove_token(device: str, number: int) -> None:
    """Removes a token from the LUKS2 header of `device`."""
    run(["cryptsetup", "token", "remove", "--token-id", str(number), device])


def reencrypt_init(device: str, name: str, keys: Sequence[bytes], random: bool) -> None:
    """Prepares the re-encryption of `device`, open as `name`, with a new volume key. No data are
    touched yet.

    keys: that of every keyslot, in their order; each gets a second keyslot, for the new volume key,
    beside which the tokens name it. random: none of them was chosen by a person.
    """
    run(["cryptsetup", "reencrypt", "--batch-mode", "--init-only", *_REENCRYPTION,
         *(_RANDOM_KEY_PBKDF if random else _PASSPHRASE_ARGON2), "--active-name", name, device],
        stdin=b"\n".join(keys), deadline=_FORMAT_DEADLINE)


def reencrypt(device: str, name: str, key: bytes, messages: str) -> int:
    """Starts, or goes on with, the prepared re-encryption of `device`, open as `name`.

    It runs by itself for hours, and ends cleanly on SIGTERM; its number as a process. messages:
    the file that gets what it has to say.
    """
    return _go_on(_REENCRYPTION, device, name, key, messages)


def encrypt_init(device: str, wanted: Format, slot: int, key: bytes) -> None:
    """Prepares `device` to be encrypted where it is: writes a header, with the random `key` in
    `slot`, over its start, which is copied to its end before. Needs twice the header's size at the
    end that nothing uses. A power cut in between may lose the start.
    """
    run(["cryptsetup", "reencrypt", "--encrypt", "--batch-mode", "--init-only", "--type", "luks2",
         "--reduce-device-size", "{}M".format(2 * PAYLOAD_SECTORS // 2048),
         "--cipher", wanted.cipher, "--key-size", str(wanted.key_bits), "--hash", "sha256",
         "--sector-size", "512", "--uuid", wanted.uuid, "--label", wanted.label,
         "--subsystem", wanted.subsystem, *_RANDOM_KEY_PBKDF, "--use-urandom",
         "--key-slot", str(slot), "--key-file", "-", device],
        stdin=key, deadline=_FORMAT_DEADLINE, own_folder=True)


def encrypt(device: str, name: str, key: bytes, messages: str) -> int:
    """As `reencrypt`, of an encryption that `encrypt_init` prepared: a power cut cannot hurt, since
    each part goes to where nothing is."""
    return _go_on([], device, name, key, messages)


def _go_on(options: List[str], device: str, name: str, key: bytes, messages: str) -> int:
    return spawn(["cryptsetup", "reencrypt", "--batch-mode", "--resume-only", *options,
                  "--key-file", "-", "--active-name", name, device], key, messages)


def mapping_tables(name: str) -> List[List[str]]:
    """The lines of the device-mapper table of `name`, each as its fields, ordered by their start;
    keys are zeros or names in a keyring."""
    output = run(["dmsetup", "table", name]).stdout.decode("ascii", "replace")
    return [line.split() for line in output.splitlines()]


def benchmark(cipher: str, key_bits: int) -> Optional[Tuple[float, float]]:
    """MiB/s at which this host encrypts and decrypts in memory, on one CPU; None where its kernel
    has not the cipher."""
    output = run(["cryptsetup", "benchmark", "--cipher", cipher, "--key-size", str(key_bits)],
                 accept=(0, _FAILURE)).stdout.decode("ascii", "replace")
    match = _BENCHMARK.search(output)
    return (float(match.group(1)), float(match.group(2))) if match else None


def luksmeta_init(device: str) -> None:
    """Makes the area of luksmeta(8) in the LUKS1 header of `device`, empty."""
    run(["luksmeta", "init", "-f", "-d", device])


def luksmeta_save(device: str, slot: int, uuid: str, data: bytes) -> None:
    """Saves `data` of the kind `uuid` beside `slot`, which is empty. Raises HeaderFull."""
    result = run(["luksmeta", "save", "-d", device, "-s", str(slot), "-u", uuid], stdin=data,
                 accept=(0, _LUKSMETA_FULL)) if len(data) <= _LUKSMETA_LARGEST else None
    if result is None or result.status == _LUKSMETA_FULL:
        raise HeaderFull(device, "{} bytes beside keyslot {}".format(len(data), slot))


def luksmeta_wipe(device: str, slot: int, uuid: str) -> None:
    """Removes what was saved of the kind `uuid` beside `slot`."""
    run(["luksmeta", "wipe", "-f", "-d", device, "-s", str(slot), "-u", uuid])


def luksmeta_load(device: str, slot: int, uuid: str) -> Optional[bytes]:
    """What was saved of the kind `uuid` beside `slot`; None where there is nothing."""
    try:
        return run(["luksmeta", "load", "-d", device, "-s", str(slot), "-u", uuid]).stdout
    except CommandFailed:
        return None


def luksmeta_slots(device: str) -> Dict[int, str]:
    """The kinds (UUIDs) of what is saved, by slot; empty without luksmeta area."""
    try:
        output = run(["luksmeta", "show", "-d", device]).stdout.decode("ascii", "replace")
    except CommandFailed:
        return {}
    return {int(slot): uuid for slot, uuid in _LUKSMETA_SLOT.findall(output)}
