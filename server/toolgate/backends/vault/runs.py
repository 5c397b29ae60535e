"""A token for each run: the ceiling of its tenant, and the switch that ends all that was made under it."""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from pydantic import SecretStr

from toolgate.backends.lease_book import LeaseBook
from toolgate.backends.lending import Wanted
from toolgate.backends.vault.client import VaultClient
from toolgate.backends.vault.replies import Reply, VaultFault
from toolgate.backends.vault.sign_in import GateToken
from toolgate.core.call import Call
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable
from toolgate.core.lease import PARTS
from toolgate.core.vault_settings import VaultSettings

log = logging.getLogger(__name__)

_PLAIN: Final = re.compile(r"[a-z0-9_@-](?:[a-z0-9_.@-]{0,126}[a-z0-9_@-])?")
"""What may stand for a tenant or a subject in a path: no slash, wildcard or template, no dot at an end, no
capital, because to a vault the names of policies, roles and entities are the same in any case."""
_PLACE: Final = re.compile(r"\{(\w+)\}")
_SETTLED: Final = 5.0
"""Seconds after which whoever reads the ledger must see a run that was recorded there."""

RunKey: TypeAlias = tuple[str, str, str, str, str]
"""Tenant, issuer, subject; and `run` with its name, or `token` with the digest of the caller's."""


@dataclass(kw_only=True)
class RunToken:
    """One run's token. It stays in memory; what the ledger has is its accessor."""

    key: RunKey = field(repr=False)
    accessor: str
    secret: SecretStr = field(repr=False)
    until: datetime
    stale_at: float
    """When no more is made under it (monotonic)."""
    opened_at: float = field(default_factory=time.monotonic)
    used_at: float = 0.0
    users: int = 0
    """Calls that have something of it now."""


class RunTokens:
    """The run tokens of this gate, each made once and ended when its run is idle or over."""

    def __init__(
        self,
        client: VaultClient,
        gate: GateToken,
        settings: VaultSettings,
        book: LeaseBook,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._client, self._gate, self._settings, self._book = client, gate, settings, book
        self._now = now
        self._open: dict[RunKey, RunToken] = {}
        self._retired: list[RunToken] = []
        self._making: WeakValueDictionary[RunKey, asyncio.Lock] = WeakValueDictionary()
        self._ending: set[asyncio.Task[None]] = set()

    async def of(self, wanted: Wanted) -> RunToken:
        """Give the token of the call's run, and count the call among its users.

        Raises:
            CredentialUnavailable: there is none.
        """
        key = run_key(wanted.call)
        run = self._fresh(key)
        if run is None:
            making = self._making.setdefault(key, asyncio.Lock())
            async with making:
                run = self._fresh(key) or await self._make(key, wanted)
        run.users += 1
        run.used_at = time.monotonic()
        return run

    def let_go(self, run: RunToken) -> None:
        """A call has no more of it."""
        run.users -= 1
        run.used_at = time.monotonic()

    def drop(self, accessor: str) -> None:
        """Make nothing more under a token: it was ended, or the vault no longer knows it."""
        for key, run in list(self._open.items()):
            if run.accessor == accessor:
                self._retired.append(self._open.pop(key))

    def drop_all(self) -> None:
        """Make nothing more under any of them: they ended with the gate's token."""
        self._retired.extend(self._open.values())
        self._open.clear()

    def is_open(self, accessor: str) -> bool:
        """Whether more may be made under a token."""
        return any(run.accessor == accessor for run in self._open.values())

    def forget(self, accessor: str) -> None:
        """A token's end is recorded."""
        self._retired = [run for run in self._retired if run.accessor != accessor]

    def forget_all_but(self, living: Container[str]) -> None:
        """Forget those that nobody uses and whose end somebody else has recorded."""
        at = time.monotonic()
        self._retired = [
            run
            for run in self._retired
            if run.users or run.accessor in living or at - run.opened_at <= _SETTLED
        ]

    async def settled(self) -> None:
        """Wait until tokens that nobody used have been ended."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    def over(self) -> list[str]:
        """Give the accessors of tokens that nobody uses any more, until their end is recorded."""
        at = time.monotonic()
        for key, run in list(self._open.items()):
            idle = run.users == 0 and at - run.used_at >= self._settings.idle_seconds
            if idle or at >= run.stale_at:
                self._retired.append(self._open.pop(key))
        return [run.accessor for run in self._retired if run.users == 0]

    def recorded(self) -> list[str]:
        """Give the accessors of those that were recorded a while ago."""
        at = time.monotonic()
        return [run.accessor for run in self._open.values() if at - run.opened_at > _SETTLED]

    def _fresh(self, key: RunKey) -> RunToken | None:
        run = self._open.get(key)
        return run if run is not None and time.monotonic() < run.stale_at else None

    async def _make(self, key: RunKey, wanted: Wanted) -> RunToken:
        settings, call = self._settings, wanted.call
        role = filled(settings.token_role, call)
        data: dict[str, object] = {
            "ttl": f"{settings.run_seconds}s",
            "renewable": False,
            "no_default_policy": True,
            "display_name": "toolgate",
            "meta": {"toolgate": "run", "call": wanted.opened.call_id},
        }
        if settings.entity_alias:
            data["entity_alias"] = alias_of(settings.entity_alias, call)
        try:
            reply = await self._gate.using(
                lambda token: self._client.write(
                    f"auth/token/create/{role}", data, token, call=wanted.opened.call_id, late=self._end_late
                )
            )
        except VaultFault as fault:
            if fault.code != "vault_refused":
                raise
            problem = f"the vault has no token role {role} for this tenant, or it refused the run's token"
            raise VaultFault("vault_forbidden", problem, retryable=False) from None
        run = self._run_of(key, reply)
        try:
            await self._book.opened_run(
                call, wanted.tool, wanted.opened, run.accessor, run.until, reply.request
            )
        except BaseException as error:
            self._end_late(reply)
            if isinstance(error, LedgerUnavailable):
                problem = "the run's token could not be recorded, so nothing was made under it"
                raise CredentialUnavailable("ledger_unavailable", problem, retryable=True) from error
            raise
        if (old := self._open.pop(key, None)) is not None:
            self._retired.append(old)
        self._open[key] = run
        return run

    def _run_of(self, key: RunKey, reply: Reply) -> RunToken:
        seconds = int(reply.auth.get("lease_duration") or 0)
        if not seconds or not reply.auth.get("accessor"):
            raise VaultFault("vault_error", "the vault gave a run's token without an end", retryable=False)
        return RunToken(
            key=key,
            accessor=str(reply.auth["accessor"]),
            secret=reply.token,
            until=self._now() + timedelta(seconds=seconds),
            stale_at=time.monotonic() + seconds * (1 - 1 / PARTS),
        )

    def _end_late(self, reply: Reply) -> None:
        """End a token that was made when nobody waited for it any more. It has nothing under it."""
        token = reply.token

        async def end() -> None:
            try:
                await self._client.write("auth/token/revoke-self", {}, token)
            except VaultFault as fault:
                log.warning("an unused run token lives on until its time is over (%s)", fault.code)

        ending = asyncio.get_running_loop().create_task(end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def run_key(call: Call) -> RunKey:
    """Tell the run of a call from any other: the principal and the run that it names, else its token."""
    caller = call.caller
    if call.run:
        return caller.tenant, caller.issuer, caller.subject, "run", call.run
    token = hashlib.sha256(call.token.get_secret_value().encode()).hexdigest() if call.token else "local"
    return caller.tenant, caller.issuer, caller.subject, "token", token


def filled(template: str, call: Call) -> str:
    """Put the caller's tenant and subject into a manifest's or a setting's words.

    Raises:
        VaultFault: a name cannot stand in a path.
    """
    said = {"tenant": call.caller.tenant, "subject": call.caller.subject}

    def name(found: re.Match[str]) -> str:
        return _plain(found[1], said.get(found[1], ""))

    return _PLACE.sub(name, template)


def alias_of(template: str, call: Call) -> str:
    """Name the caller's entity; a subject that another could be taken for, by its digest.

    Raises:
        VaultFault: the tenant cannot be named.
    """
    tenant, subject = _plain("tenant", call.caller.tenant), call.caller.subject
    if not _PLAIN.fullmatch(subject):
        subject = f"sha256:{hashlib.sha256(subject.encode()).hexdigest()}"  # no plain name has a colon
    said = {"tenant": tenant, "subject": subject}
    return _PLACE.sub(lambda found: said.get(found[1], ""), template)


def _plain(what: str, value: str) -> str:
    if not _PLAIN.fullmatch(value):
        problem = f"the caller's {what} cannot stand in a vault's path"
        raise VaultFault("vault_forbidden", problem, retryable=False)
    return value
