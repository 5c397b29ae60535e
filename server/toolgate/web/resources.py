"""Resources: reads that have an address. To read one is to call its tool: the same way, the same rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import mcp_types as t
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter

from toolgate.core.canonical import canonical
from toolgate.core.gateway import Gateway
from toolgate.core.outcome import Failed, Refused
from toolgate.core.record import JsonObject
from toolgate.core.text_arguments import values_of
from toolgate.core.tool import Tool
from toolgate.core.uri_template import UriTemplate
from toolgate.web.asked import Ask, Edge, RequestContext
from toolgate.web.content import blocks_of
from toolgate.web.ends import nothing_there, result_meta, value_of
from toolgate.web.paging import LIST_TTL_MS, page_of
from toolgate.web.rounds import answer_with, next_round

_JSON: Final = "application/json"
_ADDRESSES: Final = "text/uri-list"
"""RFC 2483, section 5."""
_BLOCK: Final[TypeAdapter[t.ContentBlock]] = TypeAdapter(t.ContentBlock)
_NOT_FOUND_BEFORE: Final = -32_002
"""What `-32602` was up to 2025-11-25 (MCP 2026-07-28, server/resources, "Error Handling")."""


@dataclass(frozen=True)
class Resources:
    """Lists and reads them. There is nothing to watch: a change behind a tool is not heard of here."""

    gateway: Gateway
    edge: Edge
    ask: Ask

    async def list(
        self, context: RequestContext, params: t.PaginatedRequestParams | None
    ) -> t.ListResourcesResult:
        """List those of one address."""
        page, more = self._page(context, params, variable=False)
        return t.ListResourcesResult(
            resources=[t.Resource(uri=address.text, **_shown(tool)) for tool, address in page],
            next_cursor=more,
            ttl_ms=LIST_TTL_MS,
            cache_scope="private",
        )

    async def list_templates(
        self, context: RequestContext, params: t.PaginatedRequestParams | None
    ) -> t.ListResourceTemplatesResult:
        """List those whose address holds arguments."""
        page, more = self._page(context, params, variable=True)
        return t.ListResourceTemplatesResult(
            resource_templates=[
                t.ResourceTemplate(uri_template=address.text, **_shown(tool)) for tool, address in page
            ],
            next_cursor=more,
            ttl_ms=LIST_TTL_MS,
            cache_scope="private",
        )

    async def read(
        self, context: RequestContext, params: t.ReadResourceRequestParams
    ) -> t.ReadResourceResult | t.InputRequiredResult:
        """Read one. An address that is nobody's is asked for, too: that somebody tried is recorded.

        Raises:
            MCPError: there is none for this caller, or its tool was refused or failed.
        """
        tool, texts = self._at(params.uri)
        name = tool.name if tool else f"resource {params.uri}"  # no tool is called so
        arguments = values_of(texts, tool.input.document) if tool else {}
        asked = self.edge.asked(context, name, arguments, params)
        answer = await answer_with(context, asked, self.ask, context.session.report_progress)
        if again := next_round(self.edge, asked, answer):
            return t.InputRequiredResult.model_validate(again, by_name=False)
        about: JsonObject = {"uri": params.uri}
        match answer.outcome:
            case Refused(code="unknown_tool") | Failed(code="not_found"):
                modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
                code = t.INVALID_PARAMS if modern else _NOT_FOUND_BEFORE
                nothing_there(code, "Resource not found", answer, about)
            case _:
                value = value_of(answer, about)
        return t.ReadResourceResult(
            contents=_contents(params.uri, value, in_blocks=answer.as_content),
            ttl_ms=0,
            cache_scope="private",
            _meta=result_meta(answer),
        )

    def _page(
        self, context: RequestContext, params: t.PaginatedRequestParams | None, *, variable: bool
    ) -> tuple[Sequence[tuple[Tool, UriTemplate]], str | None]:
        visible = self.gateway.tools_for(self.edge.caller_of(context))
        wanted = [tool for tool in visible if tool.resource and bool(tool.resource.variables) is variable]
        page, more = page_of(wanted, params, self.edge.page_size)
        return [(tool, tool.resource) for tool in page if tool.resource], more

    def _at(self, uri: str) -> tuple[Tool | None, Mapping[str, str]]:
        """Find the tool that `uri` is an address of, and the arguments in it; none has a longer one."""
        if len(uri) > LONGEST_ADDRESS:
            return None, {}
        for tool in self.gateway.rulebook().catalog.tools:
            texts = tool.resource.values_in(uri) if tool.resource else None
            if texts is not None:
                return tool, texts
        return None, {}


LONGEST_ADDRESS: Final = 8_192
"""Characters, as in what adapters give (`toolgate.adapter.EmbeddedResource`)."""


class _Shown(TypedDict):
    """What a list says of a resource, and of a template, beside its address."""

    name: str
    title: str
    description: str
    mime_type: str | None
    """Of all that its address gives, where it has one."""


def _shown(tool: Tool) -> _Shown:
    return {
        "name": tool.wire_name,
        "title": tool.title,
        "description": tool.description,
        "mime_type": None if tool.gives_content else _JSON,
    }


def _contents(
    uri: str, value: JsonObject, *, in_blocks: bool
) -> list[t.TextResourceContents | t.BlobResourceContents]:
    if not in_blocks:
        return [t.TextResourceContents(uri=uri, mime_type=_JSON, text=canonical(value).decode())]
    return [_part(uri, _BLOCK.validate_python(block, by_name=False)) for block in blocks_of(value)]


def _part(uri: str, block: t.ContentBlock) -> t.TextResourceContents | t.BlobResourceContents:
    match block:
        case t.TextContent(text=text):
            return t.TextResourceContents(uri=uri, mime_type="text/plain", text=text)
        case t.ImageContent(data=data, mime_type=kind) | t.AudioContent(data=data, mime_type=kind):
            return t.BlobResourceContents(uri=uri, mime_type=kind, blob=data)
        case t.EmbeddedResource(resource=part):
            return part
        case t.ResourceLink(uri=address):
            return t.TextResourceContents(uri=uri, mime_type=_ADDRESSES, text=address)
