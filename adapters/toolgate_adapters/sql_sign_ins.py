"""Who is signed in to a database: connections stay open while their credential is good, and no longer."""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from threading import Lock
from typing import Final

from sqlalchemy import URL, Engine

from toolgate.adapter import Credential, NothingDone
from toolgate_adapters.sql_engine import CONNECT_SECONDS, opened

_MOST_LASTING: Final = 4
"""Credentials without an end whose connections are kept; a manifest rarely has more roles."""
_MOST_OF_RUNS: Final = 64
"""Credentials of runs that are kept, each with one connection that waits at most."""


class SignedIn:
    """The database as one credential sees it. Its methods are for threads: they may close sockets."""

    def __init__(self, url: URL, secret: str, *, idle: int, most: int, kept: bool) -> None:
        self._open = partial(opened, url, secret, idle=idle, most=most)
        self._engines: tuple[Engine, Engine] | None = None
        self._users = 0
        self._over = not kept
        self._lock = Lock()

    @contextmanager
    def engine(self, *, writing: bool) -> Generator[Engine]:
        """Lend the engine to a thread; where nobody comes after it, the connections close behind it."""
        with self._lock:
            self._users += 1
            if self._engines is None:
                self._engines = self._open()
            engine = self._engines[writing]
        try:
            yield engine
        finally:
            with self._lock:
                self._users -= 1
            self._close_what_is_over()

    def close(self) -> None:
        """Close the connections: at once, or when the last thread has done with them."""
        with self._lock:
            self._over = True
        self._close_what_is_over()

    def _close_what_is_over(self) -> None:
        with self._lock:
            if not self._over or self._users:
                return
            engines, self._engines = self._engines or (), None
        for engine in engines:
            engine.dispose()


class SignIns:
    """Signs credentials in to one database, and keeps those open that others of their run come back with.

    Args:
        most: connections that one credential has at most.
        threads: where connections are opened and closed.
    """

    def __init__(self, url: URL, most: int, threads: ThreadPoolExecutor) -> None:
        self._url, self._most, self._threads = url, most, threads
        self._lasting = _Kept(_MOST_LASTING, self._closing)
        self._of_runs = _Kept(_MOST_OF_RUNS, self._closing)

    def of(self, credential: Credential | None) -> SignedIn:
        """Give the database as `credential` (`user:password`) sees it; a file knows no users.

        Raises:
            NothingDone: the credential's time is over.
        """
        if credential is None or self._url.get_backend_name() == "sqlite":
            return self._lasting.get("", lambda: self._signed_in("", idle=self._most))
        secret = credential.secret.get_secret_value()
        if credential.shared and credential.until is None:
            return self._lasting.get(secret, lambda: self._signed_in(secret, idle=self._most))
        left = _seconds_until(credential.until)
        if left is not None and left <= 0:
            problem = "the credential's time was over before the database was asked; nothing was done"
            raise NothingDone("credential_expired", problem, retryable=True)
        if not credential.shared:
            return self._signed_in(secret, kept=False)
        return self._of_runs.get(secret, lambda: self._signed_in(secret), left)

    async def aclose(self) -> None:
        """Close all connections; one that a statement is still using closes when that has ended."""
        closing = [*self._lasting.empty(), *self._of_runs.empty()]
        if closing:
            await asyncio.wait(closing, timeout=CONNECT_SECONDS)

    def _signed_in(self, secret: str, *, idle: int = 1, kept: bool = True) -> SignedIn:
        return SignedIn(self._url, secret, idle=idle, most=self._most, kept=kept)

    def _closing(self, signed_in: SignedIn) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._threads, signed_in.close)


class _Kept:
    """The credentials used last, by their secrets."""

    def __init__(self, most: int, closing: Callable[[SignedIn], asyncio.Future[None]]) -> None:
        self._most, self._closing = most, closing
        self._known: dict[str, tuple[SignedIn, asyncio.TimerHandle | None]] = {}

    def get(self, secret: str, make: Callable[[], SignedIn], seconds: float | None = None) -> SignedIn:
        """Give the one that is known, or make it, to be closed after `seconds`."""
        known = self._known.pop(secret, None)
        if known is None:
            loop = asyncio.get_running_loop()
            known = make(), None if seconds is None else loop.call_later(seconds, self._drop, secret)
        self._known[secret] = known
        if len(self._known) > self._most:
            self._drop(next(iter(self._known)))
        return known[0]

    def empty(self) -> list[asyncio.Future[None]]:
        """Close all of them."""
        return [self._drop(secret) for secret in list(self._known)]

    def _drop(self, secret: str) -> asyncio.Future[None]:
        signed_in, timer = self._known.pop(secret)
        if timer is not None:
            timer.cancel()
        return self._closing(signed_in)


def _seconds_until(end: datetime | None) -> float | None:
    return None if end is None else (end - datetime.now(UTC)).total_seconds()
