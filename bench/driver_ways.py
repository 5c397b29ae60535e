"""The ways in which `bench.drivers` lets a group commit travel to the server."""

import os
import threading
from typing import Any, Protocol

import psycopg

from bench.driver_work import (
    BY_KEY,
    BY_KEYS,
    CLAIM,
    ENTRY,
    FLUSH,
    MOVE,
    OWNED,
    OWNS,
    PACKED,
    PAYLOAD,
    SETTLE,
    SETTLE_ALL,
    TIP,
    WRITTEN,
    Jobs,
    Row,
    inserts,
    many,
)


class Way(Protocol):
    """Commits jobs; made, used and closed in one thread."""

    def commit(self, jobs: Jobs) -> None: ...
    def close(self) -> None: ...


class Psycopg:
    """Psycopg 3 in a thread of its own, each statement by itself."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor)
        self.connection.prepare_threshold = 0
        self.connection.prepared_max = 500
        self.cursor = psycopg.RawCursor(self.connection)

    def ask(self, text: str, *values: Any) -> list[Any]:  # noqa: ANN401
        return self.cursor.execute(text.encode(), values).fetchall()

    def do(self, text: str, values: list[Any] | Row) -> None:
        self.cursor.execute(text.encode(), values)

    def commit(self, jobs: Jobs) -> None:
        self.do("BEGIN", ())
        ((size, _),) = self.ask(TIP)
        keys, claims = jobs.key_digests(), jobs.claims(size)
        for key, claim in zip(keys, claims, strict=True):
            assert not self.ask(BY_KEY, key)
            for statement in many("claim", CLAIM, [claim]):
                self.do(*statement)
        for row in jobs.settled(size):
            assert self.ask(OWNS, row[0], 1, "me")
            self.do(SETTLE, row)
        self.finish(jobs, size)

    def finish(self, jobs: Jobs, size: int) -> None:
        added, statements = inserts(jobs, size)
        for statement in statements:
            self.do(*statement)
        self.do(MOVE, (size + added, PACKED, size))
        self.do("COMMIT", ())

    def close(self) -> None:
        self.connection.close()


class PsycopgLateWrites(Psycopg):
    """Each read by itself; writes are sent without waiting, and looked at with the commit."""

    def commit(self, jobs: Jobs) -> None:
        with self.connection.pipeline() as pipeline:
            self.do("BEGIN", ())
            ((size, _),) = self.ask(TIP)
            for key, claim in zip(jobs.key_digests(), jobs.claims(size), strict=True):
                assert not self.ask(BY_KEY, key)
                for statement in many("claim", CLAIM, [claim]):
                    self.do(*statement)
            for row in jobs.settled(size):
                assert self.ask(OWNS, row[0], 1, "me")
                self.do(SETTLE, row)
            self.finish(jobs, size)
            pipeline.sync()


class PsycopgTwoTrips(Psycopg):
    """All reads in one round trip with the tip's lock, all writes in the other."""

    after: tuple[str, ...] = ()

    def commit(self, jobs: Jobs) -> None:
        with self.connection.pipeline() as pipeline:
            self.do("BEGIN", ())
            for statement in self.after:
                self.do(statement, ())
            tip = psycopg.RawCursor(self.connection).execute(TIP.encode())
            asked: list[tuple[str, Row]] = [(BY_KEY, (key,)) for key in jobs.key_digests()]
            asked += [(OWNS, (call, 1, "me")) for call in jobs.closed]
            looks = [
                psycopg.RawCursor(self.connection).execute(text.encode(), values) for text, values in asked
            ]
            size = tip.fetchall()[0][0]
            found = [len(look.fetchall()) for look in looks]
            assert found == [0] * len(jobs.opened) + [1] * len(jobs.closed)
            self.write(jobs, size)
            pipeline.sync()

    def write(self, jobs: Jobs, size: int) -> None:
        for statement in many("claim", CLAIM, jobs.claims(size)):
            self.do(*statement)
        for row in jobs.settled(size):
            self.do(SETTLE, row)
        self.finish(jobs, size)


class PsycopgBatched(PsycopgTwoTrips):
    """The same, with one statement for all claims by key, one for all that are settled."""

    def commit(self, jobs: Jobs) -> None:
        with self.connection.pipeline() as pipeline:
            self.do("BEGIN", ())
            tip = psycopg.RawCursor(self.connection).execute(TIP.encode())
            by_key = psycopg.RawCursor(self.connection).execute(BY_KEYS.encode(), (jobs.key_digests(),))
            owned = psycopg.RawCursor(self.connection).execute(OWNED.encode(), (jobs.closed,))
            size = tip.fetchall()[0][0]
            assert (len(by_key.fetchall()), len(owned.fetchall())) == (0, len(jobs.closed))
            self.write(jobs, size)
            pipeline.sync()

    def write(self, jobs: Jobs, size: int) -> None:
        for statement in many("claim", CLAIM, jobs.claims(size)):
            self.do(*statement)
        if settled := jobs.settled(size):
            self.do(SETTLE_ALL, [list(column) for column in zip(*settled, strict=True)])
        self.finish(jobs, size)


class PsycopgFlushAfter(PsycopgTwoTrips):
    """As two trips; the lock is let go before the disk is waited for, and one more commit waits for it.

    The WAL is one sequence: whoever's flush is done, everything before it is on the disk as well.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.name = f"w{threading.get_ident()}-{os.getpid()}"

    after = ("SET LOCAL synchronous_commit = off",)

    def finish(self, jobs: Jobs, size: int) -> None:
        super().finish(jobs, size)
        self.do(FLUSH, (self.name,))


class PsycopgMany(PsycopgTwoTrips):
    """As two trips; rows are inserted one by one with `executemany`."""

    def finish(self, jobs: Jobs, size: int) -> None:
        entries = jobs.entries(size)
        for table, names, rows in (("entry", ENTRY, entries), ("payload", PAYLOAD, jobs.payloads(entries))):
            ((text, _),) = many(table, names, rows[:1])
            self.cursor.executemany(text.encode(), rows)
        self.do(MOVE, (size + len(entries), PACKED, size))
        self.do("COMMIT", ())


class PsycopgFunction(Psycopg):
    """All of it in one call of a function: the transaction begins and ends with it."""

    def commit(self, jobs: Jobs) -> None:
        self.ask(WRITTEN, *arguments(jobs))


def arguments(jobs: Jobs) -> tuple[Any, ...]:
    entries = jobs.entries(0)
    columns = ([row[11] for row in entries], [row[2] for row in entries], [row[3] for row in entries])
    return (0, *columns, jobs.key_digests(), jobs.opened, jobs.closed, PACKED)
