"""FastMCP's client: GATE_URL=... GATE_TOKEN=... python client.py [auto|legacy]."""

import asyncio
import json
import os
import sys
import uuid
from importlib.metadata import version
from typing import Any, Literal

from fastmcp import Client
from mcp_types import TextContent


async def main(era: Literal["auto", "legacy"]) -> None:
    # `auth` takes a bearer token as it is, and sends it with every request.
    async with Client(os.environ["GATE_URL"], auth=os.environ["GATE_TOKEN"], mode=era) as client:
        say(client=f"fastmcp-slim {version('fastmcp-slim')}", era=client.protocol_version)
        say(tools=[tool.name for tool in await client.list_tools()])

        found = await client.call_tool("notes_search", {"contains": "gate"})
        say(read=found.structured_content)

        key = {"dev.toolgate/idempotencyKey": str(uuid.uuid4())}
        for _ in range(2):
            added = await client.call_tool("notes_add", {"text": "Written by FastMCP"}, meta=key)
            say(wrote=added.structured_content, replayed=(added.meta or {})["dev.toolgate/replayed"])

        # Without raise_on_error=False a refusal is a ToolError that has the text, but not the code.
        refused = await client.call_tool("notes_add", {"text": "too long" * 100}, raise_on_error=False)
        error: dict[str, Any] = (refused.meta or {})["dev.toolgate/error"]
        text = " ".join(part.text for part in refused.content if isinstance(part, TextContent))
        say(refused=error["code"], text=text, is_error=refused.is_error)


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main("legacy" if "legacy" in sys.argv else "auto"))
