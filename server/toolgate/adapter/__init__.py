"""The contract for adapter authors: everything that an adapter may see of Toolgate.

An adapter is a set of typed operations on one kind of system. A name, a docstring and annotations
give a tool its name, its description and its schemas:

    tickets = Adapter("tickets")

    @tickets.operation
    async def read(wanted: TicketId, context: HttpContext) -> Ticket:
        \"\"\"Read one ticket.\"\"\"
        reply = await context.client.get(f"tickets/{wanted.id}")
        return Ticket.model_validate_json(reply.content)

An operation gets a client that is already signed in, its deadline, a progress reporter, the
idempotency key and a durable memory; never a policy, a ledger, or a credential.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar, get_origin, get_type_hints, overload

import httpx
from pydantic import BaseModel

from toolgate.adapter.content import (
    Audio,
    BlobOf,
    Content,
    EmbeddedResource,
    Image,
    ResourceLink,
    Text,
    TextOf,
)
from toolgate.adapter.context import (
    Admitted,
    C,
    CannotTell,
    Connector,
    Context,
    Credential,
    Effect,
    Found,
    InputNeeded,
    NotFound,
    NothingDone,
    OutcomeUnknown,
    Progress,
    Remember,
    Sending,
    SignIn,
    System,
)
from toolgate.adapter.http import PREPARING, HttpConnector, faults_in
from toolgate.adapter.messages import Message, Messages

__all__ = [
    "PREPARING",
    "Adapter",
    "Admitted",
    "Audio",
    "BlobOf",
    "CannotTell",
    "Connector",
    "Content",
    "Context",
    "Credential",
    "Effect",
    "EmbeddedResource",
    "Found",
    "HttpContext",
    "Image",
    "InputNeeded",
    "LookUp",
    "Message",
    "Messages",
    "NotFound",
    "NothingDone",
    "Operation",
    "OutcomeUnknown",
    "Progress",
    "Remember",
    "ResourceLink",
    "Sending",
    "SignIn",
    "System",
    "Text",
    "TextOf",
    "faults_in",
]

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)

HttpContext: TypeAlias = Context[httpx.AsyncClient]
Run: TypeAlias = Callable[[In, Context[C]], Awaitable[Out]]
LookUp: TypeAlias = Callable[[In, Context[C]], Awaitable[Found[Out] | NotFound | CannotTell]]


@dataclass(frozen=True, kw_only=True)
class Operation(Generic[C, In, Out]):
    """One operation of an adapter. Not callable: the gate runs it, or `toolgate.testing` tries it."""

    name: str
    description: str
    input_model: type[In]
    output_model: type[Out]
    run: Run[In, C, Out]
    look_up: LookUp[In, C, Out] | None = None


AnyOperation: TypeAlias = Operation[Any, Any, Any]


class Adapter(Generic[C]):
    """A kind of system: its operations, and how to connect to it.

    `Adapter("tickets")` talks HTTP: its operations get an `httpx.AsyncClient` whose base address is the
    manifest's `base_url`. For other systems, pass `connect`.
    """

    @overload
    def __init__(self: "Adapter[httpx.AsyncClient]", name: str) -> None: ...
    @overload
    def __init__(self, name: str, *, connect: Callable[[System], Connector[C]]) -> None: ...
    def __init__(self, name: str, *, connect: Callable[[System], Connector[Any]] = HttpConnector) -> None:
        self.name = name
        self._connect: Callable[[System], Connector[C]] = connect
        self._operations: dict[str, Operation[C, Any, Any]] = {}

    def operation(self, run: Run[In, C, Out]) -> Operation[C, In, Out]:
        """Add an operation.

        Raises:
            TypeError: it is not `async def name(arguments: Model, context: Context[...]) -> Model`, its
                docstring is missing, or its name is taken.
        """
        operation: Operation[C, In, Out] = _described(run)
        if operation.name in self._operations:
            raise TypeError(f"adapter {self.name!r} has two operations called {operation.name!r}")
        self._operations[operation.name] = operation
        return operation

    def look_up(self, operation: Operation[C, In, Out]) -> Callable[[LookUp[In, C, Out]], LookUp[In, C, Out]]:
        """Say, for `operation`, how to find what became of an earlier send."""

        def add(look_up: LookUp[In, C, Out]) -> LookUp[In, C, Out]:
            self._operations[operation.name] = replace(operation, look_up=look_up)
            return look_up

        return add

    def operations(self, system: System) -> Mapping[str, Operation[C, Any, Any]]:
        """Give the operations on `system` by name; an adapter may make them from the manifest.

        Raises:
            ValueError: the manifest's tables for this adapter are wrong; the message says what and where.
        """
        del system
        return self._operations

    def connect(self, system: System) -> Connector[C]:
        """Open the connection to `system`.

        Raises:
            ValueError: the manifest's `[system]` table is wrong; the message says what and where.
        """
        return self._connect(system)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _described(run: Run[In, C, Out]) -> Operation[C, In, Out]:
    name = getattr(run, "__name__", "?")
    shape = f"operation {name!r} must be `async def {name}(arguments: Model, context: Context[...]) -> Model`"
    if not inspect.iscoroutinefunction(run):
        raise TypeError(f"{shape}: it is not an async function")
    hints = get_type_hints(run)
    parameters = inspect.signature(run).parameters
    positional = [name for name, parameter in parameters.items() if parameter.kind in _POSITIONAL]
    if not len(parameters) == len(positional) == 2:  # noqa: PLR2004 - arguments and context
        raise TypeError(f"{shape}: it has {len(positional)} positional parameters of {len(parameters)}")
    context = hints.get(positional[1])
    if get_origin(context) is not Context and context is not Context:
        raise TypeError(f"{shape}: its second parameter must be annotated with Context")
    description = inspect.getdoc(run)
    if not description:
        raise TypeError(f"operation {name!r} needs a docstring: it is what a model reads")
    return Operation(
        name=name,
        description=description,
        input_model=_model(hints.get(positional[0]), shape),
        output_model=_model(hints.get("return"), shape),
        run=run,
    )


def _model(annotation: Any, shape: str) -> Any:  # noqa: ANN401 - whatever stands in an annotation
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        raise TypeError(f"{shape}: arguments and result must be pydantic models")
    return annotation
