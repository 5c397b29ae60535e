"""The ways that do without psycopg's cursors: libpq by itself, and asyncpg."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportUntypedFunctionDecorator=false

import select
from importlib import import_module
from typing import Any

import psycopg
import uvloop
from psycopg import pq

from bench.driver_ways import arguments
from bench.driver_work import (
    BY_KEY,
    BY_KEYS,
    CLAIM,
    MOVE,
    OWNED,
    OWNS,
    PACKED,
    SETTLE,
    SETTLE_ALL,
    TIP,
    WRITTEN,
    Jobs,
    Row,
    inserts,
    many,
)


class Libpq:
    """Two round trips by libpq itself, as `psycopg.pq` gives it: queued, sent together, read together."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.libpq = self.connection.pgconn
        self.libpq.nonblocking = 1
        self.libpq.enter_pipeline_mode()
        self.names: dict[str, bytes] = {}
        self.queued: list[bool] = []
        self.poll = select.poll()

    def do(self, text: str, values: list[Any] | Row = ()) -> int:
        name = self.names.get(text)
        if name is None:
            name = self.names[text] = b"s%d" % len(self.names)
            self.libpq.send_prepare(name, text.encode())
            self.queued.append(False)
        sent = [
            value.to_bytes(8, signed=True)
            if isinstance(value, int)
            else value.encode()
            if isinstance(value, str)
            else value
            for value in values
        ]
        formats = [0 if isinstance(value, str) else 1 for value in values]
        self.libpq.send_query_prepared(name, sent, formats, 1)
        self.queued.append(True)
        return sum(self.queued) - 1

    def all(self) -> list[pq.abc.PGresult]:
        """Send what is queued, and give its results."""
        libpq, results = self.libpq, list[pq.abc.PGresult]()
        libpq.pipeline_sync()
        queued, self.queued = self.queued, []
        self.poll.register(libpq.socket, select.POLLIN | (select.POLLOUT if libpq.flush() else 0))
        while True:
            while libpq.is_busy():
                for _, event in self.poll.poll():
                    if event & select.POLLOUT and not libpq.flush():
                        self.poll.modify(libpq.socket, select.POLLIN)
                libpq.consume_input()
            result = libpq.get_result()
            if result is None:
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return [result for result, wanted in zip(results, queued, strict=True) if wanted]
            if result.status not in {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}:
                raise psycopg.DatabaseError(result.error_message)
            results.append(result)

    def commit(self, jobs: Jobs) -> None:
        self.do("BEGIN")
        self.do(TIP)
        for key in jobs.key_digests():
            self.do(BY_KEY, (key,))
        for call in jobs.closed:
            self.do(OWNS, (call, 1, "me"))
        _, tip, *looks = self.all()
        size = int.from_bytes(tip.get_value(0, 0) or b"", signed=True)
        assert [look.ntuples for look in looks] == [0] * len(jobs.opened) + [1] * len(jobs.closed)
        for statement in many("claim", CLAIM, jobs.claims(size)):
            self.do(*statement)
        for row in jobs.settled(size):
            self.do(SETTLE, row)
        added, statements = inserts(jobs, size)
        for statement in statements:
            self.do(*statement)
        self.do(MOVE, (size + added, PACKED, size))
        self.do("COMMIT")
        self.all()

    def close(self) -> None:
        self.connection.close()


class Asyncpg:
    """asyncpg on a loop of its own in a thread, each statement by itself."""

    def __init__(self, url: str) -> None:
        self.loop = uvloop.new_event_loop()
        asyncpg: Any = import_module("asyncpg")  # it has no types
        self.connection: Any = self.loop.run_until_complete(asyncpg.connect(url, statement_cache_size=500))

    def commit(self, jobs: Jobs) -> None:
        self.loop.run_until_complete(self.work(jobs))

    async def do(self, text: str, values: list[Any] | Row) -> None:
        await self.connection.fetch(text, *values)

    async def work(self, jobs: Jobs) -> None:
        await self.connection.execute("BEGIN")
        ((size, _),) = await self.connection.fetch(TIP)
        for key, claim in zip(jobs.key_digests(), jobs.claims(size), strict=True):
            assert not await self.connection.fetch(BY_KEY, key)
            for statement in many("claim", CLAIM, [claim]):
                await self.do(*statement)
        for row in jobs.settled(size):
            assert await self.connection.fetch(OWNS, row[0], 1, "me")
            await self.do(SETTLE, row)
        await self.finish(jobs, size)

    async def finish(self, jobs: Jobs, size: int) -> None:
        added, statements = inserts(jobs, size)
        for statement in statements:
            await self.do(*statement)
        await self.do(MOVE, (size + added, PACKED, size))
        await self.connection.execute("COMMIT")

    def close(self) -> None:
        self.loop.run_until_complete(self.connection.close())
        self.loop.close()


class AsyncpgBatched(Asyncpg):
    """asyncpg, one statement for all reads and writes of a kind; it has no pipeline."""

    async def work(self, jobs: Jobs) -> None:
        await self.connection.execute("BEGIN")
        ((size, _),) = await self.connection.fetch(TIP)
        if jobs.opened:
            assert not await self.connection.fetch(BY_KEYS, jobs.key_digests())
            for statement in many("claim", CLAIM, jobs.claims(size)):
                await self.do(*statement)
        if jobs.closed:
            assert len(await self.connection.fetch(OWNED, jobs.closed)) == len(jobs.closed)
            await self.do(SETTLE_ALL, [list(column) for column in zip(*jobs.settled(size), strict=True)])
        await self.finish(jobs, size)


class AsyncpgFunction(Asyncpg):
    """All of it in one call of a function."""

    async def work(self, jobs: Jobs) -> None:
        await self.connection.fetch(WRITTEN, *arguments(jobs))
