# SPDX-License-Identifier: LGPL-2.1-only
"""Xen Orchestra, as far as an SR meets it: a process of Node.js that speaks with XAPI by XO's own
client library from npm (tests/xo/client.mjs)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

XO = Path(__file__).resolve().parent.parent / "xo"


class XoError(Exception):
    """What XO would notify its user of: `code` and `params` of XAPI, `message` as it is shown."""

    def __init__(self, code: str, params: list[str], message: str) -> None:
        super().__init__(message)
        self.code = code
        self.params = params
        self.message = message


class Node:
    """A program of tests/xo that answers requests, one a line."""

    def __init__(self, program: str, http_port: int) -> None:
        self._process = subprocess.Popen(
            ["node", str(XO / program), f"http://127.0.0.1:{http_port}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()

    def ask(self, verb: str, **request: Any) -> Any:
        """The result of a verb. Raises XoError."""
        self._process.stdin.write(json.dumps({"verb": verb, **request}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": {"code": "it ended"}}')
        if "error" in answer:
            error = answer["error"]
            raise XoError(error["code"], error.get("params", []), error.get("message", ""))
        return answer["result"]
