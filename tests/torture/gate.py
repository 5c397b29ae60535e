"""A gate in a process of its own: the real one around the system, with trouble at chosen points."""

import asyncio
import json
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tests.gate_on_scripted_system import Purse
from tests.torture.books import Book
from tests.torture.faulty_parts import (
    FaultyConnection,
    FaultyKey,
    FaultyLedger,
    FaultyPostgres,
    FaultySpill,
    WriterOfEnds,
    part_of,
    put,
)
from tests.torture.line import TOOL, Line, tool
from tests.torture.points import Points, Trouble
from toolgate.backends.adapter_tools import AdapterTools
from toolgate.backends.ledger_parts import LedgerFiles, LedgerParts, open_ledger_parts
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.manifest_catalog import ManifestCatalog
from toolgate.backends.postgres_writer import PostgresWriter
from toolgate.core.call import Call, Caller
from toolgate.core.canonical import canonical
from toolgate.core.decision import Decision, Question
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.gateway import Gateway
from toolgate.core.outcome import Answer, Done
from toolgate.core.ports import Rulebook
from toolgate.core.reconcile import Reconciler
from toolgate.core.shield import Shield
from toolgate.core.tool import Duplicates, Tool
from toolgate.main import new_call_id, now

UNANSWERED = 70
"""The exit code of a gate in which a call raised."""
ANN = Caller(subject="ann", issuer="test", tenant="acme", roles=frozenset({"worker"}))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How to run a gate. Its terms are short, so that lost calls settle quickly."""

    folder: Path
    caller: Path
    """The socket on which it is asked."""
    system: Path
    mode: Duplicates
    number: int = 0
    """Which of the gates it is: the callers' name for it."""
    troubles: tuple[Trouble, ...] = ()
    timeout: float = 1.0
    grace: float = 0.4
    """How long after its timeout an attempt is taken for lost; a minute and a half outside of tests."""
    quiet: float = 0.4
    keep: float = 0.15
    """Seconds between rounds of keeping house; 0 for none."""
    every: float = 0.05
    """Seconds between checkpoints."""
    patience: float = 0.8
    spill: Path | None = None
    floor: int = 0
    url: str = ""
    """Of the gates' database, where it is a server's."""
    strict: bool = True
    """Write to a server only as a role that owns nothing."""
    silence: float = 2.4
    """Seconds without a word after which a gate is taken for gone, where a server is asked about that."""

    @property
    def book(self) -> Book:
        """The ledger, for whoever reads it."""
        return Book(self.folder / "ledger.db", self.url)

    @property
    def own(self) -> Path:
        """Where this gate keeps what is its own: gates on one server are machines, each with its own disk."""
        return self.folder / f"gate-{self.number}" if self.url else self.folder

    @property
    def diary(self) -> Path:
        """A file in which is written what trouble there was."""
        return self.folder / "diary"

    @property
    def lapse(self) -> float:
        """Seconds after which an attempt's owner is taken for lost."""
        return self.timeout + self.grace

    @property
    def hang(self) -> float:
        """Seconds for which a hanging gate hangs: its calls are lost then, and their systems quiet.

        Before a server it is silent for so long as well that the others may take it for gone.
        """
        lost = self.lapse + self.quiet + self.patience / 2
        return max(lost, self.silence + 0.5) if self.url else lost


class AllowsAll:
    """A policy: what is tested is what happens to calls that are allowed."""

    digest = "d" * 64

    def visible(self, caller: Caller, tool: Tool) -> bool:
        return True

    def asks_run(self, caller: Caller, tool: Tool) -> bool:
        return False

    def decide(self, question: Question) -> Decision:
        return Decision(verdict="allow", rules=("W1",))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The gate's parts."""

    gateway: Gateway
    parts: LedgerParts
    book: Rulebook
    points: Points

    async def call(self, number: int, key: str) -> Answer:
        """Make one call."""
        return await self.gateway.carry_out(
            Call(
                id=new_call_id(),
                caller=ANN,
                tool=TOOL,
                arguments={"number": number},
                received_at=now(),
                key=key,
                key_from="meta",
            )
        )

    async def keep(self) -> None:
        """Look after what calls have left behind, as the house does."""
        await self.parts.endings.take_back()
        await self.gateway.reconciler.go_round(self.book.catalog.find)
        await self.parts.doubts.expire()


@asynccontextmanager
async def open_gate(setup: Setup) -> AsyncGenerator[Gate]:
    """Build a gate; close it when all that was begun has ended."""
    points = Points(setup.troubles, setup.diary, hang=setup.hang)
    parts = _ledger(setup, points)
    line = Line(setup.system, points)
    admitted = tool(line, setup.mode, timeout=setup.timeout, quiet=setup.quiet)
    book = Rulebook(catalog=ManifestCatalog([admitted], "c" * 64), policy=AllowsAll())
    purse, running, shield = Purse(), AdapterTools(now=now), Shield()
    gateway = Gateway(
        rulebook=lambda: book,
        ledger=FaultyLedger(parts.calls, points),
        vault=purse,
        tools=running,
        shield=shield,
        reconciler=Reconciler(doubts=parts.doubts, vault=purse, tools=running),
    )
    try:
        yield Gate(gateway=gateway, parts=parts, book=book, points=points)
    finally:
        await shield.drain()
        await parts.aclose()


def _ledger(setup: Setup, points: Points) -> LedgerParts:
    setup.own.mkdir(exist_ok=True)
    key = FaultyKey.read(setup.folder / "ledger.key")
    assert isinstance(key, FaultyKey)
    files = LedgerFiles(
        database=setup.folder / "ledger.db",
        checkpoint=setup.own / "checkpoint",
        spill=setup.spill or setup.own / "spill",
        every=setup.every,
        wait=0.3,
        floor=setup.floor,
        patience=setup.patience,
        url=SecretStr(setup.url) if setup.url else None,
        strict=setup.strict,
        lapse=setup.silence,
    )
    parts = open_ledger_parts(files, key, now=now, random=os.urandom)
    key.points = points
    _make_faulty(parts.writer, points)
    spill = FaultySpill(files.spill)
    spill.points = points
    put(parts.endings, "_spill", spill)
    put(parts.endings, "_writer", WriterOfEnds(parts.writer, points))

    def lapse(_tool: Tool) -> datetime:
        return now() + timedelta(seconds=setup.lapse)

    put(parts.calls, "_lapse", lapse)
    return parts


def _make_faulty(writer: LedgerWriter, points: Points) -> None:
    """Let a writer's connection make trouble, and those that it opens later."""
    if isinstance(writer, PostgresWriter):
        put(writer, "_open", opened := FaultyPostgres.opening(points, part_of(writer, "_open")))
        part_of(writer, "_connection").close()
        put(writer, "_connection", opened())
        return
    inner: sqlite3.Connection = part_of(writer, "_connection")
    put(writer, "_connection", FaultyConnection(inner, points))


def run(setup: Setup) -> None:
    """Be a gate, until the callers hang up."""
    logging.basicConfig(
        filename=setup.folder / "gates.log",
        level=logging.WARNING,
        format=f"{os.getpid()} %(message)s",
        force=True,
    )
    asyncio.run(_run(setup))


async def _run(setup: Setup) -> None:
    reader, writer = await asyncio.open_unix_connection(setup.caller)
    try:
        async with open_gate(setup) as gate:
            _say(writer, {"gate": setup.number, "pid": os.getpid()})
            keeping = asyncio.create_task(_keep(gate, setup.keep)) if setup.keep else None
            calls: set[asyncio.Task[None]] = set()
            while asked := await reader.readline():
                task = asyncio.create_task(_answer(gate, json.loads(asked), writer))
                calls.add(task)
                task.add_done_callback(calls.discard)
                task.add_done_callback(_demand_an_answer)
            if keeping is not None:
                keeping.cancel()
                await asyncio.wait({keeping})
    except LedgerUnavailable as error:
        _say(writer, {"gate": setup.number, "pid": os.getpid(), "refused": str(error)})
        await writer.drain()


def _demand_an_answer(task: "asyncio.Task[None]") -> None:
    """End the process, as a gate never does, where a call had no answer but an exception."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logging.getLogger(__name__).error("a call raised", exc_info=error)
        os._exit(UNANSWERED)


async def _keep(gate: Gate, pause: float) -> None:
    while True:
        with suppress(LedgerUnavailable, OSError):
            await gate.keep()
        await asyncio.sleep(pause)


async def _answer(gate: Gate, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    answer = await gate.call(asked["number"], asked["key"])
    try:
        gate.points.meet("before the reply")
    except OSError:  # the line to this caller broke
        _say(writer, {"ask": asked["ask"], "answer": None})
        return
    value = canonical(answer.outcome.value).decode() if isinstance(answer.outcome, Done) else None
    _say(writer, {"ask": asked["ask"], "answer": answer.model_dump(mode="json"), "value": value})
    with suppress(ConnectionError):
        await writer.drain()
    gate.points.meet("after the reply")


def _say(writer: asyncio.StreamWriter, what: dict[str, Any]) -> None:
    writer.write(json.dumps(what).encode() + b"\n")
