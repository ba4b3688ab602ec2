# SPDX-License-Identifier: LGPL-2.1-only
"""The API: which method does what. Fields need no code, they come from the schema."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from .cli_log import log_command
from .core import Context, Core
from .datapath import Datapath
from .db import on_wire, value_on_wire
from .errors import ApiError
from .event import Events
from .host import Host
from .message import Messages
from .plugin import Plugins
from .pool import Pool
from .schema import CLASSES, Field
from .smapi import Smapi
from .storage import Storage
from .vdi import Vdis
from .vm import Vms

Method = Callable[..., Any]

_ACCESSOR = re.compile(r"(get|set|add_to|remove_from|add|remove)_(\w+)")


class Api:
    """Dispatches calls by name."""

    def __init__(self, core: Core) -> None:
        self.core = core
        smapi = Smapi(core)
        self.storage = Storage(core, smapi)
        self.datapath = Datapath(core, smapi)
        messages = Messages(core)
        self.host = Host(core, self.storage, messages)
        self.pool = Pool(core, self.storage, self.host)
        self._methods = self._method_table(Vdis(core, smapi), messages)

    def _method_table(self, vdis: Vdis, messages: Messages) -> dict[str, Method]:
        storage, datapath, db = self.storage, self.datapath, self.core.db
        events, tasks, vms = Events(self.core), self.core.tasks, Vms(self.core)
        return {
            "SR.create": storage.sr_create,
            "SR.introduce": storage.sr_introduce,
            "SR.destroy": storage.sr_destroy,
            "SR.forget": storage.sr_forget,
            "SR.scan": storage.sr_scan,
            "SR.update": storage.sr_update,
            "SR.probe": storage.sr_probe,
            "SR.get_supported_types": storage.sr_get_supported_types,
            "PBD.create": storage.pbd_create,
            "PBD.destroy": storage.pbd_destroy,
            "PBD.plug": storage.pbd_plug,
            "PBD.unplug": storage.pbd_unplug,
            "PBD.set_device_config": storage.pbd_set_device_config,
            "VDI.create": vdis.create,
            "VDI.destroy": vdis.destroy,
            "VDI.snapshot": vdis.snapshot,
            "VDI.clone": vdis.clone,
            "VDI.resize": vdis.resize,
            "VDI.update": vdis.update,
            "VDI.forget": vdis.forget,
            "VDI.db_introduce": vdis.db_introduce,
            "VDI.db_forget": vdis.db_forget,
            "VM.create": vms.create,
            "VM.destroy": vms.destroy,
            "VBD.create": datapath.vbd_create,
            "VBD.plug": datapath.vbd_plug,
            "VBD.unplug": datapath.vbd_unplug,
            "VBD.destroy": datapath.vbd_destroy,
            "host.call_plugin": Plugins(self.core).call,
            "pool.join": self.pool.join,
            "pool.eject": self.pool.eject,
            "host.prepare_for_poweroff": self.host.prepare_for_poweroff,
            "secret.create": lambda _context, record: db.create("secret", record),
            "secret.destroy": lambda _context, secret: db.destroy("secret", secret),
            "message.create": messages.create,
            "message.destroy": messages.destroy,
            "message.destroy_many": messages.destroy_many,
            "task.create": lambda _context, label, text: tasks.create(label, text),
            "task.destroy": lambda _context, task: db.destroy("task", task),
            "task.cancel": lambda _context, task: tasks.cancel(task),
            "event.from": events.wait,
            "event.inject": events.inject,
            "session.logout": lambda context: self.core.sessions.logout(context.session),
            "session.local_logout": lambda context: self.core.sessions.logout(context.session),
            "lab.log_cli": lambda context, *rest: log_command(self.core, context, *rest),
        }

    def method_names(self) -> list[str]:
        """For system.listMethods, by which clients learn the classes."""
        # Sessions cannot be listed (datamodel.ml); a client would try to watch them.
        listed = [name for name in CLASSES if name != "session"]
        generic = [
            f"{name}.{verb}" for name in listed for verb in ("get_all_records", "get_record")
        ]
        return sorted([*self._methods, *generic, "session.login_with_password"])

    def call(self, name: str, parameters: Sequence[Any]) -> Any:
        """Run a method by its name, session first. What changed is on disk when this returns.

        Raises ApiError.
        """
        try:
            return self._dispatch(name, list(parameters))
        except ApiError as failure:
            if failure.code not in ("SESSION_INVALID", "HANDLE_INVALID", "UUID_INVALID"):
                self.core.log.error("backtrace", f"dispatch:{name} failed with exception {failure}")
            raise
        finally:
            self.core.db.flush()

    def _dispatch(self, name: str, parameters: list[Any]) -> Any:
        if name == "system.listMethods":
            return self.method_names()
        if name in ("session.login_with_password", "session.slave_local_login_with_password"):
            return self.core.sessions.login(*parameters[3:4])
        session = parameters.pop(0) if parameters else ""
        self.core.sessions.check(session)
        context = Context(session)
        if name.startswith("Async."):
            name = name.removeprefix("Async.")
            method = self._checked(name, context, parameters)
            return self.core.tasks.background(name, lambda: method(context, *parameters))
        result = self._checked(name, context, parameters)(context, *parameters)
        return "" if result is None else result

    def _checked(self, name: str, context: Context, parameters: list[Any]) -> Method:
        """The method, when it takes that many parameters."""
        method = self._methods.get(name) or self._generic(name)
        try:
            inspect.signature(method).bind(context, *parameters)
        except TypeError:
            expected = str(len(inspect.signature(method).parameters) - 1)
            given = str(len(parameters))
            raise ApiError("MESSAGE_PARAMETER_COUNT_MISMATCH", name, expected, given) from None
        return method

    # Fields ----------------------------------------------------------------------------------

    def _generic(self, name: str) -> Method:
        """A method that every class has, or the accessor of a field."""
        cls, _, verb = name.partition(".")
        if cls in CLASSES:
            db = self.core.db
            collective: dict[str, Method] = {
                "get_all": lambda _context: db.refs(cls),
                "get_all_records": lambda _context: self._records(cls, None),
                "get_all_records_where": lambda _context, where: self._records(cls, where),
                "get_record": lambda _context, ref: on_wire(cls, db.record(cls, ref)),
                "get_by_uuid": lambda _context, uuid: db.by_uuid(cls, uuid),
                "get_by_name_label": lambda _context, label: self._labelled(cls, label),
            }
            if verb in collective:
                return collective[verb]
            match = _ACCESSOR.fullmatch(verb)
            if match and match[2] in CLASSES[cls]:
                accessor = self._accessor(cls, match[1], CLASSES[cls][match[2]])
                if accessor is not None:
                    return accessor
        raise ApiError("MESSAGE_METHOD_UNKNOWN", name)

    def _records(self, cls: str, where: str | None) -> dict[str, Any]:
        found = self.core.db.records(cls, where)
        return {ref: on_wire(cls, record) for ref, record in found.items()}

    def _labelled(self, cls: str, label: str) -> list[str]:
        return [
            ref
            for ref, record in self.core.db.records(cls).items()
            if record["name_label"] == label
        ]

    def _accessor(self, cls: str, verb: str, field: Field) -> Method | None:
        db = self.core.db
        if verb == "get":
            return lambda _context, ref: value_on_wire(field, db.get(cls, ref, field.name))
        if not field.writable:
            return None
        if verb == "set":
            return self._guarded(cls, field, 1, db.set)
        by_kind: dict[tuple[str, str], Method] = {
            ("add_to", "map"): self._guarded(cls, field, 2, db.add_to_map),
            ("remove_from", "map"): self._guarded(cls, field, 1, db.remove_from_map),
            ("add", "set"): self._guarded(cls, field, 1, db.add_to_set),
            ("remove", "set"): self._guarded(cls, field, 1, db.remove_from_set),
        }
        return by_kind.get((verb, field.kind))

    def _guarded(self, cls: str, field: Field, arity: int, write: Method) -> Method:
        """A writer of a field, which only the SR's driver may use if the field says so."""

        def guard(context: Context, ref: str) -> None:
            if field.sm_only:
                sr = ref if cls == "SR" else self.core.db.get(cls, ref, "SR")
                self.core.sessions.assert_driver_of(context.session, sr)

        def one(context: Context, ref: str, value: Any) -> None:
            guard(context, ref)
            write(cls, ref, field.name, value)

        def pair(context: Context, ref: str, key: str, value: str) -> None:
            guard(context, ref)
            write(cls, ref, field.name, key, value)

        return one if arity == 1 else pair
