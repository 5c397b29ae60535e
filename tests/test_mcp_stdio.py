"""The gate as one local client meets it over stdio."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.serving import ERAS, ERROR, Era, meta_of

pytestmark = pytest.mark.anyio


def _gate(root: Path, *words: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-m", "toolgate", "serve", "--stdio", "--root", str(root), *words]
    )


@pytest.mark.parametrize("era", ERAS)
async def test_a_local_client_calls_as_the_caller_that_the_settings_name(root: Path, era: Era) -> None:
    async with Client(stdio_client(_gate(root)), mode=era) as client:
        assert len((await client.list_tools()).tools) == 3
        added = await client.call_tool("notes_add", {"text": f"over stdio in {era}"})
        refused = await client.call_tool("notes_add", {"text": 7})

    assert not added.is_error
    assert meta_of(refused)[ERROR]["code"] == "bad_arguments"


async def test_another_caller_may_be_named_at_the_start(root: Path) -> None:
    async with Client(stdio_client(_gate(root, "--as", "reader"))) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["notes_search"]


async def test_several_local_gates_share_one_ledger(root: Path) -> None:
    async with (
        Client(stdio_client(_gate(root))) as one,
        Client(stdio_client(_gate(root))) as two,
    ):
        key = {"dev.toolgate/idempotencyKey": "a-key-of-16-chars-or-more"}
        first = await one.call_tool("notes_add", {"text": "shared"}, meta=key)  # type: ignore[arg-type]
        second = await two.call_tool("notes_add", {"text": "shared"}, meta=key)  # type: ignore[arg-type]

    assert json.dumps(first.structured_content) == json.dumps(second.structured_content)
    assert meta_of(second)["dev.toolgate/replayed"] is True


def test_a_gate_that_is_told_to_end_leaves_its_ledger_closed(root: Path) -> None:
    command = [sys.executable, "-m", "toolgate", "serve", "--stdio", "--root", str(root)]
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(call).encode() + b"\n")
        process.stdin.flush()
        assert b"toolgate" in process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 0
    assert not (root / "data" / "toolgate.db-wal").exists(), "the WAL is folded in"
