"""Prompts: reads that give messages. To get one is to call its tool: the same way, the same rules."""

from dataclasses import dataclass

import mcp_types as t
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from toolgate.core.gateway import Gateway
from toolgate.core.outcome import Refused
from toolgate.core.record import Json, JsonObject
from toolgate.core.text_arguments import text_arguments, values_of
from toolgate.core.tool import Tool
from toolgate.web.asked import Ask, Edge, RequestContext
from toolgate.web.content import blocks_of
from toolgate.web.ends import REFUSED, nothing_there, result_meta, value_of
from toolgate.web.paging import LIST_TTL_MS, page_of
from toolgate.web.rounds import answer_with, next_round


@dataclass(frozen=True)
class Prompts:
    """Lists them, and gets one."""

    gateway: Gateway
    edge: Edge
    ask: Ask

    async def list(
        self, context: RequestContext, params: t.PaginatedRequestParams | None
    ) -> t.ListPromptsResult:
        """List them as the caller may see them."""
        visible = self.gateway.tools_for(self.edge.caller_of(context))
        page, more = page_of([tool for tool in visible if tool.prompt], params, self.edge.page_size)
        return t.ListPromptsResult(
            prompts=[_shown(tool) for tool in page],
            next_cursor=more,
            ttl_ms=LIST_TTL_MS,
            cache_scope="private",
        )

    async def get(
        self, context: RequestContext, params: t.GetPromptRequestParams
    ) -> t.GetPromptResult | t.InputRequiredResult:
        """Get one. A name that is no prompt's is asked for, too: that somebody tried is recorded.

        Raises:
            MCPError: there is none for this caller, or its tool was refused or failed.
        """
        found = self.gateway.rulebook().catalog.find(params.name)
        tool = found if found and found.prompt else None
        name = tool.name if tool else f"prompt {params.name}"  # no tool is called so
        arguments = values_of(params.arguments or {}, tool.input.document) if tool else {}
        asked = self.edge.asked(context, name, arguments, params)
        answer = await answer_with(context, asked, self.ask, context.session.report_progress)
        if again := next_round(self.edge, asked, answer):
            return t.InputRequiredResult.model_validate(again, by_name=False)
        about: JsonObject = {"prompt": params.name}
        if isinstance(answer.outcome, Refused) and answer.outcome.code == "unknown_tool":
            nothing_there(t.INVALID_PARAMS, f"Unknown prompt: {params.name}", answer, about)
        said: JsonObject = {"messages": _messages(value_of(answer, about)), "_meta": result_meta(answer)}
        try:
            return t.GetPromptResult.model_validate(said, by_name=False)
        except ValidationError as error:
            left = "what you may see of it is no prompt: a part is hidden that it cannot be without"
            raise MCPError(REFUSED, left, {**about, **result_meta(answer)}) from error


def _messages(value: JsonObject) -> list[Json]:
    listed = value.get("messages")
    messages = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    blocks = blocks_of({"content": [message.get("content") for message in messages]})
    return [
        {"role": message.get("role"), "content": block}
        for message, block in zip(messages, blocks, strict=True)
    ]


def _shown(tool: Tool) -> t.Prompt:
    arguments = text_arguments(tool.input.document).values()
    return t.Prompt(
        name=tool.wire_name,
        title=tool.title,
        description=tool.description,
        arguments=[
            t.PromptArgument(
                name=argument.name,
                title=argument.title or None,
                description=argument.description or None,
                required=argument.required,
            )
            for argument in arguments
        ],
    )
