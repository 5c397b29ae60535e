"""The gate's witnesses: it asks them to cosign its newest checkpoint, and hears when they refuse to.

One round asks all of them for the same checkpoint, and is over when the quorum has cosigned it or each has
ended; who is slow goes on beside. Calls that wait for a cosigned intent share rounds: whoever comes while one
runs waits for the next. A witness that knows a longer ledger than ours, or another one, is told of loudly: in
the log, in the ledger, and to whoever asks whether the gate is ready.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.cosignatures import (
    cosigned_by,
    cosigned_note,
    entries_in,
    growth,
    holds,
    keep,
    newest_checkpoint,
)
from toolgate.backends.cosigning import Cosignature
from toolgate.backends.ledger_entries import Entries
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.sql_connection import cause
from toolgate.backends.witness_client import NotCosigned, Unproven, WitnessClient
from toolgate.backends.witness_standing import CONTRADICTIONS, FIRST_PAUSE, Asked, Contradicted, Standing
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import Checkpoint, Note
from toolgate.core.outcome import Failed
from toolgate.core.record import JsonObject
from toolgate.core.shield import HangUp
from toolgate.core.tool import Tool
from toolgate.core.witness import Stale, Submission
from toolgate.core.witness_policy import WitnessPolicy

T = TypeVar("T")
log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 0.25
"""Until a round for calls that wait is repeated."""
_MOST_QUESTIONS: Final = 3
"""To one witness in one round: with its size unknown or out of date it takes two."""


@dataclass(eq=False)
class Witnesses:
    """Asks the witnesses of a policy.

    Args:
        policy: names them, and the quorum; each must have a URL.
        writer: publishes checkpoints and keeps cosignatures.
        entries: spells what is told to the ledger.
        engine: reads the ledger.
    """

    policy: WitnessPolicy
    writer: LedgerWriter
    entries: Entries
    engine: Engine
    covered: int = 0
    """So many entries are under a checkpoint that the quorum has cosigned."""
    _asked: list[Asked] = field(default_factory=list[Asked])
    _round: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self._asked = [Asked(WitnessClient(witness)) for witness in self.policy.witnesses if witness.url]

    async def demand(self, tool: Tool, intent: int, hang_up: HangUp) -> Failed | None:
        """Wait until the quorum has cosigned a checkpoint with the entry `intent`; say why it has not."""
        over = asyncio.Event()
        if hang_up.cut:
            over.set()
        with hang_up.breaking_off(over.set):
            waiting = asyncio.create_task(self.until_covered(intent))
            broken_off = asyncio.create_task(over.wait())
            tasks: set[asyncio.Task[Any]] = {waiting, broken_off}
            await asyncio.wait(tasks, timeout=tool.terms.timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if self.covered > intent:
            return None
        return Failed(code="not_witnessed", detail=f"{_NOT_SENT}: {self.lacking()}", retryable=True)

    async def until_covered(self, intent: int) -> None:
        """Go rounds until the quorum has cosigned the entry, or cannot because of a contradiction."""
        while self.covered <= intent:
            running = self._round
            if running is None:
                running = self._round = asyncio.create_task(self._publish_and_ask())
                running.add_done_callback(self._round_over)
            await asyncio.wait({running})
            if self.covered <= intent:
                if not self._could_be_met():
                    return
                await asyncio.sleep(AGAIN_SECONDS)

    async def keep(self) -> None:
        """Ask for cosignatures of the newest checkpoint, where one lacks them; to be called again and again.

        Raises:
            LedgerUnavailable: the ledger cannot be read or written.
        """
        note = await self._read(partial(newest_checkpoint, self.engine))
        if note is None or self._round is not None:
            return
        size, at = Checkpoint.parse(note.text).size, time.monotonic()
        due = [each for each in self._asked if each.cosigned < size and each.not_before <= at]
        if due:
            self._round = asyncio.create_task(self._ask(note, due))
            self._round.add_done_callback(self._round_over)
            await asyncio.wait({self._round})

    def readiness(self) -> JsonObject:
        """Say how each witness stands, and how much the quorum has cosigned."""
        each: JsonObject = {asked.name: asked.told() for asked in self._asked}
        quorum = self.policy.is_met({asked.name for asked in self._asked if asked.standing == "cosigns"})
        return {"quorum": quorum, "covered": self.covered, "each": each}

    def lacking(self) -> str:
        """Say why there is no quorum, for whoever waited for it."""
        said = [f"{asked.name} {asked.problem}" for asked in self._asked if asked.problem]
        return "; ".join(said) or "they were too slow"

    async def aclose(self) -> None:
        """Stop asking."""
        tasks = [
            task for task in (self._round, *(asked.at_work for asked in self._asked)) if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for asked in self._asked:
            await asked.client.aclose()

    def _could_be_met(self) -> bool:
        return self.policy.is_met({asked.name for asked in self._asked if not asked.contradicts})

    def _round_over(self, task: "asyncio.Task[None]") -> None:
        self._round = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the witnesses could not be asked: %s", cause(error))

    async def _publish_and_ask(self) -> None:
        note = await self.writer.publish()
        if note is not None:
            await self._ask(note, self._asked)

    async def _ask(self, note: Note, whom: list[Asked]) -> None:
        """Ask for cosignatures of one checkpoint, until the quorum has cosigned it or each has ended."""
        now = Checkpoint.parse(note.text)
        agreed = {each.name for each in self._asked if each.cosigned == now.size}
        working: set[asyncio.Task[None]] = set()
        for asked in whom:
            if asked.at_work is None:
                asked.at_work = asyncio.create_task(self._ask_one(asked, note, now, agreed))
                asked.at_work.add_done_callback(partial(_let_go, asked))
                working.add(asked.at_work)
        while working and not self.policy.is_met(agreed):
            _, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        if self.policy.is_met(agreed):
            self.covered = max(self.covered, now.size)
        else:  # another gate of this ledger may have been faster
            self.covered = max(self.covered, await self._read(self._covered))

    async def _ask_one(self, asked: Asked, note: Note, now: Checkpoint, agreed: set[str]) -> None:
        """Ask one witness, and note how it stands."""
        try:
            try:
                cosignature = await self._cosigned(asked, note, now)
            except NotCosigned as error:
                asked.put_off()
                await self._stands(asked, "silent", str(error))
            except Contradicted as error:
                asked.put_off()
                await self._stands(asked, error.standing, str(error), known=error.known, ours=error.ours)
            else:
                if cosignature is not None:
                    await self.writer.write(lambda batch: keep(batch, now.size, cosignature))
                    asked.size = asked.cosigned = now.size
                    agreed.add(asked.name)
                    asked.pause, asked.not_before = FIRST_PAUSE, 0.0
                    await self._stands(asked, "cosigns")
        except LedgerUnavailable as error:
            asked.put_off()
            log.warning("what witness %s says could not be kept: %s", asked.name, error)

    async def _cosigned(self, asked: Asked, note: Note, now: Checkpoint) -> Cosignature | None:
        """Give the witness's cosignature; None when it has cosigned a later checkpoint of ours already."""
        if not asked.size:
            asked.size = await self._read(partial(cosigned_by, self.engine, f"{asked.client.witness.key}"))
        asked.size = min(asked.size, now.size)
        for _ in range(_MOST_QUESTIONS):
            try:
                proof = await self._read(partial(growth, self.engine, asked.size, now.size))
                answer = await asked.client.add_checkpoint(Submission.of(note, asked.size, proof))
            except Unproven as error:
                raise Contradicted("forked", asked.size, now.size) from error
            if not isinstance(answer, Stale):
                return answer
            if answer.size == asked.size == now.size:  # as many entries, and others
                raise Contradicted("forked", answer.size, now.size)
            if answer.size > now.size:
                held = await self._read(partial(entries_in, self.engine))
                if answer.size > held:
                    raise Contradicted("rolled_back", answer.size, held)
                return None
            if answer.size < asked.size:
                log.warning("witness %s has forgotten that it cosigned %d entries", asked.name, asked.size)
            asked.size = answer.size
        raise NotCosigned("it does not stay with one size")

    async def _stands(self, asked: Asked, standing: Standing, problem: str = "", **detail: int) -> None:
        """Take note of how a witness stands; tell of each change, and the ledger of contradictions.

        Raises:
            LedgerUnavailable: it could not be told, and is told the next time.
        """
        asked.problem = problem
        if standing == asked.standing:
            return
        if standing in CONTRADICTIONS:
            log.error("witness %s REFUSES TO COSIGN: %s", asked.name, problem)
            await self._record(asked, f"witness_{standing}", **detail)
        elif standing == "silent":
            log.warning("witness %s does not cosign: %s", asked.name, problem)
        elif asked.standing != "unasked":
            log.warning("witness %s cosigns again", asked.name)
        if standing == "cosigns" and asked.recorded:
            await self._record(asked, "witness_agrees")
        asked.standing = standing

    async def _record(self, asked: Asked, status: str, **detail: int) -> None:
        key = f"{asked.client.witness.key}"
        fault = self.entries.bare("fault", status, detail={"witness": asked.name, "key": key, **detail})
        await self.writer.write(lambda batch: batch.append(fault))
        asked.recorded = bool(detail)

    def _covered(self) -> int:
        """Read how many entries the quorum has cosigned; a checkpoint of another history does not count."""
        with self.engine.connect() as connection:
            note = cosigned_note(connection, self.policy, self.covered)
            found = None if note is None else Checkpoint.parse(note.text)
            return found.size if found is not None and holds(connection, found) else 0

    async def _read(self, reading: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(reading)
        except (SQLAlchemyError, ValueError) as error:
            raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error


def _let_go(asked: Asked, task: "asyncio.Task[None]") -> None:
    asked.at_work = None
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("witness %s could not be asked: %s", asked.name, cause(error))


_NOT_SENT: Final = (
    "it must be cosigned by witnesses before anything is done, and was not, so nothing was done"
)
