"""The common call, answered without the SDK's dispatch (docs/decisions/0009): the same answer for less work.

It is a `tools/call` of 2026-07-28 that wants plain JSON, and nothing about it is unusual. Whatever is not
surely a call that the SDK would hand to `McpServer` is the SDK's to answer: one place says what is wrong with
a request.
"""

import json
from dataclasses import dataclass
from typing import Final, cast

import orjson
from mcp.server.runner import modern_error_data
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
)
from mcp_types.methods import validate_client_request
from pydantic import ValidationError
from starlette.types import Scope, Send

from toolgate.core.record import JsonObject
from toolgate.web.asked import Asked
from toolgate.web.bearer import CALLER, TOKEN
from toolgate.web.mcp_server import McpServer
from toolgate.web.present import PREFIX
from toolgate.web.step_up import STEP_UP

_VERSION: Final = "2026-07-28"
_METHOD: Final = "tools/call"
_REQUEST: Final = frozenset({"jsonrpc", "id", "method", "params"})
_PARAMS: Final = frozenset({"name", "arguments", "_meta"})
_USUAL: Final = frozenset({PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY})
_SAFE_INTEGER: Final = 2**53 - 1


@dataclass(frozen=True, kw_only=True)
class _Request:
    id: int | str
    asked: Asked


class PlainCalls:
    """Answers common calls, and tells which those are."""

    def __init__(self, mcp: McpServer) -> None:
        self._mcp = mcp
        self._server_info: JsonObject = {SERVER_INFO_META_KEY: mcp.server.server_info_stamp}

    async def answer(self, scope: Scope, body: bytes, said: JsonObject, send: Send) -> bool:
        """Answer a common call; False for anything else, of which nothing was done.

        `said` is what `body` says. Nothing reads it a second time.

        Like the SDK in its JSON mode, it does not look whether the client is still there.
        """
        request = _request(scope, len(body), said)
        if request is None or self._mcp.wants_headers(request.asked.tool):
            return False
        status, answer = await self._said(request.asked)
        reply = _spell({"jsonrpc": "2.0", "id": request.id, **answer})
        headers = [(b"content-length", b"%d" % len(reply)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
        return True

    async def _said(self, asked: Asked) -> tuple[int, JsonObject]:
        try:
            answer = await self._mcp.answer(asked, _unheard)
            return 200, {"result": self._stamped(self._mcp.spelled(asked, answer))}
        except Exception as error:  # noqa: BLE001 - the SDK's own boundary: it logs what is no answer
            said = modern_error_data(error)
            fault: JsonObject = said.model_dump(by_alias=True, mode="json", exclude_none=True)
            return ERROR_CODE_HTTP_STATUS.get(said.code, 200), {"error": fault}

    def _stamped(self, result: JsonObject) -> JsonObject:
        """Do what the SDK does to a result of this revision."""
        meta = cast("JsonObject", result["_meta"])
        kept = {name: value for name, value in meta.items() if value is not None}
        return {**result, "_meta": {**kept, **self._server_info}}


async def _unheard(_progress: float, _total: float | None = None, _message: str | None = None, /) -> None:
    """Drop the progress of a call that did not ask for it."""


def _request(scope: Scope, size: int, said: JsonObject) -> _Request | None:
    """Read a common call; None when anything about it is not as common calls have it."""
    headers = _headers(scope, size)
    if headers is None or said.keys() != _REQUEST:
        return None
    match said:
        case {"id": int() | str() as id_, "method": "tools/call", "params": dict() as params} if _is_id(id_):
            asked = _asked(params, headers, scope)
        case _:
            return None
    return _Request(id=id_, asked=asked) if asked is not None else None


def _asked(params: JsonObject, headers: dict[bytes, bytes], scope: Scope) -> Asked | None:
    tool, arguments, meta = params.get("name"), params.get("arguments", {}), params.get("_meta")
    if not (isinstance(tool, str) and isinstance(arguments, dict) and isinstance(meta, dict)):
        return None
    if not (params.keys() <= _PARAMS and _is_named(tool, headers) and _is_common(params, meta)):
        return None
    key = headers.get(b"idempotency-key")
    keys = [] if key is None else [key.decode("latin-1").strip(" \t")]  # RFC 9110, section 5.5
    return Asked(
        caller=scope[CALLER],
        tool=tool,
        arguments=arguments,
        meta=meta,
        keys=keys,
        token=scope[TOKEN],
        step_ups=scope[STEP_UP],
    )


def _headers(scope: Scope, length: int) -> dict[bytes, bytes] | None:
    """Give the headers of a common call, each of which is there once."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    size = b"%d" % length
    common = (
        len(headers) == len(scope["headers"])
        and headers.get(b"mcp-protocol-version") == _VERSION.encode()
        and headers.get(b"mcp-method") == _METHOD.encode()
        and b"mcp-session-id" not in headers
        and b"application/json" in map(bytes.strip, headers.get(b"accept", b"").split(b","))
        and headers.get(b"content-length", size) == size
    )
    return headers if common else None


def _is_id(id_: int | str) -> bool:
    return isinstance(id_, str) or abs(id_) <= _SAFE_INTEGER


def _is_named(tool: str, headers: dict[bytes, bytes]) -> bool:
    """Whether the header says the same name, and needs no decoding for it."""
    return headers.get(b"mcp-name", b"").decode("latin-1") == tool and not tool.startswith("=?")


def _is_common(params: JsonObject, meta: JsonObject) -> bool:
    """Whether the SDK's own validation takes `params`, and they hold nothing that changes how to answer."""
    if meta.get(PROTOCOL_VERSION_META_KEY) != _VERSION or "progressToken" in meta:
        return False
    if _is_plain(meta):
        return True
    try:
        validate_client_request(_METHOD, _VERSION, params)
    except ValidationError:
        return False
    return True


def _is_plain(meta: JsonObject) -> bool:
    """Whether there is nothing in `_meta` but what nearly every client says, and keys of ours.

    For the rest the SDK's model has to be asked, which takes longer than to read the message.
    """
    match meta.get(CLIENT_INFO_META_KEY), meta.get(CLIENT_CAPABILITIES_META_KEY):
        case {"name": str(), "version": str(), **more}, {} as capabilities if not more and capabilities == {}:
            return all(name in _USUAL or name.startswith(PREFIX) for name in meta)
        case _:
            return False


def _spell(said: JsonObject) -> bytes:
    try:
        return orjson.dumps(said)
    except orjson.JSONEncodeError:  # an integer that has more than 64 bits
        return json.dumps(said, separators=(",", ":")).encode()
