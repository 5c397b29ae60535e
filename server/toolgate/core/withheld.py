"""A credential does not come back to the caller, even where a system tells what it was shown."""

from collections.abc import Sequence
from typing import Final

from toolgate.adapter.context import Progress
from toolgate.core.lease import Lease
from toolgate.core.outcome import Done, InputRequired, Outcome, Refused
from toolgate.core.record import Json, JsonObject

WITHHELD: Final = "[withheld]"


def without_secrets(outcome: Outcome, lease: Lease | None) -> Outcome:
    """Give `outcome` with [withheld] in place of each text of the lease's secrets."""
    words = () if lease is None else lease.spellings
    if not words or isinstance(outcome, Refused):
        return outcome
    if isinstance(outcome, Done):
        return Done(value=_object(outcome.value, words)) if _shows(outcome.value, words) else outcome
    said: dict[str, object] = {"detail": _replaced(outcome.detail, words)}
    if isinstance(outcome, InputRequired):
        said["fields"] = _object(outcome.fields, words)
    return outcome.model_copy(update=said)


def value_without_secrets(value: JsonObject, lease: Lease | None) -> JsonObject:
    """Give what an adapter wants to remember without the lease's secrets."""
    words = () if lease is None else lease.spellings
    return _object(value, words) if words and _shows(value, words) else value


def quiet(progress: Progress, lease: Lease | None) -> Progress:
    """Give a reporter of progress whose messages hold none of the lease's secrets."""
    words = () if lease is None else lease.spellings
    if not words:
        return progress

    async def report(done: float, total: float | None = None, message: str | None = None, /) -> None:
        await progress(done, total, None if message is None else _replaced(message, words))

    return report


def _shows(value: Json, words: Sequence[str]) -> bool:
    match value:
        case str():
            return any(word in value for word in words)
        case list():
            return any(_shows(part, words) for part in value)
        case dict():
            return any(_shows(name, words) or _shows(part, words) for name, part in value.items())
        case _:
            return False


def _object(value: JsonObject, words: Sequence[str]) -> JsonObject:
    return {_replaced(name, words): _cleared(part, words) for name, part in value.items()}


def _cleared(value: Json, words: Sequence[str]) -> Json:
    match value:
        case str():
            return _replaced(value, words)
        case list():
            return [_cleared(part, words) for part in value]
        case dict():
            return _object(value, words)
        case _:
            return value


def _replaced(text: str, words: Sequence[str]) -> str:
    for word in words:
        text = text.replace(word, WITHHELD)
    return text
