# SPDX-License-Identifier: LGPL-2.1-only
"""luksext_xapi: what XAPI is shown of an SR, raised once and withdrawn when it is cured."""
import functools

import pytest

import headers
import luksext_xapi
from luksext.record import Record

SR = "0b9b0d2a-3c4d-4e5f-8a6b-1c2d3e4f5a6b"
OTHER = "99999999-3c4d-4e5f-8a6b-1c2d3e4f5a6b"


class Xapi:
    """As much of XAPI as is used: one SR's sm_config, and messages."""

    def __init__(self):
        self.sm_config = {}
        self.messages = {}
        self.writes = 0
        self.xenapi = self
        self.SR = self.message = self

    def get_sm_config(self, ref):
        return dict(self.sm_config)

    def remove_from_sm_config(self, ref, key):
        self.sm_config.pop(key, None)

    def add_to_sm_config(self, ref, key, value):
        assert key not in self.sm_config
        self.writes += 1
        self.sm_config[key] = value

    def create(self, name, priority, cls, uuid, body):
        assert cls == "SR"
        ref = "OpaqueRef:{}".format(len(self.messages))
        self.messages[ref] = {"name": name, "obj_uuid": uuid, "body": body, "priority": priority}

    def destroy(self, ref):
        del self.messages[ref]

    def get_all_records(self):
        return dict(self.messages)


@pytest.fixture
def xapi():
    return Xapi()


def show(xapi, *alerts, recovery="none"):
    luksext_xapi.publish(xapi, "ref", {"sr_uuid": SR, "recovery": recovery, "alerts": list(alerts)})
    return sorted(message["name"] for message in xapi.messages.values())


def test_an_alert_is_raised_once(xapi):
    assert show(xapi, "LUKS-W001") == ["LUKS-W001"]
    assert show(xapi, "LUKS-W001") == ["LUKS-W001"]
    assert xapi.sm_config["luks_alerts"] == "LUKS-W001"


def test_a_message_tells_the_command_with_the_sr(xapi):
    show(xapi, "LUKS-W001")
    body = xapi.messages["OpaqueRef:0"]["body"]
    assert "luksext recovery-add --sr-uuid=" + SR in body


def test_what_is_cured_is_withdrawn_and_nothing_else(xapi):
    xapi.create("LUKS-W001", "2", "SR", OTHER, "of another SR")
    xapi.create("VM_CRASHED", "2", "SR", SR, "not ours")
    show(xapi, "LUKS-W001", "LUKS-W003")
    assert show(xapi, "LUKS-W003") == ["LUKS-W001", "LUKS-W003", "VM_CRASHED"]
    assert show(xapi) == ["LUKS-W001", "VM_CRASHED"]


def test_nothing_is_written_where_nothing_changed(xapi):
    show(xapi, "LUKS-W001")
    before = xapi.writes
    show(xapi, "LUKS-W001")
    assert xapi.writes == before


def test_the_recovery_state_is_shown(xapi):
    show(xapi, recovery="confirmed")
    assert xapi.sm_config["luks_recovery_key"] == "confirmed"


def test_records_are_read_back(xapi):
    xapi.sm_config["luks_containers"] = '[["{}", "aes-xts-plain64", 512]]'.format(headers.UUID)
    assert luksext_xapi.records(xapi.sm_config) == [Record(headers.UUID, "aes-xts-plain64", 512)]
    assert luksext_xapi.records({}) == []


class Killed(BaseException):
    """Whoever writes is gone."""


def test_whenever_a_writer_is_killed_there_are_records(xapi, monkeypatch):
    old, new = ([Record(headers.UUID, headers.CIPHER, 512, key)] for key in ("old", "new"))
    real = {"remove": xapi.remove_from_sm_config, "add": xapi.add_to_sm_config}
    for steps in range(9):
        luksext_xapi.record(xapi, "ref", old)
        left = [steps]

        def step(name, *args, left=left):
            if left[0] == 0:
                raise Killed()
            left[0] -= 1
            real[name](*args)

        with monkeypatch.context() as patch:
            patch.setattr(xapi, "remove_from_sm_config", functools.partial(step, "remove"))
            patch.setattr(xapi, "add_to_sm_config", functools.partial(step, "add"))
            try:
                luksext_xapi.record(xapi, "ref", new)
            except Killed:
                assert luksext_xapi.records(xapi.sm_config) in (old, new)
            else:
                break
    assert steps == 5
    assert luksext_xapi.records(xapi.sm_config) == new
    assert list(xapi.sm_config) == ["luks_containers"]


class Vms:
    """XAPI with SRs of three types on two hosts; VDIs are disks, of which VMs have some."""

    def __init__(self, sysfs):
        self.xenapi = self.PBD = self.SR = self.VDI = self.VBD = self.VM = self
        self.types = {"local": "udev", "other": "udev", "files": "ext"}
        self.vdis = {ref: {"location": sysfs.disk(ref), "VBDs": vbds} for ref, vbds in (
            ("sdb", ["vbd"]), ("sdc", []), ("sdd", ["vbd"]), ("sde", ["vbd"]))}
        self.places = {"local": ["sdb", "sdc"], "other": ["sdd"], "files": ["sde"]}

    def get_all_records(self):
        return {sr: {"host": "there" if sr == "other" else "here", "SR": sr} for sr in self.types}

    def get_type(self, ref):
        return self.types[ref]

    def get_VDIs(self, ref):
        return self.places[ref]

    def get_record(self, ref):
        return self.vdis[ref]

    def get_VM(self, ref):
        return "vm"

    def get_name_label(self, ref):
        return "web"


def test_a_disk_that_a_vm_of_this_host_has_is_told_with_the_vm(sysfs):
    xapi = Vms(sysfs)
    part = sysfs.partition("sdb", "sdb1")
    for device, expected in ((xapi.vdis["sdb"]["location"], ["the VM web"]), (part, ["the VM web"]),
                             (xapi.vdis["sdc"]["location"], []),
                             (xapi.vdis["sdd"]["location"], []),
                             (xapi.vdis["sde"]["location"], [])):
        assert luksext_xapi.vms_with(xapi, "here", device) == expected
