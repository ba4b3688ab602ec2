# SPDX-License-Identifier: LGPL-2.1-only
"""XML-RPC as xapi writes and reads it (ocaml/libs/http-lib/xMLRPC.ml, To and From).

Written: strings bare in <value>, no white space between tags. Read: strictly; an attribute, an
unknown tag or members out of order are errors, which the standard library would let pass.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from xml.sax.saxutils import escape
from xmlrpc.client import DateTime

T = TypeVar("T")


class WireError(Exception):
    """XML that is well-formed and yet not what was to be read (RunTimeTypeError in xapi)."""

    def __init__(self, expected: str, element: ET.Element) -> None:
        found = ET.tostring(element, encoding="unicode")
        super().__init__(f"RunTimeTypeError: looking for {expected} found {found}")


def value(item: Any) -> str:
    """The <value> element of a Python value. An int is an <i4>: what xapi calls int64 is a str."""
    if item is None:
        return "<value><nil/></value>"
    if isinstance(item, bool):
        return f"<value><boolean>{int(item)}</boolean></value>"
    if isinstance(item, int):
        return f"<value><i4>{item}</i4></value>"
    if isinstance(item, float):
        return f"<value><double>{item:.16g}</double></value>"
    if isinstance(item, DateTime):
        return f"<value><dateTime.iso8601>{item}</dateTime.iso8601></value>"
    if isinstance(item, dict):
        members = "".join(
            f"<member><name>{escape(str(key))}</name>{value(entry)}</member>"
            for key, entry in item.items()
        )
        return f"<value><struct>{members}</struct></value>"
    if isinstance(item, (list, tuple)):
        data = "".join(value(entry) for entry in item)
        return f"<value><array>{f'<data>{data}</data>' if data else '<data/>'}</array></value>"
    return f"<value>{escape(str(item))}</value>"


def method_call(name: str, parameters: Iterable[Any]) -> str:
    """A <methodCall>."""
    body = "".join(f"<param>{value(parameter)}</param>" for parameter in parameters)
    return f"<methodCall><methodName>{name}</methodName><params>{body}</params></methodCall>"


def success(result: Any) -> str:
    """A <methodResponse> with the Status struct of the XenAPI."""
    return _response({"Status": "Success", "Value": result})


def failure(description: list[str]) -> str:
    """A <methodResponse> that carries an ErrorDescription."""
    return _response({"Status": "Failure", "ErrorDescription": description})


def _response(status: dict[str, Any]) -> str:
    return f"<methodResponse><params><param>{value(status)}</param></params></methodResponse>"


def parse(text: bytes) -> ET.Element:
    """The root element. Raises ET.ParseError on anything that is not one XML document."""
    return ET.fromstring(text)


def _children(element: ET.Element, tag: str) -> list[ET.Element]:
    """Children of an element that must have this tag, no attribute and no text beside them."""
    texts = [element.text, *(child.tail for child in element)]
    if element.tag != tag or element.attrib or any(text and text.strip() for text in texts):
        raise WireError(tag, element)
    return list(element)


def _only_child(element: ET.Element, tag: str) -> ET.Element:
    children = _children(element, tag)
    if len(children) != 1:
        raise WireError(f"one element in {tag}", element)
    return children[0]


def _text(element: ET.Element, tags: tuple[str, ...]) -> str:
    if element.tag not in tags or element.attrib or len(element):
        raise WireError(" or ".join(tags), element)
    return element.text or ""


def as_nil(element: ET.Element) -> None:
    """Read <value><nil/></value>, the only answer of a command without a result."""
    _children(_only_child(element, "value"), "nil")


def as_string(element: ET.Element) -> str:
    """Read a string, bare or in <string>."""
    if element.tag == "value" and not element.attrib and not len(element):
        return element.text or ""
    return _text(_only_child(element, "value"), ("string",))


def as_int(element: ET.Element) -> int:
    """Read an <int> or <i4>."""
    child = _only_child(element, "value")
    try:
        return int(_text(child, ("i4", "int")))
    except ValueError:
        raise WireError("int", element) from None


def as_boolean(element: ET.Element) -> bool:
    """Read a <boolean>: all but 0 is true."""
    return _text(_only_child(element, "value"), ("boolean",)) != "0"


def as_array(element: ET.Element, item: Callable[[ET.Element], T]) -> list[T]:
    """Read an array; item reads each of its values."""
    data = _only_child(_only_child(element, "value"), "array")
    return [item(child) for child in _children(data, "data")]


def as_struct(element: ET.Element) -> dict[str, ET.Element]:
    """Read a struct: the <value> element of each name, still to be read."""
    members: dict[str, ET.Element] = {}
    for member in _children(_only_child(element, "value"), "struct"):
        pair = _children(member, "member")
        if len(pair) != 2:
            raise WireError("name and value", member)
        members[_text(pair[0], ("name",))] = pair[1]
    return members


def fault_of(response: ET.Element) -> tuple[int, str] | None:
    """Code and text when a methodResponse is a <fault>, else None."""
    body = _only_child(response, "methodResponse")
    if body.tag != "fault":
        return None
    struct = as_struct(_only_child(body, "fault"))
    try:
        return as_int(struct["faultCode"]), as_string(struct["faultString"])
    except KeyError:
        raise WireError("faultCode and faultString", body) from None


def result_of(response: ET.Element) -> ET.Element:
    """The one result of a methodResponse that is no fault."""
    return _only_child(_only_child(_only_child(response, "methodResponse"), "params"), "param")
