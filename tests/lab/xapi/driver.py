# SPDX-License-Identifier: LGPL-2.1-only
"""One call of a driver: its XML, its process, its answer (xen-api: ocaml/xapi/sm_exec.ml)."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import process, wire
from .db import Database
from .errors import ApiError
from .log import Log
from .nodes import Nodes
from .schema import NULL
from .session import Sessions
from .task import Tasks

T = TypeVar("T")

ENVIRONMENT = {"PATH": process.PATH, "ORIGINATOR": "SM"}

#: Faults that have a meaning of their own; any other N becomes SR_BACKEND_FAILURE_N.
NOT_IMPLEMENTED = 38
VDI_MISSING = 144
MEANINGS = {16: "SR_DEVICE_IN_USE", 24: "VDI_IN_USE", 39: "SR_NOT_EMPTY"}


class Unimplemented(Exception):
    """The driver answered that it has no such command."""


@dataclass(frozen=True)
class Subject:
    """What a call is about. The fields are named as in the request."""

    sr_ref: str | None = None
    vdi_ref: str | None = None
    vdi_location: str | None = None
    vdi_type: str | None = None
    new_uuid: str | None = None
    sr_sm_config: dict[str, str] | None = None
    vdi_sm_config: dict[str, str] | None = None
    driver_params: dict[str, str] | None = None


class Driver:
    """Runs an executable of SMAPIv1."""

    def __init__(
        self,
        db: Database,
        log: Log,
        sessions: Sessions,
        tasks: Tasks,
        nodes: Nodes,
        answers: Path,
    ) -> None:
        self._answers = answers
        self._nodes = nodes
        self._db = db
        self._log = log
        self._sessions = sessions
        self._tasks = tasks

    def query(self, host: str, executable: Path) -> ET.Element:
        """The answer to sr_get_driver_info, which has no session and no device_config."""
        request = self._request(host, "sr_get_driver_info", [], {}, Subject(), None)
        return self._run(host, executable, request)

    def call(
        self,
        host: str,
        executable: Path,
        command: str,
        arguments: Sequence[str],
        device_config: dict[str, str],
        subject: Subject,
    ) -> ET.Element:
        """The <value> element that the driver on a host answered.

        Raises ApiError for a fault or a broken answer, Unimplemented for fault 38.
        """
        with self._tasks.running(command) as task:
            with self._sessions.for_driver(subject.sr_ref) as session:
                extra = {"session_ref": session, "subtask_of": task}
                request = self._request(
                    host, command, arguments, device_config, subject, extra
                )
                # What the driver wrote about itself must be on disk, as what it did is.
                self._db.flush()
                try:
                    return self._run(host, executable, request, subject)
                finally:
                    self._db.flush()

    def _request(
        self,
        host: str,
        command: str,
        arguments: Sequence[str],
        device_config: dict[str, str],
        subject: Subject,
        extra: dict[str, str] | None,
    ) -> str:
        """The XML: all scalars are strings, members in xapi's order, absent ones left out."""
        extra = extra or {}
        members: dict[str, Any] = {
            "host_ref": host,
            "command": command,
            "args": list(arguments),
            "device_config": device_config,
            "session_ref": extra.get("session_ref"),
            "sr_sm_config": subject.sr_sm_config,
            "sr_ref": subject.sr_ref,
            "vdi_type": subject.vdi_type,
            "sr_uuid": subject.sr_ref and self._db.get("SR", subject.sr_ref, "uuid"),
            **self._about_vdi(subject),
            "driver_params": subject.driver_params,
            "vdi_sm_config": subject.vdi_sm_config,
            "new_uuid": subject.new_uuid,
            "subtask_of": extra.get("subtask_of"),
            **self._vdi_options(subject),
            "local_cache_sr": self._local_cache(host),
        }
        present = {key: item for key, item in members.items() if item is not None}
        return wire.method_call(command, [present])

    def _about_vdi(self, subject: Subject) -> dict[str, str | None]:
        if subject.vdi_ref is None:
            return {"vdi_location": subject.vdi_location}
        vdi = self._db.record("VDI", subject.vdi_ref)
        return {
            "vdi_ref": subject.vdi_ref,
            "vdi_location": subject.vdi_location or vdi["location"],
            "vdi_uuid": vdi["uuid"],
        }

    def _vdi_options(self, subject: Subject) -> dict[str, str]:
        if subject.vdi_ref is None:
            return {}
        vdi = self._db.record("VDI", subject.vdi_ref)
        return {
            "vdi_on_boot": vdi["on_boot"],
            "vdi_allow_caching": str(vdi["allow_caching"]).lower(),
        }

    def _local_cache(self, host: str) -> str | None:
        sr = self._db.get("host", host, "local_cache_sr")
        return None if sr == NULL else str(self._db.get("SR", sr, "uuid"))

    def _run(
        self, host: str, executable: Path, request: str, subject: Subject | None = None
    ) -> ET.Element:
        outcome = self._nodes.of(host).run_script([str(executable), request], ENVIRONMENT)
        self._keep(outcome)
        out = outcome.out.decode("utf-8", "replace")
        if outcome.trouble:
            raise ApiError("SR_BACKEND_FAILURE", outcome.trouble, out, outcome.err)
        try:
            response = wire.parse(outcome.out)
        except ET.ParseError as problem:
            self._log.error(
                "sm_exec",
                f"Failed to parse result from {executable}: stdout:{out} "
                f"stderr:{outcome.err} exception:{problem}",
            )
            raise ApiError("SR_BACKEND_FAILURE", str(problem), out, outcome.err) from None
        return _result(response, outcome.err, subject or Subject())

    def _keep(self, outcome: process.Outcome) -> None:
        """Store the raw answer for tests that check them all, where they made the folder."""
        if self._answers.is_dir():
            (self._answers / f"{uuid.uuid4()}.xml").write_bytes(outcome.out)


def _result(response: ET.Element, stderr: str, subject: Subject) -> ET.Element:
    """The answer's value, or the error that its fault stands for."""
    try:
        fault = wire.fault_of(response)
        if fault is None:
            return wire.result_of(response)
    except wire.WireError as problem:
        raise ApiError("INTERNAL_ERROR", str(problem)) from None
    code, text = fault
    if code == NOT_IMPLEMENTED:
        raise Unimplemented
    if code in MEANINGS:
        raise ApiError(MEANINGS[code])
    if code == VDI_MISSING:
        raise ApiError("VDI_MISSING", subject.sr_ref or "", subject.vdi_ref or "")
    raise ApiError(f"SR_BACKEND_FAILURE_{code}", "", text, stderr)


def unit(answer: ET.Element) -> None:
    """Read the answer of a command without result: nothing but nil will do."""
    _read(wire.as_nil, answer)


def text_of(answer: ET.Element) -> str:
    """Read the answer of sr_probe: a string, whatever is in it."""
    return _read(wire.as_string, answer)


def _read(reader: Callable[[ET.Element], T], answer: ET.Element) -> T:
    try:
        return reader(answer)
    except wire.WireError as problem:
        raise ApiError("INTERNAL_ERROR", str(problem)) from None


@dataclass(frozen=True)
class AttachResult:
    """The answer of vdi_attach."""

    params: str | None
    params_nbd: str
    o_direct: bool
    o_direct_reason: str


def attach_result(answer: ET.Element) -> AttachResult:
    """Read the answer of vdi_attach. Raises SR_BACKEND_FAILURE when a field is missing."""
    struct = _struct(answer, "params_nbd")
    return AttachResult(
        wire.as_string(struct["params"]) if "params" in struct else None,
        wire.as_string(struct["params_nbd"]),
        wire.as_boolean(struct["o_direct"]) if "o_direct" in struct else True,
        wire.as_string(struct["o_direct_reason"]) if "o_direct_reason" in struct else "",
    )


def vdi_location(answer: ET.Element) -> tuple[str, str]:
    """Read uuid and location, the answer of vdi_create, vdi_snapshot, vdi_clone, vdi_resize."""
    struct = _struct(answer, "uuid", "location")
    return wire.as_string(struct["uuid"]), wire.as_string(struct["location"])


def _struct(answer: ET.Element, *required: str) -> dict[str, ET.Element]:
    text = ET.tostring(answer, encoding="unicode")
    try:
        struct = wire.as_struct(answer)
    except wire.WireError as problem:
        raise ApiError(
            "SR_BACKEND_FAILURE", "", f"XML parse failure: {text}", str(problem)
        ) from None
    for key in required:
        if key not in struct:
            reason = f"<struct> missing field: {key}"
            raise ApiError("SR_BACKEND_FAILURE", "", f"XML parse failure: {text}", reason)
    return struct
