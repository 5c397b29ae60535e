"""Random names under which entries speak of callers, clients and runs; whom they stand for can be erased."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import bindparam, insert, select

from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Names
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.sql_tables import PSEUDONYM, Prepared
from toolgate.core.call import Call, Caller
from toolgate.core.canonical import canonical

_BYTES: Final = 10
_MOST_CACHED: Final = 10_000

_FIND = Prepared(
    select(PSEUDONYM.c.name).where(
        PSEUDONYM.c.kind == bindparam("kind"), PSEUDONYM.c.value == bindparam("value")
    )
)
_ADD = Prepared(insert(PSEUDONYM))


class Pseudonyms:
    """Gives the pseudonym of whoever is named, and makes one for whoever has none.

    Args:
        random: gives so many random bytes.
    """

    def __init__(self, writer: LedgerWriter, random: Callable[[int], bytes]) -> None:
        self._writer, self._random = writer, random
        self._known: dict[tuple[str, str, str, str], str] = {}
        self._as_of = 0

    async def names(self, call: Call, config: int) -> Names:
        """Give the names for one call.

        Raises:
            LedgerUnavailable: a new pseudonym could not be kept.
        """
        caller = call.caller
        return Names(
            who=await self.of("subject", caller, caller.subject),
            client=await self.of("client", caller, caller.client) if caller.client else "",
            act=tuple([await self.of("subject", caller, actor) for actor in caller.act]),
            run=await self.of("run", caller, call.run) if call.run else "",
            config=config,
        )

    async def of(self, kind: str, caller: Caller, name: str) -> str:
        """Give the pseudonym of `name` under the caller's tenant and issuer."""
        if self._as_of != (seen := self._writer.erased.generation):
            self._known.clear()
            self._as_of = seen
        wanted = (kind, caller.tenant, caller.issuer, name)
        if known := self._known.get(wanted):
            return known
        value = canonical([caller.tenant, caller.issuer, name])
        found = await self._writer.begin(lambda batch: self._learn(batch, kind, value))
        if len(self._known) >= _MOST_CACHED:
            self._known.clear()
        if self._as_of == self._writer.erased.generation:  # else it may have been erased since
            self._known[wanted] = found
        return found

    def _learn(self, batch: Batch, kind: str, value: bytes) -> str:
        if row := batch.find(_FIND, {"kind": kind, "value": value}):
            return str(row["name"])
        name = f"p{self._random(_BYTES).hex()}"
        batch.execute(_ADD, {"name": name, "kind": kind, "value": value})
        return name
