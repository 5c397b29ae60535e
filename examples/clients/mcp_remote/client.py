"""mcp-remote, for programs that speak stdio only: GATE_URL=... GATE_TOKEN=... python client.py [auto|legacy].

The program is the Python SDK here, with the handshake that desktop programs make. With `auto`, mcp-remote
speaks 2026-07-28 to the gate for it. It wants Node 20 or newer on the PATH, and `npm ci` in this folder.
"""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any, cast

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, get_default_environment, stdio_client
from mcp_types import SERVER_INFO_META_KEY, CallToolResult, RequestParamsMeta, TextContent

HERE = Path(__file__).parent
VERSION = json.loads((HERE / "package.json").read_text())["dependencies"]["mcp-remote"]


def bridge(protocol: str) -> StdioServerParameters:
    """Give the command; the token is in the environment, as everybody may read a command line."""
    header = "Authorization:${AUTH_HEADER}"
    return StdioServerParameters(
        command=str(HERE / "node_modules" / ".bin" / "mcp-remote"),
        args=[
            os.environ["GATE_URL"],
            "--header",
            header,
            "--protocol",
            protocol,
            "--transport",
            "http-only",
            "--silent",
        ],
        env=get_default_environment() | {"AUTH_HEADER": f"Bearer {os.environ['GATE_TOKEN']}"},
    )


async def main(protocol: str) -> None:
    async with Client(stdio_client(bridge(protocol)), mode="legacy") as client:
        tools = (await client.list_tools()).tools
        found = await client.call_tool("notes_search", {"contains": "gate"})
        say(client=f"mcp-remote {VERSION}", era=_era(client, found))
        say(tools=[tool.name for tool in tools])
        say(read=found.structured_content)

        key = cast("RequestParamsMeta", {"dev.toolgate/idempotencyKey": str(uuid.uuid4())})
        for _ in range(2):
            added = await client.call_tool("notes_add", {"text": "Written over mcp-remote"}, meta=key)
            say(wrote=added.structured_content, replayed=(added.meta or {})["dev.toolgate/replayed"])

        refused = await client.call_tool("notes_add", {"text": "too long" * 100})
        error: dict[str, Any] = (refused.meta or {})["dev.toolgate/error"]
        text = " ".join(part.text for part in refused.content if isinstance(part, TextContent))
        say(refused=error["code"], text=text, is_error=refused.is_error)


def _era(client: Client, result: CallToolResult) -> str:
    """Tell what the gate was spoken to in: since 2026-07-28 every result names the server."""
    return "2026-07-28" if SERVER_INFO_META_KEY in (result.meta or {}) else client.protocol_version


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main("legacy" if "legacy" in sys.argv else "auto"))
