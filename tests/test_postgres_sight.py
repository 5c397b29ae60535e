"""A gate whose line to PostgreSQL is cut: what it may still do, and what it is told of its commits."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.cut_line import Line, line_to
from tests.postgresql import OWNER, Cluster, cluster, standby
from tests.torture.books import Book
from tests.torture.tree import faults_in_ledger
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_parts import LedgerFiles, LedgerParts, open_ledger_parts
from toolgate.backends.log_key import LogKey
from toolgate.backends.postgres_connection import PostgresConnection
from toolgate.backends.postgres_schema import make, whole
from toolgate.backends.postgres_watch import PostgresWatch, demand_same_time, standing_of
from toolgate.backends.postgres_writer import PUBLISHING
from toolgate.core.errors import LedgerUnavailable
from toolgate.main import now

pytestmark = pytest.mark.anyio

LAPSE = 2.0


@pytest.fixture(scope="module")
def server() -> Generator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def database(server: Cluster) -> str:
    database = server.create()
    with (
        closing(PostgresConnection(server.url(OWNER, database), seconds=10, purpose="test")) as owner,
        whole(owner),
    ):
        make(owner)
    return database


@pytest.fixture
def line(server: Cluster) -> Generator[Line]:
    with line_to(server.port) as line:
        yield line


@pytest.fixture
def files(server: Cluster, database: str, line: Line, tmp_path: Path) -> LedgerFiles:
    return _files(tmp_path, server.url(OWNER, database, port=line.port))


def _files(folder: Path, url: str) -> LedgerFiles:
    return LedgerFiles(
        database=folder / "none",
        checkpoint=folder / "checkpoint",
        spill=folder / "spill",
        url=SecretStr(url),
        patience=1.0,
        lapse=LAPSE,
    )


def _opened(files: LedgerFiles, folder: Path) -> LedgerParts:
    file = folder / "ledger.key"
    if not file.exists():
        LogKey.new("test").write(file)
    return open_ledger_parts(files, LogKey.read(file), now=now, random=os.urandom)


async def test_a_commit_whose_answer_was_lost_is_found_out_and_breaks_no_count(
    server: Cluster, database: str, line: Line, files: LedgerFiles, tmp_path: Path
) -> None:
    ledger = _opened(files, tmp_path)
    heard: list[int] = []

    def add(batch: Batch) -> int:
        return batch.append(ledger.entries.bare("fault", "test", detail={}))

    try:
        line.cut_at_commit.set()
        with pytest.raises(LedgerUnavailable):
            await ledger.writer.begin(add, given_up=heard.append)
        line.whole.set()
        last = await _when_it_can(ledger, add)
        async with asyncio.timeout(20):
            while not heard:
                await asyncio.sleep(0.01)
    finally:
        await ledger.aclose()

    book = Book(tmp_path / "none", server.url(OWNER, database)).open()
    faults = list(faults_in_ledger(tmp_path, book))
    tests = book.ask("SELECT idx FROM ledger_entry WHERE kind = 'fault' AND status = 'test' ORDER BY idx")
    book.close()
    assert faults == []
    assert tests == [(heard[0],), (last,)]


async def test_a_gate_that_was_out_of_sight_goes_on_but_not_with_what_it_had_begun(
    line: Line, files: LedgerFiles, tmp_path: Path
) -> None:
    ledger = _opened(files, tmp_path)
    writer = ledger.writer
    try:
        await _until(lambda: writer.may_act(time.monotonic()))
        begun = time.monotonic()
        assert writer.may_act(begun)
        line.cut()
        await _until(lambda: not writer.may_act(begun))
        line.whole.set()
        await _until(lambda: writer.may_act(time.monotonic()))
        assert not writer.may_act(begun)
    finally:
        await ledger.aclose()


async def test_a_gate_that_others_have_forgotten_comes_in_again(server: Cluster, database: str) -> None:
    url = server.url(OWNER, database)
    watch = PostgresWatch(partial(PostgresConnection, url, seconds=5, purpose="watch"), lapse=LAPSE)
    with closing(PostgresConnection(url, seconds=5, purpose="test")) as other:
        try:
            other.execute("DELETE FROM gate")
            await _until(lambda: other.execute("SELECT 1 FROM gate").fetchone() is not None)
            assert standing_of(other, watch.me, LAPSE) == "alive"
            await _until(lambda: watch.is_seen(time.monotonic()))
        finally:
            watch.leave(other)
        assert other.execute("SELECT 1 FROM gate").fetchone() is None


async def _when_it_can(ledger: LedgerParts, add: Callable[[Batch], int]) -> int:
    async with asyncio.timeout(30):
        while True:
            try:
                return await ledger.writer.write(add)
            except LedgerUnavailable:
                await asyncio.sleep(0.1)


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.02)


async def test_what_is_queued_while_another_gate_has_the_turn_is_committed_with_the_rest(
    server: Cluster, database: str, files: LedgerFiles, tmp_path: Path
) -> None:
    ledger = _opened(files, tmp_path)

    def add(batch: Batch) -> int:
        return batch.append(ledger.entries.bare("fault", "test", detail={}))

    def answers(question: str) -> list[int]:
        return [row[0] for row in other.execute(question).fetchall()]

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with closing(PostgresConnection(server.url(OWNER, database), seconds=10, purpose="test")) as other:
        try:
            await ledger.writer.write(add)
            other.execute("BEGIN")
            other.execute("SELECT size FROM ledger_tip WHERE id = 1 FOR UPDATE")
            asked = [asyncio.ensure_future(ledger.writer.write(add))]
            await _until(lambda: answers(waiting) == [1])
            asked += [asyncio.ensure_future(ledger.writer.write(add)) for _ in range(3)]
            published = asyncio.ensure_future(ledger.writer.publish())
            asked += [asyncio.ensure_future(ledger.writer.write(add)) for _ in range(3)]
            await asyncio.sleep(0.05)
            other.execute("ROLLBACK")
            together = await asyncio.gather(*asked)
            note = await published
        finally:
            await ledger.aclose()
        _, *commits = answers("SELECT xmin::text::bigint FROM ledger_entry WHERE kind = 'fault' ORDER BY idx")

    assert together == list(range(together[0], together[0] + 7))
    assert commits[:4] == [commits[0]] * 4
    assert commits[4:] == [commits[4]] * 3
    assert commits[0] < commits[4]
    assert note is not None


async def test_a_gate_that_stands_still_while_it_publishes_holds_nobody_up_for_long(
    server: Cluster, database: str, files: LedgerFiles, tmp_path: Path
) -> None:
    ledger = _opened(files, tmp_path)

    def add(batch: Batch) -> int:
        return batch.append(ledger.entries.bare("fault", "test", detail={}))

    with closing(PostgresConnection(server.url(OWNER, database), seconds=3, purpose="test")) as stopped:
        stopped.execute("BEGIN")
        stopped.execute("SELECT pg_advisory_xact_lock(%s)", (PUBLISHING,))
        try:
            await ledger.writer.write(add)
            with pytest.raises(LedgerUnavailable):
                await ledger.writer.publish()
            async with asyncio.timeout(30):
                while await _refused(ledger.writer.publish()):
                    await asyncio.sleep(0.1)
        finally:
            await ledger.aclose()


async def _refused(publishing: Awaitable[object]) -> bool:
    try:
        await publishing
    except LedgerUnavailable:
        return True
    return False


async def test_a_commit_that_no_standby_has_is_not_taken_for_durable(tmp_path: Path) -> None:
    with cluster() as primary, standby(primary) as second:
        database = primary.create()
        url = primary.url(OWNER, database)
        with closing(PostgresConnection(url, seconds=10, purpose="test")) as owner, whole(owner):
            make(owner)
        ledger = _opened(_files(tmp_path, url), tmp_path)

        def add(batch: Batch) -> int:
            return batch.append(ledger.entries.bare("fault", "test", detail={}))

        try:
            await ledger.writer.write(add)
            second.stop()
            waiting = asyncio.create_task(ledger.writer.write(add))
            async with asyncio.timeout(20):
                while not primary.ask(_CANCEL):
                    await asyncio.sleep(0.02)
            await asyncio.wait({waiting})
            second.start()
            with pytest.raises(LedgerUnavailable):
                await waiting
            await _when_it_can(ledger, add)
        finally:
            await ledger.aclose()
        book = Book(tmp_path / "none", url).open()
        faults = list(faults_in_ledger(tmp_path, book))
        ((tests,),) = book.ask("SELECT count(*) FROM ledger_entry WHERE status = 'test'")
        book.close()

    assert faults == []
    assert tests == 3


_CANCEL = """
    SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE wait_event = 'SyncRep' AND application_name = 'toolgate writer'
"""


async def test_whatever_is_said_on_its_channel_a_gate_goes_on(
    server: Cluster, database: str, files: LedgerFiles, tmp_path: Path
) -> None:
    ledger = _opened(files, tmp_path)
    try:
        with closing(PostgresConnection(server.url(OWNER, database), seconds=10, purpose="test")) as other:
            for said in ("x", "-1", "1" * 5000, "\u0663", ",,7,", " 1"):
                other.execute("SELECT pg_notify('toolgate_ended', %s)", (said,))
        until = time.monotonic() + LAPSE
        while time.monotonic() < until:
            await asyncio.sleep(0.1)
        assert ledger.writer.is_alive()
        assert ledger.writer.may_act(time.monotonic())
    finally:
        await ledger.aclose()


def test_a_machine_whose_clock_is_wrong_is_told() -> None:
    demand_same_time(100.0, 100.4, 100.5)
    demand_same_time(100.0, 130.0, 130.1)  # the answer took its time
    for before, theirs, after in ((100.0, 97.0, 100.1), (100.0, 103.0, 100.1)):
        with pytest.raises(LedgerUnavailable, match=r"are \d\.\d s apart: set them by NTP"):
            demand_same_time(before, theirs, after)
