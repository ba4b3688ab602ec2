# SPDX-License-Identifier: LGPL-2.1-only
"""The life of an SR, from its creation to its end, around what the ext driver does inside.

Loaded by the driver for the calls that are about the whole SR: the many for its VDIs need nothing
of it, and would wait for it each time.
"""
import contextlib
import functools
import os
import xml.etree.ElementTree as ElementTree

import luksext_xapi
from luksext import (alive, claims, creation, devices, erasure, header, keys, lvm, mappings,
                     options, repository, run, state)
from luksext import container as containers
from luksext.container import LuksContainer
from luksext.errors import (DeviceInUse, HalfCreated, HalfDestroyed, InsideFails,
                            InsideNotMade, LuksError, VolumeForeign)
from luksext.generation import Identity
from luksext_sm import FileSR, scsiutil, util, xs_errors
from luksext_unplug import CLOSE_SECONDS, INSIDE_FAILS, Unplug, explained, log_to_smlog

# Seconds, besides what the ext driver takes. While one SR is plugged, unplugged or probed, XAPI has
# all others of the host wait: see docs/reliability.md.
UNLOCK_SECONDS = 180
UPKEEP_SECONDS = 120
PROBE_SECONDS = 60
# Nothing waits for a check but the next one, ten minutes later.
CHECK_SECONDS = 300

# Nobody waits for the undoing of a create, which overwrites the start of each disk.
ERASE_SECONDS = 1800


def _upkeep():
    # Loaded here, since a probe needs nothing of it.
    import luksext_upkeep
    return luksext_upkeep


def _audited(verb, sr_uuid, config):
    from luksext import audit
    return audit.audited(verb, sr_uuid, config, audit.DRIVER)


class _Undo:
    """Takes back what was done, newest first, when the block fails before `forget`.

    A step that cannot be taken back is logged: the error that the administrator sees is the first.
    seconds: for all steps together.
    """

    def __init__(self, seconds):
        self._seconds = seconds
        self._steps = []

    def add(self, step):
        self._steps.append(step)

    def forget(self):
        self._steps = []

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        with run.within(self._seconds):
            for step in reversed(self._steps):
                try:
                    step()
                except Exception as error:  # pylint: disable=broad-except
                    util.SMlog("luksext: cannot undo: {}".format(error))


class Life(Unplug):
    """All else that is done with an SR as a whole. driver: the LUKSEXTSR of a call."""

    @explained
    def create(self, sr_uuid, size):
        """Makes containers, proves that they open by their binding, builds the ext SR inside.

        XAPI ignores a failure of the first plug, so what this leaves behind must be known to open.
        """
        with _audited("sr-create", sr_uuid, self._driver.dconf), \
                contextlib.ExitStack() as alone, _Undo(ERASE_SECONDS) as undo:
            undo.add(self._forget_recovery_secret)
            self._create(sr_uuid, size, alone, undo)
            undo.forget()

    def _create(self, sr_uuid, size, alone, undo):
        wanted = containers.prepare(options.parse(self._driver.dconf))
        passphrase = self._recovery_passphrase()
        self._check_devices(sr_uuid, wanted, alone)
        made = self._make_containers(sr_uuid, wanted, passphrase, undo)
        undo.add(self._deactivate)
        self._make_inside(made, size)
        for container in made:
            container.close()
        luksext_xapi.record(self._session, self._ref, [container.record for container in made])
        if passphrase is not None:
            # The secret that the PBD names stays until the first attach can remove its name too.
            self._destroy_secrets(passphrase.decode("utf-8"), keep=self._secrets_in_use())

    @explained
    def attach(self, sr_uuid):
        """Unlocks the containers, then attaches the ext SR inside. Idempotent."""
        if luksext_xapi.is_emptied(self._session, self._ref):
            self._check_being_destroyed(HalfDestroyed)
            return
        if self._half_created():
            self._check_being_destroyed(HalfCreated)
            return
        # Asked before LVM can see what is in the containers: it may activate volumes by itself.
        idle = not devices.is_mapped(self._volume)
        # What XAPI then thinks is not plugged must not stay open: all but the upkeep is undone.
        with _Undo(CLOSE_SECONDS) as undo:
            with run.within(UNLOCK_SECONDS):
                sr = self._repository()
                found = sr.containers
                for container in found:
                    creation.end(container.uuid)
                run.at_once([functools.partial(self._open, container, record, sr, undo)
                             for container, record in zip(found, sr.records)],
                            # A dom0 has not the memory for several.
                            in_turn=any(container.takes_memory for container in found))
            if idle:
                undo.add(self._deactivate)
                luksext_xapi.forget_activations(self._session, self._ref)
            else:
                self._check_volume(found)
            self._attach_inside(found)
            if idle:
                self._check_volume(found)
            now = [container.record for container in found]
            if now != sr.records:
                luksext_xapi.record(self._session, self._ref, now)
            self._note_disks(found)
            self._forget_recovery_secret()
            undo.forget()
        with run.within(UPKEEP_SECONDS):
            _upkeep().after_unlock(self._session, self._ref, sr)

    @explained
    def complete_adopted(self):
        """After a scan: of VDIs that are being adopted, writes what only a driver may write."""
        # Here, since no other call needs it.
        import luksext_adopt
        for record in self._records()[:1]:
            luksext_adopt.restore_snapshots(self._session, record.uuid)

    @explained
    def delete(self, sr_uuid):
        """Empties the ext SR inside, then erases every keyslot and the headers.

        XAPI attaches first. Idempotent from every state: what the ext driver would do with the
        volume once the files are gone, it cannot do twice, so that is done here.
        """
        with _audited("sr-destroy", sr_uuid, self._driver.dconf):
            half_created = self._half_created()
            if half_created:
                self._delete_half_created(half_created)
            else:
                self._delete(sr_uuid)

    def _delete_half_created(self, creations):
        """What holds no data, and may not open."""
        for made in creations:
            creation.undo(made.device, made.luks_uuid)
        self._forget_recovery_secret()

    def _delete(self, sr_uuid):
        # While they are open, their mappings lead to the very disks; a search may find copies.
        sr = self._repository()
        opened = self._open_mappings(sr_uuid)
        self._stop_reencryption(opened)
        if not luksext_xapi.is_emptied(self._session, self._ref):
            with self._working_inside(sr.containers):
                FileSR.FileSR.delete(self._driver, sr_uuid)
            luksext_xapi.note(self._session, self._ref, **{luksext_xapi.EMPTIED: "true"})
        lvm.remove_group(self._driver.vgname, list(opened.values()))
        for mapping in opened.values():
            mappings.close(mapping)
        # A health check or a verb at work would write keys and backups anew.
        with state.locked(sr_uuid):
            for disk, record in zip(sr.disks, sr.records):
                self._erase(disk, disk.uuid if record is None else record.uuid)
            _upkeep().forget(sr_uuid, self._records())

    def _erase(self, disk, luks_uuid):
        """Erases a disk, once: afterwards its UUID may be that of a copy."""
        noted = luksext_xapi.ERASED + luks_uuid
        if noted not in self._session.xenapi.SR.get_sm_config(self._ref):
            erasure.erase(luks_uuid, disk, self._driver.uuid)
            luksext_xapi.note(self._session, self._ref, **{noted: "true"})
            # Should another disk keep the rest from its end: a backup opens what counts as erased.
            with _upkeep().only_logged("cannot destroy the header backups of " + luks_uuid):
                state.forget(luks_uuid)

    @explained
    def has_nothing_to_scan(self):
        """Whether the SR was attached to be destroyed, without a filesystem."""
        return bool(luksext_xapi.is_emptied(self._session, self._ref) or self._half_created())

    def check_sr(self, sr_uuid):
        """What SM's health service calls every ten minutes: proves the bindings when that is due,
        and shows in XAPI what needs attention. Never fails: that would end the service's round."""
        log_to_smlog()
        try:
            with run.within(CHECK_SECONDS):
                _upkeep().check(self._session, self._ref, self._repository())
        except Exception as error:  # pylint: disable=broad-except
            util.SMlog("luksext: cannot check the SR {}: {}".format(sr_uuid, error))

    @explained
    def probe(self):
        """The SRs on the given devices, locked or not, as the ext driver lists them."""
        with run.within(PROBE_SECONDS):
            return ElementTree.tostring(self._probed_devices(), encoding="unicode")

    def _probed_devices(self):
        root = ElementTree.Element("SRlist")
        seen = set()
        for device in options.parse_devices(self._driver.dconf):
            devices.check_exists(device)
            alive.check(device)
            found = header.find(device)
            identity = LuksContainer(device, found).identity if found else None
            if identity is not None and identity.sr_uuid not in seen:
                seen.add(identity.sr_uuid)
                root.append(self._probed(identity.sr_uuid, device))
        return root

    @staticmethod
    def _probed(sr_uuid, device):
        try:
            found = containers.find_identified(sr_uuid, [device])
        except LuksError as error:
            util.SMlog("luksext: probe: {}".format(error))
            found = [LuksContainer(device, header.read(device))]
        entry = ElementTree.Element("SR")
        for name, value in (
                ("UUID", sr_uuid),
                ("Devlist", ",".join(container.device for container in found)),
                ("size", str(sum(container.payload_size for container in found)))):
            ElementTree.SubElement(entry, name).text = value
        return entry

    def _undo_interrupted(self, paths):
        """Undoes creations on the devices that were interrupted, of SRs that XAPI forgot."""
        known = {record["uuid"] for record in self._session.xenapi.SR.get_all_records().values()}
        for device in paths:
            for made in creation.noted_on(device):
                if made.sr_uuid not in known:
                    util.SMlog("luksext: undoing the creation of the SR {} on {}, which was "
                               "interrupted".format(made.sr_uuid, device))
                    with _audited("sr-destroy", made.sr_uuid, {"device": device}):
                        creation.undo(device, made.luks_uuid)

    def _check_devices(self, sr_uuid, wanted, alone):
        """Refuses every device that must not be formatted; nothing was touched yet.

        alone: gets a lock for each disk. Two creates at once on one disk would both find it empty,
        and each erase what the other made.
        """
        for device in wanted.devices:
            devices.check_exists(device)
        claims.check_distinct(wanted.devices)
        for number in sorted(set(map(devices.disk_number, wanted.devices))):
            alone.enter_context(state.locked("create-" + number.replace(":", "-")))
        self._undo_interrupted(wanted.devices)
        for device in wanted.devices:
            if util.test_hostPBD_devs(self._session, sr_uuid, device):
                raise DeviceInUse(device, ["another SR of this host (`xe pbd-list`)"])
            if util.test_scsiserial(self._session, device):
                raise DeviceInUse(device, ["another SR of this pool (`xe sr-list`)"])
            claims.check_not_system(device, util.getrootdev())
            users = luksext_xapi.vms_with(self._session, self._driver.host_ref, device)
            if users:
                raise DeviceInUse(device, users)
            devices.check_suitable(device)
            claims.check(device)
            alive.check(device)
            containers.check_formattable(device, wanted.force)

    @staticmethod
    def _open(container, record, sr, undo):
        if container.open(record, sr.flags):
            undo.add(container.close)

    @staticmethod
    def _make_containers(sr_uuid, wanted, passphrase, undo):
        """Formats and opens a container on each device; `undo` takes how to undo it."""
        made = []
        # All at once, since each takes a while: the disks that were checked, whatever their names
        # lead to by then.
        for index, device in enumerate(list(map(os.path.realpath, wanted.devices))):
            container = creation.make(
                device, Identity(sr_uuid, index, len(wanted.devices)), wanted, passphrase)
            undo.add(functools.partial(creation.undo, device, container.uuid))
            container.open(container.record, wanted.flags)
            made.append(container)
        return made

    def _make_inside(self, made, size):
        """Raises InsideNotMade: the ext driver tells neither the SR nor the disks."""
        with self._working_inside(made):
            try:
                self._driver.ext.create(self._driver.uuid, size)
                self._driver.ext.detach(self._driver.uuid)
            except INSIDE_FAILS as error:
                raise InsideNotMade([container.device for container in made],
                                    str(error)) from error

    def _attach_inside(self, found):
        """Raises InsideFails, for the same reason."""
        with self._working_inside(found):
            try:
                self._driver.ext.attach(self._driver.uuid)
            except INSIDE_FAILS as error:
                raise InsideFails([container.device for container in found], self._driver.uuid,
                                  str(error)) from error

    def _check_being_destroyed(self, otherwise):
        """Of an SR that is attached to be destroyed, and for nothing else."""
        if not luksext_xapi.is_being_destroyed(self._session, self._ref):
            raise otherwise(self._driver.uuid)

    def _half_created(self):
        """The creations of this SR that a power cut interrupted before XAPI knew what it is made
        of."""
        return [] if self._records() else creation.noted_of(self._driver.uuid)

    def _repository(self):
        """The SR's containers in their order, wherever their disks are now."""
        config = self._driver.dconf
        return repository.recorded(self._driver.uuid, self._records(),
                                   options.parse_devices(config), options.parse_flags(config))

    @contextlib.contextmanager
    def _working_inside(self, found):
        """Within, the ext driver sees the open containers as the SR's devices."""
        driver = self._driver
        outside = driver.dconf["device"]
        driver.dconf["device"] = ",".join(container.mapping.path for container in found)
        driver.inside = True
        try:
            yield
        finally:
            driver.inside = False
            driver.dconf["device"] = outside

    def _check_volume(self, found):
        """LVM goes by names: a copy of the group on a disk that is not encrypted has the same one.
        Raises VolumeForeign where the active volume is not on the open containers."""
        inside = {container.mapping.kernel_name for container in found}
        below = devices.below(devices.named(self._volume), inside)
        if not below or not below <= inside:
            raise VolumeForeign(self._volume, ", ".join(sorted(below - inside)) or "no disk")

    def _deactivate(self):
        """Lets go of the containers after a failure, so that they can be closed."""
        if self._driver._checkmount():
            self._driver.ext.detach(self._driver.uuid)
        elif devices.is_mapped(self._volume):
            with contextlib.suppress(LuksError):
                lvm.deactivate(self._driver.vgname, self._driver.uuid)
            self._drop_volume()

    def _note_disks(self, found):
        """Notes of the disks what the ext driver noted of the mappings: their serial numbers, by
        which other SRs refuse them, and the I/O scheduler."""
        disks = [container.device for container in found]
        scsiutil.add_serial_record(self._session, self._ref,
                                   scsiutil.devlist_to_serialstring(disks))
        for disk in disks:
            self._driver.block_setscheduler(disk)

    def _recovery_passphrase(self):
        """The passphrase that XAPI keeps for us in a secret, as bytes; None where none is."""
        secret = self._driver.dconf.get(options.RECOVERY_SECRET_KEY)
        if secret is None:
            return None
        return keys.to_passphrase(util.get_secret(self._session, secret))

    def _forget_recovery_secret(self):
        """Removes the passphrase from XAPI: from the PBD the name of the secret, then the secret
        and the copies of it that XAPI made and lost (SR.create leaves one that nothing names)."""
        secret = self._driver.dconf.get(options.RECOVERY_SECRET_KEY)
        if secret is None:
            return
        pbd = util.find_my_pbd(self._session, self._driver.host_ref, self._ref)
        config = self._session.xenapi.PBD.get_device_config(pbd)
        config.pop(options.RECOVERY_SECRET_KEY, None)
        self._session.xenapi.PBD.set_device_config(pbd, config)
        with contextlib.suppress(xs_errors.SROSError):
            self._destroy_secrets(util.get_secret(self._session, secret),
                                  keep=self._secrets_in_use())

    def _destroy_secrets(self, value, keep):
        """Destroys all secrets with that value, but not those whose UUIDs are in `keep`."""
        for ref, secret in self._session.xenapi.secret.get_all_records().items():
            if secret["value"].rstrip("\n") == value.rstrip("\n") and secret["uuid"] not in keep:
                self._session.xenapi.secret.destroy(ref)

    def _secrets_in_use(self):
        """UUIDs that any PBD or SR of the pool names in its configuration."""
        configs = [pbd["device_config"]
                   for pbd in self._session.xenapi.PBD.get_all_records().values()]
        configs += [sr["sm_config"] for sr in self._session.xenapi.SR.get_all_records().values()]
        return {value for config in configs for key, value in config.items()
                if key.endswith("password_secret")}
