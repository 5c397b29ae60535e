"""A system that does not answer is left alone for a while."""

import asyncio

import pytest

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
)
from toolgate.adapter import Context, NothingDone, OutcomeUnknown
from toolgate.adapter.http import RequestBroken
from toolgate.backends.adapter_tools import AdapterTools
from toolgate.backends.breaker import OPENS_AFTER, REST_SECONDS
from toolgate.core.outcome import Failed, Outcome
from toolgate.core.shield import HangUp
from toolgate.core.tool import Tool

pytestmark = pytest.mark.anyio
RESTING = "failed system_unavailable, again"


class Gate:
    """Calls one scripted system through one `AdapterTools`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.world = World([fails(UNREACHABLE)])
        self.tools = AdapterTools(now=the_time, clock=self.clock)

    async def call(self, *, hang_up: bool = False, system: str = "desk", id_: int = 1) -> Outcome:
        tool = admitted(self.world, "write", system=system)
        return await self.tools.run(tool, an_act(HangUp(seen=hang_up), {"id": id_}))

    async def fall_silent(self, error: Exception = UNREACHABLE) -> None:
        self.world.steps = [fails(error, sends=1)]
        for _ in range(OPENS_AFTER):
            await self.call()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.mark.parametrize(
    "error", [UNREACHABLE, TimeoutError(), RequestBroken("reset"), OutcomeUnknown("the connection was lost")]
)
async def test_after_five_calls_without_an_answer_nothing_more_is_sent(gate: Gate, error: Exception) -> None:
    await gate.fall_silent(error)
    outcome = await gate.call()

    assert in_words(outcome) == RESTING
    assert isinstance(outcome, Failed)
    assert outcome.retry_after_ms == REST_SECONDS * 1000
    assert gate.world.attempts == OPENS_AFTER


async def test_an_answer_in_between_starts_the_count_again(gate: Gate) -> None:
    unanswered = fails(UNREACHABLE)
    gate.world.steps = [unanswered] * 4 + [fails(NothingDone("conflict", "m"))] + [unanswered]
    for _ in range(5 + 4):
        await gate.call()

    assert in_words(await gate.call()) == "failed unreachable, again"


async def test_a_refusal_is_an_answer(gate: Gate) -> None:
    await gate.fall_silent(refused(counted=True))

    assert in_words(await gate.call()) == "failed not_found"


async def test_another_system_is_asked_all_the_same(gate: Gate) -> None:
    await gate.fall_silent()

    assert in_words(await gate.call(system="crm")) == "failed unreachable, again"


async def test_after_the_rest_one_call_tries_it_and_its_success_opens_the_way(gate: Gate) -> None:
    await gate.fall_silent()
    begun, answer = asyncio.Event(), asyncio.Event()

    async def slow(context: Context[World]) -> Given:
        begun.set()
        await answer.wait()
        return await done(context)

    gate.world.steps = [slow]
    gate.clock.seconds += REST_SECONDS
    probe = asyncio.create_task(gate.call())
    await begun.wait()
    async with asyncio.timeout(5):
        assert in_words(await gate.call()) == RESTING, "one tries it, not all"

    answer.set()
    assert (await probe).kind == "done"
    assert (await gate.call()).kind == "done"


async def test_a_probe_without_an_answer_lets_it_rest_again(gate: Gate) -> None:
    await gate.fall_silent()
    gate.clock.seconds += REST_SECONDS

    assert in_words(await gate.call()) == "failed unreachable, again"
    assert in_words(await gate.call()) == RESTING


@pytest.mark.parametrize(("hang_up", "id_"), [(True, 1), (False, 100)])
async def test_a_call_that_asked_nothing_of_the_system_says_nothing_about_it(
    gate: Gate,
    hang_up: bool,
    id_: int,
) -> None:
    await gate.fall_silent()
    gate.clock.seconds += REST_SECONDS

    assert in_words(await gate.call(hang_up=hang_up, id_=id_)) != RESTING
    assert in_words(await gate.call()) == RESTING


async def test_a_tool_that_the_registry_did_not_admit_is_not_run(gate: Gate) -> None:
    tool = admitted(gate.world, "read")
    stranger = Tool(**{name: getattr(tool, name) for name in Tool.__dataclass_fields__})

    with pytest.raises(TypeError, match=r"desk\.act did not come from the registry"):
        await gate.tools.run(stranger, an_act())
