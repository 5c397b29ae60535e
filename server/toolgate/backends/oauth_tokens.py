"""Access tokens of a system's own authorization server: the gate's, or made of the caller's."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from toolgate.backends.lease_book import LeaseBook
from toolgate.backends.lending import Wanted
from toolgate.backends.oauth_answer import Token, token_of
from toolgate.backends.oauth_endpoint import OAuthFault, TokenEndpoints
from toolgate.backends.oauth_request import TokenRequest, Whose, oauth_faults
from toolgate.core.credential_roles import CredentialRole
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable
from toolgate.core.lease import Lease, Lent
from toolgate.core.record import JsonObject

MOST_KEPT: Final = 1000
SHORTEST_KEPT: Final = timedelta(seconds=5)
"""A token that lives no longer is for those who wait for it, and lapses."""
_FRESH: Final = 2 / 3
"""Of a token's life: after that a new one is asked for."""
_PAUSE: Final = timedelta(seconds=1)
"""How long a token that is still good is used where no new one was to be had, before that is tried again."""


@dataclass(frozen=True)
class _Kept:
    lease: Lease
    until: datetime
    stale: datetime


class OAuthSource:
    """Lends access tokens, and keeps them in memory as long as they are fresh.

    Args:
        book: where a new token is made durable before it is used.
        now: the clock (UTC).
        most: how many tokens are kept; the oldest is forgotten for one more, and lapses.
    """

    def __init__(self, book: LeaseBook, *, now: Callable[[], datetime], most: int = MOST_KEPT) -> None:
        self._book, self._now, self._most = book, now, most
        self._endpoints = TokenEndpoints()
        self._kept: dict[Whose, _Kept] = {}
        self._making: dict[Whose, asyncio.Task[Lease]] = {}

    async def lend(self, wanted: Wanted) -> Lease:
        """Lend a token of the role's authorization server: one that is kept, or a new one.

        Raises:
            CredentialUnavailable: there is none.
        """
        request = TokenRequest.of(wanted)
        whose = request.whose
        kept = self._kept.get(whose)
        if kept is not None and self._now() < kept.stale:
            return kept.lease
        try:
            return await self._made_once(whose, request)
        except CredentialUnavailable as fault:
            if kept is None or not fault.retryable or self._now() >= kept.until:
                raise
        self._keep(whose, replace(kept, stale=min(kept.until, self._now() + _PAUSE)))
        return kept.lease

    async def take_back(self, lease: Lease, *, refused: bool = False) -> Lent:
        """Say that it is kept for the next call, or lapses: nothing ends a token before its time."""
        if refused:
            for whose in [whose for whose, kept in self._kept.items() if kept.lease.lent.id == lease.lent.id]:
                del self._kept[whose]
        return lease.lent.model_copy(update={"end": "kept" if lease.shared else "lapses"})

    def faults(self, role: CredentialRole) -> Iterator[tuple[str, str]]:
        """Say what would keep the role from being lent, and what to do; its server is not asked."""
        return oauth_faults(role)

    async def keep(self) -> None:
        """Forget tokens whose time is over."""
        at = self._now()
        for whose in [whose for whose, kept in self._kept.items() if kept.until <= at]:
            del self._kept[whose]

    def readiness(self) -> JsonObject:
        """No endpoint is asked before a call needs it, so there is nothing to say."""
        return {}

    async def aclose(self) -> None:
        """Forget every token; they lapse."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        self._kept.clear()
        await self._endpoints.aclose()

    async def _made_once(self, whose: Whose, request: TokenRequest) -> Lease:
        """Ask once for all calls that wait for the same token, whichever of them hangs up."""
        making = self._making.get(whose)
        if making is None:
            making = self._making[whose] = asyncio.create_task(self._made(whose, request))
            making.add_done_callback(partial(self._settle, whose))
        return await asyncio.shield(making)

    def _settle(self, whose: Whose, making: asyncio.Task[Lease]) -> None:
        del self._making[whose]
        if not making.cancelled():
            making.exception()  # else it is complained of where nobody waits any more

    async def _made(self, whose: Whose, request: TokenRequest) -> Lease:
        wanted, role = request.wanted, request.role
        for problem, remedy in oauth_faults(role):
            raise OAuthFault("oauth_refused", f"{problem} ({remedy})")
        reply, id_ = await self._endpoints.ask(str(role.token_url), request.client, request.form)
        at = self._now()
        token = token_of(role, reply, caller=request.caller, at=at)
        life = token.until - at
        lent = _lent(request, token, ttl=max(1, int(life.total_seconds())), id_=id_)
        try:
            lent = await self._book.lent(wanted.call, wanted.tool, wanted.opened, lent, token.until)
        except LedgerUnavailable as error:
            problem = "the token could not be recorded, so it was not used"
            raise CredentialUnavailable("ledger_unavailable", problem, retryable=True) from error
        lease = Lease(secret=token.secret, lent=lent, until=token.until, shared=life > SHORTEST_KEPT)
        if lease.shared:
            self._keep(whose, _Kept(lease, token.until, at + life * _FRESH))
        return lease

    def _keep(self, whose: Whose, kept: _Kept) -> None:
        self._kept.pop(whose, None)
        self._kept[whose] = kept
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]


def _lent(request: TokenRequest, token: Token, *, ttl: int, id_: str) -> Lent:
    role = request.role
    whom = role.audience or role.resource or str(role.token_url.host)
    return Lent(
        id=f"oauth-{secrets.token_hex(16)}",
        role=request.wanted.name,
        source="oauth",
        kind="token",
        scope=f"{whom} {token.scope}".strip(),
        ttl=ttl,
        request=id_,
    )
