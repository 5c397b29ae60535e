"""The gates' database server, and what happens to it while they write."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, get_args

from tests.postgresql import OWNER, WRITER, Cluster, cluster
from tests.torture.points import note
from toolgate.backends.postgres_connection import PostgresConnection
from toolgate.backends.postgres_schema import grant, make, whole

Blow = Literal["fast restart", "immediate restart", "killed", "sessions ended", "a session stopped"]
BLOWS: Final[tuple[Blow, ...]] = get_args(Blow)
SERVER: Final = "the server"
STOPPED: Final = 1.2
"""Seconds for which a session is stopped: longer than a gate waits for an answer."""
CALM: Final = 2.0
"""Seconds after a blow in which a gate may still find that it cannot open."""
_BETWEEN: Final = (1.5, 5.0)
"""Seconds between two blows."""


class Server:
    """A server with the gates' database, made by its owner; the gates are let in as writers."""

    def __init__(self, running: Cluster, seed: str) -> None:
        self._cluster, self._database = running, running.create()
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated
        self._calm_at = 0.0
        self._over = asyncio.Event()
        with _owner(running.url(OWNER, self._database)) as owner, whole(owner):
            make(owner)
            grant(owner, writer=WRITER, reader=None)

    @property
    def url(self) -> str:
        """Where gates find it."""
        return self._cluster.url(WRITER, self._database)

    def excuses(self, begun: float) -> bool:
        """Whether a gate that began to open at `begun` (monotonic) may have found no database."""
        return begun < self._calm_at

    async def shake(self, diary: Path) -> None:
        """Deal one blow after the other until `calm`."""
        deck: list[Blow] = []
        while not await self._is_over_in(self._chance.uniform(*_BETWEEN)):
            if not deck:
                deck = self._chance.sample(BLOWS, len(BLOWS))
            blow = deck.pop()
            note(diary, SERVER, blow)
            self._calm_at = float("inf")
            await asyncio.to_thread(self._deal, blow)
            self._calm_at = time.monotonic() + CALM

    def calm(self) -> None:
        """Deal no more blows."""
        self._over.set()

    async def _is_over_in(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)
        return self._over.is_set()

    def _deal(self, blow: Blow) -> None:
        match blow:
            case "fast restart":
                self._cluster.restart("fast")
            case "immediate restart":
                self._cluster.restart("immediate")
            case "killed":
                self._cluster.restart("kill")
            case "sessions ended":
                self._cluster.cut_off(self._database)
            case "a session stopped":
                self._stop_a_session()

    def _stop_a_session(self) -> None:
        """Stop the process that serves one of the gates, which does not notice."""
        found = self._cluster.ask(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'toolgate %%'",
            self._database,
        )
        if found:
            (pid,) = self._chance.choice(sorted(found))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                try:
                    time.sleep(STOPPED)
                finally:
                    os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def a_server(seed: str) -> AsyncGenerator[Server]:
    """Start a server with an empty ledger."""
    starting = cluster(shared_buffers="32MB", max_connections="40")
    running = await asyncio.to_thread(starting.__enter__)
    try:
        yield await asyncio.to_thread(Server, running, seed)
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


@contextmanager
def _owner(url: str) -> Generator[PostgresConnection]:
    connection = PostgresConnection(url, seconds=30.0, purpose="owner")
    try:
        yield connection
    finally:
        connection.close()
