"""Operations that ask the person behind the caller before they send anything."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import mcp_types as t
import pytest
from mcp import Client
from pydantic import BaseModel

from tests.gate_on_scripted_system import ANN, Rig, rig
from toolgate.core.outcome import Done, Failed, InputRequired, Refused, Unknown
from toolgate.main import now
from toolgate.web.asked import Edge
from toolgate.web.mcp_server import McpServer
from toolgate.web.present import ERROR, KEY
from toolgate.web.request_state import RequestStates

pytestmark = pytest.mark.anyio
ASKING = "a-key-of-one-call-and-its-question"


async def test_a_call_that_needs_an_answer_has_done_nothing_and_goes_on_with_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.question = "Really?"
        first = await gate.call(key=ASKING)
        effects = gate.desk.effects
        again = await gate.call(key=ASKING)
        done = await gate.call(key=ASKING, answers={"answer": {"sure": True}})
        replayed = await gate.call(key=ASKING)

    assert isinstance(first.outcome, InputRequired)
    assert (first.outcome.detail, effects) == ("Really?", 0)
    assert first.outcome.fields["required"] == ["sure"]
    assert isinstance(again.outcome, InputRequired), "without an answer the question stays"
    assert isinstance(done.outcome, Done)
    assert done.call_id == first.call_id
    assert replayed.outcome == done.outcome
    assert gate.desk.effects == 1


@pytest.mark.parametrize("answers", [{}, {"sure": "perhaps"}, {"other": 1}, {"sure": None}])
async def test_a_bad_answer_is_asked_for_again(tmp_path: Path, answers: dict[str, Any]) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.question = "Really?"
        answer = await gate.call(answers={"answer": answers})

    assert isinstance(answer.outcome, InputRequired)
    assert gate.desk.effects == 0


async def test_a_question_after_the_send_leaves_a_write_in_doubt(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.behaviour = "asks after the send"
        answer = await gate.call()

    assert isinstance(answer.outcome, Unknown)


@pytest.mark.parametrize(
    ("action", "sure", "kind"),
    [("accept", True, Done), ("accept", False, Failed), ("decline", True, Refused)],
)
async def test_a_client_asks_the_person_and_calls_again(
    tmp_path: Path, action: Literal["accept", "decline"], sure: bool, kind: type
) -> None:
    asked: list[str] = []

    async def ask(context: object, params: t.ElicitRequestParams) -> t.ElicitResult:
        asked.append(params.message)
        return t.ElicitResult(action=action, content={"sure": sure} if action == "accept" else None)

    async with served(tmp_path) as (gate, server), Client(server.server, elicitation_callback=ask) as client:
        gate.desk.question = "Really?"
        result = await client.call_tool("desk_write", {"amount": 1}, meta=cast("Any", {KEY: ASKING}))

    assert asked == ["Really?"]
    assert bool(result.is_error) == (kind is not Done)
    assert gate.desk.effects == (1 if kind is Done else 0)
    if kind is Refused:
        assert (result.meta or {})[ERROR]["code"] == "input_declined"


async def test_a_client_of_before_that_cannot_ask_is_told_the_question(tmp_path: Path) -> None:
    async with served(tmp_path) as (gate, server), Client(server.server, mode="legacy") as client:
        gate.desk.question = "Really?"
        result = await client.call_tool("desk_write", {"amount": 1})

    assert result.is_error
    assert (result.meta or {})[ERROR]["code"] == "input_required"
    assert "Really?" in getattr(result.content[0], "text", "")
    assert gate.desk.effects == 0


@asynccontextmanager
async def served(folder: Path) -> AsyncGenerator[tuple[Rig, McpServer]]:
    async with rig(folder) as gate:
        numbers = count()
        edge = Edge(
            caller_of=lambda _: ANN,
            new_id=lambda: f"call-{next(numbers)}",
            now=now,
            page_size=10,
            states=RequestStates(bytes(32), now),
        )
        yield gate, McpServer(gate.gateway, edge)


class Many(BaseModel):
    names: list[str]


class Nested(BaseModel):
    inner: dict[str, str]


@pytest.mark.parametrize("fields", [t.ListToolsResult, Many, Nested])
async def test_only_plain_values_and_choices_can_be_asked_for(
    tmp_path: Path, fields: type[BaseModel]
) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.question, gate.desk.fields = "Which?", fields
        answer = await gate.call()

    assert isinstance(answer.outcome, Failed)
    assert answer.outcome.code == "adapter_error"
