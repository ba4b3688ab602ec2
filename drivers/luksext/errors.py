# SPDX-License-Identifier: LGPL-2.1-only
"""Every error that an administrator can see.

One class a cause, each with a stable code and a sentence that says what happened, where, and
what to type next. XAPI shows the code as ``SR_BACKEND_FAILURE_<code>``. The range 6200-6299 is
ours: no branch of the storage manager uses it (its codes are in XE_SR_ERRORCODES.xml).
"""
import shlex
from typing import List, Optional

from luksext.untrusted import escaped, shown

# Characters. No text of ours is so long: it quotes something that is.
_LONGEST = 2000


class LuksError(Exception):
    """Root of the tree. `code` is stable; `str()` is the sentence and the remedy.

    may_pass: of a binding that did not open, that nothing was found wrong with it: it may open
    when it is tried again.
    """

    code = 6200
    may_pass = False

    def __init__(self, sentence: str, remedy: str) -> None:
        self.sentence = _bounded(sentence)
        self.remedy = _bounded(remedy)
        super().__init__(self.sentence, self.remedy)

    def __str__(self) -> str:
        return "{} {}".format(self.sentence, self.remedy)


def _bounded(text: str) -> str:
    """`text` as it can be printed anywhere; of one that is too long, the start and the end."""
    if len(text) > _LONGEST:
        text = "{} [...] {}".format(text[:_LONGEST // 2], text[-_LONGEST // 2:])
    return escaped(text)


class OptionInvalid(LuksError):
    """A device-config value that cannot be used."""

    code = 6201

    def __init__(self, key: str, value: str, allowed: str) -> None:
        super().__init__(
            "device-config:{}={} cannot be used.".format(key, shown(value)),
            "Allowed: {}. Correct the value and run the command again.".format(allowed))


class SecretInvalid(LuksError):
    """The recovery passphrase handed over by an XAPI secret cannot be used."""

    code = 6202

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The recovery passphrase {}.".format(reason),
            "Give one of at least 12 characters and at most 512 bytes in one line, by "
            "device-config:recovery_password-filename=FILE.")


class ToolMissing(LuksError):
    """A program that we need is not installed."""

    code = 6203

    def __init__(self, program: str, package: str) -> None:
        super().__init__(
            "The program {} is not installed on this host.".format(program),
            "Install it with: yum install {}".format(package))


class CommandFailed(LuksError):
    """A program failed for a reason that we cannot tell more exactly."""

    code = 6204

    def __init__(self, command: str, status: int, stderr: str) -> None:
        super().__init__(
            "`{}` failed with status {}: {}.".format(
                shown(command, 300), status, stderr or "no message"),
            "See /var/log/SMlog and `dmesg | tail` on this host.")
        self.status = status


class CommandTimeout(LuksError):
    """A program did not end within its deadline and was killed."""

    code = 6205
    may_pass = True

    def __init__(self, command: str, seconds: float) -> None:
        super().__init__(
            "`{}` did not end within {:g} seconds and was stopped.".format(
                shown(command, 300), seconds),
            "Look for a failing disk or TPM with `dmesg | tail`, then run the command again.")


class TimeOver(LuksError):
    """What is done as a whole took longer than XAPI can be kept waiting."""

    code = 6294

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            "This host took too long: {:g} seconds were over before {}.".format(seconds, what),
            "Look in /var/log/SMlog for what took so long, with `dmesg | tail` for a failing disk "
            "or TPM; then run the command again.")


class ToolBroken(LuksError):
    """A program that ends well and prints what it cannot mean."""

    code = 6295

    def __init__(self, command: str, printed: str) -> None:
        super().__init__(
            "`{}` printed what cannot be understood: {}.".format(
                command, printed[:100] or "nothing"),
            "Run it by hand; `rpm -V` with the name of its package tells whether it is intact.")


class Unsupported(LuksError):
    """Something asked for that the tools of this host cannot do."""

    code = 6206


class ArgumentInvalid(LuksError):
    """An argument of one of the administrator's verbs that cannot be used."""

    code = 6285

    def __init__(self, verb: str, problem: str, allowed: str) -> None:
        super().__init__(
            "The verb {} {}.".format(verb, problem),
            # The console has not all verbs that the plugin has.
            "Allowed: {}. What each verb takes: docs/admin-guide.md, luksext --help".format(
                allowed))


class VerbUnknown(LuksError):
    """A verb that does not exist."""

    code = 6286

    def __init__(self, verb: str, known: List[str]) -> None:
        super().__init__("There is no verb {}.".format(shown(verb)),
                         "Use one of: {}.".format(", ".join(known)))


class RecordDamaged(LuksError):
    """What XAPI noted of an SR's containers cannot be read."""

    code = 6284

    def __init__(self, key: str, value: str) -> None:
        super().__init__(
            "What XAPI noted of the SR's disks cannot be used: sm-config:{}={} is no list of LUKS "
            "UUID, cipher and key size of each. Nothing was changed.".format(key, shown(value)),
            "See what the disks say of themselves with `luksext status`. If that is right, forget "
            "the note: python3 -c 'import XenAPI; x = XenAPI.xapi_local().xenapi; "
            "x.login_with_password(\"root\", \"\"); x.SR.remove_from_sm_config("
            "x.SR.get_by_uuid(\"SR\"), \"{}\")' ; then run the command again.".format(key))


class NoSuchKey(LuksError):
    """A recovery key that the SR has not."""

    code = 6287

    def __init__(self, sr_uuid: str, wanted: str, known: List[str]) -> None:
        super().__init__(
            "The SR {} has no recovery key {}.".format(
                sr_uuid, shown(wanted) or "without a name"),
            "Name one by name or slot: {}. See: luksext status --sr-uuid={}".format(
                ", ".join(known) or "it has none", sr_uuid))


class SrUnknown(LuksError):
    """An SR that a verb names, and that is not there or not ours."""

    code = 6288

    def __init__(self, sr_uuid: str, reason: str) -> None:
        super().__init__(
            "The SR {} cannot be used: {}.".format(shown(sr_uuid) or "without a UUID", reason),
            "List the encrypted SRs with: xe sr-list type=luksext params=uuid,name-label,host")


class DiskFails(LuksError):
    """A disk that is there, and cannot be read or written, or does not answer."""

    code = 6292

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(
            "The disk {} fails: {}.".format(device, reason),
            "Check disk, cable and controller with `dmesg | tail`, then run the command again.")


class MemoryShort(LuksError):
    """Too little free memory for a keyslot whose key a person chose."""

    code = 6293

    def __init__(self, device: str) -> None:
        super().__init__(
            "This host has too little free memory to try a passphrase on {}: 128 MiB are "
            "needed.".format(device),
            "See `free -m` in dom0. Stop what uses its memory, or give it more (`/opt/xensource/"
            "libexec/xen-cmdline --set-xen dom0_mem=SIZE,max:SIZE`, then restart the host).")


class DeviceMissing(LuksError):
    """A device that is named, or recorded for the SR, is not there."""

    code = 6210


class DeviceUnsuitable(LuksError):
    """A device that cannot carry the SR: not a block device, too small, read-only, 4Kn."""

    code = 6211


class DeviceInUse(LuksError):
    """A device, or an open container, that somebody holds."""

    code = 6212

    def __init__(self, device: str, holders: List[str]) -> None:
        super().__init__(
            "{} is in use by {}.".format(device, ", ".join(holders) or "another program"),
            "Stop what uses it (see `lsblk {}` and `fuser -vm {}`), then run the command "
            "again.".format(device, device))


class DeviceNotEmpty(LuksError):
    """A device that carries something; create never destroys it unasked."""

    code = 6213

    def __init__(self, device: str, signatures: List[str]) -> None:
        super().__init__(
            "{} is not empty: it carries {}. Nothing was changed.".format(
                device, ", ".join(signatures)),
            "Look at it with `wipefs {}`. To destroy all data on it, add "
            "device-config:force=true.".format(device))


class DeviceIsOurs(LuksError):
    """A device that is part of an encrypted SR; not even force overwrites that."""

    code = 6214

    def __init__(self, device: str, sr_uuid: str = "") -> None:
        super().__init__(
            "{} is part of {}. Nothing was changed.".format(
                device, "the encrypted SR " + sr_uuid if sr_uuid else
                "an encrypted SR that this host knew; its header does not say which"),
            "To use that SR: xe sr-introduce uuid={0} type=luksext name-label=NAME "
            "content-type=user, then xe pbd-create and xe pbd-plug. To destroy it: xe sr-destroy "
            "uuid={0}; if no host knows it any more, this destroys all that is on the disk: "
            "cryptsetup erase {1}; dd if=/dev/zero of={1} bs=1M count=16 conv=fsync".format(
                sr_uuid or "SR", device))


class HeaderMissing(LuksError):
    """No LUKS header where one should be."""

    code = 6220

    def __init__(self, device: str) -> None:
        super().__init__(
            "{} has no LUKS header: it was never encrypted, or its first sectors were "
            "overwritten. Nothing was changed.".format(device),
            "Check with `lsblk -f` that this is the right disk. If it is, restore a header "
            "backup: luksext header-restore --sr-uuid=SR --device={}".format(device))


class HeaderDamaged(LuksError):
    """A LUKS header that is there, but cannot be read."""

    code = 6221

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(
            "The LUKS header of {} is damaged: {}. Nothing was changed.".format(device, reason),
            "Try `cryptsetup repair {0}`; else restore a header backup: luksext header-restore "
            "--sr-uuid=SR --device={0}".format(device))


class HeaderMismatch(LuksError):
    """A container that is not the one that was recorded, or not as we made it."""

    code = 6222

    def __init__(self, device: str, found: str, expected: str) -> None:
        super().__init__(
            "{} is not the container of this SR: {} where {} is expected. It was not "
            "opened.".format(device, shown(found), expected),
            "The disk was exchanged or its header changed. Compare `cryptsetup luksDump {0}` with "
            "`xe sr-param-get uuid=SR param-name=sm-config`; if it is the right disk, restore its "
            "header: luksext header-restore --sr-uuid=SR --device={0}".format(device))


class NotOurs(LuksError):
    """A LUKS container that does not belong to the SR."""

    code = 6223

    def __init__(self, device: str, sr_uuid: str) -> None:
        super().__init__(
            "{} is a LUKS container, but not one of the SR {}.".format(device, sr_uuid),
            "Ask which SR it holds: xe sr-probe type=luksext device-config:device={}".format(
                device))


class Ambiguous(LuksError):
    """Several disks claim to be the same container."""

    code = 6224

    def __init__(self, uuid: str, devices: List[str]) -> None:
        super().__init__(
            "The disks {} all carry the LUKS UUID {}: one is a copy of the other.".format(
                " and ".join(devices), uuid),
            "Remove the copy, then run the command again.")


class Busy(LuksError):
    """Another process of this host works on the same SR or disk."""

    code = 6260

    def __init__(self, name: str, holder: str, since: str) -> None:
        super().__init__(
            "Another command works on {}: the process {} of this host, since {}.".format(
                name, holder or "(unknown)", since or "now"),
            "Wait until it ends (`ps -fp {}` shows it), then run the command again.".format(
                holder or "PID"))


class BackupMissing(LuksError):
    """No header backup of a container is on this host."""

    code = 6261

    def __init__(self, luks_uuid: str) -> None:
        super().__init__(
            "This host has no header backup of the LUKS container {}.".format(luks_uuid),
            "Use one that was exported: luksext header-restore --sr-uuid=SR --device=DISK "
            "--content-file=FILE")


class BackupDamaged(LuksError):
    """A header backup that is cut off, was changed, or is no header backup."""

    code = 6262

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The header backup cannot be used on this host: {}. Nothing was changed.".format(
                reason),
            "Use another: `luksext header-list` shows those of this host; look for exported ones.")


class BackupOfAnother(LuksError):
    """A header backup that does not belong to the disk that it shall be restored to."""

    code = 6263

    def __init__(self, device: str, found: str, expected: str) -> None:
        super().__init__(
            "The header backup is not one of {}: {} where {} is expected. Nothing was "
            "changed.".format(device, shown(found), expected),
            "Check with `lsblk -o NAME,SIZE,UUID,SERIAL` that this is the right disk, and choose "
            "its backup: luksext header-list. If its own header was damaged, or overwritten by "
            "another: luksext header-restore --device={} --luks-uuid=UUID --force=true".format(
                device))


class OldHeader(LuksError):
    """A header backup that holds keys which were revoked after it was made."""

    code = 6264

    def __init__(self, device: str, created: str, slots: List[int]) -> None:
        super().__init__(
            "The header backup for {} is of {}, before a key was revoked: with it, the keys of "
            "that time open the disk again{}. Nothing was changed.".format(
                device, created, ", those of the keyslots {} too".format(
                    ", ".join(map(str, slots))) if slots else ""),
            "Use a newer backup (luksext header-list). If there is none: luksext header-restore "
            "--device={} --force=true, then revoke those keys once more.".format(device))


class NotWritten(LuksError):
    """A note or header backup that this host could not keep."""

    code = 6266

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            "{} cannot be written on this host: {}.".format(path, reason),
            "Make room on the filesystem of dom0 (`df -h /var/lib`), then run the command again.")


class HeaderOutdated(LuksError):
    """A header of before a re-encryption that was begun on this host and is not at its end."""

    code = 6267

    def __init__(self, device: str, luks_uuid: str) -> None:
        super().__init__(
            "A header of before its re-encryption would destroy what is on {}: that began on this "
            "host and is not at its end, so a part of the data has another volume key. Nothing was "
            "changed.".format(device),
            "While the SR is plugged, move its VDIs away (`xe vdi-pool-migrate`); else take the "
            "data from a backup of the VMs. Only if all of the disk was put back to before, data "
            "and header: rm /var/lib/luksext/{}/reencryption.json ; then run the command "
            "again.".format(luks_uuid))


class AlertUnknown(LuksError):
    """A code that no alert has."""

    code = 6265

    def __init__(self, alert: str, known: List[str]) -> None:
        super().__init__(
            "There is no alert `{}`.".format(shown(alert)),
            "Name one of: {}.".format(", ".join(known)))


class NoBinding(LuksError):
    """A container that nothing can unlock unattended."""

    code = 6230

    def __init__(self, device: str, uuid: str) -> None:
        super().__init__(
            "{} has no clevis binding: nothing can unlock it unattended.".format(device),
            open_by_hand(device, uuid))


class UnlockRefused(LuksError):
    """Parent of all reasons for which a binding does not give up its key."""

    code = 6231


class NoTpm(UnlockRefused):
    """The host has no TPM 2.0 that the kernel can use."""

    code = 6232
    may_pass = True

    def __init__(self) -> None:
        super().__init__(
            "This host has no usable TPM 2.0: /dev/tpmrm0 does not exist.",
            "Enable the TPM in the firmware setup and check `ls /dev/tpm*`.")


class TpmLockout(UnlockRefused):
    """The TPM defends itself against guessing; it recovers by itself."""

    code = 6233
    may_pass = True

    def __init__(self) -> None:
        super().__init__(
            "The TPM of this host is in dictionary-attack lockout and refuses every request for "
            "now; the key in it is not lost.",
            "Wait until it recovers and run the command again, or end the lockout with "
            "`tpm2_dictionarylockout -c`.")


class TpmRefuses(UnlockRefused):
    """The TPM works, but does not unseal: cleared, replaced, or other PCR values."""

    code = 6234

    def __init__(self, pcrs: str) -> None:
        bound = "its PCRs {} changed, or it was cleared or replaced".format(pcrs) if pcrs else \
            "it was cleared, replaced, or belongs to another host"
        super().__init__(
            "The TPM of this host refuses to unseal the key: {}.".format(bound),
            "Use a recovery key.")


class TpmBroken(UnlockRefused):
    """The TPM is there, but does not answer as it should."""

    code = 6235
    may_pass = True

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The TPM of this host does not answer: {}.".format(detail),
            "Check `dmesg | grep -i tpm`; a cold start of the host often helps.")


class TangUnreachable(UnlockRefused):
    """A tang server does not answer."""

    code = 6236
    may_pass = True

    def __init__(self, url: str, detail: str) -> None:
        super().__init__(
            "The tang server {} cannot be reached: {}.".format(url, detail),
            "Check the network and the server with: curl -sf {}".format(shlex.quote(url + "/adv")))


class TangRefuses(UnlockRefused):
    """A tang server answers, but has not the key that we need."""

    code = 6237

    def __init__(self, url: str) -> None:
        super().__init__(
            "The tang server {} answers, but no longer has the key of this binding.".format(url),
            "Restore the server's old keys, or use a recovery key.")


class PinRefuses(UnlockRefused):
    """Any other pin that does not give up its key, or cannot be used to bind."""

    code = 6238

    def __init__(self, pin: str, detail: str) -> None:
        super().__init__(
            "The clevis pin {} fails: {}.".format(pin, detail or "it gives no reason"),
            "Check device-config:pin-config with `man clevis-encrypt-{}`.".format(pin))


class KeyRefused(UnlockRefused):
    """A key that does not open the keyslot that it is for."""

    code = 6239

    def __init__(self, device: str, slot: Optional[int]) -> None:
        super().__init__(
            "The key does not open {} of {}.".format(
                "any keyslot" if slot is None else "keyslot {}".format(slot), device),
            "The keyslot was changed or damaged; use a recovery key.")


class MappingMismatch(LuksError):
    """An open mapping that is not what we asked the kernel for."""

    code = 6240

    def __init__(self, name: str, found: str, expected: str) -> None:
        super().__init__(
            "The mapping /dev/mapper/{} is not as expected: {} where {} is expected. It was not "
            "used.".format(name, shown(found), expected),
            "Look at it with `dmsetup table {0}`, close it with `cryptsetup close {0}`, then run "
            "the command again.".format(name))


class KeyCost(LuksError):
    """A header that asks for more work or memory than any key takes."""

    code = 6241

    def __init__(self, device: str, excess: str) -> None:
        super().__init__(
            "No key was tried on {}, since its header is not one that cryptsetup makes: {}.".format(
                device, excess),
            "Somebody may have changed the header. Restore a backup of it: luksext header-restore "
            "--device={}".format(device))


class ContainerReplaced(LuksError):
    """A container with the LUKS UUID of the recorded one and another volume key."""

    code = 6242

    def __init__(self, device: str) -> None:
        super().__init__(
            "{} has the LUKS UUID of the container of this SR, but another volume key: it is "
            "another container in its place, or an old header. It was not opened.".format(device),
            "If nobody re-encrypted it, somebody exchanged it: restore its header (luksext "
            "header-restore --device={}), or find the disk. If it was re-encrypted elsewhere, say "
            "so, with its recovery key: luksext reencrypt-accept".format(device))


class RevokedKeyBack(LuksError):
    """A header with a key that was destroyed on this host: an old copy of it was put back."""

    code = 6243

    def __init__(self, device: str, slots: List[int]) -> None:
        numbers = ", ".join(map(str, slots))
        super().__init__(
            "The header of {} is an old one: its keyslots {} have keys that were removed on this "
            "host. It was not opened.".format(device, numbers),
            "Somebody may have put it back. Restore the present one: luksext header-restore "
            "--device={} ; or remove the keys once more: luksext recovery-revoke, luksext "
            "binding-remove".format(device))


class SealedKeyForeign(UnlockRefused):
    """A sealed key in a header that is not one that clevis makes."""

    code = 6244

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The sealed key in the header was not given to clevis: {}.".format(reason),
            "Somebody may have changed the header: restore a backup of it (luksext "
            "header-restore), or use a recovery key.")


class BindingChanged(LuksError):
    """A binding that is to be renewed as it is, and is not as it was when it last opened."""

    code = 6245

    def __init__(self, device: str, slot: int) -> None:
        super().__init__(
            "The binding in keyslot {} of {} was changed since it last opened: its PCRs or its "
            "server may be what somebody else wants. Nothing was changed.".format(slot, device),
            "Say what to bind to: luksext rebind --slot={} --pin=PIN --pin-config=CONFIG ; or "
            "restore the header: luksext header-restore --device={}".format(slot, device))


class VolumeForeign(LuksError):
    """An LVM volume of the SR's name that does not lie on its open containers."""

    code = 6246

    def __init__(self, name: str, found: str) -> None:
        super().__init__(
            "The volume /dev/mapper/{} that LVM has for the SR lies on {}, not on the SR's "
            "encrypted disks. It was not used.".format(name, found),
            "Is it a copy of the SR? Take its disk out of the host, or give it another name: "
            "`vgs -o vg_name,vg_uuid,pv_name` shows it, `vgimportclone` renames it. Then run `xe "
            "pbd-plug` again.")


class InsideFails(LuksError):
    """The disks were unlocked, and the LVM volume or filesystem in them cannot be attached."""

    code = 6299

    def __init__(self, devices: List[str], sr_uuid: str, reason: str) -> None:
        super().__init__(
            "The SR's disks ({}) were unlocked, but what is in them cannot be attached: {}. "
            "What this opened is locked again.".format(", ".join(devices), reason.rstrip(".")),
            "See whether a disk fails: dmesg | tail -n 50. If none does, look inside: clevis luks "
            "unlock -d DISK, for each; vgchange -ay XSLocalEXT-{0}; e2fsck -fn "
            "/dev/XSLocalEXT-{0}/{0}, which changes nothing and without n repairs; vgchange -an "
            "XSLocalEXT-{0}. Then plug again: xe pbd-plug.".format(sr_uuid))


class InsideNotMade(LuksError):
    """The LVM volume or filesystem of a new SR could not be made in its encrypted disks."""

    code = 6274

    def __init__(self, devices: List[str], reason: str) -> None:
        super().__init__(
            "Encrypting and unlocking {} worked, but the ext SR in it could not be made: {}. What "
            "was begun is undone.".format(", ".join(devices), reason.rstrip(".")),
            "See whether a disk fails: dmesg | tail -n 50. Then create the SR again, without a "
            "disk that does.")


class RecoveryKeyInvalid(LuksError):
    """A text that cannot be the recovery key that it is typed as; it is not repeated."""

    code = 6250

    def __init__(self, reason: str) -> None:
        super().__init__(
            "This is no recovery key: {}.".format(reason),
            "Compare it with the paper, group by group, and type it again.")


class WrongRecoveryKey(LuksError):
    """A recovery key or passphrase that opens no keyslot of the container."""

    code = 6251

    def __init__(self, device: str) -> None:
        super().__init__(
            "This recovery key opens no keyslot of {}.".format(device),
            "It may belong to another SR, or be revoked. See which keys there are with "
            "`luksext status`, then type another.")


class LastWayIn(LuksError):
    """Removing what may be the last thing that opens the container."""

    code = 6252

    def __init__(self, device: str, slot: int, reason: str, remedy: str) -> None:
        super().__init__(
            "Keyslot {} of {} was not removed: {}.".format(slot, device, reason), remedy)


class BindingHealthy(LuksError):
    """A binding that shall be renewed although nothing is wrong with it."""

    code = 6253

    def __init__(self, device: str, slot: int) -> None:
        super().__init__(
            "The binding in keyslot {} of {} still opens it. Nothing was changed.".format(
                slot, device),
            "To renew it all the same: luksext rebind --slot={} --force=true".format(slot))


class WrongSlot(LuksError):
    """A keyslot that is not there, or not of the kind that is meant."""

    code = 6254

    def __init__(self, device: str, slot: int, found: str, wanted: str) -> None:
        super().__init__(
            "Keyslot {} of {} is {}, not {}. Nothing was changed.".format(
                slot, device, found, wanted),
            "See what each keyslot is with: luksext status")


class NameRefused(LuksError):
    """A name that a recovery key cannot have."""

    code = 6255

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            "A recovery key cannot be called {}: {}.".format(shown(name) or "nothing", reason),
            "Choose another name of at most 32 letters, digits, dots, dashes and underscores: "
            "luksext recovery-add --name=NAME")


class HeaderFull(LuksError):
    """No room in a LUKS header."""

    code = 6256

    def __init__(self, device: str, what: str) -> None:
        super().__init__(
            "The LUKS header of {} has no room for {}. Nothing was changed.".format(device, what),
            "Remove a key that is not needed: `luksext status` lists them, `luksext "
            "recovery-revoke` and `luksext binding-remove` remove them.")


class EscrowKeyInvalid(LuksError):
    """A JWK that a recovery key must not, or cannot, be encrypted to."""

    code = 6257

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The escrow key cannot be used: {}.".format(reason),
            "Give the public half of an EC key: jose jwk gen -i '{\"alg\":\"ECDH-ES+A256KW"
            "\"}' -o private.jwk && jose jwk pub -i private.jwk -o public.jwk")


class NotAdoptable(LuksError):
    """A container made by hand that cannot become one of ours."""

    code = 6270

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(
            "{} cannot be adopted: {}.".format(device, reason),
            "It goes on as it is. To have its VDIs encrypted by luksext, copy them to another SR "
            "(`xe vdi-copy uuid=VDI sr-uuid=SR`), then destroy this one and create it anew with "
            "`xe sr-create type=luksext`.")


class SrNotAdoptable(LuksError):
    """An SR that XAPI knows, and that cannot be adopted in the state in which it is."""

    code = 6271


class AdoptionUnfinished(LuksError):
    """An adoption that stopped on its way through XAPI; all that it needs to go on is noted."""

    code = 6272

    def __init__(self, sr_uuid: str, reason: str) -> None:
        super().__init__(
            "The adoption of the SR {} stopped on this host: {}. No data were touched, and "
            "everything that XAPI knew of it is noted.".format(sr_uuid, reason),
            "Cure the cause, then go on with the call that began it, such as: xe host-call-plugin "
            "host-uuid=HOST plugin=luksext fn=adopt args:sr-uuid={}".format(sr_uuid))


class SrNotEmpty(LuksError):
    """An SR that is to be made anew while VDIs are in it."""

    code = 6273

    def __init__(self, sr_uuid: str, vdis: List[str]) -> None:
        super().__init__(
            "The SR {} of this host is not empty: it holds the VDIs {}. Nothing was "
            "changed.".format(sr_uuid, ", ".join(vdis)),
            "Move each to another SR, with its VM running `xe vdi-pool-migrate uuid=VDI "
            "sr-uuid=SR`, else `xe vdi-copy uuid=VDI sr-uuid=SR`; delete what is not needed; then "
            "run the command again.")


class NotPlugged(LuksError):
    """Something that needs the SR in use, while it is not."""

    code = 6275

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(
            "The SR on {} is not plugged: {}. Nothing was changed.".format(device, reason),
            "Plug it with `xe pbd-plug`, then run the command again.")


class DiskShrank(LuksError):
    """A disk that is smaller than the open container on it."""

    code = 6276

    def __init__(self, device: str, container: int, disk: int) -> None:
        super().__init__(
            "{} has room for {} bytes, but the container on it has {}: the disk shrank. Nothing "
            "was changed.".format(device, disk, container),
            "Give the disk or partition its size back before anything writes to the missing end; "
            "compare with `lsblk -b {}`.".format(device))


class InPlaceImpossible(LuksError):
    """An ext SR that cannot be encrypted where it is."""

    code = 6277

    def __init__(self, sr_uuid: str, reason: str) -> None:
        super().__init__(
            "The SR {} cannot be encrypted in place: {}. Nothing was changed.".format(
                sr_uuid, reason),
            "Move its VDIs to another SR (`xe vdi-pool-migrate`, `xe vdi-copy`), then have the "
            "empty SR encrypted: xe host-call-plugin host-uuid=HOST plugin=luksext fn=encrypt "
            "args:sr-uuid={} args:confirm=true".format(sr_uuid))


class NoRoom(LuksError):
    """A filesystem that is too full for what is to be done."""

    code = 6278

    def __init__(self, path: str, mib: int) -> None:
        super().__init__(
            "The filesystem on {} of this host has no room: {} MiB are needed. Nothing was "
            "changed.".format(
                path, mib),
            "Delete or move something from it (see `df -h`), then run the command again.")


class InPlaceBegun(LuksError):
    """An encryption in place that is to go on with other options than it was begun with."""

    code = 6279

    def __init__(self, sr_uuid: str, given: List[str]) -> None:
        super().__init__(
            "The SR {} is half encrypted in place, with other options: {}.".format(
                sr_uuid, ", ".join(given)),
            "Run the command again with these. Binding and cipher can be changed when it is done.")


class InPlaceDoubt(LuksError):
    """A disk that an encryption in place would write to, and that may be another one or hold newer
    data than what was kept of it."""

    code = 6289

    def __init__(self, sr_uuid: str, device: str, reason: str, remedy: str) -> None:
        super().__init__(
            "The encryption in place of the SR {} does not go on: {} {}. It was left as it "
            "is.".format(sr_uuid, device, reason),
            remedy)


class ReencryptionKeys(LuksError):
    """Keyslots whose key is not at hand; each needs it to get the new volume key."""

    code = 6280

    def __init__(self, device: str, holders: List[str]) -> None:
        super().__init__(
            "{} was not encrypted anew: the keys of {} are needed, since a keyslot cannot get the "
            "new volume key without its own. Nothing was changed.".format(
                device, ", ".join(holders)),
            "Type all recovery keys, one a line: luksext reencrypt --key-stdin. Renew a binding "
            "that does not open with `luksext rebind`, remove a key that is lost with `luksext "
            "recovery-revoke`.")


class ReencryptionUnfinished(LuksError):
    """Something that has to wait for the end of a re-encryption."""

    code = 6281

    def __init__(self, device: str) -> None:
        super().__init__(
            "{} is being encrypted anew; until the end neither its keys nor its size can be "
            "changed.".format(device),
            "See how far it is with `luksext status`; if it was interrupted, let it go on with "
            "`luksext reencrypt-resume`.")


class ReencryptionForeign(LuksError):
    """An unfinished re-encryption that this host did not begin."""

    code = 6282

    def __init__(self, device: str) -> None:
        super().__init__(
            "{} is in the middle of a re-encryption that this host did not begin. It was not "
            "opened.".format(device),
            "If the disk came from another host in that state, say so, with its recovery key: "
            "luksext reencrypt-accept")


class ReencryptionStuck(LuksError):
    """A re-encryption whose program was killed while it had a part of the data in work."""

    code = 6283

    def __init__(self, device: str) -> None:
        super().__init__(
            "The program that encrypts {} anew was killed; whatever needs the part that it had in "
            "work waits. No data are lost.".format(device),
            "Restart this host: the next plug repairs that part, and the re-encryption goes on.")


class HalfDestroyed(LuksError):
    """An SR whose destruction was interrupted: it is empty, and its disks may be erased."""

    code = 6290

    def __init__(self, sr_uuid: str) -> None:
        super().__init__(
            "The SR was being destroyed when that was interrupted. It holds no VDIs, and its disks "
            "may be erased already.",
            "Finish it: xe sr-destroy uuid={}".format(sr_uuid))


class HalfCreated(LuksError):
    """An SR whose creation was interrupted, and which XAPI has all the same."""

    code = 6291

    def __init__(self, sr_uuid: str) -> None:
        super().__init__(
            "The SR was not created to its end. It was never plugged, and holds no data.",
            "Remove what is there of it: xe sr-destroy uuid={} ; then create it again.".format(
                sr_uuid))


class NoSr(LuksError):
    """A host without a disk of an encrypted SR, where a verb is for one."""

    code = 6297

    def __init__(self) -> None:
        super().__init__(
            "This host has no disk of an encrypted SR.",
            "List the disks with `lsblk -o NAME,SIZE,FSTYPE,LABEL`. An SR whose header is lost has "
            "to be named: luksext header-restore --sr-uuid=SR --device=DISK")


class SeveralSrs(LuksError):
    """A verb for one SR, and several that it could be for."""

    code = 6298

    def __init__(self, sr_uuids: List[str]) -> None:
        super().__init__(
            "This host has several encrypted SRs: {}.".format(", ".join(sr_uuids)),
            "Name one by --sr-uuid=SR; `luksext status` shows their disks.")


class HostUnknown(LuksError):
    """dom0's inventory does not say which host of the pool this is."""

    code = 6296

    def __init__(self, path: str) -> None:
        super().__init__(
            "{} does not say which host of the pool this is.".format(path),
            "It should have a line INSTALLATION_UUID='UUID' with the UUID that `xe host-list` "
            "shows of this host.")


def open_by_hand(device: str, uuid: str) -> str:
    """The remedy that always works: open the container with a recovery key."""
    return ("Open it with a recovery key: `luksext unlock` on this host (or cryptsetup open {} "
            "{} ), then run `xe pbd-plug` again and, with that key, `luksext rebind "
            "--key-stdin`.".format(device, shlex.quote("luks-" + uuid)))
