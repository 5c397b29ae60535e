"""Completions of arguments: the choices that a schema lists. They tell nothing that the lists do not."""

from dataclasses import dataclass
from typing import Final

import mcp_types as t
from mcp.shared.exceptions import MCPError

from toolgate.core.gateway import Gateway
from toolgate.core.text_arguments import TextArgument, text_arguments
from toolgate.core.tool import Tool
from toolgate.web.asked import Edge, RequestContext

_MOST: Final = 100
"""MCP 2026-07-28, server/utilities/completion, "Completion Results"."""


@dataclass(frozen=True)
class Completions:
    """Completes arguments of what the caller can see, without asking any system."""

    gateway: Gateway
    edge: Edge

    async def complete(self, context: RequestContext, params: t.CompleteRequestParams) -> t.CompleteResult:
        """Give the choices that begin with what was typed, in any case; none where anything may stand.

        Raises:
            MCPError: the caller sees no such prompt, template or argument.
        """
        argument = self._argument(context, params)
        typed = params.argument.value.casefold()
        values = [choice for choice in argument.choices if choice.casefold().startswith(typed)]
        return t.CompleteResult(
            completion=t.Completion(values=values[:_MOST], total=len(values), has_more=len(values) > _MOST)
        )

    def _argument(self, context: RequestContext, params: t.CompleteRequestParams) -> TextArgument:
        for tool in self.gateway.tools_for(self.edge.caller_of(context)):
            if _is_meant(tool, params.ref):
                known = text_arguments(tool.input.document)
                names = known.keys() if tool.resource is None else set(tool.resource.variables)
                if params.argument.name in names:
                    return known[params.argument.name]
                raise MCPError(t.INVALID_PARAMS, f"Unknown argument: {params.argument.name}")
        raise MCPError(t.INVALID_PARAMS, "Unknown prompt or resource template")


def _is_meant(tool: Tool, ref: t.ResourceTemplateReference | t.PromptReference) -> bool:
    match ref:
        case t.PromptReference(name=name):
            return tool.prompt and tool.wire_name == name
        case t.ResourceTemplateReference(uri=uri):
            return tool.resource is not None and tool.resource.text == uri
