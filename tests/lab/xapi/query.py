# SPDX-License-Identifier: LGPL-2.1-only
"""Expressions of get_all_records_where (xen-api: ocaml/database/db_filter_{parse,lex}).

The lexer knows keywords, quoted strings and brackets only. So `andfield`, which SM writes for
want of a blank, is two keywords.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .errors import ApiError

Predicate = Callable[[dict[str, Any]], bool]
Operand = Callable[[dict[str, Any]], str]

_TOKEN = re.compile(r"""\s*(?:(field|and|or|not|true|false|=|\(|\))|"([^"]*)"|'([^']*)')""")


def parse(expression: str) -> Predicate:
    """A test for records. Raises INTERNAL_ERROR on what is no expression."""
    tokens = _tokens(expression)
    parser = _Parser(tokens, expression)
    predicate = parser.disjunction()
    if parser.tokens:
        raise _syntax_error(expression)
    return predicate


def _syntax_error(expression: str) -> ApiError:
    return ApiError("INTERNAL_ERROR", f"Failed to parse expression: {expression}")


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    while expression[position:].strip():
        match = _TOKEN.match(expression, position)
        if match is None:
            raise _syntax_error(expression)
        keyword, double, single = match.groups()
        tokens.append(("keyword", keyword) if keyword else ("string", double or single or ""))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent: or, then and, then not."""

    def __init__(self, tokens: list[tuple[str, str]], expression: str) -> None:
        self.tokens = tokens
        self._expression = expression

    def _accept(self, keyword: str) -> bool:
        if self.tokens and self.tokens[0] == ("keyword", keyword):
            del self.tokens[0]
            return True
        return False

    def _expect(self, keyword: str) -> None:
        if not self._accept(keyword):
            raise _syntax_error(self._expression)

    def disjunction(self) -> Predicate:
        left = self._conjunction()
        while self._accept("or"):
            left = _either(left, self._conjunction())
        return left

    def _conjunction(self) -> Predicate:
        left = self._term()
        while self._accept("and"):
            left = _both(left, self._term())
        return left

    def _term(self) -> Predicate:
        if self._accept("not"):
            inner = self._term()
            return lambda record: not inner(record)
        if self._accept("("):
            inner = self.disjunction()
            self._expect(")")
            return inner
        if self._accept("true"):
            return lambda record: True
        if self._accept("false"):
            return lambda record: False
        left = self._operand()
        self._expect("=")
        right = self._operand()
        return lambda record: left(record) == right(record)

    def _operand(self) -> Operand:
        is_field = self._accept("field")
        if not self.tokens or self.tokens[0][0] != "string":
            raise _syntax_error(self._expression)
        text = self.tokens.pop(0)[1]
        if is_field:
            return lambda record: _as_text(record.get(text.replace("-", "_")))
        return lambda record: text


def _either(left: Predicate, right: Predicate) -> Predicate:
    return lambda record: left(record) or right(record)


def _both(left: Predicate, right: Predicate) -> Predicate:
    return lambda record: left(record) and right(record)


def _as_text(value: Any) -> str:
    """A field as the database stores it: everything is a string there."""
    return str(value).lower() if isinstance(value, bool) else str(value)
