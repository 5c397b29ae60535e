"""What a fuzzer sends: requests that are nearly right, in pieces, behind each other, and cut off."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from hypothesis import strategies as st

from tests.serving import AGAIN
from tests.wire import WIRES, Gate, Wires, body_of

STAMP = 1_111_111_111
"""Stands for a number of as many digits that no other request has."""
End = Literal["wait", "close", "reset"]


@dataclass(frozen=True)
class Shot:
    """What one connection brings."""

    requests: tuple[bytes, ...]
    """Those that are framed as HTTP says, whatever is in them: each has to be answered."""
    wild: bytes
    """Then something of which nobody knows what it is."""
    cuts: tuple[int, ...]
    """Where it is cut into pieces."""
    end: End

    def pieces(self, numbers: Iterator[int]) -> list[bytes]:
        """Give what is sent, with `numbers` in it."""
        parts = [part.replace(b"%d" % STAMP, b"%d" % next(numbers)) for part in (*self.requests, self.wild)]
        sent = b"".join(parts)
        places = [0, *sorted(cut % (len(sent) + 1) for cut in self.cuts), len(sent)]
        return [sent[start:stop] for start, stop in pairwise(places)]


ODD: list[object] = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        2**53,
        2**64,
        10**40,
        "",
        "a",
        "2.0",
        "2026-07-28",
        "\0",
        "é",
        "\ud800",
        float("nan"),
    ),
    *([], {}, [[]], {"a": {}}, "tools/list", "notes_add", "x" * 300, [0] * 50, {"": None}),
    *("ping", "server/discover", "initialize", "notifications/cancelled", "resources/read", "prompts/get"),
]
PLACES = [
    *[(name,) for name in ("jsonrpc", "id", "method", "params", "result", "error", "more")],
    *[("params", name) for name in ("name", "arguments", "_meta", "cursor", "uri", "inputResponses", "task")],
    ("params", "arguments", "text"),
    ("params", "_meta", "progressToken"),
    ("params", "_meta", "io.modelcontextprotocol/protocolVersion"),
    ("params", "_meta", "io.modelcontextprotocol/clientCapabilities"),
    ("params", "_meta", "dev.toolgate/idempotencyKey"),
]
changes = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(ODD)), max_size=3)
NAMES = ("Host", "Authorization", "Content-Type", "Accept", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name")
MORE = (
    "Mcp-Session-Id",
    "Idempotency-Key",
    "Origin",
    "Expect",
    "Connection",
    "Upgrade",
    "Last-Event-ID",
    "X-Odd",
)
VALUES = (
    *(
        None,
        "",
        " ",
        "a",
        "0",
        "close",
        "keep-alive",
        "Upgrade",
        "h2c",
        "websocket",
        "100-continue",
        "null",
        "*/*",
    ),
    *(
        "tools/call",
        "tools/list",
        "notes_add",
        "=?base64?bm90ZXNfYWRk?=",
        "=?base64?\xff?=",
        "2025-11-25",
        "1999-01-01",
    ),
    *(
        "text/event-stream",
        "application/json",
        "application/json; charset=utf-16",
        "Bearer",
        "Bearer a.b.c",
        "\t\xe9",
    ),
)
headers = st.dictionaries(st.sampled_from(NAMES + MORE), st.sampled_from(VALUES), max_size=3)
junk = st.binary(max_size=60) | st.sampled_from(
    [b"\r\n", b"\n", b"\0", b" ", b": ", b"HTTP/1.1", b"5\r\nhello\r\n", b"0\r\n\r\n"]
)


@st.composite
def bodies(draw: st.DrawFn, wire: Wires) -> bytes:
    """Draw a call that is right, or changed in its values, or in its bytes."""
    call: dict[str, Any] = json.loads(body_of("notes_add", {"text": f"fuzz {STAMP}"}, wire, **{AGAIN: True}))
    call["id"] = STAMP
    for place, value in draw(changes):
        _put(call, place, _own(value) if place == ("id",) else value)
    body = json.dumps(call, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(junk) + body[at + draw(st.integers(0, 4)) :]
    return draw(st.sampled_from([body, body, body, b"[" + body + b"]", body + body, b""]))


def _own(id_: object) -> object:
    """Make a good id one that is in use nowhere else: over a session, clients may not use one twice."""
    match id_:
        case bool():
            return id_
        case int():
            return int(f"{id_}{STAMP}")
        case str():
            return f"{id_}{STAMP}"
        case _:
            return id_


def _put(message: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    *way, last = place
    for step in way:
        if not isinstance(message.get(step), dict):
            return
        message = message[step]
    message[last] = deepcopy(value)


@st.composite
def requests(draw: st.DrawFn, gate: Gate) -> bytes:
    """Draw a request whose frame is right."""
    wire = draw(st.sampled_from(WIRES))
    body = draw(bodies(wire))
    changed = {"Mcp-Name": "notes_add"} | draw(headers)
    changed = {name: value for name, value in changed.items() if value is None or _is_plain(name, value)}
    if draw(st.booleans()):
        return gate.head(len(body), wire, **changed) + body
    size = draw(st.integers(1, 300))
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(
        b"%x%b\r\n%b\r\n" % (len(part), draw(st.sampled_from([b"", b";a=b"])), part) for part in parts
    )
    trailer = draw(st.sampled_from([b"", b"", b"Mcp-Name: x\r\n", b"Authorization: x\r\n"]))
    return gate.head(None, wire, **changed) + chunks + b"0\r\n" + trailer + b"\r\n"


def _is_plain(name: str, value: str) -> bool:
    """Whether the client still waits for the answer, and for no other before it sends the body."""
    return name not in {"Connection", "Expect"} or value in {"keep-alive", "Upgrade", "a"}


@st.composite
def wild(draw: st.DrawFn, gate: Gate) -> bytes:
    """Draw bytes that were a request once."""
    sent = draw(requests(gate))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, min(len(sent), 700)))
        sent = sent[:at] + draw(junk) + sent[at + draw(st.integers(0, 30)) :]
    return sent[: draw(st.integers(0, len(sent)))] if draw(st.booleans()) else sent


@st.composite
def shots(draw: st.DrawFn, gate: Gate) -> Shot:
    whole = tuple(draw(st.lists(requests(gate), max_size=4)))
    return Shot(
        requests=whole,
        wild=draw(wild(gate) | junk) if not whole or draw(st.integers(0, 2)) == 0 else b"",
        cuts=tuple(draw(st.lists(st.integers(0, 5_000), max_size=4))),
        end=draw(st.sampled_from(["wait", "wait", "wait", "close", "reset"])),
    )
