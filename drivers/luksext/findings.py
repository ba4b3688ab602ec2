# SPDX-License-Identifier: LGPL-2.1-only
"""What `luksext doctor` can find on a host: stable codes, each with a sentence and what to type.

Those from LUKS-D030 on need XAPI, whose plugin finds them; all are explained here. Words in
capitals stand for what a finding names.
"""
import re
from typing import Dict, Mapping, NamedTuple


class Finding(NamedTuple):
    """One kind of finding.

    code: stable, LUKS-D and three digits. name: the same in a word or two.
    summary: what is the matter and what it leads to. remedy: what to type.
    """

    code: str
    name: str
    summary: str
    remedy: str


_ALL = (
    Finding("LUKS-D001", "programs missing",
            "PROGRAMS: not installed on this host. Encrypted SRs cannot be created, plugged or "
            "changed without. After an ISO upgrade all packages are gone.",
            "yum install PACKAGE"),
    Finding("LUKS-D002", "cryptsetup too old",
            "cryptsetup is VERSION on this host; luksext needs 2.0.3 or later.",
            "yum update PACKAGE"),
    Finding("LUKS-D003", "clevis without TPM pin",
            "clevis on this host has no pin tpm2, the default: SRs that the TPM unlocks can be "
            "neither created nor plugged.",
            "yum install PACKAGE"),
    Finding("LUKS-D010", "no TPM",
            "This host has no usable TPM 2.0: /dev/tpmrm0 does not exist. SRs with the pin tpm2, "
            "the default, can be neither created nor plugged.",
            "Enable the TPM in the firmware setup, then: ls -l /dev/tpm*"),
    Finding("LUKS-D011", "TPM in lockout",
            "The TPM of this host is in dictionary-attack lockout: it unlocks nothing for now. The "
            "keys in it are not lost.",
            "Wait until it recovers, or: tpm2_dictionarylockout -c"),
    Finding("LUKS-D012", "TPM does not answer",
            "The TPM of this host does not answer: DETAIL",
            "dmesg | grep -i tpm ; a cold start of the host often helps."),
    Finding("LUKS-D013", "owner hierarchy unusable",
            "The owner hierarchy of the TPM REASON. clevis makes its keys in it, without a "
            "password: nothing can be bound or unlocked.",
            "For a password: tpm2_changeauth -c owner -p PASSWORD (tpm2-tools 3: "
            "tpm2_takeownership -O PASSWORD). For a disabled one: enable it in the firmware "
            "setup."),
    Finding("LUKS-D020", "LVM filter",
            "The FILTER in FILE rejects /dev/mapper/luks-*, the open disks of encrypted SRs: LVM "
            "does not find what is in them.",
            "Put \"a|^/dev/mapper/luks-|\" first in it, then: lvmconfig devices/filter "
            "devices/global_filter"),
    Finding("LUKS-D021", "garbage collector not ours",
            "systemd starts the garbage collector of SRs without luksext-gc: on encrypted SRs "
            "nothing is coalesced, their chains of snapshots grow until they are full.",
            "systemctl daemon-reload ; if that does not help, see which file replaces ours: "
            "systemctl cat SMGC@.service"),
    Finding("LUKS-D022", "sm-plugins not kept",
            "systemd starts XAPI without luksext-sm-plugins: when another package changes the list "
            "of SR types, ours may be lost.",
            "systemctl daemon-reload ; if that does not help, see which file replaces ours: "
            "systemctl cat xapi.service"),
    Finding("LUKS-D023", "SR type not accepted",
            "XAPI will not accept the SR type luksext at its next start: the list of SR types in "
            "effect is that of FILE, which lacks it.",
            "/opt/xensource/libexec/luksext-sm-plugins ; xe-toolstack-restart"),
    Finding("LUKS-D024", "a file replaces ours",
            "XAPI will not accept the SR type luksext at its next start: FILE sorts behind "
            "/etc/xapi.conf.d/~luksext.conf, and its list of SR types replaces the one there.",
            "mv FILE /etc/xapi.conf.d/99-site.conf ; xe-toolstack-restart"),
    Finding("LUKS-D025", "plugins of the storage manager not taught",
            "Python on this host does not load luksext.pth: the storage manager's own plugins, "
            "such as on-slave, do not know the SR type.",
            "yum reinstall ./luksext-*.rpm ; for another Python: python3 -m site"),
    Finding("LUKS-D026", "file not as installed",
            "FILE PROBLEM.",
            "yum reinstall ./luksext-*.rpm ; rpm -V luksext"),
    Finding("LUKS-D027", "disk in default-storage.conf",
            "DISK is encrypted, and FILE names it for the host's default storage. After the host "
            "has left its pool, its next start would overwrite the header there, and all data "
            "would be lost; luksext-storage-guard keeps it from that, and the host gets no other "
            "storage either.",
            "mv FILE /root/"),
    Finding("LUKS-D028", "default storage not guarded",
            "systemd starts storage-init without luksext-storage-guard: after the host has left "
            "its pool, its next start may overwrite an encrypted disk that was the default "
            "storage once.",
            "systemctl daemon-reload ; if that does not help, see which file replaces ours: "
            "systemctl cat storage-init.service"),
    Finding("LUKS-D029", "not looked at",
            "PART could not be looked at: REASON",
            "Cure that, then again: luksext doctor"),
    Finding("LUKS-D030", "XAPI not asked",
            "What XAPI knows was not looked at: REASON",
            "systemctl status xapi ; xe-toolstack-restart ; then again: luksext doctor"),
    Finding("LUKS-D031", "SR type not registered",
            "XAPI has no record of the SR type luksext: no encrypted SR of the pool can be "
            "plugged, and no VDI in one be changed.",
            "xe-toolstack-restart ; if that does not help: "
            "grep 'SM.*plugin' /var/log/xensource.log"),
    Finding("LUKS-D032", "features missing",
            "XAPI's record of the SR type lacks features that ext has: FEATURES. XAPI adds one "
            "only when every host of the pool has offered it.",
            "On every host: yum update ./luksext-*.rpm ; xe-toolstack-restart"),
    Finding("LUKS-D033", "host without the package",
            "The host HOST of this pool has no package luksext: each start of its XAPI takes the "
            "SR type from the database of the whole pool.",
            "On HOST: yum install PACKAGE ; xe-toolstack-restart"),
    Finding("LUKS-D034", "host not asked",
            "The host HOST of this pool could not be asked for the package: REASON",
            "xe host-list uuid=HOST_UUID params=name-label,enabled,host-metrics-live"),
    Finding("LUKS-D035", "versions differ",
            "The host HOST of this pool has version VERSION of luksext, this one has OURS.",
            "On every host: yum update ./luksext-*.rpm ; xe-toolstack-restart"),
    Finding("LUKS-D036", "SR not plugged",
            "The encrypted SR SR_UUID is not plugged on this host.",
            "xe pbd-plug uuid=PBD_UUID"),
)

# By code.
FINDINGS: Dict[str, Finding] = {finding.code: finding for finding in _ALL}


def found(code: str, **values: str) -> Dict[str, str]:
    """One thing that was found, as JSON. values: what each word in capitals stands for."""
    finding = FINDINGS[code]
    return {"code": code, "name": finding.name, "text": _filled(finding.summary, values),
            "next": _filled(finding.remedy, values)}


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub("[A-Z_]+", lambda word: values.get(word.group(), word.group()), text)
