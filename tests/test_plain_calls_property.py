"""Whatever is made of the headers and the body of a call: both doors answer it alike."""

import json
from collections.abc import AsyncGenerator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mcp.server.transport_security import TransportSecurityMiddleware
from starlette.requests import Request

from tests.serving import AGAIN, KEY
from tests.two_doors import (
    CAPABILITIES,
    CLIENT,
    HOSTS,
    LOG_LEVEL,
    VERSION,
    Doors,
    Headers,
    Sent,
    a_call,
    headers_of,
    scope_of,
    two_doors,
)

pytestmark = pytest.mark.anyio
SOME_KEY = "a-key-of-16-chars-or-more"


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncGenerator[Doors]:
    async with two_doors(tmp_path) as opened:
        yield opened


GONE = object()
PLACES = [
    *[(name,) for name in ("jsonrpc", "id", "method", "params", "more")],
    *[("params", name) for name in ("name", "arguments", "_meta", "inputResponses", "requestState", "task")],
    ("params", "arguments", "amount"),
    *[
        ("params", "_meta", name)
        for name in (VERSION, CLIENT, CAPABILITIES, LOG_LEVEL, KEY, AGAIN, "traceparent", "progressToken")
    ],
]
APT: list[object] = [
    *(
        "2.0",
        "2026-07-28",
        "tools/call",
        "tools/list",
        "desk_write",
        "desk.read",
        "none",
        "",
        SOME_KEY,
        "\ud800",
    ),
    *(0, -1, 1.0, 2**53, 2**64, -(2**63) - 1, 10**30, True, None, float("inf"), -0.0, 1e16),
    *([], {}, {"amount": 1}, {"name": "a", "version": "1"}, {"sampling": {}}, {"roots": []}),
]
odd = st.sampled_from(APT) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
changes = st.lists(st.tuples(st.sampled_from(PLACES), odd | st.just(GONE)), max_size=2)
NAMES = [name for name, _ in headers_of(b"")]
values = st.sampled_from([value for _, value in headers_of(b"")]) | st.sampled_from(
    [
        b"",
        b" ",
        b"*/*",
        b"APPLICATION/JSON",
        b"application/json;q=1",
        b"desk_read",
        b"2025-11-25",
        b"\xe9",
        b"7",
    ]
)
others = st.sampled_from([b"mcp-session-id", b"idempotency-key", b"mcp-param-amount", b"origin", b"x-other"])
header_changes = st.lists(
    st.tuples(st.sampled_from(NAMES) | others, st.sampled_from(["drop", "set", "add"]), values), max_size=2
)
spellings = st.sampled_from(["compact", "escaped", "indented", "bytes"])
cuts = st.none() | st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3))


def _change(message: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    *way, last = place
    for step in way:
        if not isinstance(message.get(step), dict):
            return
        message = message[step]
    if value is GONE:
        message.pop(last, None)
    else:
        message[last] = deepcopy(value)


def _spelled(message: object, spelling: str) -> bytes:
    if spelling == "indented":
        return json.dumps(message, indent=1).encode()
    text = json.dumps(message, separators=(",", ":"), ensure_ascii=spelling == "escaped")
    return text.encode("utf-8", "surrogatepass")


def _changed(headers: Headers, name: bytes, how: str, value: bytes) -> Headers:
    rest = headers if how == "add" else [header for header in headers if header[0] != name]
    return rest if how == "drop" else [*rest, (name, value)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=changes, header_changes=header_changes, spelling=spellings, cut=cuts)
@example(changes=[], header_changes=[(b"idempotency-key", "set", b" ")], spelling="compact", cut=None)
async def test_whatever_is_sent_both_doors_answer_alike(
    doors: Doors,
    changes: list[tuple[tuple[str, ...], object]],
    header_changes: list[tuple[bytes, str, bytes]],
    spelling: str,
    cut: tuple[int, int, bytes] | None,
) -> None:
    message: dict[str, Any] = json.loads(a_call().body)
    for place, value in changes:
        _change(message, place, value)
    body = _spelled(message, spelling)
    if cut is not None:
        at, length, put = cut
        body = body[:at] + put + body[at + length :]
    headers = headers_of(body)
    for name, how, header in header_changes:
        headers = _changed(headers, name, how, header)
    own, sdk = await doors.ask(Sent(headers, body))

    assert own == sdk
    assert doors.own.gate.desk.asked == doors.sdk.gate.desk.asked


hosts = st.lists(
    st.sampled_from([b"gate", b"GATE", b"gate:80", b"door", b"door:1", b"", b"evil", b"g\xe9"]), max_size=2
)
origins = st.lists(st.sampled_from([b"http://gate", b"http://evil", b"", b"null"]), max_size=2)
types = st.lists(
    st.sampled_from([b"application/json", b"Application/JSON", b"application/json; a=b", b"text/plain", b""]),
    max_size=2,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hosts=hosts, origins=origins, types=types)
async def test_a_host_an_origin_and_a_type_of_content_are_let_in_when_the_sdk_lets_them_in(
    doors: Doors, hosts: list[bytes], origins: list[bytes], types: list[bytes]
) -> None:
    body = a_call("desk_none").body
    rest = [(n, v) for n, v in headers_of(body, "desk_none") if n not in {b"host", b"content-type"}]
    said = [(b"host", v) for v in hosts] + [(b"origin", v) for v in origins]
    sent = Sent([*said, *((b"content-type", v) for v in types), *rest], body)
    refused = await TransportSecurityMiddleware(HOSTS).validate_request(Request(scope_of(sent)), is_post=True)
    got = await doors.own.ask(sent)

    expected = "Unknown tool: desk_none" if refused is None else bytes(refused.body)
    said_here: Any = got.said
    assert expected == (said_here["error"]["message"] if isinstance(said_here, dict) else said_here)
    assert got.status == (400 if refused is None else refused.status_code)
