"""A pydantic-ai agent: GATE_URL=... GATE_TOKEN=... python client.py.

The model is a function, so that no model's key is needed; put your own in its place.
"""

import asyncio
import json
import os
import uuid
from importlib.metadata import version
from typing import Any

from pydantic_ai import Agent, RunContext
from pydantic_ai.mcp import CallToolFunc, MCPToolset, ToolResult
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

SCRIPT = [
    ToolCallPart("notes_search", {"contains": "gate"}, tool_call_id="call-1"),
    ToolCallPart("notes_add", {"text": "Written by pydantic-ai"}, tool_call_id="call-2"),
    ToolCallPart("notes_add", {"text": "too long" * 100}, tool_call_id="call-3"),
]


def think(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    """Say what the script says next."""
    said = sum(isinstance(message, ModelResponse) for message in messages)
    return ModelResponse([SCRIPT[said] if said < len(SCRIPT) else TextPart("That was all.")])


async def with_key(
    context: RunContext[str], call_tool: CallToolFunc, name: str, arguments: dict[str, Any]
) -> ToolResult:
    """Send a key with each call: what is done again in a run of yours has the same ids."""
    key = {"dev.toolgate/idempotencyKey": f"{context.deps}:{context.tool_call_id}"}
    return await call_tool(name, arguments, metadata=key)


async def main() -> None:
    gate = MCPToolset[str](
        os.environ["GATE_URL"],
        auth=os.environ["GATE_TOKEN"],
        process_tool_call=with_key,
        tool_error_behavior="failed",  # the model is told of a refusal, and not to try the same again
    )
    agent = Agent(FunctionModel(think), toolsets=[gate], deps_type=str)
    async with gate:
        name = "pydantic-ai-slim"
        say(client=f"{name} {version(name)}", era=gate.client.protocol_version)
        say(tools=[tool.name for tool in await gate.list_tools()])
        run = str(uuid.uuid4())
        for _ in range(2):
            done = await agent.run("Look for gates, and write a note.", deps=run)
            for part in (part for message in done.new_messages() for part in message.parts):
                if isinstance(part, ToolReturnPart):
                    tell(part)


def tell(part: ToolReturnPart) -> None:
    """The model is handed the structured result, or the refusal's text; its code ends the text."""
    if part.outcome == "failed":
        text = str(part.content)
        say(refused=text.rpartition("[")[2].partition(",")[0], text=text)
    else:
        say(**{"read" if part.tool_name == "notes_search" else "wrote": part.content})


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
