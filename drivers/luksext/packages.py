# SPDX-License-Identifier: LGPL-2.1-only
"""Which package each program comes from, and from which repositories yum takes it."""
import os

# XCP-ng 8.3 has CentOS' repositories, which are off unless they are named. XCP-ng 9 has others, and
# its yum refuses the names of those.
_OF_CENTOS = "/etc/yum.repos.d/CentOS-Base.repo"

OF = {
    "blockdev": "util-linux",
    "clevis": "clevis clevis-luks",
    "cryptsetup": "cryptsetup",
    "curl": "curl",
    "dd": "coreutils",
    "dmsetup": "device-mapper",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "jose": "jose",
    "losetup": "util-linux",
    "luksmeta": "luksmeta",
    "lvchange": "lvm2",
    "lvextend": "lvm2",
    "lvreduce": "lvm2",
    "lvrename": "lvm2",
    "lvs": "lvm2",
    "pvresize": "lvm2",
    "pvs": "lvm2",
    "resize2fs": "e2fsprogs",
    "tpm2_createprimary": "tpm2-tools",
    "tpm2_getcap": "tpm2-tools",
    "tpm2_load": "tpm2-tools",
    "tpm2_pcrlist": "tpm2-tools",
    "tpm2_pcrread": "tpm2-tools",
    "tpm2_unseal": "tpm2-tools",
    "udevadm": "systemd",
    "vgchange": "lvm2",
    "vgremove": "lvm2",
    "vgs": "lvm2",
    "wipefs": "util-linux",
}


def of(program: str) -> str:
    """What to give yum to install `program`."""
    return for_yum(OF.get(program, program))


def for_yum(packages: str) -> str:
    """`packages`, with the repositories that yum on this host has to be told."""
    return packages + (" --enablerepo=base,updates" if os.path.exists(_OF_CENTOS) else "")
