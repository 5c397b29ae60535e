"""What an operation gets beside its arguments, and the words in which it answers for the world."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, JsonValue, SecretStr, ValidationError

A = TypeVar("A", bound=BaseModel)
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
O_co = TypeVar("O_co", bound=BaseModel, covariant=True)


class NothingDone(Exception):  # noqa: N818 - named by what happened to the world
    """The system refused or could not be asked, and this call changed nothing.

    Raise it from an operation when that is certain; the gate then answers `Failed`.

    Args:
        code: a stable word for programs, such as `not_found` or `conflict`.
        message: for the caller: what happened and what is safe next. Never a secret.
        retryable: whether the same call may succeed later without a change.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable


class OutcomeUnknown(Exception):  # noqa: N818
    """The request left, and nobody can tell whether it took effect. The gate never repeats it by itself."""


class InputNeeded(Exception):  # noqa: N818
    """The call cannot go on without an answer of the person behind the caller; nothing was done.

    `Context.answer` raises it. The client asks (MCP elicitation), and calls again with the answer.
    """

    def __init__(self, question: str, schema: dict[str, JsonValue]) -> None:
        super().__init__(question)
        self.question = question
        self.schema = schema


@dataclass(frozen=True)
class Found(Generic[O_co]):
    """A look-up's answer: the earlier send took effect, with this result."""

    value: O_co


@dataclass(frozen=True)
class NotFound:
    """A look-up's answer: the earlier send took no effect."""


@dataclass(frozen=True)
class CannotTell:
    """A look-up's answer: the system does not let us see."""

    why: str


SignIn = Literal["none", "basic", "bearer", "header"]


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What one call signs in with. Lives in memory for that call; its repr shows no secret."""

    secret: SecretStr
    sign_in: SignIn
    header: str = ""
    """The header that carries the secret, for `sign_in = "header"`."""
    until: datetime | None = None
    """When it ends by itself (UTC); None for a secret that outlives the call."""
    shared: bool = True
    """Whether other calls come with it too: then what it signed in may stay open, but never after `until`.
    Else all that it signed in must be closed with this call: it ends, and perhaps its user with it."""


Effect = Literal["read", "write", "destroy"]


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What the manifest says of one operation, as far as its adapter is concerned."""

    effect: Effect
    options: Mapping[str, JsonValue]
    """Its `[tools.NAME.operation]` table (a SQL statement, say); most adapters need none."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One admitted system as its manifest describes it. Holds no credential."""

    name: str
    root: Path
    """The deployment's folder, where relative paths begin."""
    options: Mapping[str, JsonValue]
    """The manifest's `[system]` table: addresses and what else the adapter needs."""
    tools: Mapping[str, Admitted]
    """By operation name."""


class Progress(Protocol):
    """Tells a caller that asked for it how much of `total` is done, with a word about it."""

    def __call__(
        self, progress: float, total: float | None = None, message: str | None = None, /
    ) -> Awaitable[None]: ...


Remember = Callable[[dict[str, JsonValue]], Awaitable[None]]
Sending = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Context(Generic[C]):
    """What an operation gets beside its arguments, and all that it gets."""

    client: C
    """Signed in with this call's credential; closed when the call ends."""
    deadline: datetime
    """When the gate stops waiting (UTC)."""
    progress: Progress
    idempotency_key: str
    """The same for every attempt of one call: pass it on where the system takes such a key."""
    remember: Remember
    """Make a value durable before the send (a one-time token, an id of our choice)."""
    remembered: Mapping[str, JsonValue]
    """What an earlier attempt of this call remembered; empty on the first."""
    answers: Mapping[str, JsonValue] | None = None
    """What the person answered, when this call was asked again for it; see `answer`."""
    sending: Sending
    """Call it just before the request that has the effect. What fails before it is `nothing done`, what
    fails after it on a write is `unknown`; it raises when the caller has hung up by then. The HTTP client
    calls it by itself before the first request that is not GET, HEAD or OPTIONS (but see `PREPARING`)."""

    def answer(self, question: str, fields: type[A]) -> A:
        """Give what the person behind the caller answers to `question`: plain texts, numbers, booleans.

        Where there is no good answer yet, this ends the call before anything is sent; the client asks, and
        calls again. Ask before the send, one question a call, and never for a secret.

        Raises:
            InputNeeded: there is none yet. Let it through.
            TypeError: `fields` holds more than flat values.
        """
        if self.answers is not None:
            with contextlib.suppress(ValidationError):
                return fields.model_validate(self.answers)
        raise InputNeeded(question, _flat(fields))


class Connector(Protocol[C_co]):
    """A system's connection: opened once, lent to one call at a time, closed with the program."""

    @property
    def marks_sending(self) -> bool:
        """Whether nothing that could have an effect leaves before `sending` was called.

        Where this is False, the gate counts a write as sent from its first moment: it is then `unknown` when
        it could have been told to have done nothing.
        """
        ...

    def session(self, credential: Credential | None, sending: Sending) -> AbstractAsyncContextManager[C_co]:
        """Lend a client that is signed in with `credential` for one call."""
        ...

    async def aclose(self) -> None:
        """Give back what the connection holds."""
        ...


def _flat(fields: type[BaseModel]) -> dict[str, JsonValue]:
    """Give the schema of an answer as clients can show it: an object of single values (MCP, elicitation)."""
    schema: dict[str, JsonValue] = fields.model_json_schema()
    properties = schema.get("properties")
    if "$defs" in schema or not isinstance(properties, dict):
        raise TypeError(
            f"{fields.__name__} is no question: its fields must be texts, numbers, booleans, choices"
        )
    for name, shape in properties.items():
        if not isinstance(shape, dict) or shape.get("type") not in _SINGLE:
            raise TypeError(f"{fields.__name__}.{name} is no text, number, boolean or choice")
    asked: dict[str, JsonValue] = {"type": "object", "properties": properties}
    return asked | ({"required": schema["required"]} if "required" in schema else {})


_SINGLE = frozenset({"string", "number", "integer", "boolean"})
