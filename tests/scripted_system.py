"""A system whose every answer a test writes down, and a call of it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import BaseModel, Field, SecretStr

from toolgate.adapter import (
    Adapter,
    Connector,
    Context,
    Credential,
    Effect,
    NothingDone,
    Sending,
)
from toolgate.adapter.http import RequestRefused
from toolgate.backends.manifest_catalog import AdmittedTool
from toolgate.core.arguments import Schema
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Opened
from toolgate.core.credential_roles import FileRole
from toolgate.core.lease import Lease, Lent
from toolgate.core.outcome import Failed, Outcome, Unknown
from toolgate.core.ports import Act
from toolgate.core.record import JsonObject
from toolgate.core.shield import HangUp
from toolgate.core.tool import Terms

LONG = 3600.0


class Asked(BaseModel):
    id: int = Field(default=1, lt=100)


class Given(BaseModel):
    id: int
    title: str = Field(default="", max_length=5)


Step = Callable[[Context["World"]], Awaitable[Given]]


@dataclass
class World:
    """A scripted system, its connector and its client: an attempt takes the next step, the last one stays."""

    steps: list[Step]
    marks_sending: bool = True
    broken: Exception | None = None
    attempts: int = 0
    signed_in: list[Credential | None] = field(default_factory=list[Credential | None])

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["World"]:
        self.signed_in.append(credential)
        if self.broken:
            raise self.broken
        yield self

    async def aclose(self) -> None:
        """Hold nothing."""

    async def step(self, context: Context["World"]) -> Given:
        self.attempts += 1
        return await self.steps[min(self.attempts, len(self.steps)) - 1](context)


def connect(_system: object) -> Connector[World]:
    raise NotImplementedError


adapter = Adapter("scripted", connect=connect)


@adapter.operation
async def act_out(asked: Asked, context: Context[World]) -> Given:
    """Do what the script says."""
    return await context.client.step(context)


def admitted(
    world: World, effect: Effect, *, timeout: float = LONG, retries: int = 0, system: str = "desk"
) -> AdmittedTool:
    return AdmittedTool(
        name=f"{system}.act",
        wire_name=f"{system}_act",
        system=system,
        operation="act",
        title="",
        description="",
        terms=Terms(
            effect=effect,
            timeout=timeout,
            duplicates="none",
            without_key="allow",
            capture="full",
            scopes=frozenset(),
            credential="agent",
            retries=retries,
        ),
        input=Schema(act_out.input_model.model_json_schema()),
        output=Schema(act_out.output_model.model_json_schema(mode="serialization")),
        credential=FileRole(secret="desk", sign_in="header", header="X-Key"),
        adapter="desk",
        run_by=act_out,
        connector=world,
    )


async def _remember_nothing(_value: JsonObject) -> None:
    """A ledger that always writes."""


async def _progress(_done: float, _total: float | None = None, _message: str | None = None, /) -> None:
    """Nobody listens."""


def an_act(
    hang_up: HangUp | None = None,
    arguments: JsonObject | None = None,
    remember: Callable[[JsonObject], Awaitable[None]] = _remember_nothing,
) -> Act:
    caller = Caller(subject="mia", issuer="test", tenant="home")
    return Act(
        call=Call(id="c2", caller=caller, tool="desk.act", arguments=arguments or {}, received_at=the_time()),
        opened=Opened(call_id="c1", intent=0, remembered={"token": "t"}),
        lease=Lease(secret=SecretStr("s"), lent=Lent(id="l", role="agent")),
        remember=remember,
        progress=_progress,
        hang_up=hang_up or HangUp(),
    )


def the_time() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Clock:
    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


async def done(context: Context[World]) -> Given:
    context.sending()
    return Given(id=7)


def fails(error: BaseException, sends: int = 0) -> Step:
    async def step(context: Context[World]) -> Given:
        for _ in range(sends):
            context.sending()
        raise error

    return step


def waits_forever(sends: int) -> Step:
    async def step(context: Context[World]) -> Given:
        for _ in range(sends):
            context.sending()
        await asyncio.Event().wait()
        raise NotImplementedError

    return step


UNREACHABLE = NothingDone("unreachable", "the system could not be reached", retryable=True)


def refused(*, counted: bool) -> RequestRefused:
    return RequestRefused("not_found", "there is no such ticket", counted=counted, retryable=False)


def in_words(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed | Unknown)
    again = ", again" if isinstance(outcome, Failed) and outcome.retryable else ""
    return f"{outcome.kind} {outcome.code}{again}"
