"""Where a gate listens: on sockets of a service manager, or with others of its deployment on one port."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.running_gate import LEGACY, PATIENCE, Gate, result_of, running, say, wait_until
from tests.serving import KEY, call_body
from tests.shell import document
from toolgate.cli import service_manager
from toolgate.cli.listening import listen
from toolgate.core.errors import Misconfigured
from toolgate.settings import read_settings

LAUNCH = """
import os, sys
root, *handed = sys.argv[1:]
for number, each in enumerate([os.dup(int(each)) for each in handed], start=3):
    os.dup2(each, number)
    os.set_inheritable(number, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(handed))}
os.execv(sys.executable, [sys.executable, "-m", "toolgate", "serve", "--root", root])
"""
"""Becomes a gate that finds its sockets where systemd puts them."""
PRODUCTION = """
mode = "production"
public_url = "https://gate.example.com/mcp"

[[issuers]]
issuer = "https://id.example"
jwks_uri = "https://id.example/jwks"
tenant = "home"
"""


# --- a service manager


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


@contextmanager
def launched(root: Path, sockets: Sequence[socket.socket], notify: str) -> Generator[Gate]:
    """Start a gate as a service manager does that has opened `sockets`, and hears of it at `notify`."""
    numbers = [each.fileno() for each in sockets]
    command = [sys.executable, "-c", LAUNCH, str(root), *map(str, numbers)]
    said = os.environ | {"NOTIFY_SOCKET": notify}
    with (
        (root / "serve.log").open("wb") as log,
        subprocess.Popen(command, stderr=log, env=said, pass_fds=numbers) as process,
    ):
        try:
            yield Gate(root, int(sockets[0].getsockname()[1]), process)
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


def test_a_service_manager_opens_the_sockets_and_hears_how_it_goes(root: Path) -> None:
    path = root / "gate.sock"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        unix.bind(str(path))
        unix.listen()
        manager.bind(f"\0toolgate-test-{os.getpid()}")
        manager.settimeout(PATIENCE)
        say(root, 'forwarded_allow_ips = ["unix"]', tcp.getsockname()[1])
        with launched(root, [tcp, unix], f"@toolgate-test-{os.getpid()}") as gate:
            assert manager.recv(100) == b"READY=1"
            assert gate.call("notes_add", text="over TCP")["isError"] is False
            with closing(UnixConnection(path)) as connection:
                host = {"Host": f"127.0.0.1:{gate.port}", "X-Forwarded-For": "203.0.113.5"}
                said = gate.headers("tools/call", **{"Mcp-Name": "notes_add"}) | host
                connection.request(
                    "POST", "/mcp", call_body("notes_add", {"text": "over a Unix socket"}), said
                )
                assert result_of(connection.getresponse())["isError"] is False
                connection.request("POST", "/mcp", b"{}", said | {"Authorization": "Bearer nonsense"})
                assert connection.getresponse().status == 401
            gate.process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert gate.process.wait(PATIENCE) == 0
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "the manager's socket goes on"

    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as database:
        assert database.execute("SELECT source FROM audit_auth_failures_v1").fetchall() == [("203.0.113.5",)]


@contextmanager
def handed_over(
    each: socket.socket, monkeypatch: pytest.MonkeyPatch, *, process: int | None = None
) -> Generator[None]:
    """Hand a socket to this very process, at whatever number it is."""
    monkeypatch.setattr(service_manager, "FIRST", os.dup(each.fileno()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(process or os.getpid()))
    yield
    assert "LISTEN_FDS" not in os.environ, "nobody else takes them for its own"


def test_what_was_handed_to_another_process_is_left_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = say(root, "")
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        handed_over(other, monkeypatch, process=os.getpid() + 1),
        listen(read_settings(root)) as sockets,
    ):
        assert [each.getsockname()[1] for each in sockets] == [port]
    os.close(service_manager.FIRST)


def test_a_socket_that_does_not_listen_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.socket() as idle,
        handed_over(idle, monkeypatch),
        pytest.raises(Misconfigured, match="does not listen"),
        listen(read_settings(root)),
    ):
        pass


def test_in_production_a_socket_on_which_tokens_could_be_read_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "toolgate.toml").write_text(PRODUCTION, "utf-8")
    with (
        socket.create_server(("0.0.0.0", 0)) as everywhere,  # noqa: S104 - it is refused
        handed_over(everywhere, monkeypatch),
        pytest.raises(Misconfigured, match="could read tokens"),
        listen(read_settings(root)),
    ):
        pass


# --- several gates on one port


@dataclass
class Client:
    """Calls again and again until it is told to stop, and repeats under its key what was not answered."""

    gate: Gate
    name: str
    keeps: bool
    """Whether it keeps its connection."""
    stop: threading.Event
    answers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    repeated: int = 0

    def work(self) -> None:
        said = self.gate.headers("tools/call", **{"Mcp-Name": "notes_add"})
        with closing(http.client.HTTPConnection("127.0.0.1", self.gate.port, timeout=PATIENCE)) as connection:
            while not self.stop.is_set():
                key = f"client-{self.name}-call-{len(self.answers):06}"
                body = call_body("notes_add", {"text": key}, **{KEY: key})
                try:
                    connection.request("POST", "/mcp", body, said)
                    self.answers.append(result_of(connection.getresponse()))
                except (OSError, http.client.HTTPException):
                    self.repeated += 1
                    connection.close()
                if not self.keeps:
                    connection.close()


def test_gates_that_share_a_port_are_replaced_one_by_one_and_no_call_is_lost_or_done_twice(
    root: Path,
) -> None:
    port = say(root, "reuse_port = true")
    stop = threading.Event()
    with ExitStack() as gates:
        first = _started(gates, root, port, "first")
        clients = [Client(first[0], str(number), number % 2 == 0, stop) for number in range(4)]
        working = [threading.Thread(target=client.work) for client in clients]
        for thread in working:
            thread.start()
        try:
            _legacy_client_meets_any_of_them(first[0])
            second = _started(gates, root, port, "second")
            for gate in first:
                gate.process.send_signal(signal.SIGTERM)
                assert gate.process.wait(PATIENCE) == 0
            enough = [len(client.answers) + 5 for client in clients]
            wait_until(
                lambda: all(len(each.answers) > count for each, count in zip(clients, enough, strict=True)),
                "the new gates answer all clients",
            )
        finally:
            stop.set()
            for thread in working:
                thread.join()
        assert all(gate.process.poll() is None for gate in second)

    made = [answer["structuredContent"]["text"] for client in clients for answer in client.answers]
    assert all(answer["isError"] is False for client in clients for answer in client.answers)
    with closing(sqlite3.connect(root / "data" / "notes.db")) as notes:
        found = notes.execute("SELECT text FROM note WHERE text LIKE 'client-%'").fetchall()
    assert sorted(text for (text,) in found) == sorted(made)
    said = ("--key", str(root / "keys" / "ledger.vkey"), "--checkpoint", str(root / "data" / "checkpoint"))
    assert document("ledger", "verify", "--root", str(root), *said)["verdict"] == "verified"


def test_several_gates_do_not_share_a_port_that_each_picks_for_itself(root: Path) -> None:
    file = root / "toolgate.toml"
    text = file.read_text("utf-8").replace("port = 8080", "port = 0")
    file.write_text(f'reuse_port = true\npublic_url = "http://localhost/mcp"\n{text}', "utf-8")

    with pytest.raises(Misconfigured, match="every gate would pick a port of its own"):
        read_settings(root)


def test_without_reuse_port_a_second_gate_is_refused(root: Path) -> None:
    port = say(root, "")
    with (
        socket.create_server(("127.0.0.1", port), reuse_port=True),
        pytest.raises(Misconfigured, match="cannot be listened on"),
        listen(read_settings(root)),
    ):
        pass


def _started(gates: ExitStack, root: Path, port: int, name: str) -> list[Gate]:
    """Start three gates at once."""
    started: list[Gate] = []
    starting = [
        threading.Thread(target=_start, args=(gates, root, port, f"{name}-{number}.log", started.append))
        for number in range(3)
    ]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    assert len(started) == 3
    return started


def _start(gates: ExitStack, root: Path, port: int, log: str, note: Callable[[Gate], None]) -> None:
    gate = gates.enter_context(running(root, port, log=log))
    wait_until(lambda: b"Toolgate serves" in (root / log).read_bytes(), "this very gate serves")
    note(gate)


def _legacy_client_meets_any_of_them(gate: Gate) -> None:
    """Speak as a client of 2025-11-25 whose every request may come to another gate."""
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    hello = _legacy_answer(gate, "initialize", params)
    assert hello["protocolVersion"] == LEGACY
    for _ in range(8):
        names = [tool["name"] for tool in _legacy_answer(gate, "tools/list", {})["tools"]]
        assert "notes_add" in names
    call = {"name": "notes_add", "arguments": {"text": "of a legacy client"}}
    assert _legacy_answer(gate, "tools/call", call)["isError"] is False


def _legacy_answer(gate: Gate, method: str, params: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    with closing(gate.connect()) as connection:
        connection.request("POST", "/mcp", body, gate.headers(method, LEGACY))
        response = connection.getresponse()
        body = response.read().decode()
    assert (response.status, response.headers["Mcp-Session-Id"]) == (200, None), body
    result: dict[str, Any] = json.loads(body[body.index("{") :])["result"]
    return result
