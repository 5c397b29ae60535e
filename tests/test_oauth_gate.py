"""A served gate, its callers' tokens, and a system of a stranger that checks whose token it is shown."""

import base64
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import httpx2
import jwt
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr

from tests.canaries import secrets_in, secrets_under
from tests.identity_provider import DESK, IdentityProvider, identity_provider
from tests.registries import unlocked
from tests.serving import ERAS, ERROR, Era, Served, call_body, meta_of, serving
from toolgate.backends.keystore import Keystore

pytestmark = pytest.mark.anyio

ADAPTER = """
from pydantic import BaseModel
from toolgate.adapter import Adapter, HttpContext

desk = Adapter("desk")

class Order(BaseModel):
    item: str

class Placed(BaseModel):
    by: str
    acts: str

@desk.operation
async def place(order: Order, context: HttpContext) -> Placed:
    \"\"\"Place an order.\"\"\"
    await context.progress(1, 1, "asking")
    reply = await context.client.post("orders", json=order.model_dump())
    return Placed.model_validate(reply.json())

@desk.operation
async def count(order: Order, context: HttpContext) -> Placed:
    \"\"\"Count orders.\"\"\"
    return Placed.model_validate((await context.client.get("orders")).json())
"""

MANIFEST = """
adapter = "desk"
owner = "desk@example.com"

[system]
base_url = "{desk}"

[credentials.client]
secret = "desk-client"
sign_in = "none"

[credentials.caller]
from = "oauth"
grant = "token_exchange"
token_url = "{token_url}"
client = "client"
resource = "https://desk.example.com/"
scope = "desk:write"
sign_in = "bearer"

[credentials.own]
from = "oauth"
grant = "client_credentials"
token_url = "{token_url}"
client = "client"
resource = "https://desk.example.com/"
scope = "desk:read"
sign_in = "bearer"
"""

TOOL = """
[tools.{name}]
effect = "{effect}"
timeout = 10
duplicates = "none"
without_key = "allow"
capture = "full"
scopes = []
credential = "{role}"
"""

ISSUER = """
[[issuers]]
issuer = "{issuer}"
jwks_uri = "{issuer}/jwks"
tenant = "home"
roles_claim = "roles"
"""


@dataclass
class Desk:
    """A real HTTP system: it takes tokens of the provider that are for it, and keeps what it was sent."""

    idp: IdentityProvider
    url: str = ""
    heard: list[str] = field(default_factory=list[str])

    @cached_property
    def keys(self) -> jwt.PyJWKSet:
        return jwt.PyJWKSet.from_dict(httpx.get(self.idp.jwks_uri, trust_env=False).json())

    def admit(self, authorization: str, scope: str) -> dict[str, Any] | None:
        """Check a token as RFC 9068, section 4, says."""
        try:
            said: dict[str, Any] = jwt.decode(
                authorization.removeprefix("Bearer "),
                self.keys.keys[0],
                algorithms=["ES256"],
                audience=DESK,
                issuer=self.idp.issuer,
                leeway=30,
            )
        except jwt.PyJWTError:
            return None
        return said if scope in said["scope"].split() else None


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Generator[IdentityProvider]:
    with identity_provider(tmp_path_factory.mktemp("idp")) as provider:
        yield provider


@pytest.fixture(scope="module")
def desk(idp: IdentityProvider) -> Generator[Desk]:
    kept = Desk(idp)

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            kept.heard.append(f"{self.path}\n{self.headers}\n{body}")
            scope = "desk:read" if self.command == "GET" else "desk:write"
            said = kept.admit(self.headers.get("Authorization", ""), scope)
            acts = (said or {}).get("act", {}).get("sub", "")
            reply = b'{"by": "%b", "acts": "%b"}' % (said["sub"].encode(), acts.encode()) if said else b""
            self.send_response(201 if said else 401)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = handle_any  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stranger's adapter, installed."""
    folder = tmp_path_factory.mktemp("plugins")
    info = folder / "token_desk_adapter-1.0.dist-info"
    info.mkdir()
    (folder / "token_desk_adapter.py").write_text(ADAPTER, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: token-desk-adapter\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[toolgate.adapters]\ndesk = token_desk_adapter:desk\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def gate(
    starter: Path, idp: IdentityProvider, desk: Desk, plugins: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Served]:
    root = unlocked(Path(shutil.copytree(starter, tmp_path_factory.mktemp("gate") / "root")))
    settings = root / "toolgate.toml"
    text = settings.read_text("utf-8").replace(
        'mode = "dev"', 'mode = "dev"\ncredentials = ["file", "oauth"]'
    )
    settings.write_text(text + ISSUER.format(issuer=idp.issuer), "utf-8")
    manifest = MANIFEST.format(desk=desk.url, token_url=idp.token_url)
    manifest += TOOL.format(name="place", effect="write", role="caller")
    manifest += TOOL.format(name="count", effect="read", role="own")
    (root / "registry" / "desk.toml").write_text(manifest, "utf-8")
    (root / "policies" / "desk.csv").write_text("p, K1, allow, member, home, desk.*, *, -, -, -\n", "utf-8")
    client = SecretStr("gate:gate-secret")
    Keystore(root / "keys" / "keystore.json", passphrase=None, dev=True).set("desk-client", client)
    with serving(root, plugins) as served:
        yield served


def place(gate: Served, token: str, **meta: object) -> httpx2.Response:
    body = call_body("desk_place", {"item": "tea"}, **meta)
    return gate.post(body, Mcp_Name="desk_place", Authorization=f"Bearer {token}")


def never_told(gate: Served, desk: Desk, idp: IdentityProvider, token: str) -> None:
    """Look for every secret in what was written, and for those that are not the desk's in what it heard."""
    callers = [token, *token.split(".")[1:]]
    client = ["gate-secret", base64.b64encode(b"gate:gate-secret").decode()]
    assert secrets_in("".join(desk.heard).encode(), [*callers, *client]) == []
    shown = re.findall(r"Bearer (\S+)", "".join(desk.heard))
    assert shown
    made = [part for one in shown for part in one.split(".")[1:]]
    assert secrets_under(gate.root, [*callers, *client, *made]) == []
    assert secrets_in(idp.log.read_bytes(), [*callers, *client, *made]) == []


def test_the_system_is_shown_a_token_of_the_caller_for_itself_and_nothing_else_of_theirs(
    gate: Served, desk: Desk, idp: IdentityProvider
) -> None:
    token = idp.token("mia", gate.url)

    reply = place(gate, token)

    assert reply.json()["result"]["structuredContent"] == {"by": "mia", "acts": "gate"}
    never_told(gate, desk, idp, token)


def test_a_call_that_the_sdk_answers_brings_the_token_too(
    gate: Served, desk: Desk, idp: IdentityProvider
) -> None:
    token = idp.token("rob", gate.url)

    reply = place(gate, token, progressToken="p")

    assert reply.headers["content-type"].startswith("text/event-stream")
    assert '"by":"rob"' in reply.text
    never_told(gate, desk, idp, token)


@pytest.mark.parametrize("era", ERAS)
async def test_a_session_of_either_era_brings_the_token_of_each_request(
    gate: Served, desk: Desk, idp: IdentityProvider, era: Era
) -> None:
    first, second = idp.token("mia", gate.url), idp.token("mia", gate.url)
    asked = len(idp.asked())
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {first}"}, timeout=30) as http,
        Client(streamable_http_client(gate.url, http_client=http), mode=era) as client,
    ):
        one = await client.call_tool("desk_place", {"item": "tea"})
        http.headers["Authorization"] = f"Bearer {second}"
        other = await client.call_tool("desk_place", {"item": "tea"})

    assert one.structured_content == other.structured_content == {"by": "mia", "acts": "gate"}
    assert len(idp.asked()) == asked + 2, "each token is exchanged for itself"
    never_told(gate, desk, idp, first)
    never_told(gate, desk, idp, second)


async def test_a_tool_of_the_gates_own_works_for_every_caller(gate: Served) -> None:
    async with gate.client("member") as client:
        counted = await client.call_tool("desk_count", {"item": "tea"})
        placed = await client.call_tool("desk_place", {"item": "tea"})

    assert counted.structured_content == {"by": "gate", "acts": ""}
    assert meta_of(placed)[ERROR]["code"] == "oauth_foreign_issuer", "the gate's own issuer has no endpoint"


def test_who_calls_without_http_has_no_token_to_exchange(gate: Served, plugins: Path) -> None:
    command = [sys.executable, "-m", "toolgate", "call", "desk.place", "--args", '{"item": "tea"}']
    said = subprocess.run(
        [*command, "--root", str(gate.root)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(plugins)},
    )

    assert said.returncode != 0
    assert "no_caller_token" in said.stdout + said.stderr
