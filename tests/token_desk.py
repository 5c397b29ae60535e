"""A desk that a gate signs in to with access tokens, and a token endpoint that answers as a test says."""

import sqlite3
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import orjson
from pydantic import BaseModel, SecretStr

from tests.gate_on_scripted_system import Rig, rig
from tests.identity_provider import DESK, IdentityProvider
from toolgate.adapter import Context, Credential, Operation, Sending
from toolgate.backends.env_secrets import EnvSource
from toolgate.backends.lending import Lending, Wanted
from toolgate.backends.manifest_catalog import AdmittedTool, ManifestCatalog
from toolgate.backends.oauth_tokens import OAuthSource
from toolgate.core.arguments import Schema, closed
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Opened
from toolgate.core.credential_roles import EnvRole, OAuthRole
from toolgate.core.outcome import Answer, Done, Failed
from toolgate.core.ports import Rulebook
from toolgate.core.tool import Terms
from toolgate.main import new_call_id, now

CLIENT = "gate:gate-secret"


class Nothing(BaseModel):
    """What the desk is asked, and answers."""


@dataclass
class Desk:
    """The system: it keeps what it was signed in to with."""

    tokens: list[str] = field(default_factory=list[str])
    marks_sending = True

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["Desk"]:
        assert credential is not None
        self.tokens.append(credential.secret.get_secret_value())
        yield self

    async def aclose(self) -> None:
        """Nothing is open."""

    async def work(self, asked: Nothing, context: Context["Desk"]) -> Nothing:
        """Do what was asked."""
        context.sending()
        return Nothing()


@dataclass
class Clock:
    """The real time, and what a test lets pass beside it."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return now() + self.ahead

    def pass_by(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@dataclass
class Office:
    """A desk, and the gate before it."""

    gate: Rig
    desk: Desk
    source: OAuthSource
    environment: dict[str, str]
    clock: Clock

    def tool(self, role: OAuthRole, client: str = "GATE_CLIENT") -> AdmittedTool:
        return _tool(
            self.desk, role, EnvRole.model_validate({"from": "env", "secret": client, "sign_in": "none"})
        )

    async def call(
        self, role: OAuthRole, token: str = "", issuer: str = "", run: str | None = None, **caller: str
    ) -> Answer:
        """Call the desk, as the holder of `token` where there is one."""
        tool = self.tool(role)
        sources = {"oauth": self.source, "env": EnvSource(self.environment)}
        lending = Lending(sources)  # type: ignore[arg-type]
        book = Rulebook(catalog=ManifestCatalog([tool], "d" * 64), policy=self.gate.gateway.rulebook().policy)
        gateway = replace(self.gate.gateway, rulebook=lambda: book, vault=lending)
        return await gateway.carry_out(_call(token, issuer, run, **caller))

    async def shown(self, role: OAuthRole, token: str = "", issuer: str = "", **more: str) -> str:
        """Call the desk, and give the token that it was shown."""
        answer = await self.call(role, token, issuer, **more)
        assert isinstance(answer.outcome, Done), answer.outcome
        return self.desk.tokens[-1]

    def wanted(self, role: OAuthRole, run: str | None = None, tenant: str = "acme") -> Wanted:
        """Spell what the gateway asks the source for."""
        call = _call("", "", run, tenant=tenant)
        opened = Opened(call_id=call.id, intent=0, remembered={})
        client = SecretStr(CLIENT)
        return Wanted(name="clerk", role=role, tool=self.tool(role), call=call, opened=opened, client=client)

    def entries(self) -> list[dict[str, Any]]:
        """Give what the ledger says of leases from the token endpoint, oldest first."""
        with closing(sqlite3.connect(self.gate.database)) as database:
            rows = database.execute("SELECT body FROM ledger_entry WHERE kind = 'lease' ORDER BY idx")
            told = [orjson.loads(body) for (body,) in rows]
        return [body for body in told if body["source"] == "oauth"]


@asynccontextmanager
async def office(folder: Path, patience: float = 10.0) -> AsyncGenerator[Office]:
    """Open a desk of the test's own, with its gate and ledger in `folder`."""
    clock = Clock()
    async with rig(folder, patience=patience) as gate:
        await gate.parts.governing.take_up(gate.gateway.rulebook(), {})
        source = OAuthSource(gate.parts.leases, now=clock)
        try:
            yield Office(gate, Desk(), source, {"GATE_CLIENT": CLIENT}, clock)
        finally:
            await source.aclose()


def role_at(token_url: str, **more: str) -> OAuthRole:
    """Spell the role of a clerk at the desk, whose token is the gate's own where nothing else is said."""
    said = {"from": "oauth", "grant": "client_credentials", "resource": DESK, "scope": "desk:read"}
    return OAuthRole.model_validate(
        said | {"token_url": token_url, "client": "client", "sign_in": "bearer"} | more
    )


def exchange_at(idp: IdentityProvider, **more: str) -> OAuthRole:
    """Spell the same for a token that is made of the caller's."""
    return role_at(more.pop("token_url", idp.token_url), grant="token_exchange", **more)


def failure(answer: Answer) -> Failed:
    assert isinstance(answer.outcome, Failed), answer.outcome
    return answer.outcome


def _call(token: str, issuer: str, run: str | None, *, subject: str = "mia", tenant: str = "acme") -> Call:
    roles = frozenset({"worker"})
    return Call(
        id=new_call_id(),
        caller=Caller(subject=subject, issuer=issuer or "test", tenant=tenant, roles=roles),
        tool="desk.read",
        arguments={},
        received_at=now(),
        run=run,
        token=SecretStr(token) if token else None,
    )


def _tool(desk: Desk, role: OAuthRole, client: EnvRole) -> AdmittedTool:
    operation = Operation(
        name="read", description="Read.", input_model=Nothing, output_model=Nothing, run=desk.work
    )
    return AdmittedTool(
        name="desk.read",
        wire_name="desk_read",
        system="desk",
        operation="read",
        title="Read",
        description="Read.",
        terms=Terms(
            effect="read",
            timeout=60,
            duplicates="none",
            without_key="allow",
            capture="full",
            scopes=frozenset(),
            credential="clerk",
        ),
        input=Schema(closed(Nothing.model_json_schema())),
        output=Schema(Nothing.model_json_schema(mode="serialization")),
        credential=role,
        helpers={"client": client},
        adapter="desk",
        run_by=operation,
        connector=desk,
    )


@dataclass
class Endpoint:
    """A token endpoint that answers what a test says."""

    url: str = ""
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """The forms that came."""
    heard: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """The headers that came with them, by their names in small letters."""
    when_asked: Callable[[], None] = lambda: None
    trickles: bool = False
    """Whether the answer comes a byte at a time, and never all of it."""
    let_go: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: nobody waits any more."""
    good: ClassVar[dict[str, Any]] = {
        "access_token": "opaque-7Lk2",
        "token_type": "Bearer",
        "expires_in": 300,
    }

    def says(self, status: int = 200, *without: str, **more: Any) -> None:  # noqa: ANN401 - any JSON value
        """Answer like a good one, but for this."""
        said = {name: value for name, value in (self.good | more).items() if name not in without}
        self.status, self.body = status, orjson.dumps(said)

    def hang(self) -> None:
        self.when_asked = lambda: _wait(self.let_go)


def _wait(for_: threading.Event) -> None:
    for_.wait(60)


@contextmanager
def endpoint(tls: Path | None = None) -> Generator[Endpoint]:
    """Open one on a free port of this machine; with `tls`, by the certificate in that folder."""
    served = Endpoint()
    served.says()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            served.asked.append({name: values[0] for name, values in form.items()})
            served.heard.append({name.lower(): value for name, value in self.headers.items()})
            served.when_asked()
            self.send_response(served.status)
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(10**9 if served.trickles else len(served.body)))
            self.end_headers()
            while served.trickles and not served.let_go.wait(0.05):
                self.wfile.write(b" ")
            self.wfile.write(served.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            """Keep quiet: clients hang up on purpose."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "server.pem", tls / "server.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        served.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            served.let_go.set()
            server.shutdown()
            thread.join()
