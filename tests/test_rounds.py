"""Operations that ask the person behind the caller, through clients of both eras and over the raw wire."""

import json
import shutil
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import mcp_types as t
import pytest
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from tests.gallery import gallery_in, installed_in
from tests.serving import ERAS, ERROR, KEY, REPLAYED, Era, Served, call_body, meta_of, serving, text_of
from toolgate.adapter import Context, InputNeeded
from toolgate.web.request_state import LASTS, RequestState, RequestStates

pytestmark = pytest.mark.anyio
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
CAN_ASK: dict[str, Any] = {CAPABILITIES: {"elicitation": {}}}
NAME: dict[str, Any] = {"name": {"action": "accept", "content": {"name": "Dawn"}}}
COLOURS: dict[str, Any] = {"colours": {"action": "accept", "content": {"colours": ["red", "blue"]}}}


@pytest.fixture(scope="module")
def gate(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    folder = tmp_path_factory.mktemp("gallery")
    root = gallery_in(Path(shutil.copytree(starter, folder / "root")))
    with serving(root, installed_in(folder / "site")) as served:
        yield served


class Person:
    """Answers questions, and keeps them."""

    def __init__(self, declines: str = "") -> None:
        self.asked: list[str] = []
        self._declines = declines

    async def __call__(self, context: object, params: t.ElicitRequestParams) -> t.ElicitResult:
        del context
        self.asked.append(params.message)
        if params.message == self._declines:
            return t.ElicitResult(action="decline")
        if params.message == "What is it called?":
            return t.ElicitResult(action="accept", content={"name": "Dawn"})
        return t.ElicitResult(action="accept", content={"colours": ["red", "blue"]})


@pytest.mark.parametrize("era", ERAS)
async def test_one_question_after_the_other_is_put_to_the_person(gate: Served, era: Era) -> None:
    person = Person()
    async with gate.client(era=era, on_question=person) as client:
        painted = await client.call_tool("gallery_paint", {"motif": f"A tree ({era})"})

    assert person.asked == ["What is it called?", "Which colours?"]
    assert f"A tree ({era}), 'Dawn', in red and blue" in text_of(painted)


@pytest.mark.parametrize("era", ERAS)
async def test_a_person_may_decline_the_second_question(gate: Served, era: Era) -> None:
    person = Person(declines="Which colours?")
    async with gate.client(era=era, on_question=person) as client:
        refused = await client.call_tool("gallery_paint", {"motif": "A lake"})

    assert person.asked == ["What is it called?", "Which colours?"]
    assert meta_of(refused)[ERROR]["code"] == "input_declined"


async def test_a_client_of_before_that_cannot_ask_is_told_the_question(gate: Served) -> None:
    async with gate.client(era="legacy") as client:
        told = await client.call_tool("gallery_paint", {"motif": "A hill"})

    assert meta_of(told)[ERROR]["code"] == "input_required"
    assert "What is it called?" in text_of(told)


async def test_a_client_of_before_that_fails_to_ask_is_told_the_question(gate: Served) -> None:
    async def fail(context: object, params: t.ElicitRequestParams) -> t.ErrorData:
        del context, params
        return t.ErrorData(code=-1, message="nobody is here")

    async with gate.client(era="legacy", on_question=fail) as client:
        told = await client.call_tool("gallery_paint", {"motif": "A hill"})

    assert meta_of(told)[ERROR]["code"] == "input_required"


@pytest.mark.parametrize("capabilities", [{}, {"sampling": {}}, {"elicitation": {"url": {}}}])
async def test_a_client_that_declares_no_form_is_told_what_it_misses(
    gate: Served, capabilities: dict[str, Any]
) -> None:
    said = call_of(gate, meta={CAPABILITIES: capabilities}, status=400)

    assert said["error"]["code"] == t.MISSING_REQUIRED_CLIENT_CAPABILITY == -32021
    assert said["error"]["data"]["requiredCapabilities"] == {"elicitation": {"form": {}}}
    assert "What is it called?" in said["error"]["message"]
    assert said["error"]["data"]["dev.toolgate/entry"]


async def test_an_sdk_client_that_cannot_ask_gets_the_error(gate: Served) -> None:
    async with gate.client() as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("gallery_paint", {"motif": "A hill"})

    assert raised.value.error.code == t.MISSING_REQUIRED_CLIENT_CAPABILITY


async def test_without_a_key_the_last_round_takes_effect_once(gate: Served) -> None:
    first = call_of(gate, "Waves")["result"]
    second = call_of(gate, "Waves", NAME, first["requestState"])["result"]
    done = call_of(gate, "Waves", COLOURS, second["requestState"])["result"]
    again = call_of(gate, "Waves", COLOURS, second["requestState"])["result"]

    assert [*first["inputRequests"], *second["inputRequests"]] == ["name", "colours"]
    assert second["requestState"] != first["requestState"]
    assert not done["isError"]
    assert again["_meta"][REPLAYED]
    assert again["content"][1:] == done["content"]


async def test_with_a_key_every_round_is_the_call_of_that_key(gate: Served) -> None:
    keyed = CAN_ASK | {KEY: "the-key-of-one-painting"}
    first = call_of(gate, "Sand", meta=keyed)["result"]
    second = call_of(gate, "Sand", NAME, first["requestState"], meta=keyed)["result"]
    done = call_of(gate, "Sand", COLOURS, second["requestState"], meta=keyed)["result"]
    again = call_of(gate, "Sand", meta=keyed)["result"]

    assert again["_meta"][REPLAYED]
    assert again["content"][1:] == done["content"]


async def test_a_round_without_the_key_of_the_first_is_the_same_call(gate: Served) -> None:
    keyed = CAN_ASK | {KEY: "a-key-that-is-left-out"}
    first = call_of(gate, "Reeds", meta=keyed)["result"]
    second = call_of(gate, "Reeds", NAME, first["requestState"])["result"]
    done = call_of(gate, "Reeds", COLOURS, second["requestState"])["result"]
    again = call_of(gate, "Reeds", meta=keyed)["result"]

    assert again["_meta"][REPLAYED]
    assert again["content"][1:] == done["content"]


@pytest.mark.parametrize("key", [None, "the-key-of-the-first"])
async def test_a_round_with_another_key_is_refused(gate: Served, key: str | None) -> None:
    first = call_of(gate, "Ice", meta=CAN_ASK | ({KEY: key} if key else {}))["result"]
    said = call_of(gate, "Ice", NAME, first["requestState"], meta=CAN_ASK | {KEY: "another-key"}, status=400)

    assert said["error"]["code"] == t.INVALID_PARAMS
    assert "one idempotency key" in said["error"]["message"]


class Sure(BaseModel):
    sure: bool


def test_an_answer_is_good_for_the_question_that_was_asked() -> None:
    with pytest.raises(InputNeeded) as asked:
        _context({}).answer("Delete 3 rows?", Sure)
    marks = {"answer": asked.value.mark}

    assert _context(marks).answer("Delete 3 rows?", Sure).sure
    with pytest.raises(InputNeeded, match="3000"):
        _context(marks).answer("Delete 3000 rows?", Sure)


async def test_answers_may_come_all_at_once_and_others_are_not_looked_at(gate: Served) -> None:
    stranger = {"stranger": {"action": "accept", "content": {"name": "?"}}}
    done = call_of(gate, "Rain", NAME | COLOURS | stranger)["result"]

    assert "Rain, 'Dawn', in red and blue" in done["content"][0]["text"]


async def test_a_refusal_of_what_was_not_asked_changes_nothing(gate: Served) -> None:
    first = call_of(gate, "Snow")["result"]
    second = call_of(gate, "Snow", NAME | {"stranger": {"action": "decline"}}, first["requestState"])[
        "result"
    ]

    assert [*second["inputRequests"]] == ["colours"]


@pytest.mark.parametrize("change", ["tampered", "other arguments", "another caller", "made up"])
async def test_a_state_is_good_for_its_own_call_alone(
    gate: Served, change: Literal["tampered", "other arguments", "another caller", "made up"]
) -> None:
    state = call_of(gate, "Fog")["result"]["requestState"]
    motif, who = "Fog", "member"
    match change:
        case "tampered":
            state = state[:-2] + ("A" if state[-2] != "A" else "B") + state[-1]
        case "other arguments":
            motif = "Gold"
        case "another caller":
            who = "guest"
        case "made up":
            state = "v1.AAAA"
    said = call_of(gate, motif, NAME, state, who=who, status=400)

    assert said["error"]["code"] == t.INVALID_PARAMS
    assert said["error"]["data"] == {"reason": "invalid_request_state"}


def test_a_state_ends_and_only_its_own_secret_opens_it() -> None:
    clock = [datetime(2026, 11, 1, tzinfo=UTC)]
    states = RequestStates(bytes(32), lambda: clock[0])
    state = RequestState(
        key="the-key-of-a-call", asked="name", answers={"a": {"b": ["c"]}}, questions={"name": "m"}
    )
    sealed = states.seal(state, ["ann", "paint"])

    assert RequestStates(bytes(32), lambda: clock[0]).open(sealed, ["ann", "paint"]) == state
    clock[0] += timedelta(seconds=LASTS)
    assert states.open(sealed, ["ann", "paint"]) == state
    clock[0] += timedelta(seconds=1)
    for opening in (states, RequestStates(bytes(31) + b"1", lambda: clock[0])):
        with pytest.raises(MCPError, match="requestState"):
            opening.open(sealed, ["ann", "paint"])
    assert "the-key-of-a-call" not in sealed


def _context(questions: dict[str, str]) -> Context[None]:
    async def nothing(*_: object) -> None:
        pass

    return Context(
        client=None,
        deadline=datetime(2026, 11, 1, tzinfo=UTC),
        progress=nothing,
        idempotency_key="key",
        remember=nothing,
        remembered={},
        answers={"answer": {"sure": True}} if questions else None,
        questions=questions,
        sending=lambda: None,
    )


def call_of(
    gate: Served,
    motif: str = "A tree",
    responses: dict[str, Any] | None = None,
    state: str | None = None,
    *,
    meta: dict[str, Any] = CAN_ASK,
    who: str = "member",
    status: int = 200,
) -> dict[str, Any]:
    """Make one round of a call over the raw wire."""
    body = json.loads(call_body("gallery_paint", {"motif": motif}, **meta))
    if responses is not None:
        body["params"]["inputResponses"] = responses
    if state is not None:
        body["params"]["requestState"] = state
    headers = {"Mcp_Name": "gallery_paint", "Authorization": f"Bearer {gate.token(who)}"}
    answer = gate.post(json.dumps(body).encode(), **headers)
    assert answer.status_code == status, answer.text
    return cast("dict[str, Any]", answer.json())
