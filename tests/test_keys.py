"""Where idempotency keys come from, and what becomes of them in time."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.gate_on_scripted_system import ANN, Rig, rig
from tests.two_doors import a_call as a_request
from tests.two_doors import two_doors
from toolgate.core.call import Call
from toolgate.core.outcome import Answer, Done, Refused, Unknown
from toolgate.main import new_call_id, now

pytestmark = pytest.mark.anyio
KEY = "a-key-of-16-chars-or-more"


def a_call(**changed: Any) -> Call:  # noqa: ANN401
    call = Call(id=new_call_id(), caller=ANN, tool="desk.write", arguments={"amount": 1}, received_at=now())
    return replace(call, **changed)


async def place(gate: Rig, **changed: Any) -> Answer:  # noqa: ANN401
    """Make the call of a place in a run."""
    return await gate.gateway.carry_out(a_call(**{"run": "run-7", "step": "pay"} | changed))


async def test_an_orchestrators_run_and_step_are_a_key(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        first = await place(gate)
        again = await place(gate)

    assert isinstance(again.outcome, Done)
    assert again.replayed
    assert again.call_id == first.call_id
    assert gate.desk.effects == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "run-8"},
        {"step": "ship"},
        {"ordinal": 1},
        {"tool": "desk.destroy"},
        {"arguments": {"amount": 2}},
        {"key": KEY},
        {"caller": ANN.model_copy(update={"subject": "eve"})},
    ],
)
async def test_another_place_in_a_run_is_another_key(tmp_path: Path, changed: dict[str, Any]) -> None:
    async with rig(tmp_path) as gate:
        await place(gate)
        other = await place(gate, **changed)

    assert isinstance(other.outcome, Done)
    assert not other.replayed
    assert gate.desk.effects == 2


@pytest.mark.parametrize("missing", ["run", "step"])
async def test_a_run_without_a_step_and_a_step_without_a_run_are_no_key(tmp_path: Path, missing: str) -> None:
    async with rig(tmp_path, without_key="require") as gate:
        answer = await place(gate, **{missing: None})

    assert isinstance(answer.outcome, Refused)
    assert answer.outcome.code == "idempotency_key_required"


async def test_a_key_whose_answer_is_forgotten_is_refused_and_never_run_again(tmp_path: Path) -> None:
    later = now() + timedelta(days=31)
    async with rig(tmp_path) as gate:
        await gate.call(key=KEY)
        late = await gate.call(key=KEY, at=later)
        await gate.parts.doubts.expire()
        still = await gate.call(key=KEY)

    assert isinstance(late.outcome, Refused)
    assert late.outcome.code == "idempotency_key_expired"
    assert isinstance(still.outcome, Done), "nothing is forgotten before its time"
    assert gate.desk.effects == 1


async def test_an_unknown_outcome_is_never_forgotten(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(key=KEY)
        late = await gate.call(key=KEY, at=now() + timedelta(days=400))

    assert isinstance(late.outcome, Unknown)


async def test_a_call_waits_for_the_first_one_and_gets_its_answer(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.hold = asyncio.Event()
        first = asyncio.ensure_future(gate.call(key=KEY))
        await gate.desk.at_work.wait()
        second = asyncio.ensure_future(gate.call(key=KEY))
        await asyncio.sleep(0.05)
        assert not second.done()
        gate.desk.hold.set()
        answers = await asyncio.gather(first, second)

    assert [answer.replayed for answer in answers] == [False, True]
    assert answers[0].outcome == answers[1].outcome
    assert gate.desk.effects == 1


async def test_a_call_that_waited_long_enough_is_told_when_to_ask_again(tmp_path: Path) -> None:
    async with rig(tmp_path, wait=0.1) as gate:
        gate.desk.hold = asyncio.Event()
        first = asyncio.ensure_future(gate.call(key=KEY))
        await gate.desk.at_work.wait()
        busy = await gate.call(key=KEY)
        gate.desk.hold.set()
        await first

    assert isinstance(busy.outcome, Refused)
    assert busy.outcome.code == "in_progress"
    assert busy.outcome.retry_after_ms


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({"dev.toolgate/run": 7}, "run"),
        ({"dev.toolgate/run": "r" * 256}, "run"),
        ({"dev.toolgate/step": ""}, "step"),
        ({"dev.toolgate/ordinal": -1}, "ordinal"),
        ({"dev.toolgate/ordinal": True}, "ordinal"),
        ({"dev.toolgate/ordinal": 1.5}, "ordinal"),
    ],
)
async def test_a_place_in_a_run_that_is_none_is_told_so(
    tmp_path: Path, meta: dict[str, Any], fault: str
) -> None:
    async with two_doors(tmp_path) as doors:
        own, sdk = await doors.ask(a_request("desk_write", {"amount": 1}, 1, **meta))
        effects = doors.own.gate.desk.effects

    assert own == sdk
    assert f"dev.toolgate/{fault}" in str(own)
    assert effects == 0
