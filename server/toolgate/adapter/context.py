"""What an operation gets beside its arguments, and the words in which it answers for the world."""

import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
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

    def __init__(self, question: str, schema: dict[str, JsonValue], name: str = "answer") -> None:
        super().__init__(question)
        self.question = question
        self.schema = schema
        self.name = name
        self.mark = _mark(question, schema)
        """Tells this question from one that asks something else under the same name."""


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
    """What the person answered so far, by the names of the questions; see `answer`."""
    questions: Mapping[str, str] = field(default_factory=dict[str, str])
    """The marks of the questions that were answered, where they are known."""
    sending: Sending
    """Call it just before the request that has the effect. What fails before it is `nothing done`, what
    fails after it on a write is `unknown`; it raises when the caller has hung up by then. The HTTP client
    calls it by itself before the first request that is not GET, HEAD or OPTIONS (but see `PREPARING`)."""

    def answer(self, question: str, fields: type[A], *, name: str = "answer") -> A:
        """Give what the person behind the caller answers: texts, numbers, booleans, choices of texts.

        Where there is no good answer yet, this ends the call before anything is sent; the client asks, and
        calls again. An answer is good for the question that was asked: when other words or fields would be
        asked now, they are. Ask before the send, and never for a secret. An operation may ask one question
        after the other, each with a `name` of its own: it runs from its beginning each time, and finds the
        answers that were given before.

        Raises:
            InputNeeded: there is none yet. Let it through.
            TypeError: `fields` holds more than flat values.
        """
        needed = InputNeeded(question, _flat(fields), name)
        was_asked = self.questions.get(name, needed.mark) == needed.mark
        if was_asked and self.answers is not None and name in self.answers:
            with contextlib.suppress(ValidationError):
                return fields.model_validate(self.answers[name])
        raise needed


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


def _mark(question: str, schema: dict[str, JsonValue]) -> str:
    return hashlib.sha256(json.dumps([question, schema], sort_keys=True).encode()).hexdigest()


def _flat(fields: type[BaseModel]) -> dict[str, JsonValue]:
    """Give the schema of an answer as clients can show it: an object of single values (MCP, elicitation)."""
    schema: dict[str, JsonValue] = fields.model_json_schema()
    properties = schema.get("properties")
    if "$defs" in schema or not isinstance(properties, dict):
        raise TypeError(
            f"{fields.__name__} is no question: its fields must be texts, numbers, booleans, choices"
        )
    for name, shape in properties.items():
        if not _is_shown(shape):
            raise TypeError(f"{fields.__name__}.{name} is no text, number, boolean or choice")
    asked: dict[str, JsonValue] = {"type": "object", "properties": properties}
    return asked | ({"required": schema["required"]} if "required" in schema else {})


def _is_shown(shape: JsonValue) -> bool:
    """Whether clients can ask for it: a single value, or several of a list of texts (SEP-1330)."""
    match shape:
        case {"type": "array", "items": {"enum": list()} | {"anyOf": list()}}:
            return True
        case {"type": str(kind)}:
            return kind in _SINGLE
        case _:
            return False


_SINGLE = frozenset({"string", "number", "integer", "boolean"})
