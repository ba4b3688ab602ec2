# SPDX-License-Identifier: LGPL-2.1-only
"""host.call_plugin (xen-api: ocaml/xapi/xapi_plugins.ml)."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from . import process, wire
from .core import Context, Core
from .errors import ApiError

# Unlike drivers, plugins are started without a given environment: forkhelpers' default.
ENVIRONMENT = {"PATH": process.PATH}


class Plugins:
    """Programs in the plugins' folder, called by their file's name."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def call(
        self, context: Context, host: str, plugin: str, function: str, arguments: dict[str, str]
    ) -> str:
        """Run a function of a plugin. Raises XENAPI_MISSING_PLUGIN, XENAPI_PLUGIN_FAILURE or what
        the plugin itself failed with."""
        uuid = self._core.db.get("host", host, "uuid")
        self._core.log.info(
            "message_forwarding",
            f"Host.call_plugin host = '{uuid}'; plugin = '{plugin}'; fn = '{function}' "
            "args = [ 'hidden' ]",
        )
        node = self._core.nodes.of(host)
        folder = node.settings()["xapi-plugins-root"]
        if plugin not in (node.programs(folder) or {}):
            raise ApiError("XENAPI_MISSING_PLUGIN", plugin)
        pairs = {key: str(value) for key, value in arguments.items()}
        request = wire.method_call(function, [context.session, pairs])
        self._core.db.flush()
        outcome = node.run_program([f"{folder}/{plugin}", request], ENVIRONMENT)
        out = outcome.out.decode("utf-8", "replace")
        if outcome.trouble:
            raise ApiError("XENAPI_PLUGIN_FAILURE", outcome.trouble, out, outcome.err)
        return _result(outcome.out, out)


def _result(answer: bytes, text: str) -> str:
    try:
        response = wire.parse(answer)
    except ET.ParseError as problem:
        failed = "failed to parse plugin output"
        raise ApiError("XENAPI_PLUGIN_FAILURE", failed, text, str(problem)) from None
    try:
        fault = wire.fault_of(response)
        if fault is not None:
            raise ApiError("XENAPI_PLUGIN_FAILURE", "fault", str(fault[0]), fault[1])
        status = wire.as_struct(wire.result_of(response))
        if wire.as_string(status["Status"]) == "Success":
            return wire.as_string(status["Value"])
        description = wire.as_array(status["ErrorDescription"], wire.as_string)
    except (wire.WireError, KeyError) as problem:
        raise ApiError(
            "XENAPI_PLUGIN_FAILURE", "unexpected XMLRPC result", text, str(problem)
        ) from None
    raise ApiError(*description)
