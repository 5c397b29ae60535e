"""Writes to a ledger in PostgreSQL, beside other gates that do the same.

Whoever has locked the row of the tree's tip has the turn; one `fsync` covers all that a gate has queued up
meanwhile. A connection that breaks is opened anew within the caller's patience. Whether the transaction that
was on its way then holds is not guessed: its first entry is looked for, once the turn shows that it is over.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from toolgate.backends.checkpoints import Checkpoints, holds
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_writer import Fate, LedgerWriter
from toolgate.backends.postgres_connection import (
    NotReplicated,
    PostgresConnection,
    PostgresError,
    came_too_late,
    shown,
    told,
)
from toolgate.backends.postgres_schema import demand_durability, demand_schema, excess_rights, whole
from toolgate.backends.postgres_watch import CHANNEL, LAPSE, PostgresWatch
from toolgate.backends.sql_connection import SqlConnection
from toolgate.backends.sql_tables import CLAIM, PAYLOAD, PSEUDONYM
from toolgate.backends.writer_job import Job
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import Frontier

log = logging.getLogger(__name__)

_ERASABLE: Final = (PAYLOAD, PSEUDONYM, CLAIM)
_MAY_VACUUM: Final = """
    SELECT bool_and(pg_has_role(relowner, 'MEMBER')) AS may FROM pg_class
    WHERE oid = ANY(SELECT unnest(string_to_array(%(tables)s::text, ','))::regclass)
"""
_PINNED: Final = "SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false)"
"""As it was found to be: a server that is set otherwise while we are connected does not change it for us."""
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Whatever the server's default: what is read behind the turn must be of after it was had."""
_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds between tries to reach the server; the last one again and again."""
PUBLISHING: Final = 0x746F_6F6C_6761_7465
"""The advisory lock of whoever publishes a checkpoint: "toolgate" in ASCII."""

_FOR_ANOTHER: Final = "1s"
"""How long to wait for another gate that publishes: what is to be written waits meanwhile."""


class PostgresOwners:
    """The gates on one ledger, asked about on the writer's own connection."""

    def __init__(self, watch: PostgresWatch, connection: Callable[[], PostgresConnection]) -> None:
        self._watch, self._connection = watch, connection

    @property
    def me(self) -> str:
        """This gate."""
        return self._watch.me

    def is_gone(self, owner: str) -> bool:
        """Whether the gate that was `owner` has ended."""
        return self._watch.is_gone(self._connection(), owner)

    def has_ended(self, owner: str) -> bool:
        """Whether the gate that was `owner` has ended; a gate that leaves says so in its row."""
        return self.is_gone(owner)


class PostgresWriter(LedgerWriter):
    """Runs jobs in transactions that are on the server's disk when `write` returns.

    Args:
        url: the database's address.
        checkpoints: signs and publishes what the log holds.
        patience: seconds that `write` waits for the database before it gives up.
        clock: seconds of the wall clock, whose steps are recorded.
        lapse: seconds without a word after which a gate is taken for gone.
        strict: refuse to write as a role that could also change what was written, and make no tables.

    Raises:
        LedgerUnavailable: the server cannot be reached, may lose what is committed, has no tables of this
            version, or does not hold what the last published checkpoint says.
    """

    faults = (PostgresError, OSError, ValueError, LedgerUnavailable)

    def __init__(
        self,
        url: str,
        checkpoints: Checkpoints,
        *,
        patience: float = 10.0,
        clock: Callable[[], float] = time.time,
        lapse: float = LAPSE,
        strict: bool = False,
    ) -> None:
        super().__init__(checkpoints, patience=patience, clock=clock)
        self._url, self._strict = url, strict
        self._in_doubt: _InDoubt | None = None
        self._held: Frontier | None = None
        """The tree as this gate last knew it to be durable."""
        open_ = partial(PostgresConnection, url, seconds=patience)
        self._open = partial(open_, purpose="writer")
        try:
            with ExitStack() as undo:
                self._connection = self._checked()
                undo.callback(self._connection.close)
                self._watch = PostgresWatch(partial(open_, purpose="watch"), lapse=lapse)
                undo.callback(self._watch.leave, self._connection)
                self._watch.sweep(self._connection)
                undo.pop_all()
        except PostgresError as error:
            raise LedgerUnavailable(f"{shown(url)} could not be opened: {told(error)}") from error
        self._owners = PostgresOwners(self._watch, lambda: self._connection)
        self._thread.start()

    @property
    def owners(self) -> PostgresOwners:
        """The gates that write to this database."""
        return self._owners

    def has_room(self) -> bool:
        """The server looks after its disk: a full one refuses what is written, and nothing is begun."""
        return True

    def is_alive(self) -> bool:
        """Whether what is queued gets written, and the other gates can hear of this one."""
        return super().is_alive() and self._watch.is_alive()

    def may_act(self, since: float) -> bool:
        """Whether the other gates have taken this one for alive all the time since `since`."""
        return self._watch.is_seen(since)

    def newest_activation(self) -> int | None:
        """Give what the watch has heard in the last second."""
        return self._watch.newest_activation

    async def some_end(self, intent: int, seconds: float) -> None:
        """Wait until another gate says that it has ended the call of `intent`; at most so long."""
        await self._watch.ended(intent, seconds)

    async def scrub(self, *, rewrite: bool = False) -> bool:
        """Let the server overwrite what was deleted; False where this role may not, which owns no tables.

        It takes its statistics anew, too, which hold samples of values. Calls go on meanwhile; not with
        `rewrite`, which locks each table while it is made anew.
        """
        return await asyncio.to_thread(self._scrub, rewrite=rewrite)

    def _scrub(self, *, rewrite: bool) -> bool:
        connection = self._open()
        try:
            connection.take_your_time()
            for table in _ERASABLE:
                connection.execute(f"VACUUM ({'FULL, ' if rewrite else ''}ANALYZE) {table.name}")
            asked = {"tables": ",".join(table.name for table in _ERASABLE)}
            row = connection.execute(_MAY_VACUUM, asked).fetchone()
        except PostgresError as error:
            raise LedgerUnavailable(told(error)) from error
        finally:
            connection.close()
        return row is not None and bool(row["may"])

    def _let_go(self) -> None:
        self._watch.leave(self._connection)
        self._connection.close()

    def _checked(self) -> PostgresConnection:
        """Open a connection to a server that holds what this gate knows to be durable."""
        with ExitStack() as undo:
            connection = self._open()
            undo.callback(connection.close)
            demand_durability(connection)
            connection.execute(_PINNED)
            demand_schema(connection, may_make=not self._strict)
            if self._strict and (excess := excess_rights(connection)):
                raise LedgerUnavailable(
                    f"the role that gates write under may {', '.join(excess)}; serve as a role that "
                    "owns nothing: toolgate ledger setup --writer ROLE"
                )
            with _alone(connection):
                self._checkpoints.guard(connection)
            if self._held is not None and not holds(connection, self._held):
                raise LedgerUnavailable(
                    f"{shown(self._url)} does not hold the {self._held.size} entries that were recorded: it "
                    "is an old copy, or a standby that had not received them. Restore the newest one, or "
                    "run: toolgate ledger recover --accept-loss (what is lost is recorded)"
                )
            undo.pop_all()
        return connection

    def _connected(self) -> PostgresConnection:
        if self._connection.is_lost:
            self._connection = self._checked()
        if self._in_doubt is not None:
            self._settle(self._in_doubt)
        return self._connection

    def _settle(self, doubt: "_InDoubt") -> None:
        """Now that the server can be asked: tell of what holds although nobody waited for it any more."""
        held = self._was_committed(doubt.batch, self._connection)
        self._in_doubt = None
        if held:
            self._held = doubt.batch.tree  # its writer's count has ended: another generation goes on
            self._checkpoints.grew(doubt.batch.tree)
            for job in doubt.jobs:
                job.hear_late()

    @contextmanager
    def _transaction(self) -> Generator[SqlConnection]:
        connection = self._connected()
        with connection.together():
            connection.execute(_BEGIN)
            yield connection
            if self._batch is not None and self._batch.ended:
                ended = ",".join(map(str, self._batch.ended))
                connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, ended))
            _commit(connection)

    @contextmanager
    def _publishing(self) -> Generator[SqlConnection]:
        connection = self._connected()
        with _alone(connection):
            yield connection

    def _committed(self, batch: Batch, jobs: int) -> None:
        del jobs
        self._held = batch.tree

    def _tidy(self) -> None:
        """The server does."""

    def _fate(self, error: Exception, jobs: list[Job[Any]]) -> Fate:
        if not self._connection.is_lost:
            waited = came_too_late(error) and self._batch is None  # for the turn, not for a job of its own
            return "lost" if waited else "refused"
        log.warning("the ledger's connection broke: %s", told(error))
        give_up, pauses = time.monotonic() + self._patience, iter(_PAUSES)
        while True:
            try:
                return self._asked(self._connected())
            except self.faults as failed:
                pause = next(pauses, _PAUSES[-1])
                if time.monotonic() + pause > give_up:
                    log.warning("the ledger cannot be reached: %s", told(failed))
                    if self._batch is not None:
                        self._in_doubt = _InDoubt(self._batch, jobs)
                    return "unknown"
                threading.Event().wait(pause)

    def _asked(self, connection: PostgresConnection) -> Fate:
        """Ask what became of the transaction that was on its way when the connection broke."""
        if self._batch is None or not self._was_committed(self._batch, connection):
            return "lost"
        self._holds(self._batch, 0)
        return "held"

    def _was_committed(self, batch: Batch, connection: PostgresConnection) -> bool:
        """Whether a transaction holds, by its first entry; one without entries may be carried out again.

        With the turn, we know that it is over. Its number would not do: after a crash the server gives those
        that it had not written down to other transactions, and `pg_xact_status` tells of them.
        """
        if batch.mark is None:
            return False
        idx, leaf = batch.mark
        with connection.together():
            connection.execute(_BEGIN)
            connection.execute("SELECT size FROM ledger_tip WHERE id = 1 FOR UPDATE")
            row = connection.execute("SELECT leaf FROM ledger_entry WHERE idx = %s", (idx,)).fetchone()
            held = row is not None and row["leaf"] == leaf
            _commit(connection)  # as far as a standby has this, it has what was committed before
        return held


@contextmanager
def _alone(connection: PostgresConnection) -> Generator[None]:
    """Let nobody else publish. The server ends the session of a gate that stands still in a transaction."""
    with whole(connection):
        connection.execute(f"SET LOCAL lock_timeout = '{_FOR_ANOTHER}'")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (PUBLISHING,))
        yield


def _commit(connection: PostgresConnection) -> None:
    """Commit, so that it is also on each standby that has to have it.

    The server waits for those; a wait that is cut off ends in a commit all the same, and a warning. Then it
    is found out on a new connection, which waits again.
    """
    connection.warned = ""
    connection.execute("COMMIT")
    connection.sync()
    if connection.warned:
        connection.close()
        raise NotReplicated(connection.warned)


@dataclass(frozen=True)
class _InDoubt:
    """A transaction of which its jobs could not be told whether it holds."""

    batch: Batch
    jobs: list[Job[Any]]
