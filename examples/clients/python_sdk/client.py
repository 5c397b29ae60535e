"""The MCP Python SDK: GATE_URL=... GATE_TOKEN=... python client.py [auto|legacy].

`auto` speaks 2026-07-28 where the server does; `legacy` makes the handshake of 2025-11-25 and before.
"""

import asyncio
import json
import os
import sys
import uuid
from importlib.metadata import version
from typing import Any, Literal, cast

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import RequestParamsMeta, TextContent


async def main(era: Literal["auto", "legacy"]) -> None:
    headers = {"Authorization": f"Bearer {os.environ['GATE_TOKEN']}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(os.environ["GATE_URL"], http_client=http), mode=era) as client,
    ):
        say(client=f"mcp {version('mcp')}", era=client.protocol_version)
        say(tools=[tool.name for tool in (await client.list_tools()).tools])

        found = await client.call_tool("notes_search", {"contains": "gate"})
        say(read=found.structured_content)

        # One key for one intended effect: whatever is repeated under it takes effect once.
        key = cast("RequestParamsMeta", {"dev.toolgate/idempotencyKey": str(uuid.uuid4())})
        for _ in range(2):
            added = await client.call_tool("notes_add", {"text": "Written by the Python SDK"}, meta=key)
            say(wrote=added.structured_content, replayed=(added.meta or {})["dev.toolgate/replayed"])

        # A refusal is a result: a text that a model can act on, and a code for programs.
        refused = await client.call_tool("notes_add", {"text": "too long" * 100})
        error: dict[str, Any] = (refused.meta or {})["dev.toolgate/error"]
        text = " ".join(part.text for part in refused.content if isinstance(part, TextContent))
        say(refused=error["code"], text=text, is_error=refused.is_error)


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main("legacy" if "legacy" in sys.argv else "auto"))
