"""Whatever an adapter does becomes an outcome that says what has happened to the world."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.scripted_system import (
    UNREACHABLE,
    Clock,
    Given,
    World,
    admitted,
    an_act,
    done,
    fails,
    in_words,
    refused,
    the_time,
    waits_forever,
)
from toolgate.adapter import (
    Context,
    Credential,
    Effect,
    NothingDone,
    OutcomeUnknown,
)
from toolgate.adapter.http import RequestBroken
from toolgate.backends.adapter_tools import AdapterTools
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.outcome import Done, Outcome
from toolgate.core.ports import Act
from toolgate.core.record import JsonObject
from toolgate.core.shield import HangUp

pytestmark = pytest.mark.anyio
SOON = 0.02


async def run(world: World, effect: Effect = "write", act: Act | None = None, **terms: Any) -> Outcome:  # noqa: ANN401
    tools = AdapterTools(now=the_time, clock=Clock())
    return await tools.run(admitted(world, effect, **terms), act or an_act())


@pytest.mark.parametrize("effect", ["read", "write", "destroy"])
async def test_what_an_operation_gives_is_done(effect: Effect) -> None:
    assert await run(World([done]), effect) == Done(value={"id": 7, "title": ""})


async def test_an_operation_gets_what_the_contract_says() -> None:
    seen: list[Context[World]] = []

    async def look(context: Context[World]) -> Given:
        seen.append(context)
        return Given(id=1)

    world = World([look])
    await run(world, timeout=60)

    context = seen[0]
    assert (context.client, context.idempotency_key, context.remembered) == (world, "c1", {"token": "t"})
    assert (context.deadline - the_time()).total_seconds() == 60
    assert world.signed_in == [Credential(secret=SecretStr("s"), sign_in="header", header="X-Key")]


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (Given.model_construct(id=10**5000), "failed bad_result, again"),
        (Given.model_construct(id=1, title="\ud800"), "failed bad_result, again"),
    ],
    ids=["too long a number", "no Unicode"],
)
async def test_a_result_that_cannot_be_recorded_is_no_result(result: Given, outcome: str) -> None:
    async def answer(_: Context[World]) -> Given:
        return result

    assert in_words(await run(World([answer]), "read")) == outcome


async def test_an_operation_that_cancels_itself_is_an_error_like_any_other() -> None:
    assert in_words(await run(World([fails(asyncio.CancelledError("odd"))]))) == "failed adapter_error"
    assert in_words(await run(World([fails(asyncio.CancelledError("odd"), 1)]))) == "unknown adapter_error"


async def test_a_tool_without_a_role_is_not_signed_in() -> None:
    world = World([done])
    tool = admitted(world, "read")
    await AdapterTools(now=the_time).run(replace(tool, credential=None), an_act())

    assert world.signed_in == [None]


@pytest.mark.parametrize(
    ("effect", "sends", "error", "outcome"),
    [
        ("read", 0, NothingDone("conflict", "m"), "failed conflict"),
        ("write", 1, NothingDone("conflict", "m"), "failed conflict"),
        ("write", 1, UNREACHABLE, "failed unreachable, again"),
        ("write", 0, refused(counted=False), "failed not_found"),
        ("write", 1, refused(counted=True), "failed not_found"),
        ("write", 2, refused(counted=True), "unknown partly_done"),
        ("write", 1, refused(counted=False), "unknown partly_done"),
        ("read", 2, refused(counted=True), "failed not_found"),
        ("read", 1, OutcomeUnknown("lost"), "failed upstream_unknown, again"),
        ("write", 0, OutcomeUnknown("lost"), "failed upstream_unknown, again"),
        ("write", 1, OutcomeUnknown("lost"), "unknown upstream_unknown"),
        ("read", 1, TimeoutError(), "failed timeout, again"),
        ("write", 0, TimeoutError(), "failed timeout, again"),
        ("destroy", 1, TimeoutError(), "unknown timeout"),
        ("read", 1, ZeroDivisionError(), "failed adapter_error"),
        ("write", 0, ZeroDivisionError(), "failed adapter_error"),
        ("write", 1, ZeroDivisionError(), "unknown adapter_error"),
        ("write", 1, SystemExit(1), "unknown adapter_error"),
        ("write", 1, RequestBroken("reset"), "unknown upstream_error"),
        ("write", 1, ExceptionGroup("g", [NothingDone("conflict", "m")]), "failed conflict"),
        ("write", 1, ExceptionGroup("g", [ValueError()]), "unknown adapter_error"),
        ("write", 0, LedgerUnavailable("full"), "failed ledger_unavailable, again"),
        ("write", 1, LedgerUnavailable("full"), "unknown adapter_error"),
    ],
)
async def test_an_error_is_sorted_by_what_has_happened(
    effect: Effect, sends: int, error: Exception, outcome: str
) -> None:
    assert in_words(await run(World([fails(error, sends)]), effect)) == outcome


@pytest.mark.parametrize(
    ("effect", "outcome"), [("read", "failed adapter_error"), ("write", "unknown adapter_error")]
)
async def test_a_connector_that_does_not_mark_its_sends_is_taken_to_have_sent(
    effect: Effect, outcome: str
) -> None:
    world = World([fails(ZeroDivisionError())], marks_sending=False)

    assert in_words(await run(world, effect)) == outcome


@pytest.mark.parametrize(
    ("effect", "sends", "outcome"),
    [
        ("read", 1, "failed timeout, again"),
        ("write", 0, "failed timeout, again"),
        ("write", 1, "unknown timeout"),
    ],
)
async def test_a_system_that_does_not_answer_is_waited_for_no_longer_than_the_terms_say(
    effect: Effect, sends: int, outcome: str
) -> None:
    assert in_words(await run(World([waits_forever(sends)]), effect, timeout=SOON)) == outcome


@pytest.mark.parametrize(
    ("effect", "outcome"), [("read", "failed bad_result, again"), ("write", "unknown bad_result")]
)
async def test_a_result_that_breaks_its_schema_is_not_handed_on(effect: Effect, outcome: str) -> None:
    async def odd(context: Context[World]) -> Given:
        context.sending()
        return Given.model_construct(id=1, title="too long for it")

    assert in_words(await run(World([odd]), effect)) == outcome


async def test_a_result_that_is_no_model_is_the_adapters_error() -> None:
    async def none(_context: Context[World]) -> Given:
        return None  # type: ignore[return-value] # pyright: ignore[reportReturnType]

    assert in_words(await run(World([none]))) == "failed adapter_error"


@pytest.mark.parametrize("effect", ["read", "write"])
async def test_arguments_that_only_the_model_refuses_are_told_before_anything_is_opened(
    effect: Effect,
) -> None:
    world = World([done], marks_sending=False)

    assert in_words(await run(world, effect, an_act(arguments={"id": 100}))) == "failed bad_arguments"
    assert world.signed_in == []


async def test_a_session_that_does_not_open_did_nothing() -> None:
    assert in_words(await run(World([done], broken=UNREACHABLE))) == "failed unreachable, again"


async def test_what_cannot_be_remembered_is_not_sent() -> None:
    async def full(_value: JsonObject) -> None:
        raise LedgerUnavailable("full")

    async def careful(context: Context[World]) -> Given:
        await context.remember({"token": "x"})
        return await done(context)

    outcome = await run(World([careful]), act=an_act(remember=full))
    assert in_words(outcome) == "failed ledger_unavailable, again"


# --- a caller that hangs up


@pytest.mark.parametrize("marks_sending", [True, False])
async def test_a_caller_who_hung_up_before_the_begin_starts_nothing(marks_sending: bool) -> None:
    world = World([done], marks_sending=marks_sending)

    outcome = await run(world, act=an_act(HangUp(seen=True)))
    assert in_words(outcome) == "failed cancelled_before_send, again"
    assert world.attempts == 0


@pytest.mark.parametrize(("sends", "ended"), [(0, "failed"), (1, "done")])
async def test_a_caller_who_hangs_up_stops_the_first_send_and_no_later_one(sends: int, ended: str) -> None:
    hang_up = HangUp()

    async def hung_up_on(context: Context[World]) -> Given:
        for _ in range(sends):
            context.sending()
        hang_up.seen = True
        return await done(context)

    assert (await run(World([hung_up_on]), act=an_act(hang_up))).kind == ended


@pytest.mark.parametrize(("sends", "ended"), [(0, "failed timeout, again"), (1, "unknown timeout")])
async def test_a_gate_that_the_others_see_no_more_sends_nothing_more(sends: int, ended: str) -> None:
    seen = [True]

    async def lost_from_sight(context: Context[World]) -> Given:
        for _ in range(sends):
            context.sending()
        seen[0] = False
        return await done(context)

    act = replace(an_act(), may_send=lambda: seen[0])
    assert in_words(await run(World([lost_from_sight]), act=act)) == ended


# --- asking again


async def test_a_read_is_asked_again_until_it_is_answered() -> None:
    world = World([fails(UNREACHABLE), fails(RequestBroken("reset")), done])

    assert (await run(world, "read", retries=5)).kind == "done"
    assert world.attempts == 3


@pytest.mark.parametrize(
    ("effect", "error", "attempts"),
    [("read", UNREACHABLE, 3), ("read", NothingDone("conflict", "m"), 1), ("write", UNREACHABLE, 1)],
)
async def test_only_reads_are_asked_again_and_only_so_often(
    effect: Effect, error: Exception, attempts: int
) -> None:
    world = World([fails(error)])

    assert (await run(world, effect, retries=2)).kind == "failed"
    assert world.attempts == attempts


async def test_nobody_asks_again_for_a_caller_who_has_gone() -> None:
    hang_up = HangUp()

    async def goes(_context: Context[World]) -> Given:
        hang_up.seen = True
        raise UNREACHABLE

    world = World([goes])
    await run(world, "read", an_act(hang_up), retries=5)
    assert world.attempts == 1
