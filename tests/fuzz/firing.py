"""Fires shots at a gate, and says what it should not have answered."""

import contextlib
import json
import socket
import struct
from http import HTTPStatus
from itertools import count
from typing import Any

from tests.fuzz.shots import STAMP, Shot
from tests.wire import Closed, Gate, Reply, Wire

ALLOWED = {200, 202, *(status.value for status in HTTPStatus if 400 <= status < 500), 503}
"""It never says 500: nothing that anybody sends is our fault."""
_SILENCE = 0.03
_NUMBERS = count(STAMP + 1)


class Wrong(AssertionError):  # noqa: N818 - what the gate did
    """What the gate should not have done."""


def fire(gate: Gate, shot: Shot) -> None:
    """Send a shot and read what comes back.

    Raises:
        Wrong: an answer is missing or ill-formed.
    """
    with gate.wire() as connection:
        with contextlib.suppress(ConnectionError):  # the gate may be done before all is sent
            for piece in shot.pieces(_NUMBERS):
                connection.send(piece)
        match shot.end:
            case "wait":
                _read_all(connection, shot)
            case "reset":
                linger = struct.pack("ii", 1, 0)
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            case "close":
                pass


def _read_all(connection: Wire, shot: Shot) -> None:
    for number, request in enumerate(shot.requests):
        try:
            reply = connection.reply()
        except (Closed, TimeoutError) as error:
            raise Wrong(f"request {number} of {len(shot.requests)} has no answer: {request!r}") from error
        _check(reply, request)
        if reply.headers["connection"] == "close":
            return
    if shot.wild:
        connection.socket.settimeout(_SILENCE)
        with contextlib.suppress(Closed, TimeoutError, ConnectionError):
            while True:
                _check(connection.reply(), shot.wild)


def _check(reply: Reply, request: bytes) -> None:
    if reply.status not in ALLOWED:
        raise Wrong(f"{reply.status} {reply.body!r} for {request!r}")
    kind = reply.headers.get("content-type", "")
    try:
        said: Any = reply.said if kind.startswith(("application/json", "text/event-stream")) else None
    except (ValueError, StopIteration) as error:
        raise Wrong(f"not JSON: {reply.body!r} for {request!r}") from error
    if said is not None and not _is_message(said) and reply.status not in {401, 403}:
        raise Wrong(f"no message of JSON-RPC: {json.dumps(said)} for {request!r}")


def _is_message(said: Any) -> bool:  # noqa: ANN401 - any JSON value
    match said:
        case {"jsonrpc": "2.0", "id": str() | int() | None, "result": dict()}:
            return "error" not in said
        case {"jsonrpc": "2.0", "id": str() | int() | None, "error": {"code": int(), "message": str()}}:
            return "result" not in said
        case {"ready": True}:
            return True
        case _:
            return False


def verdict(gate: Gate) -> list[str]:
    """Say what is wrong with a gate after it was fired at."""
    log = gate.log()
    ended = gate.ended()
    checks = {
        "the gate has ended": gate.served.process.poll() is None,
        f"a traceback in the log: {log[-2000:]}": "Traceback" not in log,
        f"effects {gate.notes() - 1}, and in the ledger {ended}": ended.get("done", 0) == gate.notes() - 1,
        "it serves no more": gate.still_serves(),
        "the ledger does not verify": gate.verifies(),
    }
    return [wrong for wrong, holds in checks.items() if not holds]
