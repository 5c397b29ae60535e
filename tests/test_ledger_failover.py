"""What a gate does when its PostgreSQL hangs, is cut off, or is replaced by its standby."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.postgresql import OWNER, Cluster, cluster, standby
from tests.torture.books import Book
from tests.torture.gate import Gate, open_gate
from tests.torture.stage import a_stage
from tests.torture.tree import faults_in_ledger
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.outcome import Done, Failed

pytestmark = pytest.mark.anyio
KEY = "a-key-of-16-chars-or-more"


async def test_a_call_waits_for_the_standby_that_takes_over_and_nothing_is_lost(tmp_path: Path) -> None:
    with cluster() as primary, standby(primary) as second:
        url = _both(primary, second)
        async with _gate(tmp_path, url, patience=20.0) as gate:
            before = await gate.call(1, f"{KEY}-1")
            taking_over = asyncio.create_task(asyncio.to_thread(_fail_over, primary, second))
            meanwhile = await gate.call(2, f"{KEY}-2")
            await taking_over
            again = await gate.call(1, f"{KEY}-1")

            assert isinstance(before.outcome, Done)
            assert isinstance(meanwhile.outcome, Done)
            assert again.replayed
            assert again.outcome == before.outcome
        with closing(Book(tmp_path / "ledger.db", url).open()) as book:
            assert list(faults_in_ledger(tmp_path, book)) == []


async def test_a_standby_that_lacks_what_was_recorded_is_refused(tmp_path: Path) -> None:
    with cluster() as primary, standby(primary) as second:
        url = _both(primary, second)
        # No checkpoint covers what is lost: that it is, only the tree tells.
        async with _gate(tmp_path, url, patience=2.0, every=60.0) as gate:
            await gate.call(1, f"{KEY}-1")
            primary.ask("ALTER SYSTEM SET synchronous_standby_names = ''")
            primary.ask("SELECT pg_reload_conf()")
            second.kill()
            lost = await gate.call(2, f"{KEY}-2")
            primary.kill()
            await asyncio.to_thread(second.start)
            await asyncio.to_thread(second.promote)
            refused = await gate.call(3, f"{KEY}-3")

            assert isinstance(lost.outcome, Done)
            assert isinstance(refused.outcome, Failed)
            assert refused.outcome.code == "ledger_unavailable"
            with pytest.raises(LedgerUnavailable, match=r"an old copy, or a standby"):
                await gate.parts.writer.publish()


async def test_a_line_that_is_cut_is_mended_within_the_call(
    tmp_path: Path, postgresql: Cluster, postgresql_database: str
) -> None:
    with line_to(postgresql.port) as line:
        url = postgresql.url(OWNER, postgresql_database, port=line.port)
        async with _gate(tmp_path, url, patience=10.0) as gate:
            first = await gate.call(1, f"{KEY}-1")
            line.cut()
            second = await gate.call(2, f"{KEY}-2")

            assert isinstance(first.outcome, Done)
            assert isinstance(second.outcome, Done)


async def test_behind_a_line_that_stands_still_calls_are_refused_in_time(
    tmp_path: Path, postgresql: Cluster, postgresql_database: str
) -> None:
    with line_to(postgresql.port) as line:
        url = postgresql.url(OWNER, postgresql_database, port=line.port)
        async with _gate(tmp_path, url, patience=0.5) as gate:
            await gate.call(1, f"{KEY}-1")
            line.flowing.clear()
            async with asyncio.timeout(10):
                refused = await gate.call(2, f"{KEY}-2")
            line.flowing.set()
            async with asyncio.timeout(20):
                while not isinstance((await gate.call(3, f"{KEY}-3")).outcome, Done):
                    await asyncio.sleep(0.1)

            assert isinstance(refused.outcome, Failed)
            assert refused.outcome.code == "ledger_unavailable"


async def test_a_gate_is_known_for_good_even_if_the_server_crashes_as_it_comes(tmp_path: Path) -> None:
    with cluster() as server:
        database = server.create()
        async with _gate(tmp_path, server.url(OWNER, database), patience=10.0) as gate:
            server.restart("kill")
            me = gate.parts.writer.owners.me
            assert server.ask("SELECT owner FROM gate WHERE seen_at > 0", database=database) == [(me,)]


async def test_only_gates_that_left_or_are_long_gone_are_forgotten(
    tmp_path: Path, postgresql: Cluster, postgresql_database: str
) -> None:
    url = postgresql.url(OWNER, postgresql_database)
    add = "INSERT INTO gate SELECT %s, '', '', '', 0, %s, '', '', '', ''"
    now = time.time_ns() // 1000
    async with a_stage(tmp_path, mode="key", url=url, strict=False) as stage:
        async with open_gate(stage.setup):
            pass
        for owner, seen in (("a", 0), ("b", now - 2 * 86_400_000_000), ("c", now - 3_600_000_000)):
            postgresql.ask(add, owner * 16, seen, database=postgresql_database)
        async with open_gate(stage.setup) as gate:
            me = gate.parts.writer.owners.me
            known = postgresql.ask("SELECT owner FROM gate", database=postgresql_database)
    assert sorted(known) == sorted([(me,), ("c" * 16,)])


@asynccontextmanager
async def _gate(folder: Path, url: str, *, patience: float, every: float = 0.05) -> AsyncGenerator[Gate]:
    """Give a gate in this process, before a system where a call has one effect."""
    terms: dict[str, Any] = {"timeout": 30.0, "grace": 30.0, "silence": 10.0}
    async with (
        a_stage(folder, mode="key", url=url, patience=patience, strict=False, **terms) as stage,
        open_gate(replace(stage.setup, every=every)) as gate,
    ):
        yield gate


def _both(primary: Cluster, second: Cluster) -> str:
    """Spell an address that names both servers; the one that takes writes is chosen."""
    database = primary.create()
    user = urlsplit(primary.url(OWNER, tcp=True)).netloc.rpartition("@")[0]
    while second.ask("SELECT 1 FROM pg_database WHERE datname = %s", database) == []:
        pass
    return f"postgresql://{user}@127.0.0.1:{primary.port},127.0.0.1:{second.port}/{database}"


def _fail_over(primary: Cluster, second: Cluster) -> None:
    primary.kill()
    second.promote()
    second.ask("ALTER SYSTEM RESET synchronous_standby_names")
    second.ask("SELECT pg_reload_conf()")


@dataclass
class Line:
    """A way to the server that can be cut, or stand still."""

    to: int
    port: int = 0
    flowing: threading.Event = field(default_factory=threading.Event)
    _ends: list[socket.socket] = field(default_factory=list[socket.socket])

    def cut(self) -> None:
        """Break every connection that is open."""
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(self, listening: socket.socket) -> None:
        """Take connections until nobody listens any more."""
        passing: list[threading.Thread] = []
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                passing.append(thread := threading.Thread(target=self._pass_on, args=(client,)))
                thread.start()
        self.cut()
        for thread in passing:
            thread.join()

    def _pass_on(self, client: socket.socket) -> None:
        with closing(client), closing(socket.create_connection(("127.0.0.1", self.to))) as server:
            self._ends += [client, server]
            back = threading.Thread(target=self._copy, args=(server, client))
            back.start()
            self._copy(client, server)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65536):
                self.flowing.wait()
                target.sendall(part)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def line_to(port: int) -> Generator[Line]:
    """Pass on what comes to a port of its own."""
    line = Line(port)
    line.flowing.set()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line.port = int(listening.getsockname()[1])
        serving = threading.Thread(target=line.serve, args=(listening,))
        serving.start()
        try:
            yield line
        finally:
            line.flowing.set()
            listening.shutdown(socket.SHUT_RDWR)
            serving.join()
