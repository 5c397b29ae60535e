"""What the example shows, told by real MCP clients. Whatever does not happen as told ends it."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, RequestParamsMeta, TextContent
from rich.console import Console
from rich.text import Text

from examples.demo.deployment import CannotStartError
from examples.vault.database import Database
from examples.vault.gate import Gate
from examples.vault.server import Vault

RUN, ERROR, CALL = "dev.toolgate/run", "dev.toolgate/error", "dev.toolgate/callId"
_OF_A_LEASE = {"lent": "was written down before its use", "given_back": "was given back before the answer"}
_SECONDS, _PAUSE = 10.0, 0.1
console = Console(highlight=False, soft_wrap=True)


class DidNotHappenError(Exception):
    """The story went another way than it should."""


@dataclass(frozen=True)
class Scene:
    """All that runs."""

    gate: Gate
    vault: Vault
    database: Database


async def story(scene: Scene) -> None:
    """Tell it.

    Raises:
        DidNotHappenError: something did not happen as told.
        CannotStartError: a command of the gate failed.
    """
    ended: Exception | None = None
    async with _client(scene, "ann") as ann, _client(scene, "gus") as gus:
        try:
            await _told(scene, ann, gus)
        except (DidNotHappenError, CannotStartError) as error:
            ended = error  # raised in here it would come out in groups of groups of errors
    if ended is not None:
        raise ended


async def _told(scene: Scene, ann: Client, gus: Client) -> None:
    first = await _a_user_for_each_call(scene, ann)
    await _a_user_for_a_run(scene, ann)
    await _a_tenant_and_its_fence(scene, ann, gus)
    await _a_run_is_revoked(scene, ann)
    _what_was_recorded(scene, first)
    await _a_sealed_vault(scene, ann)
    _one_to_one(scene)


async def _a_user_for_each_call(scene: Scene, ann: Client) -> str:
    _chapter("Each call of ann, who is of acme, is a database user of its own")
    first = await ann.call_tool("crm_count_customers")
    second = await ann.call_tool("crm_count_customers")
    third = await ann.call_tool("crm_grant_credit", {"id": 1, "amount": 25})
    users = [_value(result)["signed_in_as"] for result in (first, second, third)]
    for what, user in zip(("counts customers", "counts again", "grants a credit"), users, strict=True):
        _say(f"{what} as {user}")
    _expect(len(set(users)) == 3, "three calls, three users")
    _expect(not scene.database.made(), "the database has none of them any more")
    _expect(_value(third)["credit"] == 25, "and what was written stays")
    return _call_of(first)


async def _a_user_for_a_run(scene: Scene, ann: Client) -> None:
    _chapter('Calls of one run share a user, where the manifest says lease = "per_run"')
    first = _value(await _browse(ann, 0))
    second = _value(await _browse(ann, first["id"]))
    user = first["signed_in_as"]
    _say(f"finds {first['name']}, then {second['name']}, both as {user}")
    _expect(second["signed_in_as"] == user, "two calls, one user")
    _expect(scene.database.made() == {user}, "which lives on with its run")


async def _a_tenant_and_its_fence(scene: Scene, ann: Client, gus: Client) -> None:
    _chapter("The same tools, called by gus of globex")
    ours = _value(await ann.call_tool("crm_count_customers"))
    theirs = _value(await gus.call_tool("crm_count_customers"))
    _say(f"acme has {ours['customers']} customers, and globex {theirs['customers']}")
    _expect(
        ours["customers"] != theirs["customers"], "each sees its own tenant's, by one and the same statement"
    )
    refused = await ann.call_tool("crm_look_over")
    _expect(_code(refused) == "vault_forbidden", "a manifest that gives globex's users to acme is of no use")
    _say(_text(refused))
    call = _call_of(refused)
    _expect(_refused_by_the_vault(scene.vault, call), "it was the vault that refused, as its own log says")


async def _a_run_is_revoked(scene: Scene, ann: Client) -> None:
    _chapter("Somebody wants the run to stop")
    _show(scene.gate, "leases", "list")
    (user,) = scene.database.made()
    sessions = scene.database.sessions(user)
    _expect(len(sessions) > 0, f"its user has {len(sessions)} open session in the database")
    _show(scene.gate, "leases", "revoke", "--run", "night-shift")

    async def gone() -> bool:
        return not scene.database.made() and not scene.database.serves(sessions)

    await _until(gone, "the user is gone, and so is its session")
    again = _value(await ann.call_tool("crm_count_customers", meta=_of_the_run()))
    _expect(again["signed_in_as"] != user, "a next call begins anew: who may call is for the policy to say")


def _what_was_recorded(scene: Scene, call: str) -> None:
    _chapter("The ledger has each credential of each call")
    shown = json.loads(scene.gate.command("calls", "show", call, "--json"))
    entries = [entry for entry in shown if entry["kind"] == "lease"]
    for entry in entries:
        if what := _OF_A_LEASE.get(entry["status"]):
            _say(f"{entry['lease']} {what} (entry {entry['entry']}, the vault's request {entry['request']})")
    made = [entry["lease"] for entry in entries if entry["status"] == "lent"]
    back = [entry["lease"] for entry in entries if entry["status"] == "given_back"]
    _expect(len(made) == 1 and made == back, "the call's lease was made and given back")


async def _a_sealed_vault(scene: Scene, ann: Client) -> None:
    _chapter("The vault is sealed")
    scene.vault.seal()
    try:
        refused = await ann.call_tool("crm_grant_credit", {"id": 2, "amount": 25})
    finally:
        scene.vault.unseal()
    _expect(_code(refused) == "vault_sealed", "a call gets no credential, and nothing else in its place")
    _say(_text(refused))
    credit = scene.database.ask("SELECT credit FROM acme.customer WHERE id = 2")
    _expect(credit == [(0,)], "nothing was done")

    async def works() -> bool:
        return not (await ann.call_tool("crm_count_customers")).is_error

    await _until(works, "unsealed, it goes on by itself")
    _expect(not scene.database.made(), "and leaves nothing behind")


def _one_to_one(scene: Scene) -> None:
    _chapter("The vault's own log says the same as the ledger")
    said = _show(scene.gate, "leases", "reconcile", str(scene.vault.audit))
    _expect(said.startswith("EQUAL"), "each credential that the vault gave was for a recorded call")


async def _until(happened: Callable[[], Awaitable[bool]], what: str) -> None:
    """Expect something that happens a moment later: the vault ends beside what was made under a token."""
    give_up = time.monotonic() + _SECONDS
    while not (it_has := await happened()):
        if time.monotonic() > give_up:
            break
        await asyncio.sleep(_PAUSE)
    _expect(it_has, what)


async def _browse(client: Client, after: int) -> CallToolResult:
    return await client.call_tool("crm_browse", {"after": after}, meta=_of_the_run())


def _of_the_run() -> RequestParamsMeta:
    return cast("RequestParamsMeta", {RUN: "night-shift"})


def _refused_by_the_vault(vault: Vault, call: str) -> bool:
    """Whether the vault wrote down that it refused to make a token for this call."""
    lines = [json.loads(line) for line in vault.audit.read_text("utf-8").splitlines()]
    return any(
        said["type"] == "response"
        and said["request"]["path"] == "auth/token/create"
        and said["request"].get("headers", {}).get("x-toolgate-call") == [call]
        and "error" in said
        for said in lines
    )


@asynccontextmanager
async def _client(scene: Scene, caller: str) -> AsyncGenerator[Client]:
    headers = {"Authorization": f"Bearer {scene.gate.token(caller)}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(scene.gate.endpoint, http_client=http)) as client,
    ):
        yield client


def _value(result: CallToolResult) -> dict[str, Any]:
    if result.is_error:
        raise DidNotHappenError(_text(result))
    value: dict[str, Any] = result.structured_content
    return value


def _text(result: CallToolResult) -> str:
    return next(part.text for part in result.content if isinstance(part, TextContent))


def _code(result: CallToolResult) -> str:
    error: dict[str, Any] = (result.meta or {}).get(ERROR, {})
    return str(error.get("code", ""))


def _call_of(result: CallToolResult) -> str:
    return str((result.meta or {})[CALL])


def _show(gate: Gate, *words: str) -> str:
    said = gate.command(*words)
    console.print(f"  $ toolgate {' '.join(words)}", style="dim", markup=False)
    for line in said.strip().splitlines():
        console.print(f"    {line}", markup=False)
    return said


def _expect(happened: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not happened:
        raise DidNotHappenError(what)
    console.print(Text(f"  ✓ {what}", style="green"))


def _say(what: str) -> None:
    console.print(f"  {what}", markup=False)


def _chapter(title: str) -> None:
    console.print(Text(f"\n{title}", style="bold"))
