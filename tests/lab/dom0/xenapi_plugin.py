# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for the XenAPIPlugin module that XAPI installs for the authors of its plugins.

A plugin gets one argument, an XML-RPC call with a session reference and a struct of strings, and
prints an XML-RPC response that holds a Status struct.
"""

from __future__ import annotations

import sys
import traceback
import xmlrpc.client
from collections.abc import Callable
from typing import Any

import XenAPI  # type: ignore[import-untyped]


class Failure(Exception):
    """Raise it in a plugin function to give the caller an error code with parameters."""

    def __init__(self, code: str, params: list[str]) -> None:
        super().__init__(code, params)
        self.code = code
        self.params = params

    def __str__(self) -> str:
        return " ".join(map(str, [self.code, *self.params]))


def success_message(result: str) -> str:
    """The response that carries a function's result."""
    return _response({"Status": "Success", "Value": result})


def failure_message(description: list[str]) -> str:
    """The response that carries an error, a list of strings."""
    return _response({"Status": "Failure", "ErrorDescription": description})


def dispatch(fn_table: dict[str, Callable[[Any, dict[str, str]], str]]) -> None:
    """Run the function of ``fn_table`` that the command line asks for, and print the response."""
    if len(sys.argv) != 2:
        sys.exit("usage: PLUGIN XML-RPC-CALL")
    params, name = xmlrpc.client.loads(sys.argv[1])
    session = XenAPI.xapi_local()
    session._session, args = params
    if name is None or name not in fn_table:
        print(failure_message(["UNKNOWN_XENAPI_PLUGIN_FUNCTION", str(name)]))
        return
    try:
        print(success_message(fn_table[name](session, args)))  # type: ignore[arg-type]
    except Failure as error:
        print(failure_message([error.code, *error.params]))
    except Exception as error:
        failure = [name, type(error).__name__, str(error), traceback.format_exc()]
        print(failure_message(["XENAPI_PLUGIN_FAILURE", *failure]))


def _response(status: dict[str, Any]) -> str:
    return xmlrpc.client.dumps((status,), "", True, allow_none=True)
