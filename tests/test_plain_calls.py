"""Calls that we answer ourselves are answered as the SDK answers them, and all others are left to it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.gate_on_scripted_system import Behaviour, Rig, Step
from tests.serving import AGAIN, ENTRY, ERROR, KEY, REPLAYED
from tests.two_doors import (
    CAPABILITIES,
    CLIENT,
    LOG_LEVEL,
    VERSION,
    Door,
    Doors,
    Got,
    Sent,
    a_call,
    two_doors,
    with_body,
    with_headers,
    without_sdk,
)
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.sql_records import SqlRecords

pytestmark = pytest.mark.anyio
SOME_KEY = "a-key-of-16-chars-or-more"


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncGenerator[Doors]:
    async with two_doors(tmp_path) as opened:
        yield opened


async def is_ours(door: Door, sent: Sent) -> bool:
    """Whether a door answers that has no SDK."""
    try:
        await door.ask(sent)
    except RuntimeError:
        return False
    return True


ORDINARY = [
    a_call(),
    a_call("desk.read"),
    a_call("desk_write", None, "a text"),
    a_call("desk_write", {}),
    a_call("desk_none"),
    a_call("desk_write", {"amount": 2.5}),
    a_call("desk_write", {"amount": 2**70}),
    a_call("desk_read", {"amount": 2**70}),
    a_call(**{KEY: SOME_KEY, AGAIN: True, "traceparent": "anything", LOG_LEVEL: "info", "other": None}),
    a_call(**{KEY: 7}),
    with_headers(a_call(), idempotency_key=SOME_KEY),
    with_headers(a_call(), accept="text/event-stream,application/json", content_length=None),
    with_headers(a_call(), x_forwarded_for="10.0.0.1", origin="http://gate", host="door:1"),
    with_headers(a_call(), content_type="application/json; charset=utf-8"),
    with_headers(a_call("desk_write", {"progressToken": 1}), accept="application/json"),
]
COMPACT = json.dumps(json.loads(a_call().body), separators=(",", ":")).encode()
REFUSED = [
    a_call("desk_write", None, True),
    a_call("desk_write", None, None),
    a_call("desk_write", None, 1.0),
    a_call("desk_write", None, "\ud800"),
    a_call("desk_write", {"amount": float("nan")}),
    a_call("desk_write", {"amount": "\ud800"}),
    with_body(b""),
    with_body(b"null"),
    with_body(b"[" + COMPACT + b"]"),
    with_body(b"\xef\xbb\xbf" + COMPACT),
    with_body(COMPACT.decode().encode("utf-16")),
    with_body(COMPACT[:-1]),
    with_body(COMPACT + b"x"),
    with_body(COMPACT.replace(b'"id":1', b'"id":1,"id":2')),
    with_body(COMPACT.replace(b'"amount":1', b'"amount":1,"amount":2')),
    with_body(COMPACT.replace(b'"amount":1', b'"amount":"\xed\xa0\x80"')),
    with_body(COMPACT.replace(b'"amount":1', b'"amount":' + b"9" * 5000)),
    with_body(COMPACT.replace(b'"amount":1', b'"amount":' + b"[" * 900 + b"]" * 900)),
    with_body(COMPACT.replace(b'"2.0"', b'"1.0"')),
]
UNUSUAL = [
    a_call("desk_write", None, 2**53),
    a_call("desk_write", []),
    a_call(progressToken=1),
    with_body(COMPACT.replace(b'"_meta":{', b'"_meta":{"progress\\u0054oken":1,')),
    a_call(**{VERSION: "2025-11-25"}),
    a_call(**{CAPABILITIES: "none"}),
    a_call(**{CAPABILITIES: {"roots": 1}}),
    a_call(**{CLIENT: {"name": "no version"}}),
    a_call(**{LOG_LEVEL: "loud"}),
    a_call("=?base64?eA==?="),
    with_body(COMPACT.replace(b'"id":1', b'"id":1,"more":1')),
    with_body(COMPACT.replace(b'"id":1,', b"")),
    with_body(COMPACT.replace(b"tools/call", b"tools/list")),
    with_body(COMPACT.replace(b'"params":{', b'"params":{"requestState":"x",')),
    with_body(COMPACT.replace(b'"params":{', b'"params":{"task":1,')),
    with_headers(a_call(), mcp_session_id="x"),
    with_headers(a_call(), mcp_protocol_version="2025-11-25"),
    with_headers(a_call(), mcp_protocol_version="2027-01-01"),
    with_headers(a_call(), mcp_protocol_version=None),
    with_headers(a_call(), mcp_method="tools/list"),
    with_headers(a_call(), mcp_method=None),
    with_headers(a_call(), mcp_name="desk_read"),
    with_headers(a_call(), mcp_name=None),
    with_headers(a_call(), mcp_name="=?base64?ZGVza193cml0ZQ==?="),
    with_headers(a_call(), accept="text/event-stream"),
    with_headers(a_call(), accept="application/json;q=0.5"),
    with_headers(a_call(), accept="*/*"),
    with_headers(a_call(), accept=None),
    with_headers(a_call(), content_length="7"),
    replace(a_call(), headers=[*a_call().headers, (b"mcp-name", b"desk_write")]),
    replace(a_call(), headers=[*a_call().headers, (b"accept", b"text/html")]),
]


async def test_ordinary_calls_and_what_is_no_message_are_answered_without_the_sdk_and_nothing_else_is(
    doors: Doors,
) -> None:
    door = without_sdk(doors.own.gate)
    for sent in ORDINARY:
        assert await is_ours(door, sent), sent
    asked = doors.own.gate.desk.asked
    for sent in REFUSED:
        assert (await door.ask(sent)).status == 400, sent
    for sent in UNUSUAL:
        assert not await is_ours(door, sent), sent
    assert doors.own.gate.desk.asked == asked, "nothing was done about what is left to the SDK"


async def test_both_doors_answer_alike_whether_a_call_is_ordinary_or_not(doors: Doors) -> None:
    too_long = with_headers(a_call(), content_length="999999")
    for sent in [*ORDINARY, *REFUSED, *UNUSUAL, too_long]:
        own, sdk = await doors.ask(sent)
        assert own == sdk, sent
    assert doors.own.gate.desk.effects == doors.sdk.gate.desk.effects > 0


def _fails_at(step: Step) -> Callable[[Rig], None]:
    return lambda gate: gate.ledger.failing.add(step)


def _behaves(behaviour: Behaviour) -> Callable[[Rig], None]:
    return lambda gate: setattr(gate.desk, "behaviour", behaviour)


async def test_both_doors_tell_every_outcome_alike(doors: Doors) -> None:
    outcomes: set[str] = set()

    async def ask(sent: Sent) -> None:
        own, sdk = await doors.ask(sent)
        assert own == sdk
        outcomes.add(_outcome(own))

    for number, behaviour in enumerate(b for b in get_args(Behaviour) if b != "hangs"):
        doors.each(_behaves(behaviour))
        keyed = a_call("desk_write", {"amount": number}, **{KEY: f"{SOME_KEY}-{number}"})
        await ask(keyed)
        await ask(keyed)
    await ask(a_call("desk_write", {"amount": 101}))
    await ask(a_call("desk_write", {"amount": "x", "b": "\u2028 é 😀"}))
    doors.each(lambda gate: setattr(gate.purse, "empty", True))
    await ask(a_call("desk_read"))
    for step in ("close", "open", "refuse"):
        doors.each(_fails_at(step))
        await ask(a_call("desk_read"))
        await ask(a_call("desk_none"))
    assert {"done", "again", "forbidden", "bad_arguments", "ledger_unavailable", "busy", "-32602"} <= outcomes
    assert "end_not_recorded" in outcomes


def _outcome(got: Got) -> str:
    said: Any = got.said
    if "error" in said:
        return str(said["error"]["code"])
    meta = said["result"]["_meta"]
    if ERROR in meta:
        return str(meta[ERROR]["code"])
    assert isinstance(meta[ENTRY], int)
    return "again" if meta[REPLAYED] else "done"


async def test_a_bug_of_ours_is_told_as_the_sdk_tells_it_and_shows_nothing(tmp_path: Path) -> None:
    def stopped() -> datetime:
        raise OSError("a secret of ours")

    async with two_doors(tmp_path, clock=stopped) as doors:
        own, sdk = await doors.ask(a_call())
    assert own == sdk
    assert own.said == {
        "jsonrpc": "2.0",
        "id": 1,
        "error": {"code": -32603, "message": "Internal server error"},
    }


async def test_a_tool_with_an_argument_in_a_header_is_left_to_the_sdk_which_compares_them(
    tmp_path: Path,
) -> None:
    async with two_doors(tmp_path, in_header=True) as doors:
        for changed, status in (
            ({}, 400),
            ({"mcp_param_amount": "1"}, 200),
            ({"mcp_param_amount": "2"}, 400),
        ):
            own, sdk = await doors.ask(with_headers(a_call(), **changed))
            assert own == sdk
            assert own.status == status


@pytest.mark.parametrize("name", ["own", "sdk"])
async def test_a_call_whose_client_has_left_runs_to_its_recorded_end(doors: Doors, name: str) -> None:
    door: Door = getattr(doors, name)
    door.gate.desk.hold = asyncio.Event()
    asking = asyncio.create_task(door.ask(a_call(), hangs_up=True))
    await door.gate.desk.at_work.wait()
    door.gate.desk.hold.set()
    await asking

    assert door.gate.desk.effects == 1
    assert _ends(door.gate) == ["done"]


@pytest.mark.parametrize("name", ["own", "sdk"])
async def test_a_call_that_the_http_server_gives_up_is_told_so_before_its_send_and_recorded(
    doors: Doors, name: str
) -> None:
    door: Door = getattr(doors, name)
    door.gate.desk.hold = asyncio.Event()
    asking = asyncio.create_task(door.ask(a_call()))
    await door.gate.desk.at_work.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    door.gate.desk.hold.set()
    await door.gate.shield.drain()

    assert door.gate.desk.effects == 0
    assert _ends(door.gate) == ["cancelled_before_send"]


def _ends(gate: Rig) -> list[str]:
    return [call.end for call in SqlRecords(SqliteFile(gate.database)).calls(most=9, subject=None, tool=None)]
