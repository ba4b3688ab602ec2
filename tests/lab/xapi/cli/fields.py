# SPDX-License-Identifier: LGPL-2.1-only
"""What xe shows of an object (xen-api: ocaml/xapi-cli-server/records.ml).

A class is a list of words `name*=field>Class.field`: the name in xe; a star when xe can set it; the
API's field, if it is not the name with underscores; the way to follow references.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..schema import CLASSES, NULL
from .client import Client

MISSING = "<not in database>"


@dataclass(frozen=True)
class Shown:
    """One field as xe shows it."""

    name: str
    writable: bool
    field: str
    #: (class, field) for each reference to follow.
    path: tuple[tuple[str, str], ...]
    kind: str

    @property
    def label(self) -> str:
        """Name and access, as xe prints them."""
        letter = {"set": "S", "map": "M"}.get(self.kind, " ")
        return f"{self.name} ({letter}{'RW' if self.writable else 'RO'})"


@dataclass(frozen=True)
class Shape:
    """A class of objects in xe."""

    cls: str
    fields: tuple[Shown, ...]
    #: What `list` prints unless told otherwise; all if empty.
    listed: tuple[str, ...]


def _shape(cls: str, listed: str, words: str) -> Shape:
    return Shape(cls, tuple(_shown(cls, word) for word in words.split()), tuple(listed.split()))


def _shown(cls: str, word: str) -> Shown:
    source, *steps = word.split(">")
    name, _, field = source.partition("=")
    writable = name.endswith("*")
    name = name.removesuffix("*")
    field = field or name.replace("-", "_")
    path = tuple((step.partition(".")[0], step.partition(".")[2]) for step in steps)
    kind = CLASSES[cls][field].kind
    return Shown(name, writable, field, path, "string" if path and kind == "ref" else kind)


SHAPES = {
    "sr": _shape(
        "SR",
        "uuid name-label name-description host type content-type",
        """
        uuid name-label* name-description* host=PBDs>PBD.host>host.name_label allowed-operations
        current-operations VDIs>VDI.uuid PBDs>PBD.uuid virtual-allocation physical-utilisation
        physical-size type content-type shared* introduced-by is-tools-sr other-config* sm-config
        blobs local-cache-enabled tags* clustered
        """,
    ),
    "pbd": _shape(
        "PBD",
        "uuid host-uuid sr-uuid device-config currently-attached",
        """
        uuid host>host.uuid host-uuid=host>host.uuid host-name-label=host>host.name_label
        sr-uuid=SR>SR.uuid sr-name-label=SR>SR.name_label device-config currently-attached
        other-config*
        """,
    ),
    "vdi": _shape(
        "VDI",
        "uuid name-label name-description virtual-size read-only sharable sr-uuid",
        """
        uuid name-label* name-description* is-a-snapshot snapshot-of>VDI.uuid snapshots>VDI.uuid
        snapshot-time allowed-operations current-operations sr-uuid=SR>SR.uuid
        sr-name-label=SR>SR.name_label vbd-uuids=VBDs>VBD.uuid virtual-size physical-utilisation
        location type sharable read-only storage-lock managed missing is-tools-iso other-config*
        xenstore-data sm-config on-boot* allow-caching* metadata-latest tags* cbt-enabled
        """,
    ),
    "vbd": _shape(
        "VBD",
        "uuid vm-uuid vdi-uuid device empty",
        """
        uuid vm-uuid=VM>VM.uuid vdi-uuid=VDI>VDI.uuid device userdevice bootable* mode type
        currently-attached empty other-config*
        """,
    ),
    "vm": _shape(
        "VM",
        "name-label uuid power-state",
        """
        uuid name-label* name-description* is-control-domain power-state
        resident-on>host.uuid dom-id=domid other-config*
        """,
    ),
    "host": _shape(
        "host",
        "uuid name-label name-description",
        """
        uuid name-label* name-description* enabled API-version-major=API_version_major
        API-version-minor=API_version_minor software-version capabilities other-config*
        hostname address local-cache-sr*>SR.uuid tags* control-domain-uuid=control_domain>VM.uuid
        resident-vms=resident_VMs>VM.uuid
        """,
    ),
    "pool": _shape(
        "pool",
        "uuid name-label name-description master default-SR",
        """
        uuid name-label* name-description* master>host.uuid default-SR*>SR.uuid other-config*
        """,
    ),
    "sm": _shape(
        "SM",
        "uuid type name-label name-description vendor copyright configuration",
        """
        uuid name-label name-description type vendor copyright required-api-version capabilities
        features configuration driver-filename required-cluster-stack supported-image-formats
        """,
    ),
    "secret": _shape("secret", "", "uuid value*"),
    "message": _shape("message", "", "uuid name priority class=cls obj-uuid timestamp body"),
    "task": _shape(
        "task",
        "uuid name-label name-description status progress",
        """
        uuid name-label name-description status progress type result created finished error_info
        other-config*
        """,
    ),
}


class Object:
    """One object, whose fields are read as xe prints them."""

    def __init__(self, client: Client, shape: Shape, record: dict[str, Any]) -> None:
        self._client = client
        self._shape = shape
        self._record = record

    def shown(self, name: str) -> Shown | None:
        """The field of that name, if xe has it."""
        return next((field for field in self._shape.fields if field.name == name), None)

    def raw(self, field: Shown) -> Any:
        """The value in the record."""
        return self._record[field.field]

    def text(self, field: Shown) -> str:
        """The value as xe prints it."""
        value = self.raw(field)
        if field.path:
            return self._followed(field, value)
        if isinstance(value, dict):
            return "; ".join(f"{key}: {item}" for key, item in value.items())
        if isinstance(value, list):
            return (", " if field.name == "tags" else "; ").join(value)
        return MISSING if value == NULL else _SCALARS.get(type(value), str)(value)

    def _followed(self, field: Shown, value: Any) -> str:
        refs = value if isinstance(value, list) else [value]
        for cls, link in field.path:
            refs = [self._client.call(f"{cls}.get_{link}", ref) for ref in refs if ref != NULL]
        if not refs and (len(field.path) > 1 or field.kind != "set"):
            return MISSING
        return "; ".join(refs)


_SCALARS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: str(value).lower(),
    float: lambda value: f"{value:.3f}",
}


def objects(client: Client, shape: Shape) -> list[Object]:
    """All objects of a class."""
    records = client.call(f"{shape.cls}.get_all_records")
    return [Object(client, shape, record) for record in records.values()]


def the_object(client: Client, shape: Shape, uuid: str) -> Object:
    """One object. Raises XenAPI.Failure."""
    ref = client.ref(shape.cls, uuid)
    return Object(client, shape, client.call(f"{shape.cls}.get_record", ref))
