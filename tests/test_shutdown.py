"""A gate that is told to end: what was sent is answered and recorded, and nothing holds it up for ever."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.certificates import Authority, place
from tests.gate_on_scripted_system import rig
from tests.running_gate import (
    LEGACY,
    MODERN,
    PATIENCE,
    Gate,
    refuses_connections,
    result_of,
    running,
    say,
    wait_until,
    with_slow_desk,
)
from tests.serving import ERROR, call_body
from tests.shell import document
from toolgate.core.outcome import Done

pytestmark = pytest.mark.anyio
SESSION: Final = "Mcp-Session-Id"


@contextmanager
def slow_gate(root: Path, settings: str = "", *, tls: bool = False) -> Generator[Gate]:
    plugins, trusts = with_slow_desk(root, root / "plugins"), None
    if tls:
        authority = Authority.new(root)
        place(root, authority.issue())
        settings += '\ntls_certificate = "tls.pem"\ntls_key = "tls.key"'
        trusts = authority.trusting()
    with running(root, say(root, settings), plugins=plugins, trusts=trusts) as gate:
        yield gate


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_what_was_sent_is_answered_and_nobody_else_holds_the_gate_up(root: Path, *, tls: bool) -> None:
    with slow_gate(root, tls=tls) as gate, ExitStack() as closings:
        idle, watching, calling, streaming, listening, standing = (
            closings.enter_context(closing(gate.connect())) for _ in range(6)
        )
        assert _get(idle, "/healthz").status == 200
        assert _get(watching, "/readyz").status == 200
        gate.ask(calling, "desk_work", name="plain")
        session = _legacy_session(gate, streaming)
        stream = _streamed_call(gate, streaming, session, "streamed")
        news, standing_news = _listen(gate, listening), _stand(gate, standing, session)
        wait_until((root / "plain.begun").exists, "the call has begun")

        gate.process.send_signal(signal.SIGTERM)
        _told_to_drain(watching)
        wait_until(lambda: refuses_connections(gate.port), "nobody is accepted any more")
        assert idle.sock.recv(1) == b"", "an idle connection is closed"
        assert _events(news)[-1]["id"] == "s1", "a subscription ends with its result"
        assert standing_news.read() == b"", "a standing stream ends as an answer ends"
        assert gate.process.poll() is None, "the gate waits for the calls"

        for name in ("plain", "streamed"):
            (root / f"{name}.may-end").touch()
        answered = calling.getresponse()
        assert answered.headers["Connection"] == "close"
        assert result_of(answered)["structuredContent"] == {"name": "plain"}
        assert _events(stream)[-1]["result"]["structuredContent"] == {"name": "streamed"}
        assert gate.process.wait(PATIENCE) == 0

    assert _ends(root) == ["done", "done"]
    assert "Traceback" not in gate.log()


@pytest.mark.parametrize(("seconds", "signals"), [(0.3, 1), (600, 2)], ids=["time is over", "impatience"])
def test_what_does_not_end_is_cut_and_recorded_so(root: Path, seconds: float, signals: int) -> None:
    with slow_gate(root, f"shutdown_seconds = {seconds}") as gate, closing(gate.connect()) as calling:
        gate.ask(calling, "desk_work", name="slow")
        wait_until((root / "slow.begun").exists, "the call has begun")
        gate.process.send_signal(signal.SIGTERM)
        if signals == 2:
            wait_until(lambda: refuses_connections(gate.port), "the first signal was heard")
            gate.process.send_signal(signal.SIGTERM)
        told = result_of(calling.getresponse())["_meta"][ERROR]
        assert gate.process.wait(PATIENCE) == 0

    assert told["code"] == "cut_short"
    assert "whether it took effect cannot be told" in told["detail"]
    assert _ends(root) == ["cut_short"]


def test_over_stdio_too_what_does_not_end_is_cut_and_recorded_so(root: Path) -> None:
    plugins = with_slow_desk(root, root / "plugins")
    say(root, "shutdown_seconds = 0.3")
    command = [sys.executable, "-m", "toolgate", "serve", "--stdio", "--root", str(root)]
    said = os.environ | {"PYTHONPATH": str(plugins)}
    with subprocess.Popen(command, env=said, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(call_body("desk_work", {"name": "slow"}) + b"\n")
        process.stdin.flush()
        wait_until((root / "slow.begun").exists, "the call has begun")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0

    assert _ends(root) == ["cut_short"]


async def test_a_cut_says_what_has_happened_to_the_world(tmp_path: Path) -> None:
    async with rig(tmp_path, seconds=PATIENCE) as gate:
        gate.desk.behaviour = "hangs"
        sent = asyncio.create_task(gate.call("desk.write"))
        await gate.desk.at_work.wait()
        gate.desk.at_work.clear()
        read = asyncio.create_task(gate.call("desk.read"))
        await gate.desk.at_work.wait()
        gate.desk.at_work.clear()
        gate.desk.hold = asyncio.Event()
        held = asyncio.create_task(gate.call("desk.write", amount=2))
        await gate.desk.at_work.wait()

        gate.shield.cut()
        answers = [await sent, await read, await held, await gate.call("desk.write", amount=3)]

    outcomes = [answer.outcome for answer in answers if answer.entry is not None]
    assert [(each.kind, each.code) for each in outcomes if not isinstance(each, Done)] == [
        ("unknown", "cut_short"),
        ("failed", "cut_short"),
        ("failed", "cut_short"),
        ("failed", "cut_short"),
    ]
    assert gate.desk.asked == 3, "nothing is begun after the cut"
    assert gate.shield.running == 0


def _get(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response


def _told_to_drain(watching: http.client.HTTPConnection) -> None:
    """Ask again and again, as a load balancer does, until the gate says that it ends."""
    while True:
        watching.request("GET", "/readyz")
        response = watching.getresponse()
        said = json.loads(response.read())
        if (response.status, response.headers["Connection"]) == (503, "close"):
            break
    assert (said["ready"], said["draining"]) == (False, True)


def _legacy_session(gate: Gate, connection: http.client.HTTPConnection) -> str:
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    connection.request("POST", "/mcp", json.dumps(hello), gate.headers("initialize", LEGACY))
    response = connection.getresponse()
    response.read()
    return str(response.headers[SESSION])


def _streamed_call(
    gate: Gate, connection: http.client.HTTPConnection, session: str, name: str
) -> http.client.HTTPResponse:
    params = {"name": "desk_work", "arguments": {"name": name}, "_meta": {"progressToken": "p"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
    connection.request("POST", "/mcp", body, gate.headers("tools/call", LEGACY, **{SESSION: session}))
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert b"notifications/progress" in _event(response)
    return response


def _listen(gate: Gate, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    asked = json.loads(call_body("x", {}))
    meta = asked["params"]["_meta"]
    params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": "s1", "method": "subscriptions/listen", "params": params})
    connection.request("POST", "/mcp", body, gate.headers("subscriptions/listen", MODERN))
    response = connection.getresponse()
    assert b"notifications/subscriptions/acknowledged" in _event(response)
    return response


def _stand(gate: Gate, connection: http.client.HTTPConnection, session: str) -> http.client.HTTPResponse:
    """Open the standing stream of a session, on which nothing is said."""
    connection.request("GET", "/mcp", headers=gate.headers("", LEGACY, **{SESSION: session}))
    response = connection.getresponse()
    assert response.status == 200
    return response


def _event(stream: http.client.HTTPResponse) -> bytes:
    """Read the next event of a stream."""
    lines: list[bytes] = []
    while line := stream.readline().strip():
        lines.append(line)
    return b"\n".join(lines)


def _events(stream: http.client.HTTPResponse) -> list[dict[str, Any]]:
    """Read a stream to its end."""
    lines = stream.read().splitlines()
    return [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]


def _ends(root: Path) -> list[str]:
    """Give how the calls of the ledger ended."""
    return [call["end"] for call in document("calls", "list", "--root", str(root))]
