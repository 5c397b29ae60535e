"""Over stdio, what is no message is answered on the spot, and the session goes on."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import pytest

from tests.wire import WIRES, Wires, body_of

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


class Pipes:
    """A gate over stdio."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.said: BinaryIO = process.stdin  # type: ignore[assignment]
        self._heard: BinaryIO = process.stdout  # type: ignore[assignment]

    def ask(self, line: bytes) -> dict[str, Any]:
        self.said.write(line + b"\n")
        self.said.flush()
        answer: dict[str, Any] = json.loads(self._heard.readline())
        return answer

    def still_serves(self, wire: Wires) -> bool:
        answer = self.ask(body_of("notes_search", {"contains": "set up"}, wire))
        return "Toolgate was set up" in str(answer["result"]["structuredContent"])


@contextmanager
def piped(root: Path, wire: Wires) -> Generator[Pipes]:
    command = [sys.executable, "-m", "toolgate", "serve", "--stdio", "--root", str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pipes = Pipes(process)
        if wire == "2025-11-25":
            hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}
            assert pipes.ask(json.dumps(hello).encode())["result"]["protocolVersion"] == wire
        yield pipes
        pipes.said.close()
        assert process.wait(30) == 0


REFUSED: dict[bytes, tuple[int, str]] = {
    b"hello": (-32700, "expecting value"),
    b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}': (-32700, "it is not UTF-8 at byte 35"),
    b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}': (-32700, "the name 'id' more than once"),
    b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}': (-32700, "NaN is not JSON"),
    b'{"jsonrpc":"2.0","id":"\\udc00","method":"ping"}': (-32700, "a lone surrogate"),
    b"[" * 1_000 + b"]" * 1_000: (-32700, "deeper than 100 levels"),
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]': (-32600, "a batch is not taken"),
    b'{"jsonrpc":"2.0","id":null,"method":"ping"}': (-32600, "id is neither a text nor an integer"),
    b'{"jsonrpc":"1.0","method":"ping"}': (-32600, 'jsonrpc is not "2.0"'),
}


@pytest.mark.parametrize("wire", WIRES)
def test_what_is_no_message_is_answered_and_the_session_goes_on(root: Path, wire: Wires) -> None:
    with piped(root, wire) as gate:
        for line, (code, fault) in REFUSED.items():
            answer = gate.ask(line)
            assert (answer["id"], answer["error"]["code"]) == (None, code), line
            assert fault in answer["error"]["message"], line
            assert gate.still_serves(wire)
        assert gate.ask(b'\r\n \n{"jsonrpc":"1.0","id":7,"method":"ping"}')["id"] == 7, "empty lines are none"


def test_a_line_without_end_is_not_kept(root: Path) -> None:
    with piped(root, "2025-11-25") as gate:
        assert gate.still_serves("2025-11-25")
        before = psutil.Process(gate.process.pid).memory_info().rss
        for _ in range(320):
            gate.said.write(b'"x' * 32_768)
        gate.said.flush()
        answer = gate.ask(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        assert answer["error"]["message"] == "Invalid Request: the line has more than 1048576 bytes"
        assert psutil.Process(gate.process.pid).memory_info().rss - before < 8 * 2**20
        assert gate.still_serves("2025-11-25")


def test_a_client_that_leaves_in_the_middle_of_a_line_ends_the_gate(root: Path) -> None:
    with piped(root, "2026-07-28") as gate:
        gate.said.write(body_of("notes_add", {"text": "cut"})[:-1])
