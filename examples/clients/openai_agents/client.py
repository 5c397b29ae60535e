"""An agent of openai-agents: GATE_URL=... GATE_TOKEN=... python client.py.

The model is scripted, so that no model's key is needed; put your own in its place.
"""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, ToolCallOutputItem, Usage
from agents.mcp import (
    MCPServerStreamableHttp,
    MCPToolCustomDataContext,
    MCPToolMetaContext,
)
from agents.tool_context import ToolContext
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseStreamEvent,
)

SCRIPT = [
    ("notes_search", {"contains": "gate"}),
    ("notes_add", {"text": "Written by openai-agents"}),
    ("notes_add", {"text": "too long" * 100}),
]


class ScriptedModel(Model):
    """Says what the script says next, whatever it is told."""

    def __init__(self) -> None:
        self._said = 0

    async def get_response(self, *_told: object, **_more: object) -> ModelResponse:
        self._said += 1
        output = _calls(self._said) if self._said <= len(SCRIPT) else _ends()
        return ModelResponse(output=[output], usage=Usage(), response_id=None)

    def stream_response(self, *_told: object, **_more: object) -> AsyncIterator[ResponseStreamEvent]:
        raise NotImplementedError("this agent is not streamed")


def _calls(number: int) -> ResponseFunctionToolCall:
    name, arguments = SCRIPT[number - 1]
    return ResponseFunctionToolCall(
        type="function_call", name=name, arguments=json.dumps(arguments), call_id=f"call-{number}"
    )


def _ends() -> ResponseOutputMessage:
    text = ResponseOutputText(type="output_text", text="That was all.", annotations=[])
    return ResponseOutputMessage(
        id="end", type="message", role="assistant", status="completed", content=[text]
    )


def with_key(context: MCPToolMetaContext) -> dict[str, Any]:
    """Give the `_meta` of a call: what is done again in a run of yours has the same ids."""
    called = context.run_context
    assert isinstance(called, ToolContext)
    return {"dev.toolgate/idempotencyKey": f"{called.context}:{called.tool_call_id}"}


def for_the_program(context: MCPToolCustomDataContext) -> dict[str, Any]:
    """Keep what the model is not shown: the gate's `_meta`, and the structured result."""
    return {"meta": dict(context.result_meta or {}), "value": dict(context.structured_content or {})}


async def main() -> None:
    gate = MCPServerStreamableHttp(
        {
            "url": os.environ["GATE_URL"],
            "headers": {"Authorization": f"Bearer {os.environ['GATE_TOKEN']}"},
        },
        tool_meta_resolver=with_key,
        custom_data_extractor=for_the_program,
        client_session_timeout_seconds=60,
    )
    async with gate:
        assert gate.session is not None
        say(client=f"openai-agents {version('openai-agents')}", era=gate.session.protocol_version)
        say(tools=[tool.name for tool in await gate.list_tools()])
        run = str(uuid.uuid4())
        for _ in range(2):
            agent = Agent[str]("Notes", mcp_servers=[gate], model=ScriptedModel())
            done = await Runner.run(
                agent,
                "Look for gates, and write a note.",
                context=run,
                run_config=RunConfig(tracing_disabled=True),
            )
            for item in done.new_items:
                if isinstance(item, ToolCallOutputItem):
                    tell(item)


def tell(item: ToolCallOutputItem) -> None:
    kept = item.custom_data or {}
    meta, value = kept["meta"], kept["value"]
    if error := meta.get("dev.toolgate/error"):
        say(refused=error["code"], text=item.output["text"])
    elif "rows" in value:
        say(read=value)
    else:
        say(wrote=value, replayed=meta["dev.toolgate/replayed"])


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
