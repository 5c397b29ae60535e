"""The conformance suite's harness: what it makes of results, the page, and the forwarder before the gate."""

import asyncio
from pathlib import Path

import pytest

from examples.demo.waiting import free_port
from tests.conformance.judging import Judged, judge
from tests.conformance.not_offered import NOT_OFFERED, NotOffered
from tests.conformance.page import not_offered_rows
from tests.conformance.shim import Shim
from tests.conformance.suites import Check
from tests.wire import Gate, body_of

pytestmark = pytest.mark.anyio
PAGE = Path(__file__).resolve().parents[1] / "docs" / "conformance.md"
GOOD, BAD, SHOULD = (
    Check("a", "SUCCESS", ""),
    Check("b", "FAILURE", "it is not so"),
    Check("c", "WARNING", "it should be so"),
)
WIRE, SKIPPED = Check("wire-schema-valid", "SUCCESS", ""), Check("d", "SKIPPED", "")
KNOWN = (NotOffered("whole", "why"), NotOffered("part", "why", check="b"))


def test_the_page_lists_what_is_not_offered_and_nothing_else() -> None:
    *_, table = PAGE.read_text("utf-8").split("|---|---|\n")

    assert table == not_offered_rows(NOT_OFFERED)


@pytest.mark.parametrize(
    ("scenario", "checks", "verdict"),
    [
        ("other", [GOOD, WIRE], "passes"),
        ("other", [GOOD, BAD], "FAILS"),
        ("other", [GOOD, SHOULD], "FAILS"),
        ("other", [SKIPPED, WIRE], "FAILS"),
        ("other", [], "FAILS"),
        ("whole", [BAD], "not offered"),
        ("whole", [GOOD, BAD], "not offered"),
        ("whole", [SKIPPED, WIRE], "not offered"),
        ("whole", [GOOD], "PASSES UNEXPECTEDLY"),
        ("whole", [], "FAILS"),
        ("part", [GOOD, BAD], "passes"),
        ("part", [GOOD, BAD, SHOULD], "FAILS"),
        ("part", [GOOD, Check("b", "SUCCESS", "")], "PASSES UNEXPECTEDLY"),
    ],
)
def test_a_surprise_in_either_direction_is_no_success(
    scenario: str, checks: list[Check], verdict: str
) -> None:
    (judged,) = judge({scenario: checks} if checks else {}, [scenario], KNOWN)

    assert judged.verdict == verdict
    assert judged.expected == (verdict in {"passes", "not offered"})
    assert isinstance(judged, Judged)


@pytest.mark.parametrize(
    ("head", "added", "body"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", True, b""),
        (b"GET / HTTP/1.1\r\nauthorization: x \r\n", False, b""),
        (b"POST / HTTP/1.1\r\nMcp-Method:  tools/list \r\nContent-Length: 4\r\n", True, b"body"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", True, b"3\r\nabc\r\n0\r\nEnd: x\r\n\r\n"),
    ],
)
async def test_the_forwarder_adds_a_token_and_changes_nothing_else(
    head: bytes, added: bool, body: bytes
) -> None:
    token = b"Authorization: Bearer t\r\n" if added else b""

    assert await _forwarded((head + b"\r\n" + body) * 2) == (head + token + b"\r\n" + body) * 2


@pytest.mark.parametrize("name", ["Mcp_Method", "Mcp_Name", "MCP_Protocol_Version"])
def test_white_space_around_a_header_is_no_part_of_its_value(wire_gate: Gate, name: str) -> None:
    values = {"Mcp_Method": "tools/call", "Mcp_Name": "notes_search", "MCP_Protocol_Version": "2026-07-28"}
    body = body_of("notes_search", {"contains": "a"})
    reply = wire_gate.ask(body, "2026-07-28", **{name: f"  {values[name]} \t "})

    assert reply.status == 200, reply.body


async def _forwarded(sent: bytes) -> bytes:
    """Send through the forwarder to a far end that says what came."""
    gate, port = free_port(), free_port()
    came = asyncio.Queue[bytes]()

    async def far_end(reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        await came.put(await reading.read())
        writing.close()

    server = await asyncio.start_server(far_end, "127.0.0.1", gate)
    async with server, Shim(gate, lambda: "t").listening(port):
        _, writing = await asyncio.open_connection("127.0.0.1", port)
        writing.write(sent)
        writing.write_eof()
        async with asyncio.timeout(20):
            arrived = await came.get()
        writing.close()
    return arrived
