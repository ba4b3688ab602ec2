# SPDX-License-Identifier: LGPL-2.1-only
"""What xe says for an error that the API's data model knows (ocaml/idl/datamodel_errors.ml)."""

from __future__ import annotations

#: Code -> (names of its parameters, sentence). Codes not here are printed as they are.
KNOWN: dict[str, tuple[str, str]] = {
    "PERMISSION_DENIED": ("message", "Caller not allowed to perform this operation."),
    "INTERNAL_ERROR": (
        "message",
        "The server failed to handle your request, due to an internal error. "
        "The given message may give details useful for debugging the problem.",
    ),
    "UUID_INVALID": ("type uuid", "The uuid you supplied was invalid."),
    "HANDLE_INVALID": (
        "class handle",
        "You gave an invalid object reference. The object may have recently been deleted. "
        "The class parameter gives the type of reference given, "
        "and the handle parameter echoes the bad value given.",
    ),
    "MAP_DUPLICATE_KEY": (
        "type param_name uuid key",
        "You tried to add a key-value pair to a map, but that key is already there.",
    ),
    "OPERATION_NOT_ALLOWED": ("reason", "You attempted an operation that was not allowed."),
    "VALUE_NOT_SUPPORTED": (
        "field value reason",
        "You attempted to set a value that is not supported by this implementation. "
        "The fully-qualified field name and the value that you tried to set are returned. "
        "Also returned is a developer-only diagnostic reason.",
    ),
    "OTHER_OPERATION_IN_PROGRESS": (
        "class object operation_type operation_ref",
        "Another operation involving the object is currently in progress",
    ),
    "SR_BACKEND_FAILURE": ("status stdout stderr", "There was an SR backend failure."),
    "SR_NOT_ATTACHED": ("sr", "The SR is not attached."),
    "SR_UUID_EXISTS": ("uuid", "An SR with that uuid already exists."),
    "SR_NO_PBDS": ("sr", "The SR has no attached PBDs"),
    "PBD_EXISTS": ("sr host pbd", "A PBD already exists connecting the SR to the server."),
    "SR_HAS_PBD": (
        "sr",
        "The SR is still connected to a host via a PBD. It cannot be destroyed or forgotten.",
    ),
    "SR_UNKNOWN_DRIVER": (
        "driver",
        "The SR could not be connected because the driver was not recognised.",
    ),
    "SR_OPERATION_NOT_SUPPORTED": (
        "sr",
        "The SR backend does not support the operation (check the SR's allowed operations)",
    ),
    "SR_NOT_EMPTY": ("", "The SR operation cannot be performed because the SR is not empty."),
    "SR_DEVICE_IN_USE": (
        "",
        "The SR operation cannot be performed because a device underlying the SR is in use "
        "by the server.",
    ),
    "SR_INDESTRUCTIBLE": (
        "sr",
        "The SR could not be destroyed because it is marked indestructible.",
    ),
    "VDI_IN_USE": (
        "vdi operation",
        "This operation cannot be performed because this VDI is in use by some other operation",
    ),
    "VDI_MISSING": (
        "sr vdi",
        "This operation cannot be performed because the specified VDI could not be found "
        "on the storage substrate",
    ),
    "VDI_NOT_MANAGED": (
        "vdi",
        "This operation cannot be performed because the system does not manage this VDI",
    ),
    "DEVICE_ALREADY_ATTACHED": ("device", "The device is already attached to a VM"),
    "DEVICE_ALREADY_DETACHED": ("device", "The device is not currently attached"),
    "XENAPI_MISSING_PLUGIN": ("name", "The requested plug-in could not be found."),
    "XENAPI_PLUGIN_FAILURE": (
        "status stdout stderr",
        "There was a failure communicating with the plug-in.",
    ),
}


def explain(code: str, parameters: list[str]) -> list[str]:
    """The lines that xe prints for an error."""
    if code not in KNOWN:
        return [f"Error code: {code}", f"Error parameters: {', '.join(parameters)}"]
    names, sentence = KNOWN[code]
    labels = names.split()
    labels += ["<extra>"] * (len(parameters) - len(labels))
    values = [*parameters, *["<unknown>"] * (len(labels) - len(parameters))]
    return [sentence, *(f"{label}: {value}" for label, value in zip(labels, values, strict=True))]
