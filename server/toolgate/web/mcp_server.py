"""The MCP server: every era and transport ends in `Gateway.carry_out`, and only there.

On the SDK's low-level `Server`; it decides nothing in middleware, whose interface is provisional.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import mcp_types as t
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import X_MCP_HEADER_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from toolgate import __version__
from toolgate.adapter.context import Progress
from toolgate.core.arguments import Schema
from toolgate.core.call import Call, KeySource
from toolgate.core.gateway import Gateway
from toolgate.core.outcome import Answer
from toolgate.core.record import JsonObject
from toolgate.web.asked import Asked, Edge, RequestContext
from toolgate.web.completions import Completions
from toolgate.web.paging import LIST_TTL_MS, page_of
from toolgate.web.present import AGAIN, KEY, ORDINAL, RUN, STEP, shown, spelled, told
from toolgate.web.prompts import Prompts
from toolgate.web.resources import Resources
from toolgate.web.rounds import answer_with, next_round
from toolgate.web.step_up import note_step_up

ResultT = TypeVar("ResultT")
_Listing: TypeAlias = Callable[[RequestContext, t.PaginatedRequestParams | None], Awaitable[ResultT]]
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2."""
_CHANGE_PATIENCE: Final = 2.0
_MOST_STANDING: Final = 10_000
_LONGEST_PLACE: Final = 255
_MOST_CALLS_A_STEP: Final = 1_000_000


class McpServer:
    """Translates MCP into calls, and answers into MCP."""

    def __init__(self, gateway: Gateway, edge: Edge) -> None:
        self._gateway = gateway
        self._edge = edge
        self._bus = InMemorySubscriptionBus()
        self._listening = ListenHandler(self._bus)
        self._standing: dict[str, ServerSession] = {}
        resources = Resources(gateway, edge, self.answer)
        prompts = Prompts(gateway, edge, self.answer)
        self.server: Server[Any] = _Server(
            "toolgate",
            version=__version__,
            title="Toolgate",
            instructions=_INSTRUCTIONS,
            on_list_tools=self._noting(self._list_tools),
            on_call_tool=self._call_tool,
            on_list_resources=self._noting(resources.list),
            on_list_resource_templates=self._noting(resources.list_templates),
            on_read_resource=resources.read,
            on_list_prompts=self._noting(prompts.list),
            on_get_prompt=prompts.get,
            on_completion=Completions(gateway, edge).complete,
            on_subscriptions_listen=self._listen,
            get_tool_input_schema=self._input_schema,
        )

    async def answer(self, asked: Asked, progress: Progress) -> Answer:
        """Make a call of what was asked, the only place that does, and take it through the house.

        Raises:
            MCPError: its idempotency key, run, step or ordinal is not one.
        """
        key, key_from = _key(asked)
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
            questions=asked.questions,
            declined=asked.declined,
            again=asked.meta.get(AGAIN) is True,
            trace=_trace(asked.meta.get("traceparent")),
            token=asked.token,
        )
        answer = await self._gateway.carry_out(call, progress)
        note_step_up(asked.step_ups, answer)
        return answer

    def spelled(self, asked: Asked, answer: Answer) -> JsonObject:
        """Spell the answer to a `tools/call`.

        Raises:
            MCPError: there is no such tool for this caller, or the client cannot be asked what must be asked.
        """
        return next_round(self._edge, asked, answer) or spelled(answer, asked.tool)

    def wants_headers(self, tool: str) -> bool:
        """Whether clients repeat arguments of `tool` in headers, which the SDK compares (`x-mcp-header`)."""
        found = self._gateway.rulebook().catalog.find(tool)
        return found is not None and _mentions_headers(found.input)

    async def announce_change(self) -> None:
        """Tell every client that listens that its lists of tools, resources and prompts may have changed."""
        for event in (ToolsListChanged(), ResourcesListChanged(), PromptsListChanged()):
            await self._bus.publish(event)
        with anyio.move_on_after(_CHANGE_PATIENCE):
            async with anyio.create_task_group() as group:
                for session in list(self._standing.values()):
                    group.start_soon(_announce_to, session)

    def end_subscriptions(self) -> None:
        """End every stream of announcements, with the result that tells its client so."""
        self._listening.close()

    async def _list_tools(
        self, context: RequestContext, params: t.PaginatedRequestParams | None
    ) -> t.ListToolsResult:
        visible = self._gateway.tools_for(self._edge.caller_of(context))
        page, more = page_of([tool for tool in visible if not tool.prompt], params, self._edge.page_size)
        return t.ListToolsResult(
            tools=[shown(tool) for tool in page],
            next_cursor=more,
            ttl_ms=LIST_TTL_MS,
            cache_scope="private",
        )

    async def _call_tool(
        self, context: RequestContext, params: t.CallToolRequestParams
    ) -> t.CallToolResult | t.InputRequiredResult:
        asked = self._edge.asked(context, params.name, params.arguments or {}, params)
        answer = await answer_with(context, asked, self.answer, context.session.report_progress)
        return told(self.spelled(asked, answer))

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        tool = self._gateway.rulebook().catalog.find(name)
        return tool.input.document if tool else None

    async def _listen(
        self, context: RequestContext, params: t.SubscriptionsListenRequestParams
    ) -> t.SubscriptionsListenResult:
        """Serve a stream of announcements; changes of single resources are not among what it promises."""
        kinds = params.notifications.model_copy(update={"resource_subscriptions": None})
        return await self._listening(context, params.model_copy(update={"notifications": kinds}))

    def _noting(self, listing: _Listing[ResultT]) -> _Listing[ResultT]:
        """Remember who has listed something over a standing connection: it may change."""

        async def noted(context: RequestContext, params: t.PaginatedRequestParams | None) -> ResultT:
            self._note_standing(context)
            return await listing(context, params)

        return noted

    def _note_standing(self, context: RequestContext) -> None:
        """Remember a standing connection (2025-11-25 and before)."""
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return
        request = context.request
        connection = request.headers.get("mcp-session-id", "") if request is not None else ""
        self._standing.pop(connection, None)
        self._standing[connection] = context.session
        if len(self._standing) > _MOST_STANDING:
            del self._standing[next(iter(self._standing))]


class _Server(Server[Any]):
    """Says of its lists that they can change, and of its resources that none can be watched."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        return super().create_initialization_options(
            notification_options
            or NotificationOptions(tools_changed=True, resources_changed=True, prompts_changed=True),
            experimental_capabilities,
            extensions,
        )

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> t.ServerCapabilities:
        found = super().get_capabilities(
            notification_options, experimental_capabilities, extensions, protocol_version=protocol_version
        )
        resources = found.resources and found.resources.model_copy(update={"subscribe": False})
        return found.model_copy(update={"resources": resources})


async def _announce_to(session: ServerSession) -> None:
    await session.send_tool_list_changed()
    await session.send_resource_list_changed()
    await session.send_prompt_list_changed()


@lru_cache(maxsize=1024)
def _mentions_headers(schema: Schema) -> bool:
    return X_MCP_HEADER_KEY in json.dumps(schema.document)


def _key(asked: Asked) -> tuple[str | None, KeySource]:
    """Read the idempotency key; the header is for clients that cannot set `_meta`.

    Where there is none, a later round of a call has that of its first, unless its place in a run is its key.
    """
    in_meta = asked.meta.get(KEY)
    if len(asked.keys) > 1:
        raise MCPError(t.INVALID_PARAMS, "there is more than one Idempotency-Key header")
    in_header = asked.keys[0] if asked.keys else None
    if in_meta is not None and not isinstance(in_meta, str):
        raise MCPError(t.INVALID_PARAMS, f"_meta[{KEY!r}] is not a text")
    if in_meta is not None and in_header is not None and in_meta != in_header:
        raise MCPError(t.INVALID_PARAMS, f"_meta[{KEY!r}] and the Idempotency-Key header differ")
    given = asked.given_key
    if given is not None and asked.round_key not in {None, given}:
        raise MCPError(
            t.INVALID_PARAMS, "all rounds of a call have one idempotency key, and its first had another"
        )
    if given is not None:
        return given, "meta" if in_meta is not None else "header"
    if asked.round_key is not None and not (RUN in asked.meta and STEP in asked.meta):
        return asked.round_key, "round"
    return None, "none"


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


_INSTRUCTIONS: Final = """\
Every call here is judged by a policy, recorded, and takes effect at most once. Send an idempotency key in \
_meta["dev.toolgate/idempotencyKey"] with a write, and the same key when you repeat it: a repeated call is \
answered with the first one's result. When a call is refused, the text says what would be allowed. When an \
outcome is unknown, do not try again under another key."""
