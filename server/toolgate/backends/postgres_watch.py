"""Which gates on a PostgreSQL ledger are alive, and who has ended a call: one quiet connection a gate.

A gate holds an advisory lock as long as this connection lives, and says every second that it is alive. It is
gone when it has said nothing for a while, by the server's clock, *and* its lock is free: one that was stopped
in mid-call still has the lock, as the kernel keeps its connection up; one whose connection broke, or whose
server was restarted, takes the lock again before the others stop believing in it. And a gate that could not
say so in time itself begins nothing more (`is_seen`), because others may already conclude that it will not.
"""

import asyncio
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, Literal

from sqlalchemy import bindparam, delete, insert, select, update

from toolgate import __version__
from toolgate.backends.owners import here, owners_needed
from toolgate.backends.postgres_connection import PostgresConnection, PostgresError, told
from toolgate.backends.sql_connection import SqlConnection
from toolgate.backends.sql_tables import GATE, Prepared
from toolgate.core.errors import LedgerUnavailable

log = logging.getLogger(__name__)

LAPSE: Final = 10.0
"""Seconds without a word after which a gate is taken for gone, if its lock is free."""
BEAT: Final = 1.0
"""Seconds between two of its words."""
REMEMBERED: Final = 86_400.0
"""Seconds for which a gate that was not heard of any more is remembered."""
_TRUSTED: Final = 0.6
"""The part of a lapse for which a gate believes that the others believe in it."""
_APART: Final = 1.0
"""Seconds by which a gate's clock may differ from the database's."""
_INDEX: Final = re.compile(r"[0-9]{1,18}")
_MOST_WAITING: Final = 0.5
"""Seconds between two tries to get the connection back."""
CHANNEL: Final = "toolgate_ended"

_NEWEST: Final = "SELECT max(entry) AS entry FROM policy_activation"
_CLOCK: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_BEAT: Final = (
    f"UPDATE gate SET seen_at = {_CLOCK} WHERE owner = %(owner)s AND seen_at <> 0 RETURNING seen_at"  # noqa: S608
)
_STATE: Final = f"""
    SELECT seen_at < {_CLOCK} - %(lapse)s AS silent, EXISTS (
        SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid = %(high)s AND objid = %(low)s
    ) AS locked FROM gate WHERE owner = %(owner)s
"""  # noqa: S608 - of constants
_ADD: Final = Prepared(insert(GATE))
_LEAVE: Final = Prepared(update(GATE).where(GATE.c.owner == bindparam("owner_")).values(seen_at=0))
_FORGET: Final = Prepared(delete(GATE).where(GATE.c.owner == bindparam("owner_")))
_LONG_GONE: Final = Prepared(
    select(GATE.c.owner).where(GATE.c.owner != bindparam("me"), GATE.c.seen_at < bindparam("before"))
)


class PostgresWatch:
    """This gate, as the others see it; and the others, as it sees them.

    Args:
        connect: opens a connection.
        lapse: seconds without a word after which a gate is taken for gone.

    Raises:
        LedgerUnavailable: the database cannot be reached.
    """

    def __init__(self, connect: Callable[[], PostgresConnection], *, lapse: float = LAPSE) -> None:
        self.me = secrets.token_hex(8)
        self._connect, self._lapse = connect, lapse
        self._seen = self._resumed = time.monotonic()
        self._leaving = threading.Event()
        self.newest_activation: int | None = None
        """The entry of the newest activation of a policy, as of when this gate said last that it lives."""
        self._waiting: dict[int, set[_Waiter]] = {}
        self._changing = threading.Lock()
        self._started_at = time.time_ns() // 1000
        with ExitStack() as undo:
            self._connection = self._connected()
            undo.callback(self._connection.close)
            self._beat()
            undo.pop_all()
        self._thread = threading.Thread(target=self._keep_watch, name="ledger-watch", daemon=True)
        self._thread.start()

    def is_seen(self, since: float) -> bool:
        """Whether all others have taken this gate for alive all the time, from `since` (monotonic) until now.

        A gate that was out of sight and came back may go on, but not with what it had begun before: others
        may have taken that for lost, and run it again.
        """
        seen = self._seen  # before `_resumed`, which is written first
        return since > self._resumed and time.monotonic() - seen < self._lapse * _TRUSTED

    def is_alive(self) -> bool:
        """Whether anybody keeps watch."""
        return self._thread.is_alive()

    def is_gone(self, connection: SqlConnection, owner: str) -> bool:
        """Whether the gate that was `owner` has ended; of one that nobody has heard of, nobody can tell."""
        if owner == self.me:
            return False
        return standing_of(connection, owner, self._lapse) == "gone"

    def sweep(self, connection: SqlConnection) -> None:
        """Forget gates that left, or were last seen long ago, but for those whose end still has to be seen.

        One that only seems to be gone may come back with a call that it was about to record; and once it is
        forgotten, nobody can tell any more that it has ended.
        """
        needed = owners_needed(connection)
        before = time.time_ns() // 1000 - round(REMEMBERED * 1e6)
        others = [
            row["owner"] for row in _LONG_GONE.on(connection, {"me": self.me, "before": before}).fetchall()
        ]
        for owner in others:
            if owner not in needed and self.is_gone(connection, owner):
                _FORGET.on(connection, {"owner_": owner})

    async def ended(self, intent: int, seconds: float) -> None:
        """Wait until a gate says that it has ended the call of `intent`; at most so long."""
        waiter = _Waiter(asyncio.get_running_loop())
        with self._changing:
            self._waiting.setdefault(intent, set()).add(waiter)
        try:
            await asyncio.wait_for(waiter.ended.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            with self._changing:
                self._waiting[intent].discard(waiter)
                if not self._waiting[intent]:
                    del self._waiting[intent]

    def leave(self, connection: PostgresConnection | None) -> None:
        """Be gone, and say so."""
        self._leaving.set()
        if connection is not None and not connection.is_lost:
            try:
                _LEAVE.on(connection, {"owner_": self.me})
                if self.me not in owners_needed(connection):
                    _FORGET.on(connection, {"owner_": self.me})
                connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))  # wakes our own thread, too
            except PostgresError as error:
                log.warning("the ledger was left without a word: %s", told(error))
        self._thread.join(timeout=2 * BEAT)

    def _connected(self) -> PostgresConnection:
        connection = self._connect()
        try:
            connection.execute(f"LISTEN {CHANNEL}")
            while not self._took_lock(connection):  # the server has yet to see that our last connection broke
                connection.execute(_BEAT, {"owner": self.me})
                time.sleep(_MOST_WAITING / 10)
        except PostgresError as error:
            connection.close()
            raise LedgerUnavailable(told(error)) from error
        return connection

    def _took_lock(self, connection: PostgresConnection) -> bool:
        row = connection.execute("SELECT pg_try_advisory_lock(%s) AS taken", (_signed(self.me),)).fetchone()
        return self._leaving.is_set() or (row is not None and bool(row["taken"]))

    def _beat(self) -> None:
        """Say that this gate is alive; durably, as nobody could ever tell that one without a row is gone."""
        begun, before = time.monotonic(), time.time()
        row = self._connection.execute(_BEAT, {"owner": self.me}).fetchone()
        if row is None:
            if self._leaving.is_set():
                return
            row = self._appear()
        demand_same_time(before, row["seen_at"] / 1e6, time.time())
        newest = self._connection.execute(_NEWEST).fetchone()
        self.newest_activation = None if newest is None else newest["entry"]
        if begun - self._seen >= self._lapse * _TRUSTED:
            self._resumed = time.monotonic()
        self._seen = begun

    def _appear(self) -> Any:  # noqa: ANN401 - a row
        """Come in: for the first time, or after others have forgotten a gate that was long out of sight."""
        row = {"owner": self.me, "name": here(), "program": __version__, "started_at": self._started_at}
        digests = {"policy": "", "catalog": "", "settings": "", "shadow": ""}
        _ADD.on(self._connection, row | digests | {"address": "", "seen_at": 1})
        return self._connection.execute(_BEAT, {"owner": self.me}).fetchone()

    def _keep_watch(self) -> None:
        pause = 0.0
        while not self._leaving.wait(pause):
            try:
                if self._connection.is_lost:
                    self._connection = self._connected()
                self._beat()
                for said in self._connection.notifications(BEAT):
                    self._hear(said)
                    if self._leaving.is_set():
                        break
                pause = 0.0
            except (PostgresError, LedgerUnavailable, OSError) as error:
                if pause == 0.0:
                    log.warning("the others cannot hear of this gate: %s", told(error))
                self._connection.close()
                pause = _MOST_WAITING
        self._connection.close()

    def _hear(self, said: str) -> None:
        for intent in said.split(","):
            if not _INDEX.fullmatch(intent):  # whoever may connect can say anything here
                continue
            with self._changing:
                waiters = tuple(self._waiting.get(int(intent), ()))
            for waiter in waiters:
                with suppress(RuntimeError):  # its loop was closed
                    waiter.loop.call_soon_threadsafe(waiter.ended.set)


def demand_same_time(before: float, theirs: float, after: float) -> None:
    """See that this machine's clock, read before and after, is the server's, but for a moment.

    Gates tell each other by theirs from when on what was sent has arrived.

    Raises:
        LedgerUnavailable: it is not.
    """
    apart = max(before - theirs, theirs - after)
    if apart > _APART:
        raise LedgerUnavailable(
            f"this machine's clock and the database's are {apart:.1f} s apart: set them by NTP, then "
            "calls are taken again"
        )


def standing_of(connection: SqlConnection, owner: str, lapse: float) -> Literal["alive", "gone"]:
    """Say whether a gate has ended; of one that nobody has heard of, nobody can tell: it counts as alive."""
    high, low = _halves(owner)
    asked = {"owner": owner, "lapse": round(lapse * 1e6), "high": high, "low": low}
    row = connection.execute(_STATE, asked).fetchone()
    return "gone" if row is not None and row["silent"] and not row["locked"] else "alive"


class _Waiter:
    """Somebody who waits for the end of a call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.ended = loop, asyncio.Event()


def _signed(owner: str) -> int:
    """The key of an owner's advisory lock: its 64 bits, as PostgreSQL counts."""
    return int.from_bytes(bytes.fromhex(owner), signed=True)


def _halves(owner: str) -> tuple[int, int]:
    """The same key, as `pg_locks` shows it."""
    key = int(owner, 16)
    return key >> 32, key & 0xFFFFFFFF
