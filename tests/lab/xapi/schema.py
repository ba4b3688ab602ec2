# SPDX-License-Identifier: LGPL-2.1-only
"""Classes and fields of the API, with XAPI's names (xen-api: ocaml/idl/datamodel*.ml).

A class is one text: `name kind` a field, then what clients may do with it:
  rw   every session may set it;
  sm   only the driver's session of that SR may set it (message_forwarding.ml:
       assert_session_has_internal_sr_access);
  <Class>.<field>   not stored: the references of that class which point here.
Kinds int are strings on the wire (int64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NULL = "OpaqueRef:NULL"
EPOCH = "19700101T00:00:00Z"

_DEFAULTS: dict[str, Any] = {
    "string": "",
    "int": "0",
    "bool": False,
    "float": 0.0,
    "time": EPOCH,
    "ref": NULL,
    "set": [],
    "map": {},
}


@dataclass(frozen=True)
class Field:
    """One field of a class."""

    name: str
    kind: str
    writable: bool
    sm_only: bool
    #: (class, field) whose references point here, for a field that is not stored.
    derived: tuple[str, str] | None

    def default(self) -> Any:
        """A fresh value for a new record."""
        value = _DEFAULTS[self.kind]
        return type(value)(value)


def _field(line: str) -> Field:
    name, kind, *flags = line.split()
    links = [flag for flag in flags if "." in flag]
    derived = tuple(links[0].split(".")) if links else None
    return Field(name, kind, "rw" in flags or "sm" in flags, "sm" in flags, derived)  # type: ignore[arg-type]


def _fields(text: str) -> dict[str, Field]:
    lines = [line for line in text.splitlines() if line.strip()]
    return {field.name: field for field in map(_field, ["uuid string", *lines])}


CLASSES: dict[str, dict[str, Field]] = {
    "pool": _fields(
        """
        name_label string rw
        name_description string rw
        master ref
        default_SR ref rw
        suspend_image_SR ref rw
        crash_dump_SR ref rw
        other_config map rw
        ha_enabled bool
        ha_configuration map
        ha_statefiles set
        restrictions map
        tags set rw
        gui_config map rw
        cpu_info map
        """
    ),
    "host": _fields(
        """
        name_label string rw
        name_description string rw
        allowed_operations set
        current_operations map
        API_version_major int
        API_version_minor int
        API_version_vendor string
        enabled bool
        software_version map
        other_config map rw
        capabilities set
        cpu_configuration map
        sched_policy string
        supported_bootloaders set
        resident_VMs set VM.resident_on
        logging map rw
        suspend_image_sr ref rw
        crash_dump_sr ref rw
        PBDs set PBD.host
        PIFs set
        host_CPUs set
        cpu_info map
        hostname string
        address string
        metrics ref
        license_params map
        license_server map
        edition string
        bios_strings map
        chipset_info map
        local_cache_sr ref rw
        control_domain ref
        tags set rw
        multipathing bool
        """
    ),
    "host_metrics": _fields(
        """
        memory_total int
        memory_free int
        live bool
        last_updated time
        other_config map rw
        """
    ),
    "SM": _fields(
        """
        name_label string
        name_description string
        type string
        vendor string
        copyright string
        version string
        required_api_version string
        configuration map
        capabilities set
        features map
        other_config map rw
        driver_filename string
        required_cluster_stack set
        supported_image_formats set
        """
    ),
    "SR": _fields(
        """
        name_label string rw
        name_description string rw
        allowed_operations set
        current_operations map
        VDIs set VDI.SR
        PBDs set PBD.SR
        virtual_allocation int sm
        physical_utilisation int sm
        physical_size int sm
        type string
        content_type string
        shared bool rw
        other_config map rw
        tags set rw
        sm_config map rw
        blobs map
        local_cache_enabled bool
        introduced_by ref
        clustered bool
        is_tools_sr bool
        """
    ),
    "PBD": _fields(
        """
        host ref
        SR ref
        device_config map sm
        currently_attached bool
        other_config map rw
        """
    ),
    "VDI": _fields(
        """
        name_label string rw
        name_description string rw
        allowed_operations set
        current_operations map
        SR ref
        VBDs set VBD.VDI
        crash_dumps set
        virtual_size int sm
        physical_utilisation int sm
        type string
        sharable bool sm
        read_only bool sm
        other_config map rw
        storage_lock bool
        location string
        managed bool sm
        missing bool sm
        parent ref
        xenstore_data map rw
        sm_config map rw
        is_a_snapshot bool sm
        snapshot_of ref sm
        snapshots set VDI.snapshot_of
        snapshot_time time sm
        tags set rw
        allow_caching bool rw
        on_boot string rw
        metadata_of_pool ref sm
        metadata_latest bool
        is_tools_iso bool
        cbt_enabled bool sm
        """
    ),
    "VBD": _fields(
        """
        VM ref
        VDI ref
        device string
        userdevice string
        bootable bool rw
        mode string
        type string
        unpluggable bool rw
        storage_lock bool
        empty bool
        other_config map rw
        qos_algorithm_type string rw
        qos_algorithm_params map rw
        currently_attached bool
        allowed_operations set
        current_operations map
        """
    ),
    "VM": _fields(
        """
        name_label string rw
        name_description string rw
        power_state string
        is_a_template bool
        is_a_snapshot bool
        is_control_domain bool
        resident_on ref
        affinity ref
        suspend_SR ref rw
        VBDs set VBD.VM
        domid int
        memory_static_max int
        VCPUs_max int
        platform map rw
        other_config map rw
        xenstore_data map rw
        tags set rw
        current_operations map
        allowed_operations set
        """
    ),
    "secret": _fields(
        """
        value string rw
        other_config map rw
        """
    ),
    "message": _fields(
        """
        name string
        priority int
        cls string
        obj_uuid string
        timestamp time
        body string
        """
    ),
    "session": _fields(
        """
        this_host ref
        last_active time
        pool bool
        other_config map
        is_local_superuser bool
        auth_user_name string
        originator string
        """
    ),
    "task": _fields(
        """
        name_label string
        name_description string
        allowed_operations set
        current_operations map
        created time
        finished time
        status string rw
        resident_on ref
        progress float rw
        type string
        result string rw
        error_info set rw
        other_config map rw
        subtask_of ref
        subtasks set task.subtask_of
        backtrace string
        """
    ),
}

#: Classes that no file keeps: they end with the emulator.
VOLATILE = frozenset({"session", "task"})

#: Classes whose changes clients are not told (secrets: datamodel.ml; sessions: no get_all).
SILENT = frozenset({"secret", "session"})
