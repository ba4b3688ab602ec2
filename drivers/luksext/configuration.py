# SPDX-License-Identifier: LGPL-2.1-only
"""The options of an encrypted SR, in words. Loads nothing: the driver says them in every command.
"""

# Ciphers that dm-crypt offers for disks; XTS needs no other integrity of its IVs.
CIPHERS = ("aes-xts-plain64", "serpent-xts-plain64", "twofish-xts-plain64")

# (key, what it is): shown to users as the SM's configuration.
DESCRIPTIONS = (
    ("device", "local disk or partition, or several separated by commas (required) "
               "(e.g. /dev/sdb, best /dev/disk/by-id/...)"),
    ("force", "true: overwrite a device that carries data or a partition table (default: false)"),
    ("pin", "clevis pin that unlocks the SR: tpm2, tang, sss or another that is installed "
            "(default: tpm2)"),
    ("pin-config", "JSON configuration of the pin, e.g. {\"pcr_ids\":\"7\"} for tpm2 or "
                   "{\"url\":\"http://tang\",\"thp\":\"...\"} for tang (default: {})"),
    ("luks-version", "1 or 2 (default: 2 where this host's cryptsetup can bind it, else 1)"),
    ("cipher", "one of {} (default: {})".format(", ".join(CIPHERS), CIPHERS[0])),
    ("key-size", "bits of the volume key, 256 or 512; XTS uses half for each of its two keys "
                 "(default: 512)"),
    ("sector-size", "bytes of an encryption sector, only 512: VHD images need it (default: 512)"),
    ("discard", "true: tell the disk which blocks are free; shows their pattern to whoever has the "
                "disk (default: false)"),
    ("workqueues", "false: encrypt where the request is, without the kernel's work queues, for "
                   "very fast disks; needs kernel 5.9 and cryptsetup 2.3.4 (default: true)"),
    ("recovery_password", "recovery passphrase, best by recovery_password-filename=FILE; XAPI "
                          "moves it into a secret, which is removed once used (default: none)"),
)
