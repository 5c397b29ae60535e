"""Try an operation without a gate: for the tests of adapter authors.

    answer = await try_operation(tickets, read, {"id": 7}, system=desk)

The arguments pass the same JSON Schema, the client is the real one, and the result is what the gate would
hand on; but nothing is judged, recorded or guarded against repetition.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue

from toolgate.adapter import (
    Adapter,
    AnyOperation,
    CannotTell,
    Context,
    Credential,
    Found,
    NotFound,
    System,
)
from toolgate.core.arguments import Schema, closed


@dataclass
class Tried:
    """What an operation did when it was tried."""

    value: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Its result as JSON; empty when it raised."""
    remembered: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """What it would have found again after a crash."""
    sends: int = 0
    """How many requests it said could have an effect."""
    progress: list[tuple[float, float | None, str | None]] = field(default_factory=list[Any])


async def try_operation(  # noqa: PLR0913 - each names one thing that the gate would give
    adapter: Adapter[Any],
    operation: AnyOperation,
    arguments: Mapping[str, JsonValue],
    *,
    system: System,
    credential: Credential | None = None,
    idempotency_key: str = "c-trial-0000000000000",
    remembered: Mapping[str, JsonValue] | None = None,
    tried: Tried | None = None,
) -> Tried:
    """Run `operation` once on `system`. What it raises comes through; `tried` then tells how far it came.

    Raises:
        ValueError: the arguments break the operation's input schema, or the result its output schema.
    """
    notes = tried if tried is not None else Tried()
    schema = Schema(closed(operation.input_model.model_json_schema(mode="validation")))
    if fault := schema.fault_in(dict(arguments)):
        raise ValueError(f"the arguments: {fault}")
    connector = adapter.connect(system)
    try:
        async with connector.session(credential, _sending(notes)) as client:
            context = _context(client, notes, idempotency_key, remembered or {})
            result = await operation.run(operation.input_model.model_validate(dict(arguments)), context)
    finally:
        await connector.aclose()
    notes.value = result.model_dump(mode="json", by_alias=True)
    answer = Schema(operation.output_model.model_json_schema(mode="serialization"))
    if fault := answer.fault_in(notes.value):
        raise ValueError(f"the result: {fault}")
    return notes


async def try_look_up(  # noqa: PLR0913 - as above
    adapter: Adapter[Any],
    operation: AnyOperation,
    arguments: Mapping[str, JsonValue],
    *,
    system: System,
    credential: Credential | None = None,
    idempotency_key: str = "c-trial-0000000000000",
    remembered: Mapping[str, JsonValue] | None = None,
) -> Found[Any] | NotFound | CannotTell:
    """Ask the operation's look-up what became of an earlier send.

    Raises:
        ValueError: the operation has none.
    """
    current = adapter.operations(system).get(operation.name)
    if current is None or current.look_up is None:
        raise ValueError(f"operation {operation.name!r} has no look-up")
    notes = Tried()
    connector = adapter.connect(system)
    try:
        async with connector.session(credential, _sending(notes)) as client:
            context = _context(client, notes, idempotency_key, remembered or {})
            found = await current.look_up(operation.input_model.model_validate(dict(arguments)), context)
    finally:
        await connector.aclose()
    if notes.sends:
        raise ValueError("a look-up may only read, and this one sent something")
    return found


def _sending(notes: Tried) -> Any:  # noqa: ANN401 - a callable that mypy and pyright name differently
    def sending() -> None:
        notes.sends += 1

    return sending


def _context(
    client: Any,  # noqa: ANN401 - whatever the connector lends
    notes: Tried,
    idempotency_key: str,
    remembered: Mapping[str, JsonValue],
) -> Context[Any]:
    async def remember(value: dict[str, JsonValue]) -> None:
        notes.remembered = dict(value)

    async def progress(done: float, total: float | None = None, message: str | None = None, /) -> None:
        notes.progress.append((done, total, message))

    return Context(
        client=client,
        deadline=datetime.now(UTC) + timedelta(seconds=30),
        progress=progress,
        idempotency_key=idempotency_key,
        remember=remember,
        remembered=remembered,
        sending=_sending(notes),
    )
