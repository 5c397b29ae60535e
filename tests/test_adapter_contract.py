"""What an author of adapters may rely on: the contract, and the means to try an adapter."""

from collections.abc import Generator
from typing import Any

import pytest
from pydantic import BaseModel, JsonValue

from examples.ticket_adapter import Ticket, create, read, tickets
from tests.ticket_desk import Desk, open_desk
from toolgate.adapter import (
    Adapter,
    Found,
    HttpContext,
    NotFound,
    NothingDone,
)
from toolgate.testing import Tried, try_look_up, try_operation

pytestmark = pytest.mark.anyio
SECRET = "canary-user:canary-password"


@pytest.fixture
def desk() -> Generator[Desk]:
    with open_desk() as opened:
        yield opened


# --- the shape of an operation


class Wanted(BaseModel):
    id: int


async def good(wanted: Wanted, context: HttpContext) -> Ticket:
    """Read one ticket.

    It is not changed.
    """
    raise NotImplementedError


def not_async(wanted: Wanted, context: HttpContext) -> Ticket:
    """Read."""
    raise NotImplementedError


async def one_parameter(wanted: Wanted) -> Ticket:
    """Read."""
    raise NotImplementedError


async def by_name_only(wanted: Wanted, *, context: HttpContext) -> Ticket:
    """Read."""
    raise NotImplementedError


async def no_model(wanted: int, context: HttpContext) -> Ticket:
    """Read."""
    raise NotImplementedError


async def no_result(wanted: Wanted, context: HttpContext):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Read."""
    raise NotImplementedError


async def no_context(wanted: Wanted, context: int) -> Ticket:
    """Read."""
    raise NotImplementedError


async def no_docstring(wanted: Wanted, context: HttpContext) -> Ticket:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (not_async, "it is not an async function"),
        (one_parameter, "it has 1 positional parameters of 1"),
        (by_name_only, "it has 1 positional parameters of 2"),
        (no_model, "arguments and result must be pydantic models"),
        (no_result, "arguments and result must be pydantic models"),
        (no_context, "its second parameter must be annotated with Context"),
        (no_docstring, "'no_docstring' needs a docstring: it is what a model reads"),
    ],
)
def test_an_operation_of_the_wrong_shape_is_refused_at_import(function: Any, told: str) -> None:  # noqa: ANN401
    with pytest.raises(TypeError, match=told):
        Adapter("tickets").operation(function)


def test_a_name_is_taken_once() -> None:
    adapter = Adapter("tickets")
    adapter.operation(good)

    with pytest.raises(TypeError, match="adapter 'tickets' has two operations called 'good'"):
        adapter.operation(good)


def test_name_docstring_and_annotations_describe_the_tool() -> None:
    operation = Adapter("tickets").operation(good)

    assert operation.name == "good"
    assert operation.description == "Read one ticket.\n\nIt is not changed."
    assert operation.input_model is Wanted
    assert operation.output_model is Ticket


# --- the means to try an adapter, and the example


async def test_the_example_reads_creates_and_finds_its_ticket_again(desk: Desk) -> None:
    found = await try_operation(tickets, read, {"id": 1}, system=desk.system())
    made = await try_operation(
        tickets, create, {"title": "Scanner"}, system=desk.system(), idempotency_key="k1"
    )
    again = await try_look_up(
        tickets, create, {"title": "Scanner"}, system=desk.system(), idempotency_key="k1"
    )
    never = await try_look_up(
        tickets, create, {"title": "Scanner"}, system=desk.system(), idempotency_key="k2"
    )

    assert (found.value, found.sends) == ({"id": 1, "title": "Printer"}, 0)
    assert (made.value, made.sends) == ({"id": 1, "title": "Scanner"}, 1)
    assert again == Found(Ticket(id=1, title="Scanner"))
    assert never == NotFound()


async def test_what_an_operation_raises_comes_through_with_how_far_it_came(desk: Desk) -> None:
    tried = Tried()
    with pytest.raises(NothingDone) as refused:
        await try_operation(tickets, read, {"id": 7}, system=desk.system(), tried=tried)

    assert refused.value.code == "not_found"
    assert (tried.value, tried.sends) == ({}, 0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"id": 0}, "the arguments: id"), ({}, "the arguments: "), ({"id": 1, "x": 1}, "not expected: x")],
)
async def test_arguments_pass_the_same_schema_as_in_the_gate(
    desk: Desk, arguments: dict[str, JsonValue], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        await try_operation(tickets, read, arguments, system=desk.system())

    assert desk.asked == []


async def test_a_result_that_breaks_its_schema_is_told(desk: Desk) -> None:
    adapter = Adapter("tickets")

    @adapter.operation
    async def odd(wanted: Wanted, context: HttpContext) -> Ticket:
        """Give a ticket that is none, after telling and remembering something."""
        await context.remember({"seen": wanted.id, "before": dict(context.remembered)})
        await context.progress(1, 2, "half")
        return Ticket.model_construct(id=wanted.id, title="")

    tried = Tried()
    with pytest.raises(ValueError, match="the result: title"):
        await try_operation(adapter, odd, {"id": 3}, system=desk.system(), remembered={"a": 1}, tried=tried)

    assert tried.remembered == {"seen": 3, "before": {"a": 1}}
    assert tried.progress == [(1, 2, "half")]


async def test_a_look_up_must_be_there_and_only_reads(desk: Desk) -> None:
    adapter = Adapter("tickets")
    odd = adapter.operation(good)

    with pytest.raises(ValueError, match="operation 'read' has no look-up"):
        await try_look_up(tickets, read, {"id": 1}, system=desk.system())

    @adapter.look_up(odd)
    async def sent_again(wanted: Wanted, context: HttpContext) -> Found[Ticket]:
        reply = await context.client.post("tickets", json={"title": "again"})
        return Found(Ticket.model_validate_json(reply.content))

    with pytest.raises(ValueError, match="a look-up may only read, and this one sent something"):
        await try_look_up(adapter, odd, {"id": 1}, system=desk.system())
