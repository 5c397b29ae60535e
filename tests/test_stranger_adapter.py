"""An adapter that somebody else installed, on an HTTP system of theirs, behind the served gate."""

import contextlib
import shutil
import threading
from collections.abc import Generator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp_types import CallToolResult
from pydantic import SecretStr

from tests.registries import unlocked
from tests.serving import ERAS, ERROR, Era, Served, call_body, meta_of, serving, text_of
from toolgate.backends.keystore import Keystore
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.sql_records import SqlRecords

pytestmark = pytest.mark.anyio
SECRET = "desk-secret-canary-8f3a"

ADAPTER = '''
from pydantic import BaseModel
from toolgate.adapter import Adapter, HttpContext

desk = Adapter("desk")

class Order(BaseModel):
    item: str

class Placed(BaseModel):
    item: str
    key: str

@desk.operation
async def place(order: Order, context: HttpContext) -> Placed:
    """Place an order, one step after the other."""
    await context.progress(1, 2, "asking")
    reply = await context.client.post("orders", json=order.model_dump(),
                                      headers={"Idempotency-Key": context.idempotency_key})
    await context.progress(2, 2, "placed")
    return Placed(item=order.item, key=context.idempotency_key)
'''

MANIFEST = """
adapter = "desk"
owner = "desk@example.com"

[system]
base_url = "http://127.0.0.1:{port}/"

[credentials.clerk]
secret = "desk"
sign_in = "bearer"

[tools.place]
effect = "write"
timeout = 5
duplicates = "key"
without_key = "allow"
capture = "full"
scopes = []
credential = "clerk"
"""


class Desk:
    """A real HTTP server that keeps every request it got."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.answer_slow = threading.Event()
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                desk.heard.append(f"{self.path}\n{self.headers}\n{body}")
                if "slow" in body:
                    desk.answer_slow.wait(10)
                self.send_response(500 if "broken" in body else 201)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


@pytest.fixture(scope="module")
def desk() -> Generator[Desk]:
    desk = Desk()
    desk.thread.start()
    yield desk
    desk.server.shutdown()
    desk.server.server_close()
    desk.thread.join()


@pytest.fixture(scope="module")
def gate(starter: Path, desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    folder = tmp_path_factory.mktemp("stranger")
    _install(folder / "plugins")
    root = _admitting(desk, starter, folder / "root")
    with serving(root, folder / "plugins") as served:
        yield served


def _admitting(desk: Desk, starter: Path, root: Path) -> Path:
    unlocked(Path(shutil.copytree(starter, root)))
    (root / "registry" / "desk.toml").write_text(MANIFEST.format(port=desk.port), "utf-8")
    (root / "policies" / "desk.csv").write_text("p, K1, allow, member, home, desk.*, *, -, -, -\n", "utf-8")
    Keystore(root / "keys" / "keystore.json", passphrase=None, dev=True).set("desk", SecretStr(SECRET))
    return root


def _install(plugins: Path) -> None:
    """Install a distribution as pip would: a module, and an entry point that names it."""
    info = plugins / "stranger_desk-1.0.dist-info"
    info.mkdir(parents=True)
    (plugins / "stranger_desk.py").write_text(ADAPTER, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-desk\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[toolgate.adapters]\ndesk = stranger_desk:desk\n", "utf-8")


@pytest.mark.parametrize("era", ERAS)
async def test_progress_reaches_a_caller_that_asked_for_it(gate: Served, era: Era) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with gate.client("member", era) as client:
        result = await client.call_tool("desk_place", {"item": "tea"}, progress_callback=hear)
        quiet = await client.call_tool("desk_place", {"item": "tea"})

    assert not result.is_error
    assert not quiet.is_error
    assert heard == [(1, 2, "asking"), (2, 2, "placed")]


async def test_a_call_that_asks_for_progress_is_streamed_and_the_common_one_is_not(gate: Served) -> None:
    asking = gate.post(call_body("desk_place", {"item": "tea"}, progressToken="p"), Mcp_Name="desk_place")
    common = gate.post(call_body("desk_place", {"item": "tea"}), Mcp_Name="desk_place")

    assert asking.headers["content-type"].startswith("text/event-stream")
    assert "notifications/progress" in asking.text
    assert common.headers["content-type"] == "application/json"


async def test_the_system_gets_its_own_credential_and_key_and_never_the_callers_token(
    gate: Served, desk: Desk
) -> None:
    token = gate.token()
    desk.heard.clear()
    reply = gate.post(
        call_body("desk_place", {"item": "tea"}), Mcp_Name="desk_place", Authorization=f"Bearer {token}"
    )

    (heard,) = desk.heard
    assert f"Bearer {SECRET}" in heard
    assert reply.json()["result"]["structuredContent"]["key"] in heard
    for part in token.split("."):
        assert part not in heard


async def test_a_secret_is_written_nowhere_but_to_its_system(gate: Served) -> None:
    gate.post(call_body("desk_place", {"item": "broken"}), Mcp_Name="desk_place")

    for file in gate.root.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file.name


@pytest.mark.parametrize("era", ERAS)
async def test_a_write_that_the_system_broke_off_is_unknown(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        result: CallToolResult = await client.call_tool("desk_place", {"item": f"broken {era}"})

    assert result.is_error
    assert meta_of(result)[ERROR]["code"] == "upstream_error"
    assert "Outcome unknown" in text_of(result)


async def test_a_caller_that_hangs_up_after_the_send_changes_nothing_about_the_record(
    gate: Served, desk: Desk
) -> None:
    desk.heard.clear()
    body = call_body("desk_place", {"item": "slow"}, progressToken="p")
    with contextlib.suppress(httpx2.TimeoutException):
        httpx2.post(
            gate.url,
            content=body,
            timeout=0.25,
            headers={
                "Authorization": f"Bearer {gate.token()}",
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": "tools/call",
                "Mcp-Name": "desk_place",
            },
        )
    desk.answer_slow.set()
    records = SqlRecords(SqliteFile(gate.root / "data" / "toolgate.db"))
    with anyio.fail_after(10):
        while any(call.end == "open" for call in records.calls(most=5, subject=None, tool="desk.place")):
            await anyio.sleep(0.01)
    assert records.calls(most=1, subject=None, tool="desk.place")[0].end == "done"


async def test_a_gate_that_is_told_to_end_finishes_what_it_has_sent(
    starter: Path, tmp_path: Path, desk: Desk
) -> None:
    _install(tmp_path / "plugins")
    root = _admitting(desk, starter, tmp_path / "root")
    desk.answer_slow.clear()
    desk.heard.clear()
    async with anyio.create_task_group() as group:
        with serving(root, tmp_path / "plugins") as gate:
            body = call_body("desk_place", {"item": "slow"})
            group.start_soon(
                partial(anyio.to_thread.run_sync, partial(gate.post, body, Mcp_Name="desk_place"))
            )
            with anyio.fail_after(10):
                while not desk.heard:
                    await anyio.sleep(0.01)
            gate.process.terminate()
            desk.answer_slow.set()
            assert await anyio.to_thread.run_sync(partial(gate.process.wait, 20)) == 0

    (call,) = SqlRecords(SqliteFile(root / "data" / "toolgate.db")).calls(
        most=5, subject=None, tool="desk.place"
    )
    assert call.end == "done"
