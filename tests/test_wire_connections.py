"""Slow, greedy, many and leaving clients: none keeps the gate from serving the others."""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Generator

import pytest

from tests.wire import PATIENCE, WIRES, Closed, Gate, Reply, Wire, Wires, becomes, body_of

SEARCH = body_of("notes_search", {"contains": "set up"})
DRIP = 0.1
SOME = 5
"""Files that the ledger may open meanwhile."""


def breaks_off(connection: socket.socket, again: bytes, pause: float) -> bool:
    """Say the same again and again, and read nothing, until the gate breaks off."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            try:
                connection.sendall(again)
            except ConnectionError:
                return True
        time.sleep(pause)
    return False


def until_closed(connection: Wire) -> Generator[Reply]:
    with contextlib.suppress(Closed, ConnectionError):
        while True:
            yield connection.reply()


def test_a_head_that_does_not_come_to_its_end_is_given_up(wire_gate: Gate) -> None:
    head = wire_gate.head(len(SEARCH))
    with wire_gate.wire() as slow:
        began = time.monotonic()
        for byte in head[:60]:
            slow.send(bytes([byte]))
            time.sleep(DRIP)
            if time.monotonic() - began > 1.5:
                break
        reply = slow.reply()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert reply.body == b"the head of the request was not whole after 1 seconds\n"
        assert slow.is_closed()
    assert time.monotonic() - began < 5
    assert wire_gate.still_serves()


def test_a_connection_that_says_nothing_is_closed_without_a_word(wire_gate: Gate) -> None:
    with wire_gate.wire() as silent, pytest.raises(Closed):
        silent.reply()


@pytest.mark.parametrize("size", [len(SEARCH), None])
def test_a_body_that_does_not_come_to_its_end_is_given_up_and_nothing_is_done(
    wire_gate: Gate, size: int | None
) -> None:
    before = wire_gate.ended("notes.search")
    with wire_gate.wire() as slow:
        slow.send(wire_gate.head(size))
        for byte in SEARCH[:12]:
            slow.send(bytes([byte]) if size is not None else b"1\r\n%c\r\n" % byte)
            time.sleep(DRIP)
        reply = slow.reply()
        assert reply.status == 408
        assert reply.body == b"the body of the request was not whole after 1 seconds\n"
        assert slow.is_closed()
    assert wire_gate.ended("notes.search") == before
    assert wire_gate.still_serves()


def test_a_kept_connection_is_closed_when_nothing_more_is_asked_on_it(wire_gate: Gate) -> None:
    with wire_gate.wire() as kept:
        for body in (SEARCH, b"not json"):
            kept.send(wire_gate.head(len(body)), body)
            assert kept.reply().headers["connection"] is None
        began = time.monotonic()
        assert kept.is_closed()
        assert 1 < time.monotonic() - began < 6


def test_line_ends_do_not_keep_a_connection(wire_gate: Gate) -> None:
    with wire_gate.wire() as kept:
        kept.send(wire_gate.head(len(SEARCH)), SEARCH)
        kept.reply()
        began = time.monotonic()
        assert breaks_off(kept.socket, b"\r\n", DRIP)
        assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"X-Long": "x" * 9_000}, b"the head of the request has more than 8192 bytes\n"),
        ({f"X-{n}": "x" * 900 for n in range(10)}, b"the head of the request has more than 8192 bytes\n"),
        ({f"X-{n}": "x" for n in range(60)}, b"there are more than 50 headers\n"),
        ({"X-Endless": "x" * 900_000}, b"the head of the request has more than 8192 bytes\n"),
    ],
)
def test_a_head_that_is_too_large_is_refused(wire_gate: Gate, more: dict[str, str], said: bytes) -> None:
    reply = wire_gate.ask(SEARCH, **more)

    assert (reply.status, reply.headers["connection"], reply.body) == (431, "close", said)
    assert wire_gate.still_serves()


def test_a_line_that_is_too_long_is_refused(wire_gate: Gate) -> None:
    with wire_gate.wire() as connection:
        connection.send(b"GET /", b"x" * 9_000)
        assert connection.reply().status == 431


def test_what_follows_a_body_is_no_header_of_this_request_or_the_next(wire_gate: Gate) -> None:
    chunked = b"%x\r\n%b\r\n0\r\n" % (len(SEARCH), SEARCH)
    with wire_gate.wire() as connection:
        connection.send(wire_gate.head(None), chunked, b"Mcp-Name: notes_add\r\nX: y\r\n\r\n")
        assert connection.reply().status == 200
        connection.send(wire_gate.head(len(SEARCH), Authorization=None), SEARCH)
        assert connection.reply().status == 401
        connection.send(wire_gate.head(None), chunked, b"Authorization: Bearer x\r\n\r\n")
        assert connection.reply().status == 200
        connection.send(wire_gate.head(None), b"0\r\n", b"X: " + b"x" * 500_000)
        assert connection.reply().status in {400, 431}
        assert connection.is_closed()


def test_requests_sent_at_once_are_answered_in_order(wire_gate: Gate) -> None:
    bodies = [json.dumps(json.loads(SEARCH) | {"id": number}).encode() for number in range(6)]
    with wire_gate.wire() as connection:
        connection.send(*(wire_gate.head(len(body)) + body for body in bodies))
        assert [connection.reply().said["id"] for _ in bodies] == list(range(6))


def test_a_request_for_another_protocol_is_answered_in_this_one_and_so_are_those_behind_it(
    wire_gate: Gate,
) -> None:
    with wire_gate.wire() as connection:
        for protocol in ("h2c", "websocket"):
            head = wire_gate.head(len(SEARCH), Connection="Upgrade", Upgrade=protocol)
            connection.send((head + SEARCH) * 3)
            assert [connection.reply().status for _ in range(3)] == [200, 200, 200]


def test_a_client_that_takes_the_gate_for_a_proxy_is_answered_once(wire_gate: Gate) -> None:
    with wire_gate.wire() as connection:
        connection.send(b"CONNECT /mcp HTTP/1.1\r\nHost: gate\r\n\r\n")
        assert [reply.status for reply in until_closed(connection)] == [405]
    assert wire_gate.still_serves()


def test_what_was_asked_before_something_that_is_no_request_is_answered_first(wire_gate: Gate) -> None:
    whole = wire_gate.head(len(SEARCH)) + SEARCH
    with wire_gate.wire() as connection:
        connection.send(whole, whole, b"\x00\x01 no request\r\n\r\n")
        assert [connection.reply().status for _ in range(2)] == [200, 200]
        assert connection.is_closed()
    with wire_gate.wire() as connection:
        connection.send(whole, wire_gate.head(None), b"5\r\nhello\r\nno size\r\n")
        assert connection.reply().status == 200
        assert connection.is_closed()
    assert wire_gate.still_serves()


def test_more_requests_at_once_than_may_wait_end_the_connection_after_their_answers(wire_gate: Gate) -> None:
    whole = wire_gate.head(len(SEARCH)) + SEARCH
    with wire_gate.wire() as connection:
        connection.send(whole * 200)
        answers = list(until_closed(connection))
        assert 8 <= len(answers) < 200
        assert {reply.status for reply in answers} == {200}
    assert wire_gate.still_serves()


def test_after_many_requests_a_connection_is_closed_in_good_order(wire_gate: Gate) -> None:
    with wire_gate.wire() as connection:
        said: list[str | None] = []
        for _ in range(500):
            connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            said.append(connection.reply().headers["connection"])
        assert said == [None] * 499 + ["close"]
        assert connection.is_closed()


def test_a_flood_of_connections_is_told_so_and_passes(wire_gate: Gate) -> None:
    before = wire_gate.open_files()
    flood = [wire_gate.wire() for _ in range(300)]
    told = 0
    try:
        assert wire_gate.open_files() <= before + 60 + 20
        for connection in flood:
            try:
                reply = connection.reply()
            except Closed:
                continue
            told += 1
            assert (reply.status, reply.body) == (503, b"60 connections are open, and no more are taken\n")
    finally:
        for connection in flood:
            connection.leave()
    assert told > 100
    assert becomes(lambda: wire_gate.open_files() <= before + SOME)
    assert wire_gate.still_serves()


def test_a_reader_that_hangs_is_cut_off(wire_gate: Gate) -> None:
    for number in range(20):
        wire_gate.call("notes_add", {"text": f"long {number} {'x' * 480}"})
    body = body_of("notes_search", {"contains": "long"})
    assert len(wire_gate.ask(body).body) > 15_000
    before = wire_gate.open_files()
    hung = socket.socket()
    hung.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    hung.connect(("127.0.0.1", wire_gate.port))
    hung.settimeout(0.2)
    with hung:
        began = time.monotonic()
        assert breaks_off(hung, wire_gate.head(len(body)) + body, 0.05)
        assert time.monotonic() - began > 1
    assert becomes(lambda: wire_gate.open_files() <= before + SOME)
    assert wire_gate.still_serves()


@pytest.mark.parametrize("wire", WIRES)
def test_a_client_that_leaves_at_any_step_leaves_no_call_without_an_end(wire_gate: Gate, wire: Wires) -> None:
    before, files = wire_gate.notes(), wire_gate.open_files()
    for step, upto in {"head": 0, "body": 100, "all": None}.items():
        for reset in (False, True):
            body = body_of("notes_add", {"text": f"left after {step} {wire} {reset}"}, wire)
            with wire_gate.wire() as leaving:
                head = wire_gate.head(len(body), wire, Mcp_Name="notes_add")
                leaving.send(head, body[:upto] if upto is not None else body)
                if reset:
                    linger = struct.pack("ii", 1, 0)
                    leaving.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    # Whole in itself, but not all that was announced: not a call.
    body = body_of("notes_add", {"text": f"cut {wire}"}, wire)
    with wire_gate.wire() as leaving:
        leaving.send(wire_gate.head(len(body) + 10, wire, Mcp_Name="notes_add"), body)
    assert becomes(lambda: wire_gate.notes(f"left after all {wire} False") == 1), "it had sent all"
    assert becomes(lambda: wire_gate.open_files() <= files + SOME)
    assert becomes(lambda: "open" not in wire_gate.ended())
    assert becomes(lambda: wire_gate.ended().get("done") == wire_gate.notes() - 1), "as the ledger says"
    assert wire_gate.notes("left after head%") == wire_gate.notes("left after body%") == 0
    assert wire_gate.notes(f"cut {wire}") == 0
    assert wire_gate.notes() - before <= 2
    assert wire_gate.still_serves()


def test_a_client_that_leaves_in_the_middle_of_an_answer_breaks_nothing(wire_gate: Gate) -> None:
    body = body_of("notes_search", {"contains": ""}, progressToken="p")
    for _ in range(20):
        with wire_gate.wire() as leaving:
            leaving.send(wire_gate.head(len(body)), body)
            leaving.socket.recv(20)
    assert wire_gate.still_serves()
    assert "open" not in wire_gate.ended("notes.search")


def test_the_ledger_verifies_and_the_log_holds_no_traceback_after_all_that(wire_gate: Gate) -> None:
    assert "Traceback" not in wire_gate.log()
    assert wire_gate.verifies()
