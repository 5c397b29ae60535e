"""`make demo`: the way of a call, told by a real MCP client. Exits 0 only if all of it happened."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, RequestParamsMeta, TextContent
from rich.console import Console
from rich.text import Text

from examples.demo.deployment import CALLERS, CannotStartError, Demo, running
from examples.demo.waiting import free_port

VERIFIER = Path(__file__).resolve().parents[2] / "tools" / "verify.py"
KEY, ERROR = "dev.toolgate/idempotencyKey", "dev.toolgate/error"
ENTRY, REPLAYED = "dev.toolgate/entry", "dev.toolgate/replayed"
console = Console(highlight=False, soft_wrap=True)


class DidNotHappenError(Exception):
    """The story went another way than it should."""


def main() -> int:
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="toolgate-demo-") as folder,
            running(Path(folder) / "demo", port=free_port(), tracker_port=free_port()) as demo,
        ):
            console.print(f"Toolgate serves {demo.endpoint}; set up in {time.monotonic() - began:.1f} s.\n")
            asyncio.run(_story(demo))
            _recorded(demo)
            _verified(demo)
    except (CannotStartError, DidNotHappenError) as error:
        console.print(Text(f"\nThis did not happen as it should: {error}", style="bold red"))
        return 1
    console.print(Text(f"\nAll of it happened, in {time.monotonic() - began:.1f} s.", style="bold green"))
    return 0


async def _story(demo: Demo) -> None:
    async with _client(demo, "support-agent") as agent, _client(demo, "auditor") as auditor:
        async with _client(demo, "support-lead") as lead:
            await _each_sees_its_own(agent, lead, auditor)
        customer = await _a_read(agent)
        await _what_an_auditor_sees(agent, auditor, customer)
        await _a_real_ticket_once(demo, agent, customer)
        await _beyond_the_rule(agent, customer)
        await _not_there(agent, auditor)
        await _out_of_bounds(agent)


async def _each_sees_its_own(agent: Client, lead: Client, auditor: Client) -> None:
    _chapter("Each caller sees the tools that it could use")
    seen: dict[str, set[str]] = {}
    for name, client in zip(CALLERS, (agent, lead, auditor), strict=True):
        seen[name] = {tool.name for tool in (await client.list_tools()).tools}
        console.print(f"  {name}: {', '.join(sorted(seen[name]))}")
    _expect("crm_close_account" in seen["support-lead"], "the lead sees crm_close_account")
    _expect("crm_close_account" not in seen["support-agent"], "the agent does not see it")
    _expect("tickets_create" not in seen["auditor"], "the auditor sees nothing that writes")


async def _a_read(agent: Client) -> dict[str, Any]:
    _chapter("A read")
    result = await agent.call_tool("crm_find_customers", {"region": "eu", "limit": 3})
    rows = _value(result)["rows"]
    _expect(len(rows) == 3, "three customers are found")
    _say(result, f"the best EU customer is {rows[0]['name']} of {rows[0]['company']}")
    best: dict[str, Any] = rows[0]
    return best


async def _what_an_auditor_sees(agent: Client, auditor: Client, customer: dict[str, Any]) -> None:
    _chapter("An auditor reads the same customer, without what nobody needs to know to audit")
    which = {"id": customer["id"]}
    whole = _value(await agent.call_tool("crm_read_customer", which))
    result = await auditor.call_tool("crm_read_customer", which)
    seen = _value(result)
    hidden = sorted(name for name in whole if seen[name] != whole[name])
    _expect(hidden == ["email", "name"], "the policy masks name and address, and nothing else")
    _say(result, f"{seen['name']}, {seen['email']}, tier {seen['tier']}, {seen['spent']} euros spent")


async def _a_real_ticket_once(demo: Demo, agent: Client, customer: dict[str, Any]) -> None:
    key = {KEY: f"demo-{uuid.uuid4()}"}
    ticket = {
        "title": f"Router drops calls at {customer['company']}",
        "description": f"{customer['name']} reports dropped calls every afternoon since Monday.",
    }
    _chapter("A real ticket")
    first = await _call(agent, "tickets_create", ticket, key)
    opened = _value(first)
    _say(first, f"ticket {opened['id']} is open in the tracker")
    before = await _tickets_titled(agent, ticket["title"])
    _expect(before == 1, "the tracker has it")

    _chapter("The same key again: the same ticket")
    again = await _call(agent, "tickets_create", ticket, key)
    _expect(_value(again)["id"] == opened["id"] and _meta(again)[REPLAYED] is True, "the answer is replayed")
    _expect("Already applied" in _text(again), "it says so")
    _expect(await _tickets_titled(agent, ticket["title"]) == 1, "the tracker still has one")
    _say(again, _text(again))

    _chapter("The same key with other arguments: refused")
    other = await _call(agent, "tickets_create", ticket | {"title": "Something else"}, key)
    _expect_error(other, "idempotency_conflict")
    _expect(await _tickets_titled(agent, "Something else") == 0, "nothing was written")


async def _beyond_the_rule(agent: Client, customer: dict[str, Any]) -> None:
    _chapter("A visible tool, an argument beyond this caller's rule")
    wish = {"customer_id": customer["id"], "amount": 80, "reason": "For the dropped calls"}
    refused = await agent.call_tool("crm_grant_credit", wish)
    _expect_error(refused, "forbidden")
    _expect("amount at most 50" in _text(refused), "it says what would be allowed")
    granted = await agent.call_tool("crm_grant_credit", wish | {"amount": 50})
    _say(granted, f"within the rule it is done: a credit of {_value(granted)['amount']} euros")


async def _not_there(agent: Client, auditor: Client) -> None:
    _chapter("A tool that this caller may not see is a tool that does not exist")
    for client, tool in (
        (agent, "crm_close_account"),
        (agent, "crm_no_such_tool"),
        (auditor, "tickets_create"),
    ):
        try:
            await client.call_tool(tool, {})
        except MCPError as error:
            _expect(error.message == f"Unknown tool: {tool}", "both are answered in the same words")
            console.print(f"  {error.message}")
        else:
            raise DidNotHappenError(f"{tool} was answered")


async def _out_of_bounds(agent: Client) -> None:
    _chapter("An argument out of bounds")
    _expect_error(await agent.call_tool("crm_find_customers", {"limit": 100_000}), "bad_arguments")


def _recorded(demo: Demo) -> None:
    _chapter("All of it is recorded")
    command = [sys.executable, "-m", "toolgate", "calls", "list", "--json", "--root", str(demo.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    calls = json.loads(done.stdout)
    for call in reversed(calls):
        console.print(f"  {call['entry']:>3}  {call['subject']:<4} {call['tool']:<22} {call['end']}")
    ends = [call["end"] for call in calls]
    for end in ("done", "replayed", "idempotency_conflict", "forbidden", "unknown_tool", "bad_arguments"):
        _expect(end in ends, f"a call that ended {end} is recorded")
    _expect("open" not in ends, "every call that was begun has an end")


def _verified(demo: Demo) -> None:
    _chapter("An auditor verifies it with one file that needs nothing of ours")
    kept = demo.root.parent / "kept-elsewhere"
    kept.mkdir()
    key = shutil.copy(demo.root / "keys" / "ledger.vkey", kept)
    checkpoint = shutil.copy(demo.root / "data" / "checkpoint", kept)
    copy = kept / "copy.db"
    database = demo.root / "data" / "toolgate.db"
    with closing(sqlite3.connect(database)) as ledger, closing(sqlite3.connect(copy)) as target:
        ledger.backup(target)
    command = [sys.executable, str(VERIFIER), "ledger", str(copy), "--key", key, "--checkpoint", checkpoint]
    honest = subprocess.run(command, capture_output=True, text=True, check=False)
    _expect(honest.returncode == 0, "the ledger is what the checkpoint says")
    with closing(sqlite3.connect(copy)) as ledger, ledger:
        ledger.execute("DROP TRIGGER ledger_entry_no_update")
        ledger.execute("UPDATE ledger_entry SET status = 'done' WHERE status = 'forbidden'")
    changed = subprocess.run(command, capture_output=True, text=True, check=False)
    _expect(changed.returncode == 1, "a refusal that is made to look allowed is found")
    console.print(f"  {changed.stdout.strip().splitlines()[0]}", markup=False)


@asynccontextmanager
async def _client(demo: Demo, caller: str) -> AsyncGenerator[Client]:
    headers = {"Authorization": f"Bearer {demo.tokens[caller]}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(demo.endpoint, http_client=http)) as client,
    ):
        yield client


async def _call(client: Client, tool: str, arguments: dict[str, Any], meta: dict[str, Any]) -> CallToolResult:
    return await client.call_tool(tool, arguments, meta=cast("RequestParamsMeta", meta))


async def _tickets_titled(agent: Client, title: str) -> int:
    found = await agent.call_tool("tickets_search", {"text": title})
    return sum(ticket["title"] == title for ticket in _value(found)["tickets"])


def _value(result: CallToolResult) -> dict[str, Any]:
    if result.is_error:
        raise DidNotHappenError(_text(result))
    value: dict[str, Any] = result.structured_content
    return value


def _text(result: CallToolResult) -> str:
    return next(part.text for part in result.content if isinstance(part, TextContent))


def _meta(result: CallToolResult) -> dict[str, Any]:
    return dict(result.meta or {})


def _expect_error(result: CallToolResult, code: str) -> None:
    error: dict[str, Any] = _meta(result).get(ERROR, {})
    _expect(result.is_error and error.get("code") == code, f"it is refused: {code}")
    _say(result, _text(result))


def _expect(happened: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not happened:
        raise DidNotHappenError(what)
    console.print(Text(f"  ✓ {what}", style="green"))


def _say(result: CallToolResult, what: str) -> None:
    console.print(f"  {what}  (ledger entry {_meta(result)[ENTRY]})", markup=False)


def _chapter(title: str) -> None:
    console.print(Text(f"\n{title}", style="bold"))


if __name__ == "__main__":
    sys.exit(main())
