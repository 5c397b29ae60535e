"""How a call can end, sorted by what has happened to the world (see `docs/reference/outcomes.md`)."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from toolgate.core.obligations import Obligations
from toolgate.core.record import JsonObject, Record


class Refused(Record):
    """Policy, schema, catalogue or terms say no. Nothing was done; the caller may change the call."""

    kind: Literal["refused"] = "refused"
    code: str
    detail: str
    retry_after_ms: int | None = None
    scopes: frozenset[str] = Field(default=frozenset(), exclude=True)
    """For `insufficient_scope`: all that a token needs for this call. Told to the client, and not stored."""


class Failed(Record):
    """The system refused, or could not be reached, or there was no credential. Nothing was done."""

    kind: Literal["failed"] = "failed"
    code: str
    detail: str
    retryable: bool
    retry_after_ms: int | None = None


class Unknown(Record):
    """Nobody can tell whether it took effect. Never asked again by itself; reconcile first."""

    kind: Literal["unknown"] = "unknown"
    code: str
    detail: str
    retry_after_ms: int | None = None
    """When asking again under the same key may tell more."""


class InputRequired(Record):
    """The person behind the caller must answer first. Nothing was done; call again with the answer."""

    kind: Literal["input_required"] = "input_required"
    code: Literal["input_required"] = "input_required"
    detail: str
    """The question."""
    fields: JsonObject
    """JSON Schema of the answer: an object of single values."""
    name: str = "answer"
    """Tells it from other questions of the same operation."""
    mark: str = Field(default="", exclude=True)
    """Tells it from what is asked under the same name another time. Not stored."""
    retry_after_ms: None = None


class Done(Record):
    """It took effect, and this is the result."""

    kind: Literal["done"] = "done"
    value: JsonObject


Outcome = Annotated[Refused | Failed | Unknown | InputRequired | Done, Field(discriminator="kind")]
OutcomeOf: TypeAdapter[Outcome] = TypeAdapter(Outcome)


class Answer(Record):
    """An outcome with what every answer carries."""

    outcome: Outcome
    call_id: str
    entry: int | None
    """The ledger entry that records it; None only when the ledger could not be written."""
    replayed: bool = False
    """It is the answer of an earlier call under the same key."""
    hidden: tuple[str, ...] = ()
    """What the caller does not get of the result, as the policy's `with` cells say it."""
    as_content: bool = False
    """The result is `toolgate.adapter.Content`: blocks to be seen or heard, and no structured value."""

    def under(self, obligations: Obligations) -> "Answer":
        """Give the answer as the caller may see it; what is stored stays whole."""
        if not isinstance(self.outcome, Done) or not (obligations.mask or obligations.rows):
            return self
        seen = obligations.on(self.outcome.value)
        if seen == self.outcome.value:
            return self
        hidden = tuple(obligations.of_the_result.spelled())
        return self.model_copy(update={"outcome": Done(value=seen), "hidden": hidden})
