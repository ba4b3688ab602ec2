# SPDX-License-Identifier: LGPL-2.1-only
"""The lab: throw-away hosts in QEMU with real dm-crypt, LVM, ext4, clevis and a TPM 2.0."""
