# SPDX-License-Identifier: LGPL-2.1-only
"""luksext_adopt: what XAPI knew of an ext SR is known again of the luksext SR, whenever killed."""
import json
from types import SimpleNamespace
from typing import NamedTuple

import pytest

import headers
import fake_xapi  # before what imports XenAPI
from fake_xapi import NULL, Killed, Xapi
import luksext_adopt
from luksext import adopt, devices, notes
from luksext.clevis import Pin
from luksext.errors import (AdoptionUnfinished, DeviceInUse, DeviceIsOurs, SrNotAdoptable,
                            WrongRecoveryKey)
from luksext.generation import Identity
from luksext.record import Record

OTHER_SR = "99999999-0000-4000-8000-0123456789ab"
PIN = Pin("tpm2", {})
MAPPING = "/dev/mapper/luks-" + headers.UUID
TIME = "20260102T03:04:05Z"


def in_order(row):
    """What to sort rows by, whatever order their fields came in."""
    return str(sorted(row.items()))


class Container:
    """A disk of the host; open while the SR is plugged."""

    def __init__(self):
        self.device, self.uuid = "/dev/sdb", headers.UUID
        self.record = Record(headers.UUID, headers.CIPHER, 512, "volume key", 2 << 20)
        self.header = SimpleNamespace(flags=())
        self.identity = None
        self.closed = 0
        self.busy = False

    def close(self):
        if self.busy:
            raise DeviceInUse(MAPPING, ["somebody"])
        self.closed += 1


class Found(NamedTuple):
    """What `adopt.identify` finds."""

    container: Container
    sr_uuid: str


class Host:
    """A host with one ext SR that was made by hand: two VDIs, a snapshot, a VM, defaults."""

    def __init__(self):
        self.xapi = xapi = Xapi()
        self.container = Container()
        self.taken = []
        self.unlocked = []
        self.asked = []
        self.shut = None
        self.this = xapi.add("host", uuid="host", name_label="h", local_cache_sr=NULL,
                             suspend_image_sr=NULL, crash_dump_sr=NULL)
        self.sr = xapi.add(
            "SR", uuid=headers.SR, type="ext", shared=False, name_label="local ext luks",
            name_description="by hand", content_type="user", other_config={"auto-scan": "true"},
            tags=["fast"], sm_config={"devserial": ""})
        self.pbd = xapi.add("PBD", SR=self.sr, host=self.this, currently_attached=True,
                            device_config={"device": MAPPING}, other_config={"note": "mine"})
        xapi.add("pool", uuid="pool", default_SR=self.sr, suspend_image_SR=NULL,
                 crash_dump_SR=NULL)
        self.root = self.vdi("root", name_label="root", tags=["prod"], type="system",
                             other_config={"content_id": "c"}, xenstore_data={"a": "b"})
        self.data = self.vdi("data", name_description="all of it", on_boot="reset", sharable=True)
        self.vdi("snapshot", name_label="before", is_a_snapshot=True, snapshot_of=self.root,
                 snapshot_time=TIME, read_only=True)
        self.vdi("base", managed=False)
        self.vm = xapi.add("VM", uuid="vm", name_label="web", suspend_SR=self.sr)
        for place, vdi in (("0", self.root), ("1", self.data)):
            self.connect(vdi, place)

    def vdi(self, uuid, **fields):
        self.xapi.disk.append(uuid)
        return self.xapi.add("VDI", **dict(fake_xapi.SCANNED_VDI, uuid=uuid, SR=self.sr, **fields))

    def connect(self, vdi, place, **fields):
        row = {"VM": self.vm, "VDI": vdi, "userdevice": place, "bootable": place == "0",
               "mode": "RW", "type": "Disk", "unpluggable": True, "empty": False,
               "other_config": {"owner": ""}, "qos_algorithm_type": "ionice",
               "qos_algorithm_params": {"class": "1"}, "currently_attached": False}
        return self.xapi.add("VBD", **dict(row, **fields))

    def way_in(self, container, passphrase):
        self.asked.append(container)
        if self.shut is container:
            raise WrongRecoveryKey(container.device)

    def take(self, container, identity, pin, passphrase=None):
        self.taken.append((identity, pin, passphrase))
        container.identity = identity
        return passphrase is not None

    def adopt(self, passphrase=None, **device_config):
        return luksext_adopt.adopt(self.xapi, self.this, headers.SR, PIN, passphrase,
                                   device_config)

    def told(self):
        """All that XAPI knows, with UUIDs for references; UUIDs that must change are left out."""
        tables = self.xapi.tables
        uuids = {ref: row["uuid"] for table in tables.values() for ref, row in table.items()}

        def plain(value):
            return uuids.get(value, value) if isinstance(value, str) else str(value) \
                if not isinstance(value, (dict, list, bool)) else value

        told = {}
        for cls, table in tables.items():
            rows = [{field: plain(value) for field, value in row.items()
                     if not (field == "uuid" and cls in ("PBD", "VBD"))} for row in table.values()]
            told[cls] = sorted(rows, key=in_order)
        return told


@pytest.fixture
def host(tmp_path, programs, monkeypatch):
    made = Host()
    monkeypatch.setattr(notes, "FOLDER", str(tmp_path / "state"))
    monkeypatch.setattr(devices, "lasting_name", lambda device: "/dev/disk/by-id/x")
    monkeypatch.setattr(adopt, "identify", lambda path: Found(made.container, headers.SR))
    monkeypatch.setattr(adopt, "container_at", lambda path: path)
    monkeypatch.setattr(adopt, "unlock", lambda path, passphrase: made.unlocked.append(
        (path, passphrase)))
    monkeypatch.setattr(adopt, "check_whole", lambda disks: None)
    monkeypatch.setattr(adopt, "take", made.take)
    monkeypatch.setattr(adopt, "way_in", made.way_in)
    monkeypatch.setattr(adopt, "units", lambda luks_uuid: ["unlock@{}".format(luks_uuid)])
    monkeypatch.setattr(luksext_adopt, "all_of", lambda sr_uuid: [
        made.container] if made.container.identity else [])
    made.xapi.scanned = lambda: luksext_adopt.restore_snapshots(made.xapi, headers.UUID)
    return made


def expected(host):
    """What XAPI must know afterwards: as before, but for what an adoption is about."""
    told = host.told()
    told["SR"][0]["type"] = "luksext"
    told["SR"][0]["sm_config"] = {"devserial": "", "luks_containers": json.dumps(
        [[headers.UUID, headers.CIPHER, 512, "volume key", 2 << 20]])}
    told["PBD"][0]["device_config"] = {"device": "/dev/disk/by-id/x"}
    for vdi in told["VDI"]:
        # XAPI has no call for it.
        vdi["type"] = "user"
        # What only the storage manager knows comes from there, not from what was noted.
        vdi["managed"] = True
    told["VDI"].sort(key=in_order)
    return told


@pytest.mark.parametrize("config, expected", [((), "true"), ({"discard": "false"}, "false")])
def test_discards_that_its_headers_let_through_go_on(host, config, expected):
    host.container.header.flags = ("allow-discards",)
    luksext_adopt.adopt(host.xapi, host.this, headers.SR, PIN, device_config=config)
    assert host.told()["PBD"][0]["device_config"]["discard"] == expected


def test_everything_is_kept_but_the_type(host):
    wanted = expected(host)
    result = host.adopt()
    assert host.told() == wanted
    assert result == {
        "sr_uuid": headers.SR, "devices": ["/dev/disk/by-id/x"], "bindings_added": [],
        "units": ["unlock@" + headers.UUID], "vdis": ["data", "root", "snapshot"],
        "vdis_lost": [], "vdi_types_changed": ["root"]}
    assert host.taken == [(Identity(headers.SR, 0, 1), PIN, None)]
    assert host.container.closed == 1


def test_options_that_it_gets_are_in_the_pbd_beside_those_it_had(host):
    host.adopt(discard="true")
    assert host.told()["PBD"][0]["device_config"] == {"device": "/dev/disk/by-id/x",
                                                      "discard": "true"}


def test_the_passphrase_goes_to_the_container_and_nowhere_else(host, tmp_path, audited):
    assert host.adopt(b"the passphrase")["bindings_added"] == ["/dev/sdb"]
    assert host.taken[0][2] == b"the passphrase"
    assert audited == [("adopt-disk", headers.SR, "driver", "ok",
                        {"device": "/dev/sdb", "pin": "tpm2"})]
    assert "passphrase" not in str(host.told())
    for path in (tmp_path / "state").rglob("*"):
        assert path.is_dir() or b"the passphrase" not in path.read_bytes()


def test_a_passphrase_that_does_not_open_the_last_disk_changes_none(host, monkeypatch):
    second = Container()
    found = iter([host.container, second])
    monkeypatch.setattr(adopt, "identify", lambda path: Found(next(found), headers.SR))
    host.xapi.tables["PBD"][host.pbd]["device_config"]["device"] = MAPPING + ",/dev/sdc"
    host.shut = second
    with pytest.raises(WrongRecoveryKey):
        host.adopt(b"the passphrase")
    assert host.asked == [host.container, second]
    assert host.taken == []


@pytest.mark.parametrize("collected", [False, True], ids=["vbds-dangle", "vbds-collected"])
@pytest.mark.parametrize("step", range(1, 51))
def test_a_kill_before_any_change_is_made_good_by_the_next_call(host, step, collected, audited):
    wanted = expected(host)
    host.xapi.die_before = step
    try:
        host.adopt()
        assert step > host.xapi.changes
    except Killed:
        assert audited
        if collected:
            vdis = host.xapi.tables["VDI"]
            host.xapi.tables["VBD"] = {ref: row for ref, row in host.xapi.tables["VBD"].items()
                                       if row["VDI"] in vdis}
        host.adopt()
    assert host.told() == wanted


def test_the_kills_above_reach_the_last_change(host):
    host.adopt()
    assert 10 < host.xapi.changes <= 50


def test_a_failure_of_xapi_names_its_reason_and_how_to_go_on(host, monkeypatch):
    wanted = expected(host)

    def refuse(self, pbd):
        raise fake_xapi.XenAPI.Failure(["SR_BACKEND_FAILURE_6232", "", "no TPM"])

    with monkeypatch.context() as patch:
        patch.setattr(fake_xapi.Class, "_PBD_plug", refuse)
        with pytest.raises(AdoptionUnfinished, match="no TPM") as caught:
            host.adopt()
    assert "fn=adopt args:sr-uuid=" + headers.SR in str(caught.value)
    host.adopt()
    assert host.told() == wanted


def test_an_unplugged_sr_is_unlocked_and_plugged_first(host):
    wanted = expected(host)
    host.xapi.tables["PBD"][host.pbd]["currently_attached"] = False
    host.adopt(b"the passphrase")
    assert host.unlocked == [(MAPPING, b"the passphrase")]
    assert host.told() == wanted


def test_a_vdi_that_is_gone_is_told(host):
    host.xapi.disk.remove("data")
    result = host.adopt()
    assert (result["vdis"], result["vdis_lost"]) == (["root", "snapshot"], ["data"])
    assert [row["userdevice"] for row in host.xapi.tables["VBD"].values()
            if row["VDI"] in host.xapi.tables["VDI"]] == ["0"]


def test_a_place_that_was_taken_meanwhile_is_left_alone(host):
    host.xapi.die_before = 6
    with pytest.raises(Killed):
        host.adopt()
    other = host.xapi.add("VDI", uuid="elsewhere", SR="another", snapshot_of=NULL)
    host.xapi.tables["VBD"].clear()
    host.connect(other, "0")
    host.adopt()
    places = {row["userdevice"]: host.xapi.row("VDI", row["VDI"])["uuid"]
              for row in host.xapi.tables["VBD"].values()}
    assert places == {"0": "elsewhere", "1": "data"}


def test_an_adoption_is_not_begun_twice(host):
    host.adopt()
    with pytest.raises(SrNotAdoptable, match="no adoption of it was begun"):
        host.adopt()


def test_an_sr_that_nobody_knows_is_refused(host):
    with pytest.raises(SrNotAdoptable, match="No disk"):
        luksext_adopt.adopt(host.xapi, host.this, OTHER_SR, PIN)


# What is refused with nothing changed


def refused(host, error, match):
    before = host.told()
    with pytest.raises(error, match=match):
        host.adopt()
    assert host.told() == before
    assert host.taken == []


def test_an_sr_in_use_is_refused(host):
    host.connect(host.root, "5", currently_attached=True)
    refused(host, SrNotAdoptable, "The VM web of this host uses the VDI root")


@pytest.mark.parametrize("kind", ["suspend", "ha_statefile", "redo_log", "crashdump"])
def test_an_sr_with_a_vdi_that_xapi_holds_is_refused(host, kind):
    host.vdi("held", type=kind)
    refused(host, SrNotAdoptable, "VDI held of type " + kind)


def test_a_shared_sr_is_refused(host):
    host.xapi.tables["SR"][host.sr]["shared"] = True
    refused(host, SrNotAdoptable, "not local to this host")


def test_an_sr_of_another_host_is_refused(host):
    host.xapi.tables["PBD"][host.pbd]["host"] = "OpaqueRef:another"
    refused(host, SrNotAdoptable, "not local to this host")


def test_the_cache_of_a_host_is_refused(host):
    host.xapi.tables["host"][host.this]["local_cache_sr"] = host.sr
    refused(host, SrNotAdoptable, "cache of the host h")
    refused(host, SrNotAdoptable, "host-disable-local-storage-caching uuid=")


def test_a_device_that_holds_another_sr_is_refused(host, monkeypatch):
    monkeypatch.setattr(adopt, "identify", lambda path: Found(host.container, OTHER_SR))
    refused(host, DeviceIsOurs, OTHER_SR)


def test_a_container_that_somebody_holds_stops_the_adoption_until_it_is_free(host):
    wanted = expected(host)
    host.container.busy = True
    with pytest.raises(DeviceInUse):
        host.adopt()
    host.container.busy = False
    host.adopt()
    assert host.told() == wanted
