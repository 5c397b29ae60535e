# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
"""A LangGraph graph with langchain-mcp-adapters: GATE_URL=... GATE_TOKEN=... python client.py.

The chat model is scripted, so that no model's key is needed; put your own there, with `.bind_tools(tools)`.
"""

import asyncio
import json
import os
import uuid
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, cast

from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.interceptors import MCPToolCallRequest
from langchain_mcp_adapters.sessions import StreamableHttpConnection
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

RUN = str(uuid.uuid4())
"""A thread of yours: what is done again in it (a retry, a resumed checkpoint) has the same ids."""
SCRIPT = [
    tool_call(name="notes_search", args={"contains": "gate"}, id="call-1"),
    tool_call(name="notes_add", args={"text": "Written by LangGraph"}, id="call-2"),
    tool_call(name="notes_add", args={"text": "too long" * 100}, id="call-3"),
]


async def main() -> None:
    connection = StreamableHttpConnection(
        transport="streamable_http",
        url=os.environ["GATE_URL"],
        headers={"Authorization": f"Bearer {os.environ['GATE_TOKEN']}"},
    )
    gate = MultiServerMCPClient({"gate": connection}, tool_interceptors=[with_key])
    async with gate.session("gate", auto_initialize=False) as session:
        adapters = f"langchain-mcp-adapters {version('langchain-mcp-adapters')}"
        say(client=adapters, era=(await session.initialize()).protocolVersion)
    tools = await gate.get_tools()
    say(tools=[tool.name for tool in tools])
    for _ in range(2):
        await run(tools)


async def with_key(
    request: MCPToolCallRequest, handler: Callable[[MCPToolCallRequest], Awaitable[Any]]
) -> Any:  # noqa: ANN401 - the adapters' name for a result is no type
    """Send a key in a header: the adapters cannot set `_meta`. Each call has a connection of its own."""
    called: str = cast("Any", request.runtime).tool_call_id
    return await handler(request.override(headers={"Idempotency-Key": f"{RUN}:{called}"}))


async def run(tools: list[BaseTool]) -> None:
    """Run the agent: model, tools, model, until the model calls no more tools."""
    said = [AIMessage("", tool_calls=[call]) for call in SCRIPT]
    model = FakeMessagesListChatModel(responses=[*said, AIMessage("That was all.")])

    async def think(state: MessagesState) -> dict[str, list[AIMessage]]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", think)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    end = await graph.compile().ainvoke({"messages": [HumanMessage("Look for gates, and write a note.")]})
    for message in end["messages"]:
        if isinstance(message, ToolMessage):
            tell(message)


def tell(message: ToolMessage) -> None:
    """A refusal is a message of status `error`, whose text a model can act on; its code ends the text."""
    text = " ".join(part["text"] for part in cast("list[dict[str, str]]", message.content))
    if message.status == "error":
        say(refused=text.rpartition("[")[2].partition(",")[0], text=text)
    elif message.name == "notes_search":
        say(read=message.artifact["structured_content"])
    else:
        say(wrote=message.artifact["structured_content"], replayed=text.startswith("Already applied"))


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
