"""Calls that are well-formed and wrong, tokens that are not good, headers that say something else."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.key_server import encoded
from tests.serving import ERROR
from tests.wire import WIRES, Gate, Wires, body_of
from toolgate.backends.dev_issuer import PRIVATE_KEY

SEARCH = {"contains": "set up"}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"text": 7}, 'text: 7 is not of type "string"'),
        ({}, '"text" is a required property'),
        ({"text": "x", "more": 1}, "not expected: more"),
        ({"text": "x" * 2001}, "text: the value is longer than 2000 characters"),
        ({"text": {"a": [None] * 9_999}}, "there are more than 10000 values"),
        ({"text": "x", "deep": json.loads("[" * 60 + "]" * 60)}, "deeper than 32 levels"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words_and_recorded(
    wire_gate: Gate, wire: Wires, arguments: dict[str, Any], fault: str
) -> None:
    before = wire_gate.ended().get("bad_arguments", 0)
    reply = wire_gate.call("notes_add", arguments, wire)

    result = reply.said["result"]
    assert reply.status == 200
    assert result["isError"] is True
    assert result["_meta"][ERROR]["code"] == "bad_arguments"
    assert fault.partition(":")[0] in result["content"][0]["text"]
    assert wire_gate.ended()["bad_arguments"] == before + 1
    assert wire_gate.still_serves()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("tool", ["notes_no_such", "", "notes_add/../x", "é" * 50, "x" * 5_000])
def test_a_tool_that_is_not_there_is_an_error_of_json_rpc(wire_gate: Gate, wire: Wires, tool: str) -> None:
    name = "=?base64?" + encoded_name(tool) + "?="
    reply = wire_gate.ask(body_of(tool, {}, wire), wire, Mcp_Name=name)

    assert reply.error["code"] == -32602
    assert reply.error["message"].startswith("Unknown tool")
    assert wire_gate.still_serves()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "params", [{}, {"name": 7}, {"name": "notes_search", "arguments": [1]}, {"name": None}]
)
def test_params_that_are_none_of_a_call_are_refused(
    wire_gate: Gate, wire: Wires, params: dict[str, Any]
) -> None:
    call = json.loads(body_of("notes_search", SEARCH, wire))
    call["params"] = params | {"_meta": call["params"]["_meta"]}
    reply = wire_gate.ask(json.dumps(call).encode(), wire)

    assert reply.error["code"] in {-32602, -32020}
    assert reply.said["id"] == 1
    assert wire_gate.still_serves()


def expired(claims: dict[str, Any], key: Ed25519PrivateKey) -> str:
    return signed(claims | {"exp": int(time.time()) - 120}, key)


def foreign(claims: dict[str, Any], key: Ed25519PrivateKey) -> str:
    return signed(claims | {"iss": "https://elsewhere.example.com"}, key)


def by_another_key(claims: dict[str, Any], _: Ed25519PrivateKey) -> str:
    return signed(claims, Ed25519PrivateKey.generate())


def for_another_audience(claims: dict[str, Any], key: Ed25519PrivateKey) -> str:
    return signed(claims | {"aud": "https://elsewhere.example.com/mcp"}, key)


def unsigned(claims: dict[str, Any], _: Ed25519PrivateKey) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'at+jwt', 'kid': 'dev'})}.{encoded(claims)}."


def without_signature(claims: dict[str, Any], key: Ed25519PrivateKey) -> str:
    return signed(claims, key).rpartition(".")[0] + "."


def confused(claims: dict[str, Any], key: Ed25519PrivateKey) -> str:
    """Use the public key as the secret of a symmetric signature."""
    secret = key.public_key().public_bytes_raw()
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": "dev", "typ": "at+jwt"})


def no_token(_claims: dict[str, Any], _key: Ed25519PrivateKey) -> str:
    return "not.a.token"


def signed(claims: dict[str, Any], key: Ed25519PrivateKey) -> str:
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "dev", "typ": "at+jwt"})


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "forge",
    [
        expired,
        foreign,
        by_another_key,
        for_another_audience,
        unsigned,
        without_signature,
        confused,
        no_token,
    ],
)
def test_a_token_that_is_not_good_lets_nobody_in_and_the_reason_is_told(
    wire_gate: Gate, wire: Wires, forge: Callable[[dict[str, Any], Ed25519PrivateKey], str]
) -> None:
    root = wire_gate.served.root
    key = load_pem_private_key((root / PRIVATE_KEY).read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    claims = jwt.decode(wire_gate.token, options={"verify_signature": False})
    good = wire_gate.ask(
        body_of("notes_search", SEARCH, wire), wire, Authorization=f"Bearer {signed(claims, key)}"
    )
    forged = forge(claims, key)
    reply = wire_gate.ask(body_of("notes_search", SEARCH, wire), wire, Authorization=f"Bearer {forged}")

    assert good.status == 200
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]
    assert json.loads(reply.body)["error"] == "invalid_token"
    assert forged.encode() not in reply.body
    assert wire_gate.still_serves()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Host": "evil.example.com"}, 421),
        ({"Host": None}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "https://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Type": None}, 400),
        ({"Accept": "text/html"}, 406),
        ({"Authorization": None}, 401),
    ],
)
def test_headers_that_are_not_for_here_are_refused(
    wire_gate: Gate, wire: Wires, changed: dict[str, str | None], status: int
) -> None:
    reply = wire_gate.ask(body_of("notes_search", SEARCH, wire), wire, **changed)

    assert reply.status == status
    assert wire_gate.still_serves()


@pytest.mark.parametrize(
    "changed",
    [
        {"Mcp-Name": "notes_add"},
        {"Mcp-Name": None},
        {"Mcp-Method": "tools/list"},
        {"Mcp-Method": None},
        {"Mcp-Name": "=?base64?!!?="},
        {"Mcp-Name": "=?base64?\xff?="},
        {"Mcp-Name": "notes_s\xe9arch"},
    ],
)
def test_a_header_that_differs_from_the_body_is_refused_before_anything_is_done(
    wire_gate: Gate, changed: dict[str, str | None]
) -> None:
    before = wire_gate.ended("notes.search")
    reply = wire_gate.ask(body_of("notes_search", SEARCH), **changed)

    assert (reply.status, reply.error["code"]) == (400, -32020)
    assert wire_gate.ended("notes.search") == before
    assert wire_gate.still_serves()


@pytest.mark.parametrize(
    ("line", "statuses"),
    [
        (b"GET /mcp HTTP/1.1", {401, 421}),
        (b"DELETE /mcp HTTP/1.1", {401, 421}),
        (b"PRI * HTTP/2.0", {400}),
        (b"CONNECT example.com:443 HTTP/1.1", {405}),
        (b"POST http://evil.example.com/mcp HTTP/1.1", {400}),
        (b"POST /mcp%00 HTTP/1.1", {404}),
        (b"POST /m\xff HTTP/1.1", {400}),
        (b"POST /mcp HTTP/9.9", {400}),
        (b"POST /mcp", {400}),
        (b"\x16\x03\x01\x02\x00\x01", {400}),
    ],
)
def test_requests_that_are_no_post_of_ours_are_refused(
    wire_gate: Gate, line: bytes, statuses: set[int]
) -> None:
    with wire_gate.wire() as connection:
        connection.send(line, b"\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert connection.reply().status in statuses
    assert wire_gate.still_serves()


def encoded_name(name: str) -> str:
    return base64.b64encode(name.encode()).decode()
