"""What a client without a good enough token is told over HTTP, whoever answers it and in whatever era."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from tests.authorizing import connected
from tests.serving import AGAIN, ENTRY, ERAS, ERROR, Era, Served, call_body, meta_of, serving
from toolgate.backends.dev_issuer import mint
from toolgate.core.call import Caller

pytestmark = pytest.mark.anyio

WELL_KNOWN = "/.well-known/oauth-protected-resource"
FORBIDDEN = (
    'Bearer resource_metadata="{base}/.well-known/oauth-protected-resource/mcp", '
    'scope="notes:read notes:write", '
    'error="insufficient_scope", error_description="the token lacks the scope notes:write"'
)


@pytest.fixture(scope="module")
def gate(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    with serving(Path(shutil.copytree(starter, tmp_path_factory.mktemp("gate") / "root"))) as served:
        yield served


def base_of(gate: Served) -> str:
    return gate.url.removesuffix("/mcp")


def token(gate: Served, *scopes: str, role: str = "member") -> str:
    """Mint a token of the gate's own issuer, with these scopes and no others."""
    caller = Caller(
        subject="mia", issuer="", tenant="home", roles=frozenset({role}), scopes=frozenset(scopes)
    )
    return mint(gate.root, caller, audience=gate.url, seconds=600)


def add(gate: Served, *scopes: str, id_: object = 1, **meta: object) -> httpx2.Response:
    """Add a note with a token that has these scopes."""
    body = call_body("notes_add", {"text": "never"}, id_, **meta)
    return gate.post(body, Mcp_Name="notes_add", Authorization=f"Bearer {token(gate, *scopes)}")


OLD = {"MCP-Protocol-Version": "2025-11-25", "Mcp-Method": "", "Mcp-Name": ""}


def old_call(tool: str, **meta: object) -> bytes:
    """Spell a call of the handshake's era."""
    params = {"name": tool, "arguments": {"text": "never"}, "_meta": meta}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).encode()


def session_of(gate: Served, authorization: str) -> str:
    """Begin a session as clients of the handshake's era do."""
    client: dict[str, Any] = {"protocolVersion": "2025-11-25", "capabilities": {}}
    client |= {"clientInfo": {"name": "test", "version": "1"}}
    hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}).encode()
    return str(gate.post(hello, **OLD, Authorization=authorization).headers["mcp-session-id"])


def forbidden(gate: Served, reply: httpx2.Response, id_: object) -> dict[str, Any]:
    """Check the answer to a call that lacked a scope; gives its error."""
    assert reply.status_code == 403
    assert reply.headers["WWW-Authenticate"] == FORBIDDEN.format(base=base_of(gate))
    assert reply.headers["Content-Type"] == "application/json"
    said = reply.json()
    assert (said["jsonrpc"], said["id"], said["error"]["code"]) == ("2.0", id_, 403)
    error: dict[str, Any] = said["error"]["data"]
    assert error[ERROR]["code"] == "insufficient_scope"
    assert said["error"]["message"].startswith(
        "Refused, nothing was done: the token lacks the scope notes:write"
    )
    assert error[ERROR]["call_id"] in said["error"]["message"]
    return error


def recorded(gate: Served, entry: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "toolgate",
        "ledger",
        "show",
        str(entry),
        "--root",
        str(gate.root),
        "--json",
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(said)
    return found


def test_a_common_call_that_lacks_a_scope_is_forbidden_and_recorded(gate: Served) -> None:
    error = forbidden(gate, add(gate, "notes:read"), 1)

    assert "insufficient_scope" in json.dumps(recorded(gate, error[ENTRY]))


def test_a_call_that_the_sdk_answers_is_forbidden_alike(gate: Served) -> None:
    forbidden(gate, add(gate, "notes:read", progressToken="p"), 1)
    forbidden(gate, add(gate, "notes:read", id_="x-1", progressToken="p"), "x-1")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_of_the_handshake_era_is_forbidden_alike(gate: Served, streamed: bool) -> None:
    authorization = f"Bearer {token(gate, 'notes:read')}"
    session = session_of(gate, authorization)
    meta = {"progressToken": "p"} if streamed else {}
    headers = OLD | {"Mcp-Session-Id": session, "Authorization": authorization}

    forbidden(gate, gate.post(old_call("notes_add", **meta), **headers), 7)


def test_all_scopes_are_named_at_once_and_those_of_the_token_that_are_known_here(gate: Served) -> None:
    base = base_of(gate)
    none = add(gate).headers["WWW-Authenticate"]
    others = add(gate, "notes:read", "offline_access", 'x"y', "mail:send").headers["WWW-Authenticate"]

    assert 'scope="notes:write", ' in none
    assert others == FORBIDDEN.format(base=base)


@pytest.mark.parametrize("tool", ["notes_add", "notes_no_such"])
def test_who_may_not_see_a_tool_does_not_learn_its_scopes(gate: Served, tool: str) -> None:
    body = call_body(tool, {"text": "never"})
    reply = gate.post(body, Mcp_Name=tool, Authorization=f"Bearer {token(gate, role='reader')}")

    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == f"Unknown tool: {tool}"
    assert "WWW-Authenticate" not in reply.headers


def test_a_call_with_its_scopes_is_answered_as_ever(gate: Served) -> None:
    reply = add(gate, "notes:write", **{AGAIN: True})

    assert reply.status_code == 200
    assert "WWW-Authenticate" not in reply.headers


def test_a_policys_refusal_asks_for_no_scope(gate: Served) -> None:
    body = call_body("notes_add", {"text": "x" * 501})
    reply = gate.post(body, Mcp_Name="notes_add", Authorization=f"Bearer {token(gate, 'notes:write')}")

    assert reply.status_code == 200
    assert reply.json()["result"]["_meta"][ERROR]["code"] == "forbidden"


class Held(httpx2.Auth):
    """A token that a client was given, and knows no way to renew."""

    def __init__(self, token: str) -> None:
        self._said = f"Bearer {token}"

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response]:
        request.headers["Authorization"] = self._said
        yield request


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_cannot_step_up_learns_why_and_goes_on(gate: Served, era: Era) -> None:
    async with connected(gate, Held(token(gate, "notes:read")), era) as client:
        with pytest.raises(MCPError, match="the token lacks the scope notes:write"):
            await client.call_tool("notes_add", {"text": "never"})
        assert not (await client.call_tool("notes_search", {})).is_error


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "POST"])
def test_without_a_token_every_method_is_challenged_and_told_of_no_error(gate: Served, method: str) -> None:
    reply = httpx2.request(method, gate.url, headers={"Content-Type": "application/json"})

    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == (
        f'Bearer resource_metadata="{base_of(gate)}{WELL_KNOWN}/mcp", '
        'scope="audit:read notes:read notes:write"'
    )
    assert (reply.content == b"") == (method == "HEAD")


@pytest.mark.parametrize("path", [WELL_KNOWN, f"{WELL_KNOWN}/mcp"])
def test_the_metadata_is_where_clients_look_for_it_and_needs_no_token(gate: Served, path: str) -> None:
    reply = httpx2.get(base_of(gate) + path)
    head = httpx2.head(base_of(gate) + path)

    assert reply.json() == {
        "resource": gate.url,
        "bearer_methods_supported": ["header"],
        "resource_name": "Toolgate",
        "scopes_supported": ["audit:read", "notes:read", "notes:write"],
    }
    assert (head.status_code, head.content) == (200, b"")
    assert httpx2.post(base_of(gate) + path).status_code == 405


async def test_scopes_follow_the_registry(gate: Served) -> None:
    manifest = gate.root / "registry" / "notes.toml"
    before = manifest.read_text("utf-8")

    async def until(scopes: str) -> None:
        async with asyncio.timeout(15):
            while True:
                told = httpx2.get(base_of(gate) + WELL_KNOWN).json()["scopes_supported"]
                challenge = httpx2.get(gate.url).headers["WWW-Authenticate"]
                if " ".join(told) == scopes and f'scope="{scopes}"' in challenge:
                    return
                await asyncio.sleep(0.05)

    manifest.write_text(before.replace('scopes = ["notes:read"]', 'scopes = ["notes:find"]'), "utf-8")
    try:
        await until("audit:read notes:find notes:write")
    finally:
        manifest.write_text(before, "utf-8")
    await until("audit:read notes:read notes:write")


async def test_over_stdio_a_missing_scope_is_a_tools_error(root: Path) -> None:
    settings = root / "toolgate.toml"
    both, one = 'scopes = ["notes:read", "notes:write"]', 'scopes = ["notes:read"]'
    settings.write_text(settings.read_text("utf-8").replace(both, one), "utf-8")
    command = ["-m", "toolgate", "serve", "--stdio", "--root", str(root)]
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=command))) as client:
        result = await client.call_tool("notes_add", {"text": "never"})

    assert result.is_error
    assert meta_of(result)[ERROR]["code"] == "insufficient_scope"
