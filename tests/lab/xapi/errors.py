# SPDX-License-Identifier: LGPL-2.1-only
"""Failures that reach a client of the API."""

from __future__ import annotations


class ApiError(Exception):
    """Server_error (code, params) of xapi: what a client gets as ErrorDescription."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = list(params)

    @property
    def description(self) -> list[str]:
        """Code and parameters in one list, as they travel."""
        return [self.code, *self.params]

    def __str__(self) -> str:
        return f"Server_error({self.code}, [ {'; '.join(self.params)} ])"


def description_of(failure: Exception) -> list[str]:
    """ErrorDescription of any exception: what is not an ApiError is an INTERNAL_ERROR."""
    if isinstance(failure, ApiError):
        return failure.description
    return ["INTERNAL_ERROR", f"{type(failure).__name__}: {failure}"]
