"""One JSON-RPC message as every era and transport has it, read before anything else looks at it.

What is refused here is answered in the words of JSON-RPC 2.0 (section 5.1) with HTTP status 400, and never
reaches the SDK, whose parsers read some of it, each in its own way.
"""

import json
from collections.abc import Iterable
from typing import Final

from mcp_types import INVALID_REQUEST, PARSE_ERROR
from mcp_types.jsonrpc import HEADER_MISMATCH

from toolgate.core.record import Json, JsonObject
from toolgate.core.strict_json import NotJson, parse

_WHAT: Final = {
    PARSE_ERROR: "Parse error",
    INVALID_REQUEST: "Invalid Request",
    HEADER_MISMATCH: "Header mismatch",
}
_LONGEST_ID: Final = 1_000
"""Characters; an id is sent back as it came."""


class BadMessage(ValueError):  # noqa: N818 - named by what is the matter
    """What was sent is no message; it says why, and knows the answer."""

    def __init__(self, code: int, reason: str, id_: int | str | None = None) -> None:
        super().__init__(reason)
        self._code, self._id = code, id_

    def answer(self) -> bytes:
        """Give the JSON-RPC error, whose id is null where none could be told (section 5)."""
        error: JsonObject = {"code": self._code, "message": f"{_WHAT[self._code]}: {self}"}
        return json.dumps({"jsonrpc": "2.0", "id": self._id, "error": error}).encode()


def message(body: bytes) -> JsonObject:
    """Read one request, notification or response; of what a method wants, nothing is looked at.

    Raises:
        BadMessage: it is none.
    """
    try:
        said = parse(body)
    except NotJson as error:
        raise BadMessage(PARSE_ERROR, str(error)) from error
    if isinstance(said, list):
        raise BadMessage(INVALID_REQUEST, "a batch is not taken; send its messages one by one")
    if not isinstance(said, dict):
        raise BadMessage(INVALID_REQUEST, "a message is an object")
    if fault := _fault_in(said):
        raise BadMessage(INVALID_REQUEST, fault, _id_of(said))
    return said


def check_headers(said: JsonObject, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Look at the headers that repeat what a message says: what is not ASCII is encoded there (SEP-2243).

    Raises:
        BadMessage: one is not; the SDK would fail to decode it.
    """
    for name, value in headers:
        if name.startswith(b"mcp-") and not value.isascii():
            raise BadMessage(HEADER_MISMATCH, f"the header {name.decode()} is not ASCII", _id_of(said))


def _id_of(said: JsonObject) -> int | str | None:
    """Give the id of what was meant as a request."""
    id_ = said.get("id") if "method" in said else None
    return id_ if isinstance(id_, int | str) and not _fault_in_id(id_) else None


def _fault_in(said: JsonObject) -> str | None:
    if said.get("jsonrpc") != "2.0":
        return 'jsonrpc is not "2.0"'
    if "id" in said and (fault := _fault_in_id(said["id"])):
        return fault
    if "method" in said:
        return _fault_in_request(said)
    return None if _is_response(said) else "there is no method"


def _fault_in_request(said: JsonObject) -> str | None:
    if not isinstance(said["method"], str):
        return "method is not a text"
    if "params" in said and not isinstance(said["params"], dict):
        return "params is not an object"
    return "a message has a method, or a result or an error" if said.keys() & {"result", "error"} else None


def _is_response(said: JsonObject) -> bool:
    return "id" in said and ("result" in said) != ("error" in said)


def _fault_in_id(id_: Json) -> str | None:
    """MCP takes a text or an integer, and not null, in all its revisions (Base protocol, Requests)."""
    if isinstance(id_, str):
        return f"id has more than {_LONGEST_ID} characters" if len(id_) > _LONGEST_ID else None
    return None if type(id_) is int else "id is neither a text nor an integer"
