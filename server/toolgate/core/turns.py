"""Calls of one run are judged and opened one after the other, where rules look at what the run did before."""

import asyncio
from weakref import WeakValueDictionary

from toolgate.core.call import Call


class Turns:
    """Gives each run a lock, for as long as somebody waits for it.

    It spares calls that come at once being judged over and over. That none slips under a limit is up to the
    ledger, which other processes write too.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()

    def of(self, call: Call) -> asyncio.Lock:
        """Give the lock of the run that `call` is part of."""
        caller = call.caller
        run = (caller.tenant, caller.issuer, caller.subject, call.run or "")
        return self._locks.setdefault(run, asyncio.Lock())
