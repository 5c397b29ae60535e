"""What one use of an audit tool may see: whose calls, and whether their values, as the manifest says it."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from toolgate.adapter import Credential, NothingDone, Sending, System, faults_in
from toolgate.backends.audit_queries import Filter, Found, NamedQuery
from toolgate.backends.audit_reading import LedgerReader, Reading, TooSlow, Use
from toolgate.core.call import Caller
from toolgate.core.errors import LedgerUnavailable, NothingRecorded
from toolgate.core.record import JsonObject

AT_ONCE: Final = 2
"""Questions that run at the same time, of one manifest's tools; others wait, within their time."""

_SHOW_VALUES: Final = frozenset({"arguments", "touched"})
"""Queries that show what callers asked, or let one test a guess at it."""
_SAID: Final[Mapping[str, str]] = {
    "who-read": "asked",
    "resolutions": "because",
    "changes": "because",
    "erasures": "basis",
}
"""Columns of other queries that hold what somebody asked or said."""
_OF_NOBODY: Final = frozenset({"checkpoints"})
"""Queries about nothing of any tenant's."""


class Scope(BaseModel):
    """The `[system]` table of a manifest for the audit tools."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenants: Literal["own", "all"] = "own"
    """Whose calls are shown: those of the caller's own tenant, or everybody's."""
    values: bool = False
    """Whether arguments, results, and what else was asked or said, are shown, where the ledger keeps them."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """The client of the audit tools: one caller's access to the ledger, in one call."""

    reader: LedgerReader
    pool: ThreadPoolExecutor
    scope: Scope
    caller: Caller
    tool: str
    call_id: str

    @property
    def now(self) -> datetime:
        """The clock (UTC)."""
        return self.reader.now()

    @property
    def tenant(self) -> str | None:
        """The only tenant of which something may be shown; None for all."""
        return self.caller.tenant if self.scope.tenants == "own" else None

    async def reading(self, query: str, asked: JsonObject, until: datetime) -> Reading:
        """Record that the caller reads; only then is there anything to read."""
        use = Use(caller=self.caller, tool=self.tool, call_id=self.call_id, until=until)
        return await self.reader.recorded(use, self.pool, query, asked)

    def narrowed(self, query: NamedQuery, asked: dict[Filter, str | int]) -> dict[Filter, str | int]:
        """Give the filters with the tenant that is forced on them.

        Raises:
            NothingDone: this must not be asked here.
        """
        if query.name in _SHOW_VALUES and not self.scope.values:
            raise NothingDone(
                "values_withheld",
                f"{query.name} shows values of calls, and this tool must not (`values` in its manifest); "
                "ask for `calls`, or use the tool that may",
            )
        if self.tenant is None:
            return asked
        if asked.get("tenant", self.tenant) != self.tenant:
            detail = f"this tool shows the tenant {self.tenant!r} only; leave `tenant` out"
            raise NothingDone("other_tenant", detail)
        if "tenant" in query.filters:
            return {**asked, "tenant": self.tenant}
        if query.name not in _OF_NOBODY:
            raise NothingDone(
                "other_tenant",
                f"{query.name} is about all tenants together, and this tool shows {self.tenant!r} only; "
                "ask for another query, or use the tool of the auditors of all tenants",
            )
        return asked

    def shown(self, query: NamedQuery, found: Found) -> Found:
        """Give an answer without the values that this tool must not show: nothing stands in their place."""
        if self.scope.values or query.name not in _SAID:
            return found
        at = found.columns.index(_SAID[query.name])
        return replace(found, rows=[(*row[:at], None, *row[at + 1 :]) for row in found.rows])

    def may_see(self, body: JsonObject) -> bool:
        """Whether an entry may be shown: its own tenant's, and what says how calls were governed."""
        return self.tenant is None or body.get("tenant") == self.tenant or body.get("kind") == "config"


class AuditConnector:
    """Lends access to the ledger. There is nothing to sign in to: the gate says who calls.

    Args:
        reader: reads the ledger; None where the deployment is only looked at, and nothing is called.
        system: the manifest's.
    """

    marks_sending = True

    def __init__(self, reader: LedgerReader | None, system: System) -> None:
        try:
            self.scope = Scope.model_validate(dict(system.options))
        except ValidationError as error:
            raise ValueError(faults_in(error, "[system]")) from error
        self._reader = reader
        self._pool = ThreadPoolExecutor(AT_ONCE, f"audit-{system.name}")

    def session(self, credential: Credential | None, sending: Sending) -> AbstractAsyncContextManager[Access]:
        """Lend nothing to nobody: see `access`."""
        del credential, sending
        raise TypeError("the audit tools must know who calls")

    @asynccontextmanager
    async def access(self, caller: Caller, tool: str, call_id: str) -> AsyncGenerator[Access]:
        """Lend `caller` access for one call."""
        if self._reader is None:
            raise TypeError("no ledger is open")
        with told_to_callers():
            yield Access(
                reader=self._reader,
                pool=self._pool,
                scope=self.scope,
                caller=caller,
                tool=tool,
                call_id=call_id,
            )

    async def aclose(self) -> None:
        """Let the threads end."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


@contextmanager
def told_to_callers() -> Generator[None]:
    """Say what ended a reading in words that a caller can act on."""
    try:
        yield
    except TooSlow as error:
        detail = "the question took too long; narrow it by `since`, `until`, `tool` or `subject`"
        raise NothingDone("too_slow", detail) from error
    except NothingRecorded as error:
        raise NothingDone("not_found", str(error)) from error
    except LedgerUnavailable as error:
        raise NothingDone("ledger_unavailable", f"{error}; ask again later", retryable=True) from error
