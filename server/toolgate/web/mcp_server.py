"""The MCP server: every era and transport ends in `Gateway.carry_out`, and only there.

On the SDK's low-level `Server`; it decides nothing in middleware, whose interface is provisional.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, TypeAlias

import anyio
import mcp_types as t
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import X_MCP_HEADER_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import SecretStr

from toolgate import __version__
from toolgate.adapter.context import Progress
from toolgate.core.arguments import Schema
from toolgate.core.call import Call, Caller, KeySource
from toolgate.core.gateway import Gateway
from toolgate.core.outcome import Answer
from toolgate.core.record import JsonObject
from toolgate.web.bearer import TOKEN
from toolgate.web.present import AGAIN, KEY, ORDINAL, QUESTION, RUN, STEP, shown, told

RequestContext: TypeAlias = ServerRequestContext[Any, Any]
LIST_TTL_MS: Final = 30_000
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2."""
_CHANGE_PATIENCE: Final = 2.0
_MOST_STANDING: Final = 10_000
_LONGEST_PLACE: Final = 255
_MOST_CALLS_A_STEP: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A `tools/call` as its client spelled it, in whatever era and over whatever transport."""

    caller: Caller
    tool: str
    arguments: JsonObject
    meta: Mapping[str, object]
    keys: Sequence[str]
    """What `Idempotency-Key` headers say."""
    answers: JsonObject | None = None
    """What the person behind the client answered to the question that the call ended with before."""
    declined: bool = False
    """The person did not want to answer."""
    token: SecretStr | None = field(default=None, repr=False)
    """The caller's access token; over stdio there is none."""

    @property
    def can_ask(self) -> bool:
        """Whether the client says that it can put questions to a person (2026-07-28)."""
        match self.meta.get(t.CLIENT_CAPABILITIES_META_KEY):
            case {"elicitation": dict()}:
                return True
            case _:
                return False


@dataclass(frozen=True, kw_only=True)
class Edge:
    """What the translation needs beside the gateway."""

    caller_of: Callable[[RequestContext], Caller]
    new_id: Callable[[], str]
    now: Callable[[], datetime]
    page_size: int


class McpServer:
    """Translates MCP into calls, and answers into MCP."""

    def __init__(self, gateway: Gateway, edge: Edge) -> None:
        self._gateway = gateway
        self._edge = edge
        self._bus = InMemorySubscriptionBus()
        self._standing: dict[str, ServerSession] = {}
        self.server: Server[Any] = _Server(
            "toolgate",
            version=__version__,
            title="Toolgate",
            instructions=_INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_subscriptions_listen=ListenHandler(self._bus),
            get_tool_input_schema=self._input_schema,
        )

    async def answer(self, asked: Asked, progress: Progress) -> Answer:
        """Make a call of what was asked, the only place that does, and take it through the house.

        Raises:
            MCPError: its idempotency key, run, step or ordinal is not one.
        """
        key, key_from = _key(asked.meta.get(KEY), asked.keys)
        call = Call(
            id=self._edge.new_id(),
            caller=asked.caller,
            tool=asked.tool,
            arguments=asked.arguments,
            received_at=self._edge.now(),
            key=key,
            key_from=key_from,
            run=_place(asked.meta, RUN),
            step=_place(asked.meta, STEP),
            ordinal=_ordinal(asked.meta),
            answers=asked.answers,
            declined=asked.declined,
            again=asked.meta.get(AGAIN) is True,
            trace=_trace(asked.meta.get("traceparent")),
            token=asked.token,
        )
        return await self._gateway.carry_out(call, progress)

    def wants_headers(self, tool: str) -> bool:
        """Whether clients repeat arguments of `tool` in headers, which the SDK compares (`x-mcp-header`)."""
        found = self._gateway.rulebook().catalog.find(tool)
        return found is not None and _mentions_headers(found.input)

    async def announce_change(self) -> None:
        """Tell every client that listens that its list of tools may have changed."""
        await self._bus.publish(ToolsListChanged())
        with anyio.move_on_after(_CHANGE_PATIENCE):
            async with anyio.create_task_group() as group:
                for session in list(self._standing.values()):
                    group.start_soon(session.send_tool_list_changed)

    async def _list_tools(
        self, context: RequestContext, params: t.PaginatedRequestParams | None
    ) -> t.ListToolsResult:
        self._note_standing(context)
        tools = self._gateway.tools_for(self._edge.caller_of(context))
        after = _position(params.cursor) if params and params.cursor else ""
        rest = [tool for tool in tools if tool.wire_name > after] if after else tools
        page = rest[: self._edge.page_size]
        more = _cursor(page[-1].wire_name) if len(rest) > len(page) else None
        return t.ListToolsResult(
            tools=[shown(tool) for tool in page],
            next_cursor=more,
            ttl_ms=LIST_TTL_MS,
            cache_scope="private",
        )

    async def _call_tool(
        self, context: RequestContext, params: t.CallToolRequestParams
    ) -> t.CallToolResult | t.InputRequiredResult:
        request = context.request
        response = (params.input_responses or {}).get(QUESTION)
        answered = response if isinstance(response, t.ElicitResult) else None
        asked = Asked(
            caller=self._edge.caller_of(context),
            tool=params.name,
            arguments=params.arguments or {},
            meta=context.meta or {},
            keys=request.headers.getlist("idempotency-key") if request is not None else [],
            answers=_content_of(answered),
            declined=answered is not None and answered.action != "accept",
            token=request.scope.get(TOKEN) if request is not None else None,
        )
        answer = await self.answer(asked, context.session.report_progress)
        return told(answer, params.name, can_ask=asked.can_ask)

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        tool = self._gateway.rulebook().catalog.find(name)
        return tool.input.document if tool else None

    def _note_standing(self, context: RequestContext) -> None:
        """Remember who has listed tools over a standing connection (2025-11-25 and before)."""
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return
        request = context.request
        connection = request.headers.get("mcp-session-id", "") if request is not None else ""
        self._standing.pop(connection, None)
        self._standing[connection] = context.session
        if len(self._standing) > _MOST_STANDING:
            del self._standing[next(iter(self._standing))]


class _Server(Server[Any]):
    """Says at the handshake that its list of tools can change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        return super().create_initialization_options(
            notification_options or NotificationOptions(tools_changed=True),
            experimental_capabilities,
            extensions,
        )


@lru_cache(maxsize=1024)
def _mentions_headers(schema: Schema) -> bool:
    return X_MCP_HEADER_KEY in json.dumps(schema.document)


def _key(in_meta: object, headers: Sequence[str]) -> tuple[str | None, KeySource]:
    """Read the idempotency key; the header is for clients that cannot set `_meta`."""
    if len(headers) > 1:
        raise MCPError(t.INVALID_PARAMS, "there is more than one Idempotency-Key header")
    in_header = headers[0] if headers else None
    if in_meta is not None and not isinstance(in_meta, str):
        raise MCPError(t.INVALID_PARAMS, f"_meta[{KEY!r}] is not a text")
    if in_meta is not None and in_header is not None and in_meta != in_header:
        raise MCPError(t.INVALID_PARAMS, f"_meta[{KEY!r}] and the Idempotency-Key header differ")
    if in_meta is not None:
        return in_meta, "meta"
    return in_header, "none" if in_header is None else "header"


def _content_of(answered: t.ElicitResult | None) -> JsonObject | None:
    """Give what was answered; a list of choices is not among what is asked."""
    if answered is None or answered.action != "accept":
        return None
    return {k: v for k, v in (answered.content or {}).items() if not isinstance(v, list)}


def _place(meta: Mapping[str, object], name: str) -> str | None:
    """Read where in an orchestrator's run the call stands."""
    said = meta.get(name)
    if said is None or (isinstance(said, str) and 0 < len(said) <= _LONGEST_PLACE and said.isprintable()):
        return said
    what = f"a text of 1 to {_LONGEST_PLACE} printable characters"
    raise MCPError(t.INVALID_PARAMS, f"_meta[{name!r}] is not {what}")


def _ordinal(meta: Mapping[str, object]) -> int:
    said = meta.get(ORDINAL, 0)
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < _MOST_CALLS_A_STEP:
        return said
    raise MCPError(t.INVALID_PARAMS, f"_meta[{ORDINAL!r}] is not a number from 0 to {_MOST_CALLS_A_STEP - 1}")


def _trace(value: object) -> str | None:
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _position(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise MCPError(t.INVALID_PARAMS, "the cursor is not one that this server gave") from error


_INSTRUCTIONS: Final = """\
Every call here is judged by a policy, recorded, and takes effect at most once. Send an idempotency key in \
_meta["dev.toolgate/idempotencyKey"] with a write, and the same key when you repeat it: a repeated call is \
answered with the first one's result. When a call is refused, the text says what would be allowed. When an \
outcome is unknown, do not try again under another key."""
