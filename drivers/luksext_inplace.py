# SPDX-License-Identifier: LGPL-2.1-only
"""Encrypts a plaintext ext SR where it is, with its VDIs: its disks become containers, XAPI learns
the new type, and the data are encrypted while the SR is in use again.
"""
import luksext_adopt
import luksext_encrypt
import luksext_rows as rows
from luksext import devices, inplace, options, state
from luksext.errors import InPlaceImpossible, SrNotAdoptable

_OLD_TYPE = "ext"


def encrypt(session, host, sr_uuid, device_config):
    """Has the ext SR of this `host` encrypted, or goes on with one that was interrupted.

    device_config: as for `xe sr-create type=luksext`, without `device`.

    Returns what was done, with the recovery key that opens all disks; a call tells it again until
    the data are encrypted, and other keys can be made. Raises SrNotAdoptable,
    InPlaceImpossible, NoRoom, OptionInvalid, UnlockRefused's children with no data changed;
    AdoptionUnfinished, XenAPI.Failure.
    """
    with state.locked("encrypt"):
        sr = rows.find(session, "SR", sr_uuid)
        is_ext = sr is not None and session.xenapi.SR.get_type(sr) == _OLD_TYPE
        if not is_ext and not inplace.is_begun(sr_uuid):
            raise SrNotAdoptable(
                "The SR {} of this host is no ext SR, and no encryption of it was begun.".format(
                    sr_uuid),
                "List the ext SRs with: xe sr-list type=ext ; if it is encrypted, and its recovery "
                "key was lost, make another: luksext recovery-add --sr-uuid={}".format(sr_uuid))
        wanted = _options(sr_uuid, device_config)
        if is_ext:
            inplace.begin(sr_uuid, _unplugged(session, host, sr, sr_uuid, wanted), wanted)
        recovery_key = inplace.recovery_key(sr_uuid)
        flags = options.flags_as_given(wanted.flags)
        done = {"sr_uuid": sr_uuid}
        if is_ext or luksext_adopt.is_begun(sr_uuid):
            done = luksext_adopt.adopt(session, host, sr_uuid, wanted.pin, device_config=flags)
        return dict(
            done, recovery_key=recovery_key,
            next="Write the recovery key down: it is not shown again once the data are encrypted, "
                 "which they are while the SR is in use. See how far that is with `luksext "
                 "reencrypt-status --sr-uuid={}`; then prove that you have the key: luksext "
                 "recovery-confirm --sr-uuid={}".format(sr_uuid, sr_uuid))


def _options(sr_uuid, device_config):
    wanted = options.parse(dict(device_config, device="/dev/disk"))
    if wanted.luks_version == 1:
        raise InPlaceImpossible(sr_uuid, "LUKS1 cannot encrypt what is in use")
    return wanted


def _unplugged(session, host, sr, sr_uuid, wanted):
    """The disks of the SR, which nothing uses any more, by names that last."""
    record = session.xenapi.SR.get_record(sr)
    pbd = rows.own_pbd(session, host, sr)
    named = session.xenapi.PBD.get_device_config(pbd)["device"].split(",")
    if not inplace.is_begun(sr_uuid):
        luksext_encrypt.check_plain(record, named)
        inplace.check(sr_uuid, named, wanted.pin)
    luksext_adopt.check_unused(session, sr, record)
    if session.xenapi.PBD.get_currently_attached(pbd):
        session.xenapi.PBD.unplug(pbd)
    return [devices.lasting_name(path) for path in named]
