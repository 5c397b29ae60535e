"""Sees to it that what a vault made ends: with its call or run, when its gate died, or when told."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Final

from toolgate.backends.lease_book import Because, LeaseBook, Living
from toolgate.backends.ledger_entries import micros
from toolgate.backends.owed import Owed, OwedLease, OwedRun
from toolgate.backends.vault.client import VaultClient
from toolgate.backends.vault.replies import Reply, VaultFault
from toolgate.backends.vault.runs import RunTokens
from toolgate.backends.vault.sign_in import GateToken
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.record import JsonObject

log = logging.getLogger(__name__)

_GRACE: Final = 5_000_000
"""Microseconds after its end during which a vault may still be busy ending a lease."""
_CLOSING_SECONDS: Final = 5.0
_AT_ONCE: Final = 32
"""How many are ended side by side: a vault that has many to end is slow."""
_LEASE: Final = "sys/leases/revoke"
_ACCESSOR: Final = "auth/token/revoke-accessor"


class Upkeep:
    """Ends leases and runs. What cannot be ended now is tried again, and lapses in the end."""

    def __init__(
        self,
        client: VaultClient,
        gate: GateToken,
        runs: RunTokens,
        book: LeaseBook,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._client, self._gate, self._runs, self._book = client, gate, runs, book
        self._now = now
        self._to_end = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._working = asyncio.Lock()

    async def end_soon(self, lease: str, *, within: float) -> bool:
        """End a lease now; False when that could not be done in time. Never raises."""
        try:
            async with asyncio.timeout(within):
                await self._end_lease(lease)
        except (TimeoutError, VaultFault) as error:
            log.warning("a lease could not be given back yet (%s)", _word(error))
            self._to_end += 1
            return False
        return True

    def end_late(self, reply: Reply) -> None:
        """End what was made when nobody waited for it any more, or what could not be used."""
        if reply.lease:
            self._beside(self._try_to_end(reply.lease))

    async def work_off(self) -> None:
        """Keep the gate signed in; end what is over, was queued, asked for, or left by a gate that died."""
        async with self._working:
            try:
                await self._gate.keep()
            except VaultFault as fault:
                log.warning("the gate is not signed in to the vault (%s)", fault.code)
            living = await self._book.living()
            self._forget_ended(living)
            over = set(self._runs.over())
            todo: list[tuple[Owed, Because]] = []
            for one in living.found:
                if one.until + _GRACE < micros(self._now()):
                    todo.append((one, "expired"))
                elif isinstance(one, OwedRun) and one.owner == living.me and one.accessor in over:
                    todo.append((one, "run_over"))
                elif (why := living.why_end(one)) is not None:
                    todo.append((one, why))
            self._to_end = len(todo)
            self._runs.forget_all_but({one.accessor for one in living.found if isinstance(one, OwedRun)})
            await self._end_all(todo)

    def readiness(self) -> JsonObject:
        """Say whether the gate is signed in, and how much it still has to end."""
        return {"signed_in": self._gate.signed_in, "to_end": self._to_end}

    async def aclose(self) -> None:
        """End this gate's runs, with all that was made under them; then its own token, and so the rest."""
        try:
            async with asyncio.timeout(_CLOSING_SECONDS), self._working:
                await self._client.settled()
                await self._runs.settled()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                living = await self._book.living()
                mine = [one for one in living.found if one.owner == living.me]
                await self._end_all([(one, "shutdown") for one in mine if isinstance(one, OwedRun)])
        except (TimeoutError, VaultFault, LedgerUnavailable) as error:
            log.warning("not everything was given back to the vault one by one (%s)", _word(error))
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._gate.aclose()
        except (TimeoutError, VaultFault) as error:
            log.warning("the gate's token was not given back (%s): what it made lapses", _word(error))

    def _forget_ended(self, living: Living) -> None:
        """Make nothing more under tokens that somebody else has ended."""
        known = {one.accessor for one in living.found if isinstance(one, OwedRun) and one.state == "open"}
        for accessor in self._runs.recorded():
            if accessor not in known:
                self._runs.drop(accessor)

    async def _end_all(self, todo: Sequence[tuple[Owed, Because]]) -> None:
        """End them, a few side by side; what has ended is recorded."""
        for begin in range(0, len(todo), _AT_ONCE):
            some = todo[begin : begin + _AT_ONCE]
            ended = await asyncio.gather(*(self._end(*one) for one in some))
            gone = [one for one, done in zip(some, ended, strict=True) if done]
            await self._book.ended(gone)
            self._to_end = max(0, self._to_end - len(gone))
            for one, _ in gone:
                if isinstance(one, OwedRun):
                    self._runs.forget(one.accessor)

    async def _end(self, one: Owed, because: Because) -> bool:
        try:
            if isinstance(one, OwedLease):
                await self._end_lease(one.id)
            else:
                self._runs.drop(one.accessor)
                await self._end_run(one.accessor)
        except VaultFault as fault:
            if because == "expired":
                return True  # its time is over, and the vault ends it by itself
            log.warning("%s of call %s could not be ended yet (%s)", _what(one), one.call_id, fault.code)
            return False
        if because == "orphan":
            log.warning("%s of call %s was left by a gate that died, and is ended", _what(one), one.call_id)
        return True

    async def _end_lease(self, lease: str) -> None:
        await self._gate.using(
            lambda token: self._client.write(_LEASE, {"lease_id": lease, "sync": True}, token)
        )

    async def _end_run(self, accessor: str) -> None:
        try:
            await self._gate.using(lambda token: self._client.write(_ACCESSOR, {"accessor": accessor}, token))
        except VaultFault as fault:
            if fault.code not in {"vault_refused", "vault_no_such_secret"}:  # it is gone already
                raise

    async def _try_to_end(self, lease: str) -> None:
        try:
            await self._end_lease(lease)
        except VaultFault as fault:
            log.warning("a lease that nobody used lives on until its time is over (%s)", fault.code)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _what(one: Owed) -> str:
    return "a lease" if isinstance(one, OwedLease) else "a run's token"


def _word(error: Exception) -> str:
    return error.code if isinstance(error, VaultFault) else type(error).__name__
