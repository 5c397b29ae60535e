"""A database connection that does one statement a transaction, off the event loop."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from threading import Lock
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from sqlalchemy import Connection, CursorResult, text
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from toolgate.adapter import (
    Credential,
    NothingDone,
    OutcomeUnknown,
    Sending,
    System,
    faults_in,
)
from toolgate_adapters.sql_engine import address_of
from toolgate_adapters.sql_sign_ins import SignedIn, SignIns

KEY_PARAMETER: Final = "idempotency_key"
"""A statement that binds `:idempotency_key` gets the call's key; no caller can set it."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A declared statement with this call's arguments."""

    text: str
    parameters: dict[str, JsonValue]
    most_rows: int
    needs_row: bool
    """Without a row it is rolled back."""
    expect_changed: int | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the database gave back."""

    rows: list[dict[str, Any]]
    changed: int


class SqlSystem(BaseModel):
    """The `[system]` table."""

    model_config = ConfigDict(extra="forbid")

    url: str
    """`sqlite:///data/crm.db` (from the deployment's folder), `postgresql://host:port/database` or, over a
    socket, `postgresql:///database?host=/folder`."""
    max_connections: int = Field(default=8, ge=1, le=100)


class SqlConnector:
    """One pool of connections, and of threads to wait for them in."""

    marks_sending = True

    def __init__(self, system: System) -> None:
        try:
            options = SqlSystem.model_validate(dict(system.options))
        except ValidationError as error:
            raise ValueError(faults_in(error, "[system]")) from error
        self._threads = ThreadPoolExecutor(options.max_connections, f"sql-{system.name}")
        url = address_of(options.url, system.root)
        self._sign_ins = SignIns(url, options.max_connections, self._threads)

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["Database"]:
        """Lend the database, signed in with `credential` (`user:password`) where it has users.

        A credential that is this call's alone leaves no connection behind.
        """
        del sending  # each write calls the one in its context
        until = credential.until if credential else None
        yield Database(self._sign_ins.of(credential), self._threads, until)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sign_ins.aclose()
        self._threads.shutdown(wait=False)


class Database:
    """What an operation gets: a read or a write, each a transaction of its own.

    Args:
        until: when the credential ends; no statement of a server runs longer.
    """

    def __init__(
        self, signed_in: SignedIn, threads: ThreadPoolExecutor, until: datetime | None = None
    ) -> None:
        self._signed_in, self._threads, self._until = signed_in, threads, until

    async def read(self, statement: Statement, deadline: datetime) -> Answer:
        """Run a statement in a read-only transaction.

        Raises:
            NothingDone: the database refused it or could not be reached.
        """
        work = _Work(self._signed_in, statement, self._no_longer_than(deadline), None)
        return await self._in_thread(work.read, work)

    async def write(self, statement: Statement, deadline: datetime, sending: Sending) -> Answer:
        """Run a statement and commit it.

        Raises:
            NothingDone: it was refused and rolled back.
            OutcomeUnknown: the connection was lost during the commit.
        """
        work = _Work(self._signed_in, statement, self._no_longer_than(deadline), sending)
        return await self._in_thread(work.write, work)

    def _no_longer_than(self, deadline: datetime) -> datetime:
        return deadline if self._until is None else min(deadline, self._until)

    async def _in_thread(self, run: Callable[[], T], work: "_Work") -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, run)
        except asyncio.CancelledError:
            work.interrupt()
            raise


class _Work:
    """One statement on its way; it can be interrupted from the event loop."""

    def __init__(
        self, signed_in: SignedIn, statement: Statement, deadline: datetime, sending: Sending | None
    ) -> None:
        self._signed_in, self._statement, self._deadline = signed_in, statement, deadline
        self._sending = sending
        self._driver: sqlite3.Connection | None = None
        self._given_up = False
        self._lock = Lock()

    def read(self) -> Answer:
        try:
            with (
                self._signed_in.engine(writing=False) as engine,
                engine.connect() as connection,
                connection.begin(),
            ):
                return self._execute(connection)
        except (SQLAlchemyError, OverflowError) as error:
            raise _refusal(error) from error

    def write(self) -> Answer:
        try:
            with self._signed_in.engine(writing=True) as engine, engine.connect() as connection:
                transaction = connection.begin()
                answer = self._execute(connection, whole=True)
                self._mark_the_send()
                try:
                    transaction.commit()
                except SQLAlchemyError as error:
                    raise _after_commit(error) from error
        except (SQLAlchemyError, OverflowError) as error:
            raise _refusal(error) from error
        return answer

    def interrupt(self) -> None:
        """Stop waiting: SQLite's statement is interrupted, PostgreSQL ends it by its `statement_timeout`."""
        with self._lock:
            self._given_up = True
            if self._driver is not None:
                self._driver.interrupt()

    def _mark_the_send(self) -> None:
        """Only the commit has an effect; nobody who has given up before it is committed behind their back."""
        with self._lock:
            if self._given_up:
                raise _given_up()
            if self._sending is not None:
                self._sending()

    def _execute(self, connection: Connection, *, whole: bool = False) -> Answer:
        if connection.dialect.name == "sqlite":
            self._driver = connection.connection.driver_connection
        try:
            if self._given_up:
                raise _given_up()
            self._limit_time(connection)
            statement = text(self._statement.text).execution_options(stream_results=not whole)
            with closing(connection.execute(statement, self._parameters(connection))) as result:
                return self._answer(result, whole=whole)
        finally:
            with self._lock:  # the next borrower of this connection is not to be interrupted
                self._driver = None

    def _answer(self, result: CursorResult[Any], *, whole: bool) -> Answer:
        rows: list[dict[str, Any]] = []
        if result.returns_rows:
            found = result.mappings()
            rows = [dict(row) for row in found.fetchmany(self._statement.most_rows)]
            if not rows and self._statement.needs_row:
                raise NothingDone("not_found", "there is no such row")
            # Of a write the rows are what it changed; SQLite commits only when all of them were read.
            changed = len(rows) + (len(found.fetchall()) if whole else 0)
        else:
            changed = max(0, result.rowcount)
        expected = self._statement.expect_changed
        if expected is not None and changed != expected:
            raise NothingDone(
                "not_found" if changed == 0 else "conflict",
                f"the statement would have changed {changed} rows, not {expected}; it was rolled back",
            )
        return Answer(rows=rows, changed=changed)

    def _parameters(self, connection: Connection) -> dict[str, Any]:
        """Give the arguments in types that the driver takes: SQLite keeps a date as ISO 8601 text."""
        given: dict[str, Any] = self._statement.parameters
        if connection.dialect.name != "sqlite":
            return given
        return {name: v.isoformat() if isinstance(v, date) else v for name, v in given.items()}

    def _limit_time(self, connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            left = max(1, round((self._deadline - datetime.now(UTC)).total_seconds() * 1000))
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {left}")


def _given_up() -> NothingDone:
    return NothingDone("timeout", "the database did not answer in time; nothing was changed", retryable=True)


def _refusal(error: SQLAlchemyError | OverflowError) -> NothingDone:
    """Before the commit everything is rolled back, whatever it was: nothing was done."""
    if isinstance(error, IntegrityError):
        return NothingDone("conflict", "the database refused the change: it breaks a constraint")
    if isinstance(error, OperationalError) and _was_not_let_in(error):
        return NothingDone("upstream_sign_in", "the database did not let the tool's user in")
    if isinstance(error, OperationalError | InterfaceError) and not _is_at_fault(error):
        return NothingDone("unreachable", "the database could not be reached, or was busy", retryable=True)
    return NothingDone("statement_failed", "the database could not run the declared statement")


def _was_not_let_in(error: DBAPIError) -> bool:
    """Whether PostgreSQL ended an attempt to connect after it had asked for a password."""
    attempt = getattr(error.orig, "pgconn", None)
    return attempt is not None and bool(attempt.used_password or attempt.needs_password)


def _is_at_fault(error: DBAPIError) -> bool:
    """Whether SQLite, for which almost everything is an OperationalError, means the statement itself."""
    code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return code in {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY}


def _after_commit(error: SQLAlchemyError) -> NothingDone | OutcomeUnknown:
    if isinstance(error, DBAPIError):
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
        if error.connection_invalidated or code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}:
            return OutcomeUnknown("the database or the way to it failed during the commit")
    return _refusal(error)
