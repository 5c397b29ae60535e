"""What is no message is answered in the words of JSON-RPC, in both eras, and the gate goes on serving."""

import json

import pytest

from tests.wire import WIRES, Gate, Wires, body_of

SEARCH = {"contains": "set up"}
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", -32700, "it is empty"),
    "not JSON": (b"hello", -32700, "expecting value at line 1, column 1"),
    "half of it": (b'{"jsonrpc":"2.0","id":1,', -32700, "at line 1, column 25"),
    "more than one": (b'{"jsonrpc":"2.0"}{}', -32700, "extra data at line 1, column 18"),
    "not UTF-8": (b'{"jsonrpc":"\xff"}', -32700, "it is not UTF-8 at byte 13"),
    "UTF-16": (
        body_of("notes_search", SEARCH).decode().encode("utf-16"),
        -32700,
        "it is not UTF-8 at byte 1",
    ),
    "a byte order mark": (b"\xef\xbb\xbf{}", -32700, "a byte order mark"),
    "a name twice": (b'{"jsonrpc":"2.0","id":1,"id":2}', -32700, "the name 'id' more than once"),
    "a name twice, escaped": (b'{"a":{"b":1,"\\u0062":2}}', -32700, "the name 'b' more than once"),
    "NaN": (b'{"jsonrpc":"2.0",\n"id":NaN}', -32700, "NaN is not JSON at line 2, column 6"),
    "Infinity": (b'{"id":-Infinity}', -32700, "-Infinity is not JSON at line 1, column 7"),
    "a lone surrogate": (b'{"id":"\\ud800"}', -32700, "a lone surrogate at line 1, column 8"),
    "half a pair in bytes": (b'{"id":"\xed\xa0\x80"}', -32700, "it is not UTF-8 at byte 8"),
    "1,000 levels": (b'{"a":' + b"[" * 999 + b"]" * 999 + b"}", -32700, "deeper than 100 levels"),
    "10,000 digits": (b'{"id":' + b"9" * 10_000 + b"}", -32700, "more than 1000 digits at line 1, column 7"),
    "1e400": (b'{"id":1e400}', -32700, "larger than 64-bit floating point can say"),
    "a batch": (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, "a batch is not taken"),
    "an empty batch": (b"[]", -32600, "a batch is not taken"),
    "a text": (b'"hello"', -32600, "a message is an object"),
    "nothing of JSON-RPC": (b"{}", -32600, 'jsonrpc is not "2.0"'),
    "no method": (b'{"jsonrpc":"2.0","id":1}', -32600, "there is no method"),
    "id null": (
        b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
        -32600,
        "id is neither a text nor an integer",
    ),
    "id with a fraction": (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, "id is neither"),
    "id true": (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, "id is neither"),
    "result and error": (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', -32600, "there is no method"),
}
LONG_ID = 10**40
REFUSED_BY_ID: dict[str, tuple[bytes, str]] = {
    "jsonrpc 1.0": (b'{"jsonrpc":"1.0","id":"a","method":"ping"}', 'jsonrpc is not "2.0"'),
    "a method that is a number": (b'{"jsonrpc":"2.0","id":"a","method":7}', "method is not a text"),
    "params in order": (
        b'{"jsonrpc":"2.0","id":"a","method":"ping","params":[1]}',
        "params is not an object",
    ),
    "params null": (b'{"jsonrpc":"2.0","id":"a","method":"ping","params":null}', "params is not an object"),
    "a request with a result": (
        b'{"jsonrpc":"2.0","id":"a","method":"ping","result":{}}',
        "a message has a method, or a result or an error",
    ),
}


@pytest.mark.parametrize("wire", WIRES)
def test_what_is_no_message_is_refused_with_what_and_where_and_no_id(wire_gate: Gate, wire: Wires) -> None:
    for name, (body, code, fault) in REFUSED.items():
        reply = wire_gate.ask(body, wire)

        assert (reply.status, reply.headers["content-type"]) == (400, "application/json"), name
        assert reply.said["jsonrpc"] == "2.0", name
        assert reply.said["id"] is None, name
        assert reply.error["code"] == code, name
        assert fault in reply.error["message"], name
    assert wire_gate.still_serves()


@pytest.mark.parametrize("wire", WIRES)
def test_a_request_that_is_none_is_refused_under_its_id(wire_gate: Gate, wire: Wires) -> None:
    for name, (body, fault) in REFUSED_BY_ID.items():
        reply = wire_gate.ask(body, wire)

        assert reply.status == 400, name
        assert (reply.said["id"], reply.error["code"]) == ("a", -32600), name
        assert fault in reply.error["message"], name
    reply = wire_gate.ask(b'{"jsonrpc":"1.0","id":%d,"method":"ping"}' % LONG_ID, wire)
    assert (reply.status, reply.said["id"]) == (400, LONG_ID)
    assert wire_gate.still_serves()


@pytest.mark.parametrize("wire", WIRES)
def test_what_everybody_reads_alike_is_taken_however_it_is_spelled(wire_gate: Gate, wire: Wires) -> None:
    call = json.loads(body_of("notes_search", {"contains": "😀 set up"}, wire))
    spelled = [
        json.dumps(call, indent=1).encode(),
        json.dumps(call, ensure_ascii=False, separators=(",", ":")).encode(),
        b" \r\n" + json.dumps(call).encode() + b"\n\n",
        json.dumps(call | {"id": 2**63}).encode(),
    ]
    for body in spelled:
        reply = wire_gate.ask(body, wire)
        assert reply.status == 200, body
        assert reply.said["result"]["structuredContent"] == {"rows": [], "truncated": False}, body


@pytest.mark.parametrize("wire", WIRES)
def test_a_body_of_ten_mebibytes_is_refused_and_not_kept(wire_gate: Gate, wire: Wires) -> None:
    before = wire_gate.memory()
    for size in (10 * 2**20, None):
        with wire_gate.wire() as connection:
            connection.send(wire_gate.head(size, wire))
            for _ in range(160):
                part = b"x" * 65_536
                connection.send(part if size is not None else b"10000\r\n" + part + b"\r\n")
            connection.send(b"" if size is not None else b"0\r\n\r\n")
            reply = connection.reply()
            assert (reply.status, reply.body) == (413, b"more than 1048576 bytes")
    assert wire_gate.memory() - before < 8 * 2**20
    assert wire_gate.still_serves()


def test_who_asks_before_sending_too_much_is_told_at_once(wire_gate: Gate) -> None:
    with wire_gate.wire() as connection:
        connection.send(wire_gate.head(10 * 2**20, Expect="100-continue"))
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert connection.is_closed()
