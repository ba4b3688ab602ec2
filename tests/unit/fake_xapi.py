# SPDX-License-Identifier: LGPL-2.1-only
"""XAPI's database in memory: rows by class and reference, and what SR, PBD and VBD do with them.

A change can be made to fail, as a kill of whoever asks for it: `die_before` says which.
"""
import functools
import itertools
import json
import sys
import types

try:
    import XenAPI
except ImportError:
    XenAPI = types.ModuleType("XenAPI")

    class Failure(Exception):
        """As XenAPI's."""

        def __init__(self, details):
            super().__init__(details)
            self.details = details

    XenAPI.Failure = Failure
    sys.modules["XenAPI"] = XenAPI

import headers

NULL = "OpaqueRef:NULL"

# What a VDI is that the storage manager found in a folder of UUIDs.
SCANNED_VDI = {
    "name_label": "", "name_description": "", "other_config": {}, "xenstore_data": {}, "tags": [],
    "on_boot": "persist", "allow_caching": False, "sharable": False, "read_only": False,
    "is_a_snapshot": False, "snapshot_of": NULL, "snapshot_time": "19700101T00:00:00Z",
    "type": "user", "managed": True}


class Killed(BaseException):
    """Who asked for a change is gone before it was made."""


class Xapi:
    """A session. `disk`: the VDIs that a scan finds; `scanned`: called after one, by the driver."""

    def __init__(self):
        self.xenapi = self
        self.tables = {cls: {} for cls in ("SR", "PBD", "VDI", "VBD", "VM", "pool", "host")}
        self.disk = []
        self.scanned = lambda: None
        self.changes = 0
        self.die_before = None
        self._numbers = itertools.count(1)

    def __getattr__(self, cls):
        return Class(self, cls)

    def add(self, cls, **row):
        """A new row; its reference."""
        number = next(self._numbers)
        ref = "OpaqueRef:{}-{}".format(cls, number)
        self.tables[cls][ref] = dict({"uuid": "{}-{}".format(cls, number)}, **row)
        return ref

    def row(self, cls, ref):
        if ref not in self.tables[cls]:
            raise XenAPI.Failure(["HANDLE_INVALID", cls, ref])
        row = dict(self.tables[cls][ref])
        for field, other, link in (("PBDs", "PBD", "SR"), ("VDIs", "VDI", "SR"),
                                   ("VBDs", "VBD", cls)):
            row[field] = [found for found, there in self.tables[other].items()
                          if there.get(link) == ref]
        return row

    def change(self):
        """Counts a change that is about to be made."""
        self.changes += 1
        if self.changes == self.die_before:
            raise Killed


class Class:
    """The methods of one class."""

    def __init__(self, xapi, name):
        self._xapi, self._name = xapi, name

    def __getattr__(self, method):
        special = getattr(Class, "_{}_{}".format(self._name, method), None)
        if special is not None:
            return self._changing(functools.partial(special, self))
        verb, _, field = method.partition("_")
        if verb == "set":
            return self._changing(lambda ref, value: self._set(ref, field, value))
        assert verb == "get", method
        return lambda ref: self._xapi.row(self._name, ref)[field]

    def _changing(self, call):
        def changing(*args):
            self._xapi.change()
            return call(*args)
        return changing

    def _set(self, ref, field, value):
        self._xapi.row(self._name, ref)
        self._xapi.tables[self._name][ref][field] = value

    def get_record(self, ref):
        return self._xapi.row(self._name, ref)

    def get_all_records(self):
        return {ref: self.get_record(ref) for ref in list(self._xapi.tables[self._name])}

    def get_by_uuid(self, uuid):
        for ref, row in self._xapi.tables[self._name].items():
            if row["uuid"] == uuid:
                return ref
        raise XenAPI.Failure(["UUID_INVALID", self._name, uuid])

    # What is more than a field

    def _SR_forget(self, sr):
        tables = self._xapi.tables
        assert not any(pbd["currently_attached"] for pbd in tables["PBD"].values())
        for cls in ("PBD", "VDI"):
            tables[cls] = {ref: row for ref, row in tables[cls].items() if row["SR"] != sr}
        del tables["SR"][sr]

    def _SR_destroy(self, sr):
        assert not self._xapi.row("SR", sr)["VDIs"]
        self._SR_forget(sr)

    def _SR_create(self, host, device_config, size, label, description, sr_type, content_type,
                   shared, sm_config):
        containers = json.dumps([[headers.UUID, "aes-xts-plain64", 512, ""]])
        sr = self._SR_introduce("new", label, description, sr_type, content_type, shared,
                                dict(sm_config, luks_containers=containers))
        self._xapi.add("PBD", host=host, SR=sr, currently_attached=True, other_config={},
                       device_config=device_config)
        return sr

    def _SR_introduce(self, uuid, label, description, sr_type, content_type, shared, sm_config):
        return self._xapi.add("SR", uuid=uuid, name_label=label, name_description=description,
                              type=sr_type, content_type=content_type, shared=shared,
                              sm_config=sm_config, other_config={}, tags=[])

    def _SR_scan(self, sr):
        known = {row["uuid"] for row in self._xapi.tables["VDI"].values()}
        for uuid in self._xapi.disk:
            if uuid not in known:
                self._xapi.add("VDI", **dict(SCANNED_VDI, uuid=uuid, SR=sr))
        self._xapi.scanned()

    def _PBD_create(self, record):
        return self._xapi.add("PBD", currently_attached=False, **record)

    def _PBD_plug(self, pbd):
        self._xapi.tables["PBD"][pbd]["currently_attached"] = True

    def _PBD_unplug(self, pbd):
        self._xapi.tables["PBD"][pbd]["currently_attached"] = False

    def _VBD_create(self, record):
        for row in self._xapi.tables["VBD"].values():
            assert (row["VM"], row["userdevice"]) != (record["VM"], record["userdevice"])
        return self._xapi.add("VBD", currently_attached=False, **record)

    def _VBD_destroy(self, vbd):
        del self._xapi.tables["VBD"][vbd]
