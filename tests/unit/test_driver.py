# SPDX-License-Identifier: LGPL-2.1-only
"""LUKSEXTSR: what the driver says of itself, and in which order it does what.

The storage manager is the one that SM=checkout names, else the lab's stand-in. Its ext driver is
replaced by one that notes its calls; below, the real package works with fake programs and disks.
"""
import importlib
import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest

import headers
import storage_manager
from conftest import Sysfs
from luksext import (begun, clevis, configuration, container, creation, cryptsetup, devices,
                     header, mappings, notes, reencrypt_process, state)
from luksext.begun import Begun
from luksext.cryptsetup import Flags

SR = headers.SR
HERE = os.path.dirname(os.path.abspath(__file__))
PASSPHRASE = "correct horse battery"
VOLUME = "XSLocalEXT--{0}-{0}".format(SR.replace("-", "--"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The module LUKSEXTSR, on a storage manager that is forgotten again afterwards."""
    found = storage_manager.find()
    if found is None:
        pytest.skip(storage_manager.MISSING)
    stubs = tmp_path_factory.mktemp("stubs")
    storage_manager.write_stubs(stubs)
    path, modules = list(sys.path), dict(sys.modules)
    sys.path[:0] = [str(stubs), *found.path]
    for name in set(sys.modules) & set(storage_manager.names(found)):
        del sys.modules[name]
    yield importlib.import_module("LUKSEXTSR")
    sys.path[:] = path
    sys.modules.clear()
    sys.modules.update(modules)


class Xapi:
    """As much of XAPI's database as the driver reads and writes."""

    def __init__(self, **device_config):
        self.sm_config = {}
        self.operations = {}
        self.messages = []
        self.secrets = {}
        self.vdis = {}
        self.pbds = {"PBD": {"host": "HOST", "SR": "SR", "device_config": device_config}}
        self.xenapi = self
        self.SR = SimpleNamespace(
            get_sm_config=lambda ref: dict(self.sm_config),
            get_type=lambda ref: "luksext",
            remove_from_sm_config=lambda ref, key: self.sm_config.pop(key, None),
            add_to_sm_config=lambda ref, key, value: self.sm_config.update({key: value}),
            get_record=lambda ref: {"uuid": SR, "sm_config": dict(self.sm_config)},
            get_all_records=lambda: {"SR": {"uuid": SR, "sm_config": dict(self.sm_config)}},
            get_current_operations=lambda ref: dict(self.operations))
        self.VDI = SimpleNamespace(
            get_all_records_where=lambda query: (
                {ref: {"sm_config": dict(config)} for ref, config in self.vdis.items()}
                if query == 'field "SR" = "SR"' else {}),
            remove_from_sm_config=lambda ref, key: self.vdis[ref].pop(key, None))
        self.PBD = SimpleNamespace(
            get_all_records=lambda: self.pbds,
            get_device_config=lambda ref: dict(self.pbds[ref]["device_config"]),
            set_device_config=lambda ref, config: self.pbds[ref].update(device_config=config))
        self.secret = SimpleNamespace(
            get_all_records=lambda: {uuid: {"uuid": uuid, "value": value}
                                     for uuid, value in self.secrets.items()},
            get_by_uuid=lambda uuid: uuid, get_value=lambda ref: self.secrets[ref],
            destroy=lambda ref: self.secrets.pop(ref))
        self.message = SimpleNamespace(create=lambda *words: self.messages.append(words))


class Lab:
    """A host with a fake XAPI, fake programs and disks, and an ext driver that notes its calls."""

    def __init__(self, driver, sysfs, programs):
        self.driver = driver
        self.life = importlib.import_module("luksext_life")
        self.unplug = importlib.import_module("luksext_unplug")
        self.sysfs = sysfs
        self.programs = programs
        self.log = []
        self.notes = []
        self.fail_at = None
        self.mounted = False
        self.copy = None

    def disk(self, name, content=b"", **properties):
        path = self.sysfs.disk(name, number="8:{}".format(16 * len(os.listdir(str(
            self.sysfs.nodes)))), **properties)
        with open(path, "wb") as disk:
            disk.write(content)
        return path

    def sr(self, uuid=SR, **device_config):
        """The driver's object, made as for a command of XAPI; `_` stands for `-` in keys."""
        config = {key.replace("__", "-"): value for key, value in device_config.items()}
        command = SimpleNamespace(dconf=config, params={
            "command": "nop", "host_ref": "HOST", "sr_ref": "SR", "device_config": config})
        made = self.driver.LUKSEXTSR(command, uuid)
        made.session = Xapi(**config)
        return made

    def volume(self, active=True, below=None):
        """Has LVM make the SR's volume on the open containers, or on another device, or not."""
        volume = self.sysfs.block / "dm-volume"
        shutil.rmtree(str(volume), ignore_errors=True)
        if active:
            (volume / "dm").mkdir(parents=True)
            (volume / "dm" / "name").write_text(VOLUME)
            for name in [below] if below else self.open_mappings():
                (volume / "slaves" / name).mkdir(parents=True)

    def open_mappings(self):
        return sorted(entry for entry in os.listdir(str(self.sysfs.block))
                      if entry.startswith("dm-sd"))


@pytest.fixture
def lab(driver, programs, tmp_path, monkeypatch):
    nodes = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="luksext-test-"))
    sysfs = Sysfs(tmp_path / "sys", nodes)
    monkeypatch.setattr(devices, "_SYSFS", str(sysfs.block))
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "notes"))
    monkeypatch.setattr(logging.getLogger("luksext"), "handlers", [])
    made = Lab(driver, sysfs, programs)
    real_candidates, real_disk_of = devices.candidates, devices.disk_of

    def node(path):
        return path and path.replace("/dev", str(nodes), 1)

    monkeypatch.setattr(devices, "candidates", lambda: map(node, real_candidates()))
    monkeypatch.setattr(devices, "disk_of", lambda mapping: node(real_disk_of(mapping)))
    monkeypatch.setattr(mappings.time, "sleep", lambda seconds: None)
    add_programs(programs, sysfs)
    replace_ext_driver(made, monkeypatch)
    yield made
    shutil.rmtree(str(nodes))


def add_programs(programs, sysfs):
    for name in ("jose", "wipefs", "udevadm", "clevis-encrypt-any", "pvs", "vgremove"):
        programs.add(name)
    programs.add("vgs", "for disk in {}/dm-sd*; do echo \"$disk|1|1|1|1\"; done".format(
        sysfs.block))
    programs.add("clevis", "[ $1 = encrypt ] && echo {} || printf key".format(headers.JWE))
    programs.add("dd", 'for word; do case $word in of=*) : >"${word#of=}"; esac; done')
    for name in ("cryptsetup", "dmsetup"):
        programs.add(name, 'exec {} -S -E {} {} {} "$@" <$stdin'.format(
            sys.executable, os.path.join(HERE, "fake_cryptsetup.py"), sysfs.block, name))


def replace_ext_driver(lab, monkeypatch):
    driver, ext = lab.life, lab.driver.EXTSR

    def step(name):
        def method(self, *args):
            lab.log.append((name, self.dconf["device"], lab.open_mappings()))
            if lab.fail_at == name:
                raise driver.xs_errors.SROSError(1, name + " failed")
            lab.mounted = {"attach": True, "detach": False}.get(name, lab.mounted)
            lab.volume(lab.mounted, lab.copy)
        return method

    for name in ("create", "attach", "detach"):
        monkeypatch.setattr(ext.EXTSR, name, step(name))
    monkeypatch.setattr(driver.FileSR.FileSR, "delete", step("delete"))
    monkeypatch.setattr(ext.EXTSR, "_checkmount", lambda self: lab.mounted)
    monkeypatch.setattr(ext.EXTSR, "block_setscheduler",
                        lambda self, disk: lab.notes.append(("scheduler", disk)))
    lock = ext if hasattr(ext, "Lock") else ext.lock
    monkeypatch.setattr(lock, "Lock", lambda *args: None)
    monkeypatch.setattr(driver.util, "SMlog", lambda text, *args: lab.notes.append(str(text)))
    monkeypatch.setattr(driver.util, "test_hostPBD_devs", lambda *args: False)
    monkeypatch.setattr(driver.util, "test_scsiserial", lambda *args: False)
    monkeypatch.setattr(driver.util, "getrootdev", lambda: "/dev/sda")
    monkeypatch.setattr(driver.scsiutil, "devlist_to_serialstring", ",".join)
    monkeypatch.setattr(driver.scsiutil, "add_serial_record",
                        lambda session, ref, text: lab.notes.append(("serial", text)))


def steps(lab):
    return [name for name, _, _ in lab.log]


def records_of(made):
    """What XAPI has noted of the SR's containers."""
    return json.loads(made.session.sm_config["luks_containers"])


def failure(lab, call, *args):
    with pytest.raises(lab.life.xs_errors.SROSError) as caught:
        call(*args)
    return str(caught.value)


# What the driver says of itself


def test_every_option_is_in_the_driver_info_with_what_ext_has(driver):
    keys = [key for key, _ in driver.DRIVER_INFO["configuration"]]
    assert {key for key, _ in configuration.DESCRIPTIONS} <= set(keys)
    assert len(set(keys)) == len(keys)
    assert "location" not in keys
    assert all(text for _, text in driver.DRIVER_INFO["configuration"])


def test_the_driver_info_has_what_xapi_asks_for(driver):
    assert sorted(driver.DRIVER_INFO) == [
        "capabilities", "configuration", "copyright", "description", "driver_version", "name",
        "required_api_version", "vendor"]
    assert driver.DRIVER_INFO["capabilities"] == driver.EXTSR.CAPABILITIES
    assert "SR_PROBE" in driver.CAPABILITIES


def test_only_a_key_that_xapi_hides_takes_the_passphrase(driver):
    secret = [key for key, text in driver.CONFIGURATION if "passphrase" in text]
    assert all(key.endswith("password") for key in secret) and secret


def test_the_driver_is_registered_and_the_stock_one_stays(driver):
    storage = driver.SR
    assert storage.driver("luksext") is driver.LUKSEXTSR
    assert storage.driver("ext") is driver.EXTSR.EXTSR


def test_the_class_handles_our_type_and_an_object_ext_too(lab):
    assert lab.driver.LUKSEXTSR.handles("luksext")
    assert not lab.driver.LUKSEXTSR.handles("ext")
    made = lab.sr(device="/dev/x")
    assert made.handles("luksext") and made.handles("ext")
    assert not made.handles("smb") and not made.handles("file")


def test_the_collector_knows_our_type_and_no_other_new_one(driver):
    collector = driver.cleanup
    assert collector.normalizeType("luksext") == collector.normalizeType("ext")
    with pytest.raises(Exception, match="nosuch"):
        collector.normalizeType("nosuch")
    taught = collector.normalizeType
    driver.teach_gc(collector)
    assert collector.normalizeType is taught


@pytest.mark.parametrize("config", [{}, {"device": "/HACK"}, {"device": "/dev/x", "pin": "?"}])
def test_loading_runs_no_program_and_looks_at_no_device(lab, monkeypatch, config):
    monkeypatch.setattr(header, "read", None)
    monkeypatch.setattr(devices, "_listdir", None)
    monkeypatch.setattr(devices, "_read", None)
    made = lab.sr(**config)
    assert made.vgname == "XSLocalEXT-" + SR
    assert lab.programs.order() == []
    assert lab.notes == []


def test_what_every_command_for_a_vdi_loads_is_little(driver):
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, LUKSEXTSR; print(*sys.modules)"], check=True,
        stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
    names = loaded.stdout.decode().split()
    assert [name for name in names if name.startswith("luksext")] == [
        "luksext", "luksext.configuration", "luksext.notes", "luksext_sm", "luksext_types"]


def test_its_methods_take_what_the_storage_manager_gives(driver):
    for name in ("create", "attach", "detach", "delete", "probe"):
        assert callable(getattr(driver.LUKSEXTSR, name))
    assert list(inspect.signature(driver.LUKSEXTSR.detach).parameters) == ["self", "sr_uuid"]


# Create


def test_create_builds_the_ext_sr_inside_and_closes_everything(lab):
    first, second = lab.disk("sdb"), lab.disk("sdc")
    made = lab.sr(device=first + "," + second, pin="any")
    assert made.create(SR, 0) is None
    assert steps(lab) == ["create", "detach"]
    for _, inside, opened in lab.log:
        assert opened == ["dm-sdb", "dm-sdc"]
        assert inside == ",".join("/dev/mapper/luks-" + header.read(disk).uuid
                                  for disk in (first, second))
    assert made.dconf["device"] == first + "," + second
    assert lab.open_mappings() == []
    assert [header.read(disk).label for disk in (first, second)] == [SR + ":0:2", SR + ":1:2"]


def test_create_notes_what_the_containers_are(lab):
    disk = lab.disk("sdb")
    made = lab.sr(device=disk, pin="any")
    made.create(SR, 0)
    found = header.read(disk)
    assert found.volume_key
    assert records_of(made) == [
        [found.uuid, headers.CIPHER, 512, found.volume_key, headers.PAYLOAD]]


def test_who_had_an_sr_made_or_destroyed_is_told_without_the_passphrase(lab, audited):
    disk = lab.disk("sdb")
    made = with_secret(lab, disk)
    made.create(SR, 0)
    told = {"pin": "any", "device": disk}
    assert audited == [("sr-create", SR, "driver", "ok", told)]
    assert PASSPHRASE not in str(audited)
    failure(lab, lab.sr(device=disk, pin="any").create, SR, 0)
    made.attach(SR)
    lab.fail_at = "delete"
    failure(lab, made.delete, SR)
    lab.fail_at = None
    made.delete(SR)
    assert audited[1:] == [("sr-create", SR, "driver", "error 6214", told),
                           ("sr-destroy", SR, "driver", "SROSError", told),
                           ("sr-destroy", SR, "driver", "ok", told)]


@pytest.mark.parametrize("step", ["create", "detach"])
def test_when_the_ext_driver_fails_no_container_is_left(lab, step):
    disks = [lab.disk("sdb"), lab.disk("sdc")]
    lab.fail_at = step
    made = lab.sr(device=",".join(disks), pin="any")
    refusal = failure(lab, made.create, SR, 0)
    assert step + " failed" in refusal and all(disk in refusal for disk in disks)
    assert lab.open_mappings() == []
    assert [header.find(disk) for disk in disks] == [None, None]
    assert made.session.sm_config == {}
    assert made.dconf["device"] == ",".join(disks)


def test_a_key_that_does_not_open_is_found_before_anything_is_built(lab):
    lab.programs.add("clevis", "[ $1 = encrypt ] && echo {} || printf wrong".format(headers.JWE))
    disk = lab.disk("sdb")
    text = failure(lab, lab.sr(device=disk, pin="any").create, SR, 0)
    assert "SR {}: {} was not unlocked".format(SR, disk) in text
    assert steps(lab) == []
    assert header.find(disk) is None


@pytest.mark.parametrize("prepare, config, text", [
    (lambda lab: None, {"cipher": "rot13"}, "device-config:cipher=rot13"),
    (lambda lab: None, {"pin": "nosuch"}, "device-config:pin=nosuch"),
    (lambda lab: lab.programs.add("wipefs", "echo 0,,,ext4"), {}, "is not empty"),
    (lambda lab: lab.sysfs.block.joinpath("sdc", "ro").write_text("1"), {}, "is read-only"),
    (lambda lab: (lab.sysfs.nodes / "sdc").write_bytes(headers.ours()), {"force": "true"},
     "part of the encrypted SR " + SR),
    (lambda lab: (lab.sysfs.nodes / "sdc").unlink(), {}, "does not exist")])
def test_a_device_that_must_not_be_formatted_leaves_all_untouched(lab, prepare, config, text):
    first, second = lab.disk("sdb"), lab.disk("sdc")
    prepare(lab)
    made = lab.sr(device=first + "," + second, **dict({"pin": "any"}, **config))
    assert text in failure(lab, made.create, SR, 0)
    assert not {"clevis encrypt", "dd if=/dev/zero"} & set(lab.programs.order())
    assert steps(lab) == []


@pytest.mark.parametrize("check, text", [
    ("test_hostPBD_devs", "another SR of this host"),
    ("test_scsiserial", "another SR of this pool")])
def test_a_device_of_another_sr_is_in_use(lab, monkeypatch, check, text):
    monkeypatch.setattr(lab.life.util, check, lambda *args: True)
    assert text in failure(lab, lab.sr(device=lab.disk("sdb"), pin="any").create, SR, 0)


def test_the_disk_of_dom0_is_in_use_even_by_force(lab, monkeypatch):
    disk = lab.disk("sda")
    monkeypatch.setattr(lab.life.util, "getrootdev", lambda: disk)
    made = lab.sr(device=disk, pin="any", force="true")
    assert "in use by dom0" in failure(lab, made.create, SR, 0)


def test_a_disk_that_a_vm_has_is_in_use_even_by_force(lab, monkeypatch):
    monkeypatch.setattr(lab.life.luksext_xapi, "vms_with", lambda *args: ["the VM web"])
    made = lab.sr(device=lab.disk("sdb"), pin="any", force="true")
    assert "in use by the VM web" in failure(lab, made.create, SR, 0)


def test_force_overwrites_a_device_that_is_not_ours(lab):
    lab.programs.add("wipefs", "echo 0,,,crypto_LUKS")
    disk = lab.disk("sdb", headers.luks2())
    lab.sr(device=disk, pin="any", force="true").create(SR, 0)
    assert header.read(disk).label == SR + ":0:1"


def test_one_disk_by_two_paths_is_refused_before_it_is_touched(lab):
    disk = lab.disk("sdb")
    link = lab.sysfs.nodes / "by-id"
    link.symlink_to(disk)
    made = lab.sr(device="{},{}".format(disk, link), pin="any")
    failure(lab, made.create, SR, 0)
    assert "dd if=/dev/zero" not in lab.programs.order()


def test_force_overwrites_a_device_whose_luks_header_is_damaged(lab):
    disk = lab.disk("sdb", headers.luks2()[:5000])
    lab.sr(device=disk, pin="any", force="true").create(SR, 0)


def test_two_creates_at_once_on_one_disk_do_not_meet(lab, monkeypatch):
    """Neither do two on parts of it, whose disk is the same."""
    disk, divided, other = lab.disk("sdb"), lab.disk("sdc"), lab.disk("sdd")
    part = lab.sysfs.partition("sdc", "sdc1", number="8:99")
    locked = state.locked
    monkeypatch.setattr(lab.life.state, "locked", lambda name: locked(name, 0))
    for busy, device in ((disk, disk), (divided, part)):
        with locked("create-" + devices.number_of(busy).replace(":", "-")):
            text = failure(lab, lab.sr(device=device, pin="any").create, SR, 0)
            assert "Another command works on" in text
    assert "clevis encrypt" not in lab.programs.order()
    with locked("create-" + devices.number_of(disk).replace(":", "-")):
        lab.sr(device=other, pin="any").create(SR, 0)
    lab.sr(device=disk, pin="any").create(SR, 0)


# The recovery passphrase


def with_secret(lab, disk, **secrets):
    made = lab.sr(device=disk, pin="any", recovery_password_secret="given")
    made.session.secrets.update(dict({"given": PASSPHRASE + "\n"}, **secrets))
    return made


def test_create_makes_a_keyslot_of_it_and_destroys_all_copies_that_nobody_names(lab):
    disk = lab.disk("sdb")
    made = with_secret(lab, disk, copy=PASSPHRASE, other="another secret")
    made.create(SR, 0)
    assert header.read(disk).keyslots == [0, 1]
    assert made.session.secrets == {"given": PASSPHRASE + "\n", "other": "another secret"}


def test_a_recovery_key_of_ours_may_be_typed_in_any_way(lab, monkeypatch):
    given = []
    monkeypatch.setattr(cryptsetup, "add_key",
                        lambda *arguments: given.append(arguments[-1]))
    made = with_secret(lab, lab.disk("sdb"))
    made.session.secrets["given"] = "f725 r90e mng2 2cfe 5g3a 3k1b p7mw\n"
    made.create(SR, 0)
    assert given == [b"F725-R90E-MNG2-2CFE-5G3A-3K1B-P7MW"]


def test_the_first_attach_removes_its_name_and_the_last_copy(lab):
    disk = lab.disk("sdb")
    made = with_secret(lab, disk)
    made.create(SR, 0)
    made.attach(SR)
    assert made.session.secrets == {}
    assert "recovery_password_secret" not in made.session.pbds["PBD"]["device_config"]


def test_a_secret_that_another_pbd_names_is_kept(lab):
    made = with_secret(lab, lab.disk("sdb"), shared=PASSPHRASE)
    made.session.pbds["OTHER"] = {"host": "H2", "SR": "SR2",
                                  "device_config": {"chap_password_secret": "shared"}}
    made.create(SR, 0)
    made.attach(SR)
    assert list(made.session.secrets) == ["shared"]


@pytest.mark.parametrize("step", ["create", "detach"])
def test_a_failed_create_leaves_no_secret_behind(lab, step):
    made = with_secret(lab, lab.disk("sdb"), copy=PASSPHRASE)
    lab.fail_at = step
    failure(lab, made.create, SR, 0)
    assert made.session.secrets == {}


def test_a_passphrase_that_cannot_be_used_is_refused_and_not_quoted(lab):
    made = with_secret(lab, lab.disk("sdb"), given="short")
    text = failure(lab, made.create, SR, 0)
    assert "has 5 characters" in text and "short" not in text
    assert made.session.secrets == {}


def test_no_passphrase_is_in_a_log_an_error_or_an_argument(lab):
    made = with_secret(lab, lab.disk("sdb"))
    made.create(SR, 0)
    made.attach(SR)
    calls = [lab.programs.calls(name) for name in ("cryptsetup", "clevis")]
    told = "{} {}".format(lab.notes, calls)
    assert PASSPHRASE not in told


# Attach


# By the number of disks: what a create leaves on each and in XAPI.
_created = {}


def created(lab, count=1):
    """An SR object after create, with the names of its disks.

    A create is a dozen programs for each disk. So one is made, and what it left is copied.
    """
    disks = [lab.disk("sd" + letter) for letter in "bcd"[:count]]
    made = lab.sr(device=",".join(disks), pin="any")
    if count not in _created:
        made.create(SR, 0)
        del lab.log[:], lab.notes[:]
        _created[count] = [Path(disk).read_bytes() for disk in disks], made.session.sm_config
    contents, sm_config = _created[count]
    made.session.sm_config = dict(sm_config)
    for disk, content in zip(disks, contents):
        Path(disk).write_bytes(content)
        note = {"sr": SR, "device": devices.lasting_name(disk)}
        state.Store(header.read(disk).uuid).save("creation", note)
    return made, disks


def test_attach_opens_every_container_and_attaches_inside(lab):
    made, disks = created(lab, 2)
    assert made.attach(SR) is None
    [(name, inside, mappings)] = lab.log
    assert name == "attach" and mappings == ["dm-sdb", "dm-sdc"]
    assert inside.count("/dev/mapper/luks-") == 2
    assert made.dconf["device"] == ",".join(disks)


def test_attach_notes_the_disks_and_not_the_mappings(lab):
    made, disks = created(lab, 2)
    made.attach(SR)
    assert ("serial", ",".join(disks)) in lab.notes
    assert [note[1] for note in lab.notes if note[0] == "scheduler"] == disks


def test_a_scan_completes_the_vdis_of_an_adoption(lab, monkeypatch):
    made, _ = created(lab)
    ext, adopted = lab.driver.EXTSR.EXTSR, []
    monkeypatch.setattr(ext, "scan", lambda self, sr_uuid: lab.log.append("scanned") or "answer")
    monkeypatch.setattr(importlib.import_module("luksext_adopt"), "restore_snapshots",
                        lambda session, luks_uuid: adopted.append((lab.log[-1], luks_uuid)))
    assert made.scan(SR) == "answer"
    assert adopted == []
    state.Store(headers.UUID).save(notes.ADOPTION, {"vdis": {}})
    assert made.scan(SR) == "answer"
    assert adopted == [("scanned", records_of(made)[0][0])]


def test_attach_twice_is_no_error(lab):
    made, _ = created(lab)
    made.attach(SR)
    made.attach(SR)
    assert lab.open_mappings() == ["dm-sdb"]


def test_attach_forgets_activations_that_nobody_ended_before_anything_is_open(lab, monkeypatch):
    made, _ = created(lab)
    made.session.vdis = {"died": {"activating": "True", "vdi_type": "vhd"},
                         "whole": {"vdi_type": "vhd"}}
    lab.fail_at = "attach"
    failure(lab, made.attach, SR)
    assert made.session.vdis == {"died": {"vdi_type": "vhd"}, "whole": {"vdi_type": "vhd"}}
    made.session.vdis["died"]["activating"] = "True"
    lab.fail_at = None
    # LVM activates the volume by itself once the container is open.
    with monkeypatch.context() as patch:
        patch.setattr(devices, "is_mapped", lambda name: bool(lab.open_mappings()))
        made.attach(SR)
    assert "activating" not in made.session.vdis["died"]
    made.session.vdis["died"]["activating"] = "True"
    monkeypatch.setattr(devices, "is_mapped", lambda name: name == VOLUME)
    made.attach(SR)
    assert "activating" in made.session.vdis["died"]


def test_a_container_that_another_process_opens_meanwhile_is_taken_as_it_is(lab):
    made, disks = created(lab)
    lab.programs.add("clevis", "cryptsetup open {} luks-{} <$stdin; printf key".format(
        disks[0], header.read(disks[0]).uuid))
    made.attach(SR)
    assert lab.mounted and lab.open_mappings() == ["dm-sdb"]


def test_a_volume_that_lies_elsewhere_is_not_used(lab):
    """As of a copy of the SR on a disk that is not encrypted, which LVM prefers."""
    made, _ = created(lab)
    lab.copy = "sdz"
    text = failure(lab, made.attach, SR)
    assert VOLUME + " that LVM has for the SR lies on sdz" in text
    assert steps(lab) == ["attach", "detach"]
    assert lab.open_mappings() == []


def test_a_volume_that_is_active_already_and_lies_elsewhere_is_not_mounted(lab):
    made, _ = created(lab)
    for below in ("sdz", None):
        lab.volume(below=below)
        assert "not on the SR's encrypted disks" in failure(lab, made.attach, SR)
    assert steps(lab) == []
    assert lab.open_mappings() == []


@pytest.mark.parametrize("step", ["record", "_note_disks", "_forget_recovery_secret"])
def test_an_attach_that_fails_after_the_ext_driver_leaves_nothing_open(lab, monkeypatch, step):
    made, _ = created(lab)
    made.session.sm_config["luks_containers"] = json.dumps([records_of(made)[0][:3]])

    def fail(*args):
        raise lab.life.util.SMException("XAPI is gone")

    monkeypatch.setattr(
        lab.life.luksext_xapi if step == "record" else lab.life.Life, step, fail)
    with pytest.raises(lab.life.util.SMException):
        made.attach(SR)
    assert steps(lab) == ["attach", "detach"]
    assert not lab.mounted and lab.open_mappings() == []


def test_an_attach_that_was_done_already_and_fails_leaves_the_sr_open(lab, monkeypatch):
    made, _ = created(lab)
    made.attach(SR)
    monkeypatch.setattr(lab.life.Life, "_note_disks", kill)
    with pytest.raises(KeyboardInterrupt):
        made.attach(SR)
    assert lab.mounted and lab.open_mappings() == ["dm-sdb"]


def test_a_failed_attach_closes_what_it_opened_and_nothing_else(lab):
    made, disks = created(lab, 2)
    found = container.LuksContainer(disks[0], header.read(disks[0]))
    found.open(found.record, Flags())
    lab.fail_at = "attach"
    refusal = failure(lab, made.attach, SR)
    assert "attach failed" in refusal and SR in refusal and disks[0] in refusal
    assert lab.open_mappings() == ["dm-sdb"]


def test_a_failed_attach_drops_the_volume_that_lvm_activated_by_itself(lab, monkeypatch):
    made, _ = created(lab)

    def attach(self, sr_uuid):
        lab.volume()
        raise FileNotFoundError(2, "No such file or directory", "lvchange")

    monkeypatch.setattr(lab.driver.EXTSR.EXTSR, "attach", attach)
    assert "'lvchange'" in failure(lab, made.attach, SR)
    assert ["dmsetup", "remove", VOLUME] in lab.programs.calls("dmsetup")
    assert lab.open_mappings() == []


def test_the_disks_of_an_sr_are_unlocked_at_the_same_time(lab, monkeypatch):
    made, _ = created(lab, 3)
    met, unseal = threading.Barrier(3, timeout=20), clevis.unseal

    def wait_for_the_others(jwe):
        met.wait()
        return unseal(jwe)

    monkeypatch.setattr(clevis, "unseal", wait_for_the_others)
    made.attach(SR)
    assert lab.open_mappings() == ["dm-sdb", "dm-sdc", "dm-sdd"]


def test_disks_whose_keyslots_take_memory_are_unlocked_one_after_the_other(lab, monkeypatch):
    made, disks = created(lab, 3)
    found = header.read(disks[1])
    with open(disks[1], "wb") as disk:
        disk.write(headers.luks2(
            headers.metadata(volume_key=found.volume_key, tokens={"0": headers.binding_token()},
                             type="argon2id", memory=1 << 20, time=4, cpus=4),
            uuid=found.uuid, label=found.label, subsystem="luksext"))
    alone, unseal = threading.Lock(), clevis.unseal

    def be_alone(jwe):
        assert alone.acquire(blocking=False)
        try:
            return unseal(jwe)
        finally:
            alone.release()

    monkeypatch.setattr(clevis, "unseal", be_alone)
    before = len(lab.programs.order())
    made.attach(SR)
    assert lab.programs.order()[before:][:9] == 3 * [
        "clevis decrypt", "cryptsetup open", "dmsetup table"]


def test_when_one_disk_does_not_open_the_others_are_closed(lab):
    made, disks = created(lab, 2)
    second = header.read(disks[1])
    with open(disks[1], "wb") as disk:
        disk.write(headers.luks2(headers.metadata(volume_key=second.volume_key), uuid=second.uuid,
                                 label=second.label, subsystem="luksext"))
    assert "has no clevis binding" in failure(lab, made.attach, SR)
    assert lab.open_mappings() == []
    assert steps(lab) == []


def test_a_container_that_was_exchanged_is_not_opened(lab):
    made, disks = created(lab)
    with open(disks[0], "wb") as disk:
        disk.write(headers.ours())
    assert "is not the container of this SR" in failure(lab, made.attach, SR)
    assert lab.open_mappings() == []


def test_a_container_with_another_volume_key_is_not_opened(lab):
    made, disks = created(lab)
    found = header.read(disks[0])
    before = lab.programs.order()
    with open(disks[0], "wb") as disk:
        disk.write(headers.ours(uuid=found.uuid, volume_key="of somebody else"))
    assert "another volume key" in failure(lab, made.attach, SR)
    assert lab.programs.order() == before


@pytest.mark.parametrize("known", [3, 4])
def test_what_was_not_recorded_yet_is_after_the_next_plug(lab, known):
    made, _ = created(lab)
    recorded = records_of(made)
    old = json.dumps([recorded[0][:known]])
    made.session.sm_config["luks_containers"] = old
    made.check_sr(SR)
    assert made.session.sm_config["luks_containers"] == old
    made.attach(SR)
    assert records_of(made) == recorded


def test_a_volume_key_that_this_host_replaced_is_recorded_by_the_next_check(lab):
    made, disks = created(lab)
    recorded = records_of(made)
    with open(disks[0], "wb") as disk:
        disk.write(headers.ours(uuid=recorded[0][0], volume_key="new"))
    made.check_sr(SR)
    assert records_of(made) == recorded
    begun.end(recorded[0][0], "new")
    made.check_sr(SR)
    assert records_of(made) == [[*recorded[0][:3], "new", headers.PAYLOAD]]


def test_the_disks_are_found_when_their_names_changed(lab):
    made, disks = created(lab, 2)
    contents = [Path(disk).read_bytes() for disk in disks]
    for disk, content in zip(disks, reversed(contents)):
        Path(disk).write_bytes(content)
    made.attach(SR)
    assert lab.open_mappings() == ["dm-sdb", "dm-sdc"]
    assert lab.notes.index(("serial", ",".join(reversed(disks)))) >= 0


def test_an_introduced_sr_is_found_by_its_mark_and_then_recorded(lab):
    made, disks = created(lab, 2)
    made.attach(SR)
    made.detach(SR)
    made.session.sm_config.clear()
    made.dconf["device"] = disks[1]
    made.attach(SR)
    assert [record[0] for record in records_of(made)] == [header.read(disk).uuid for disk in disks]


def test_an_sr_without_recovery_key_raises_one_alert(lab):
    made, _ = created(lab)
    made.attach(SR)
    made.attach(SR)
    assert [(name, uuid) for name, _, _, uuid, _ in made.session.messages
            if name == "LUKS-W001"] == [("LUKS-W001", SR)]
    assert "luksext recovery-add" in made.session.messages[0][-1]


def test_an_sr_with_a_recovery_key_waits_for_its_confirmation(lab):
    made = with_secret(lab, lab.disk("sdb"))
    made.create(SR, 0)
    made.attach(SR)
    assert [words[0] for words in made.session.messages] == ["LUKS-W002", "LUKS-W005"]


def test_a_plug_ends_no_suspension_while_an_administrator_changes_keys(lab, monkeypatch):
    made, disks = created(lab)
    ended, locked, upkeep = [], state.locked, lab.life._upkeep()
    monkeypatch.setattr(upkeep.bindings, "end_suspend",
                        lambda container, told: ended.append(container.device))
    monkeypatch.setattr(upkeep.bindings, "plugged", lambda container: True)
    monkeypatch.setattr(upkeep.state, "locked", lambda name: locked(name, 0))
    with locked(SR):
        made.attach(SR)
    assert lab.mounted and ended == []
    made.attach(SR)
    assert ended == disks


# Detach and delete


SMALL_SM = """
from types import SimpleNamespace
util = SimpleNamespace(CommandException=OSError)
xs_errors = SimpleNamespace(SROSError=OSError)
"""


def test_an_unplug_loads_nothing_of_what_opens_a_container(tmp_path):
    (tmp_path / "luksext_sm.py").write_text(SMALL_SM)
    script = "import sys; sys.path[:0] = {!r}; import luksext_unplug; print(*sys.modules)".format(
        [str(tmp_path), os.path.dirname(os.path.dirname(mappings.__file__))])
    loaded = subprocess.check_output([sys.executable, "-c", script]).decode().split()
    assert "luksext.mappings" in loaded
    assert not {"luksext.container", "luksext.header", "luksext.trust"} & set(loaded)


@pytest.mark.parametrize("end", ["detach", "delete"])
def test_a_re_encryption_that_was_begun_here_is_stopped_and_no_other_is_looked_for(
        lab, monkeypatch, end):
    made, disks = created(lab, 2)
    stopped = []
    monkeypatch.setattr(reencrypt_process, "stop",
                        lambda mapping: stopped.append(mapping.kernel_name))
    made.attach(SR)
    begun.save(header.read(disks[1]).uuid, Begun("2031-01-01T00:00:00Z", "old", "new", []))
    getattr(made, end)(SR)
    assert stopped == ["dm-sdc"]
    assert lab.open_mappings() == []


def test_detach_detaches_inside_then_closes_and_may_be_repeated(lab):
    made, _ = created(lab, 2)
    made.attach(SR)
    assert made.detach(SR) is None
    assert lab.log[-1][0] == "detach" and lab.log[-1][2] == ["dm-sdb", "dm-sdc"]
    assert lab.open_mappings() == []
    lab.fail_at = "detach"
    made.detach(SR)


def test_detach_that_fails_while_mounted_closes_nothing(lab):
    made, _ = created(lab)
    made.attach(SR)
    lab.fail_at = "detach"
    failure(lab, made.detach, SR)
    assert lab.open_mappings() == ["dm-sdb"]


def test_detach_closes_the_mapping_of_a_disk_that_was_pulled(lab):
    made, disks = created(lab)
    made.attach(SR)
    os.unlink(disks[0])
    made.detach(SR)
    assert lab.open_mappings() == []


def pulled(lab, remove):
    """An SR whose disk was pulled while it was plugged: LVM, which reads it, does not deactivate
    the volume. remove: what `dmsetup remove` does."""
    made, _ = created(lab)
    made.attach(SR)
    lab.fail_at, lab.mounted = "detach", False
    lab.programs.add("dmsetup", remove)
    return made


def test_detach_drops_the_volume_of_a_disk_that_was_pulled(lab):
    pulled(lab, "").detach(SR)
    assert lab.programs.calls("dmsetup")[-1] == ["dmsetup", "remove", VOLUME]
    assert lab.open_mappings() == []


def test_detach_that_can_neither_deactivate_nor_drop_closes_nothing(lab):
    made = pulled(lab, "exit 1")
    assert "detach failed" in failure(lab, made.detach, SR)
    assert lab.open_mappings() == ["dm-sdb"]


def test_detach_never_drops_a_volume_that_is_mounted(lab):
    made = pulled(lab, "")
    lab.mounted = True
    failure(lab, made.detach, SR)
    assert ["dmsetup", "remove", VOLUME] not in lab.programs.calls("dmsetup")


def test_detach_without_records_finds_the_containers_by_their_mark(lab):
    made, _ = created(lab)
    made.attach(SR)
    made.session.sm_config.clear()
    made.detach(SR)
    assert lab.open_mappings() == []


def test_delete_keeps_the_containers_open_for_the_ext_driver_then_erases_them(lab, monkeypatch):
    made, disks = created(lab, 2)
    made.attach(SR)

    def delete(self, sr_uuid):
        self.attach(sr_uuid)
        self.detach(sr_uuid)
        lab.log.append(("delete", self.dconf["device"], lab.open_mappings()))

    monkeypatch.setattr(lab.life.FileSR.FileSR, "delete", delete)
    assert made.delete(SR) is None
    assert steps(lab)[-3:] == ["attach", "detach", "delete"]
    assert all(mappings == ["dm-sdb", "dm-sdc"] for _, _, mappings in lab.log)
    assert lab.open_mappings() == []
    assert [header.find(disk) for disk in disks] == [None, None]


def test_a_delete_waits_for_whoever_changes_keys(lab, monkeypatch):
    made, disks = created(lab)
    made.attach(SR)
    taken = state.locked
    monkeypatch.setattr(state, "locked", lambda name, seconds=0: taken(name, 0))
    with taken(SR), pytest.raises(lab.life.xs_errors.SROSError):
        made.delete(SR)
    assert header.find(disks[0]) is not None
    made.delete(SR)
    assert header.find(disks[0]) is None


def test_a_delete_that_fails_erases_nothing(lab):
    made, disks = created(lab)
    made.attach(SR)
    lab.fail_at = "delete"
    failure(lab, made.delete, SR)
    assert header.read(disks[0]).keyslots == [0]
    assert made.dconf["device"] == disks[0]
    made.attach(SR)


DELETE = ["vgs", "vgremove", "close", "erase", "dd"]


def stop_at(lab, program):
    """Has `program` fail: the driver ends there, as if it were killed."""
    name, script = ("cryptsetup", "[ $1 = {} ] && exit 9\n".format(program)) if program in (
        "close", "erase") else (program, "exit 9")
    kept = (lab.programs.folder / name).read_text()
    lab.programs.add(name, script + "\n" + kept.partition("\n")[2])
    return lambda: (lab.programs.folder / name).write_text(kept)


def half_deleted(lab, count=1, program="erase"):
    """As `created`, of an SR whose delete was stopped at a program."""
    made, disks = created(lab, count)
    made.attach(SR)
    repair = stop_at(lab, program)
    failure(lab, made.delete, SR)
    repair()
    return made, disks


@pytest.mark.parametrize("program", DELETE)
def test_a_delete_goes_on_where_it_stopped(lab, program):
    made, disks = half_deleted(lab, 2, program)
    made.session.operations = {"task": "destroy"}
    made.detach(SR)
    del lab.log[:]
    made.attach(SR)
    assert made.delete(SR) is None
    assert steps(lab) == []
    assert lab.open_mappings() == []
    assert [header.find(disk) for disk in disks] == [None, None]
    assert state.known() == []


def test_a_delete_that_was_done_may_be_repeated(lab):
    made, _ = created(lab)
    made.attach(SR)
    made.delete(SR)
    made.session.operations = {"task": "destroy"}
    made.attach(SR)
    made.delete(SR)


def test_a_blank_disk_in_the_place_of_one_that_was_pulled_is_not_taken_for_erased(lab):
    made, disks = half_deleted(lab, 2, "close")
    kept = [header.read(disk).uuid for disk in disks]
    Path(disks[1]).write_bytes(b"")
    text = failure(lab, made.delete, SR)
    assert disks[1] + " has no LUKS header" in text
    assert "{} was not erased by this host".format(kept[1]) in text
    assert "xe sr-forget uuid=" + SR in text
    assert header.find(disks[0]) is None
    assert kept[0] not in state.known()
    assert kept[1] in state.known()
    assert [key for key in made.session.sm_config if key.startswith("luks_erased_")] == [
        "luks_erased_" + kept[0]]


def test_a_disk_that_was_erased_may_be_gone_and_its_copy_stays(lab):
    made, disks = created(lab, 2)
    made.attach(SR)
    content = Path(disks[0]).read_bytes()
    repair = stop_at(lab, "erase")
    (lab.programs.folder / "cryptsetup").write_text(
        (lab.programs.folder / "cryptsetup").read_text().replace(
            "[ $1 = erase ]", "[ $1$3 = erase{} ]".format(disks[1])))
    failure(lab, made.delete, SR)
    repair()
    os.unlink(disks[0])
    copy = lab.disk("sdd", content)
    made.delete(SR)
    assert header.find(disks[1]) is None
    assert Path(copy).read_bytes() == content


def test_the_disks_that_are_erased_are_those_that_were_open(lab, monkeypatch):
    """A copy at the place where a disk was named does not take its place once it is closed."""
    made, disks = created(lab)
    made.attach(SR)
    content = Path(disks[0]).read_bytes()
    copy = lab.disk("sdc", content)
    made.dconf["device"] = copy
    made.delete(SR)
    assert header.find(disks[0]) is None
    assert Path(copy).read_bytes() == content


def test_a_copy_of_the_group_elsewhere_is_not_removed_when_a_delete_goes_on(lab):
    made, _ = half_deleted(lab)
    lab.programs.add("vgs", "echo '/dev/sdz|1|1|1|1'")
    lab.programs.add("vgremove", "exit 9")
    made.delete(SR)


def test_what_was_emptied_is_attached_to_be_destroyed_and_for_nothing_else(lab):
    made, _ = half_deleted(lab)
    made.session.operations = {"task": "plug"}
    assert "xe sr-destroy uuid=" + SR in failure(lab, made.attach, SR)
    assert lab.open_mappings() == []


def test_no_disk_is_erased_in_the_place_of_one_that_is_gone(lab):
    made, disks = half_deleted(lab)
    Path(disks[0]).write_bytes(headers.ours())
    assert "is not the container of this SR" in failure(lab, made.delete, SR)
    os.unlink(disks[0])
    assert "is not in this host" in failure(lab, made.delete, SR)


def test_the_scan_after_an_attach_is_left_out_where_nothing_is_left(lab, monkeypatch):
    made, _ = created(lab)
    monkeypatch.setattr(lab.driver.SR.SR, "after_master_attach",
                        lambda self, uuid: lab.log.append(uuid))
    made.after_master_attach(SR)
    made.session.sm_config["luks_emptied"] = "true"
    made.after_master_attach(SR)
    assert lab.log == [SR]


def test_the_scan_after_an_attach_is_left_out_of_an_sr_that_is_half_made(lab, monkeypatch):
    half = interrupted(lab, lab.disk("sdb"))
    monkeypatch.setattr(lab.driver.SR.SR, "after_master_attach",
                        lambda self, uuid: lab.log.append("scan"))
    half.after_master_attach(OTHER_SR)
    assert "scan" not in lab.log


# A creation that was interrupted


def interrupted(lab, *disks, **config):
    """The driver's object of a creation that was killed after the ext SR was built; XAPI has
    forgotten its SR."""
    killed = lab.sr(uuid=OTHER_SR, device=",".join(disks), pin="any", **config)
    with pytest.raises(KeyboardInterrupt):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lab.life, "_Undo", NoUndo)
            patch.setattr(lab.life.luksext_xapi, "record", kill)
            killed.create(OTHER_SR, 0)
    return killed


OTHER_SR = "0a1b2c3d-9999-4000-8000-0123456789ab"


def kill(*args):
    raise KeyboardInterrupt()


class NoUndo:
    """A process that is killed takes nothing back."""

    def __init__(self, seconds):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        pass

    def add(self, step):
        pass


def test_the_next_creation_undoes_one_that_was_interrupted(lab, audited):
    disks = [lab.disk("sdb"), lab.disk("sdc")]
    interrupted(lab, *disks)
    left = [header.read(disk).uuid for disk in disks]
    assert sorted(left) == state.known()
    del audited[:]
    lab.sr(device=",".join(disks), pin="any").create(SR, 0)
    assert [header.read(disk).label for disk in disks] == [SR + ":0:2", SR + ":1:2"]
    assert not set(left) & set(state.known())
    assert [line[:2] for line in audited] == [
        ("sr-destroy", OTHER_SR), ("sr-destroy", OTHER_SR), ("sr-create", SR)]


def test_a_creation_that_xapi_knows_is_not_undone(lab):
    disk = lab.disk("sdb")
    interrupted(lab, disk)
    other = lab.sr(device=disk, pin="any")
    other.session.SR.get_all_records = lambda: {"OTHER": {"uuid": OTHER_SR, "sm_config": {}}}
    assert "part of the encrypted SR " + OTHER_SR in failure(lab, other.create, SR, 0)
    assert header.read(disk).label.startswith(OTHER_SR)


def test_an_sr_whose_creation_a_power_cut_interrupted_is_not_attached_and_stays_known_as_such(lab):
    disk = lab.disk("sdb")
    interrupted(lab, disk)
    for _ in range(2):
        kept = lab.sr(uuid=OTHER_SR, device=disk, pin="any")
        refusal = failure(lab, kept.attach, OTHER_SR)
        assert "xe sr-destroy uuid=" + OTHER_SR in refusal


def test_its_destruction_undoes_what_is_there_of_it(lab, audited):
    _, there = created(lab)
    disks = [lab.disk("sdc"), lab.disk("sdd")]
    interrupted(lab, *disks)
    del audited[:]
    left = lab.sr(uuid=OTHER_SR, device=",".join(disks), pin="any")
    left.session.operations = {"TASK": "destroy"}
    left.attach(OTHER_SR)
    left.delete(OTHER_SR)
    assert [header.find(disk) for disk in disks] == [None, None]
    assert state.known() == [header.read(there[0]).uuid]
    assert [line[:2] for line in audited] == [("sr-destroy", OTHER_SR)]


def test_what_xapi_knows_the_containers_of_was_created(lab):
    made, _ = created(lab)
    assert creation.noted_of(SR)
    made.attach(SR)
    assert not creation.noted_of(SR)


def test_an_sr_that_was_attached_once_is_never_undone(lab):
    made, disks = created(lab)
    made.attach(SR)
    made.detach(SR)
    other = lab.sr(uuid=OTHER_SR, device=disks[0], pin="any", force="true")
    other.session.SR.get_all_records = lambda: {}
    assert "part of the encrypted SR " + SR in failure(lab, other.create, OTHER_SR, 0)
    assert header.read(disks[0]).label.startswith(SR)


def test_a_creation_that_failed_leaves_no_note(lab):
    lab.fail_at = "create"
    failure(lab, lab.sr(device=lab.disk("sdb"), pin="any").create, SR, 0)
    assert state.known() == []


# Probe


def probed(text):
    root = ElementTree.fromstring(text)
    assert root.tag == "SRlist"
    return [{field.tag: field.text for field in entry} for entry in root]


def test_probe_lists_a_locked_sr_with_all_its_disks(lab):
    first = lab.disk("sdb", headers.ours(0, 2))
    second = lab.disk("sdc", headers.ours(1, 2, uuid="9" + headers.UUID[1:]))
    for disk in (first, second):
        os.truncate(disk, headers.PAYLOAD + 4096)
    made = lab.sr(uuid="", device=second)
    assert probed(made.probe()) == [
        {"UUID": SR, "Devlist": first + "," + second, "size": "8192"}]
    assert lab.programs.order() == []


def test_probe_of_several_disks_lists_each_sr_once(lab):
    disks = [lab.disk("sdb", headers.ours(0, 2)), lab.disk("sdc", headers.ours(1, 2))]
    assert len(probed(lab.sr(device=",".join(disks)).probe())) == 1


def test_probe_of_an_incomplete_sr_lists_what_is_there(lab):
    disk = lab.disk("sdb", headers.ours(0, 2))
    assert probed(lab.sr(device=disk).probe())[0]["Devlist"] == disk


@pytest.mark.parametrize("content", [b"", headers.luks2(), headers.luks2()[:5000], b"\0" * 9999])
def test_probe_of_anything_else_lists_nothing(lab, content):
    assert probed(lab.sr(device=lab.disk("sdb", content)).probe()) == []


def test_probe_of_a_missing_device_is_our_error_without_an_sr(lab):
    text = failure(lab, lab.sr(uuid="", device="/dev/nope").probe)
    assert "The device /dev/nope does not exist" in text
    assert "SR :" not in text


@pytest.mark.parametrize("method", ["create", "attach", "delete", "probe"])
def test_without_a_device_the_storage_managers_own_error_is_raised(lab, monkeypatch, method):
    errors = lab.life.xs_errors
    monkeypatch.setattr(errors, "XenError", lambda name: errors.SROSError(90, name))
    arguments = {"create": (SR, 0), "probe": ()}.get(method, (SR,))
    assert "ConfigDeviceMissing" in failure(lab, getattr(lab.sr(), method), *arguments)


# Undoing


def test_undo_takes_back_the_newest_first(lab):
    done = []
    with pytest.raises(KeyError):
        with lab.life._Undo(60) as undo:
            for number in range(3):
                undo.add(lambda number=number: done.append(number))
            raise KeyError()
    assert done == [2, 1, 0]


def test_a_step_that_cannot_be_undone_is_logged_and_hides_neither_the_rest_nor_the_error(lab):
    done = []

    def fails():
        raise ValueError("second failure")

    with pytest.raises(KeyError, match="first"):
        with lab.life._Undo(60) as undo:
            undo.add(lambda: done.append("rest"))
            undo.add(fails)
            raise KeyError("first")
    assert done == ["rest"]
    assert "luksext: cannot undo: second failure" in lab.notes


def test_nothing_is_undone_after_forget(lab):
    with lab.life._Undo(60) as undo:
        undo.add(lambda: pytest.fail("undone"))
        undo.forget()


# Errors and logs


def test_an_error_has_our_code_and_is_logged(lab):
    with pytest.raises(lab.life.xs_errors.SROSError) as caught:
        lab.sr(device="/dev/nope").probe()
    assert caught.value.errno == 6210
    assert any(str(note).startswith("luksext: error 6210: SR " + SR) for note in lab.notes)


def test_commands_are_logged_for_the_administrator(lab):
    created(lab)[0].attach(SR)
    assert any("luksext: cryptsetup open" in str(note) for note in lab.notes)


def test_the_key_is_in_no_log(lab):
    lab.programs.add("clevis", "[ $1 = encrypt ] && echo {} || printf sealed-secret".format(
        headers.JWE))
    created(lab)[0].attach(SR)
    assert "sealed-secret" not in str(lab.notes)
    assert clevis.unseal(headers.JWE) == b"sealed-secret"


def test_it_loads_without_a_file_name(lab):
    """As the storage manager 4.x loads it for a VDI: a bare module has no __file__."""
    path = os.path.join(os.path.dirname(__file__), "..", "..", "drivers", "LUKSEXTSR.py")
    with open(path) as source:
        code = compile(source.read(), path, "exec")
    module = {"__name__": "LUKSEXTSR"}
    exec(code, module)
    assert module["DRIVER_INFO"]["required_api_version"] == "1.0"
