# SPDX-License-Identifier: LGPL-2.1-only
"""The database: records by class and reference, on disk as JSON, with a history for events."""

from __future__ import annotations

import copy
import json
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import DateTime

from .errors import ApiError
from .query import Predicate, parse
from .schema import CLASSES, NULL, SILENT, VOLATILE, Field

Record = dict[str, Any]


def new_ref() -> str:
    """A fresh opaque reference."""
    return f"OpaqueRef:{uuid.uuid4()}"


def write_durably(path: Path, text: str) -> None:
    """Replace a file at once, and return only when it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass
class Change:
    """When an object came, last changed and went, in generations of the database."""

    created: int
    modified: int
    deleted: int | None = None


class Database:
    """All records. Thread-safe; what it returns are copies."""

    def __init__(self, path: Path) -> None:
        """Load the file if there is one. Operations under way when it was written are forgotten."""
        self._path = path
        self._lock = threading.RLock()
        #: Notified at each change; used by event.from to sleep.
        self.changed = threading.Condition(self._lock)
        self.generation = 1
        self.history: dict[tuple[str, str], Change] = {}
        self._dirty = False
        self._tables: dict[str, dict[str, Record]] = {name: {} for name in CLASSES}
        if path.exists():
            self._load()

    def _load(self) -> None:
        stored: dict[str, dict[str, Record]] = json.loads(self._path.read_text(encoding="utf-8"))
        for name, rows in stored.items():
            for ref, row in rows.items():
                record = self._complete(name, row)
                if "current_operations" in record:
                    record["current_operations"] = {}
                self._tables[name][ref] = record
                self.history[name, ref] = Change(self.generation, self.generation)

    @staticmethod
    def _complete(name: str, given: Record) -> Record:
        """A record with every stored field, those not given at their defaults."""
        stored = [field for field in CLASSES[name].values() if field.derived is None]
        return {field.name: given.get(field.name, field.default()) for field in stored}

    def flush(self) -> None:
        """Bring every change so far to disk."""
        with self._lock:
            if not self._dirty:
                return
            tables = {name: rows for name, rows in self._tables.items() if name not in VOLATILE}
            write_durably(self._path, json.dumps(tables, indent=1))
            self._dirty = False

    def _note(self, name: str, ref: str) -> None:
        self.generation += 1
        if name not in VOLATILE:
            self._dirty = True
        if name not in SILENT:
            change = self.history.setdefault((name, ref), Change(self.generation, self.generation))
            change.modified = self.generation
            if ref not in self._tables[name]:
                change.deleted = self.generation
        self.changed.notify_all()

    def touch(self, name: str, ref: str) -> int:
        """Count the object as changed (event.inject) and return the generation before that."""
        with self._lock:
            self._row(name, ref)
            before = self.generation
            self._note(name, ref)
            return before

    def create(self, name: str, record: Record, ref: str | None = None) -> str:
        """Add a record; fields not given have their defaults, uuid a fresh one. Returns its ref.

        Raises DB_UNIQUENESS_CONSTRAINT_VIOLATION when the uuid exists.
        """
        with self._lock:
            ref = ref or new_ref()
            row = self._complete(name, copy.deepcopy(record))
            row["uuid"] = row["uuid"] or str(uuid.uuid4())
            if any(other["uuid"] == row["uuid"] for other in self._tables[name].values()):
                raise ApiError("DB_UNIQUENESS_CONSTRAINT_VIOLATION", name, "uuid", row["uuid"])
            self._tables[name][ref] = row
            self._note(name, ref)
            return ref

    def destroy(self, name: str, ref: str) -> None:
        """Remove a record. Raises HANDLE_INVALID."""
        with self._lock:
            self._row(name, ref)
            del self._tables[name][ref]
            self._note(name, ref)

    def exists(self, name: str, ref: str) -> bool:
        """Whether the reference is valid."""
        with self._lock:
            return ref in self._tables[name]

    def _row(self, name: str, ref: str) -> Record:
        try:
            return self._tables[name][ref]
        except (KeyError, TypeError):
            raise ApiError("HANDLE_INVALID", name, str(ref)) from None

    def record(self, name: str, ref: str) -> Record:
        """A record with its derived fields. Raises HANDLE_INVALID."""
        with self._lock:
            row = self._row(name, ref)
            return {field.name: self._read(field, ref, row) for field in CLASSES[name].values()}

    def get(self, name: str, ref: str, field: str) -> Any:
        """One field. Raises HANDLE_INVALID."""
        with self._lock:
            return self._read(CLASSES[name][field], ref, self._row(name, ref))

    def _read(self, field: Field, ref: str, row: Record) -> Any:
        if field.derived is not None:
            table, link = field.derived
            return [other for other, fields in self._tables[table].items() if fields[link] == ref]
        return copy.deepcopy(row[field.name])

    def set(self, name: str, ref: str, field: str, value: Any) -> None:
        """Store one field, normalised to its kind. Raises HANDLE_INVALID, FIELD_TYPE_ERROR."""
        with self._lock:
            row = self._row(name, ref)
            row[field] = normal(CLASSES[name][field], value)
            self._note(name, ref)

    def add_to_map(self, name: str, ref: str, field: str, key: str, value: str) -> None:
        """Add a pair to a map. Raises MAP_DUPLICATE_KEY, on which SM relies (util.set_dirty)."""
        with self._lock:
            pairs = self._row(name, ref)[field]
            if key in pairs:
                raise ApiError("MAP_DUPLICATE_KEY", name, field, ref, key)
            pairs[key] = str(value)
            self._note(name, ref)

    def remove_from_map(self, name: str, ref: str, field: str, key: str) -> None:
        """Remove a pair from a map; a key that is not there is no error."""
        with self._lock:
            if self._row(name, ref)[field].pop(key, None) is not None:
                self._note(name, ref)

    def add_to_set(self, name: str, ref: str, field: str, item: str) -> None:
        """Add an item to a set; one that is there already is no error."""
        with self._lock:
            items = self._row(name, ref)[field]
            if item not in items:
                items.append(str(item))
                self._note(name, ref)

    def remove_from_set(self, name: str, ref: str, field: str, item: str) -> None:
        """Remove an item from a set; one that is not there is no error."""
        with self._lock:
            items = self._row(name, ref)[field]
            if item in items:
                items.remove(item)
                self._note(name, ref)

    def refs(self, name: str) -> list[str]:
        """All references of a class."""
        with self._lock:
            return list(self._tables[name])

    def records(self, name: str, where: str | Predicate | None = None) -> dict[str, Record]:
        """Records by reference, all or those of an expression or predicate."""
        test = parse(where) if isinstance(where, str) else where
        with self._lock:
            found = {ref: self.record(name, ref) for ref in self._tables[name]}
        return {ref: record for ref, record in found.items() if test is None or test(record)}

    def by_uuid(self, name: str, wanted: str) -> str:
        """The reference of a uuid. Raises UUID_INVALID."""
        with self._lock:
            for ref, row in self._tables[name].items():
                if row["uuid"] == wanted:
                    return ref
        raise ApiError("UUID_INVALID", name, wanted)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _strings(value: Any) -> list[str]:
    return [str(item) for item in value]


def _pairs(value: Any) -> dict[str, str]:
    return {str(key): str(item) for key, item in value.items()}


_NORMAL: dict[str, Callable[[Any], Any]] = {
    "string": str,
    "int": lambda value: str(int(value)),
    "bool": _boolean,
    "float": float,
    "time": str,
    "ref": lambda value: str(value) or NULL,
    "set": _strings,
    "map": _pairs,
}


def normal(field: Field, value: Any) -> Any:
    """A value as it is stored. Raises FIELD_TYPE_ERROR."""
    try:
        return _NORMAL[field.kind](value)
    except (TypeError, ValueError, AttributeError):
        raise ApiError("FIELD_TYPE_ERROR", field.name) from None


def on_wire(name: str, record: Record) -> Record:
    """A record as it travels: times as dateTime."""
    return {key: value_on_wire(CLASSES[name][key], value) for key, value in record.items()}


def value_on_wire(field: Field, value: Any) -> Any:
    """A field as it travels."""
    return DateTime(value) if field.kind == "time" else value
