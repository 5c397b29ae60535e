"""The MCP Inspector on the command line: GATE_URL=... GATE_TOKEN=... python client.py [modern|legacy].

It wants Node 22.19 or newer on the PATH, and `npm ci` in this folder.
"""

import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INSPECTOR = HERE / "node_modules" / ".bin" / "mcp-inspector"
VERSION = json.loads((HERE / "package.json").read_text())["dependencies"]["@modelcontextprotocol/inspector"]
TOOL_FAILED = 5
"""What the Inspector exits with where a tool's result is an error."""


def main(era: str, folder: Path) -> None:
    config = folder / "gate.json"  # a header on the command line could be read by everybody on the machine
    config.write_text(json.dumps({"mcpServers": {"gate": server(era)}}))
    begun = inspect(config, "--method", "initialize")
    say(client=f"inspector {VERSION}", era=begun["protocolVersion"])
    say(tools=[tool["name"] for tool in inspect(config, "--method", "tools/list")["tools"]])

    say(read=call(config, "notes_search", {"contains": "gate"})["structuredContent"])

    key = f"dev.toolgate/idempotencyKey={uuid.uuid4()}"
    for _ in range(2):
        added = call(config, "notes_add", {"text": "Written by the Inspector"}, "--tool-metadata", key)
        say(wrote=added["structuredContent"], replayed=added["_meta"]["dev.toolgate/replayed"])

    refused = call(config, "notes_add", {"text": "too long" * 100})
    error = refused["_meta"]["dev.toolgate/error"]
    say(refused=error["code"], text=refused["content"][0]["text"], is_error=refused["isError"])


def server(era: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {os.environ['GATE_TOKEN']}"}
    return {
        "type": "streamable-http",
        "url": os.environ["GATE_URL"],
        "headers": headers,
        "protocolEra": era,
    }


def call(config: Path, tool: str, arguments: dict[str, Any], *words: str) -> dict[str, Any]:
    named = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments))
    return inspect(config, "--method", "tools/call", *named, *words)


def inspect(config: Path, *words: str) -> dict[str, Any]:
    command = [str(INSPECTOR), "--cli", "--quiet", "--format", "json", "--stored-auth-only"]
    command += ["--config", str(config), "--server", "gate", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in {0, TOOL_FAILED}:
        raise SystemExit(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout)["result"]
    return result


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main("legacy" if "legacy" in sys.argv else "modern", Path(folder))
