"""What a caller sees of one governed call, on the starter deployment."""

from collections.abc import Callable

import pytest

from tests.conftest import Client
from toolgate.core.outcome import Done, Refused

pytestmark = pytest.mark.anyio
KEY = "a-key-of-16-chars-or-more"


async def test_a_read_is_done_and_recorded(as_caller: Callable[[str], Client]) -> None:
    answer = await as_caller("reader").call("notes.search", contains="set up")

    assert isinstance(answer.outcome, Done)
    assert answer.entry == 4, "genesis, writer_start, config; entry 3 is the intent, entry 4 the end"


async def test_the_same_key_again_gives_the_first_answer_and_no_second_effect(
    as_caller: Callable[[str], Client],
) -> None:
    mia = as_caller("member")
    first = await mia.call("notes.add", KEY, text="once")
    second = await mia.call("notes.add", KEY, text="once")

    assert second.outcome == first.outcome
    assert second.replayed
    assert not first.replayed
    assert second.entry == first.entry
    found = await mia.call("notes.search", contains="once")
    assert isinstance(found.outcome, Done)
    rows = found.outcome.value["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("caller", "tool", "arguments", "code"),
    [
        ("reader", "notes.add", {"text": "x"}, "unknown_tool"),
        ("member", "notes.nothing", {}, "unknown_tool"),
        ("member", "notes.add", {"text": 7}, "bad_arguments"),
        ("member", "notes.add", {"text": "x", "extra": 1}, "bad_arguments"),
        ("member", "notes.add", {"text": "x" * 501}, "forbidden"),
        ("member", "notes.remove", {"id": 1}, "idempotency_key_required"),
    ],
)
async def test_a_call_that_may_not_be_is_refused_with_a_stable_code(
    as_caller: Callable[[str], Client], caller: str, tool: str, arguments: dict[str, object], code: str
) -> None:
    answer = await as_caller(caller).call(tool, **arguments)  # type: ignore[arg-type]

    assert isinstance(answer.outcome, Refused)
    assert answer.outcome.code == code
    assert answer.entry is not None, "a refusal is recorded too"
