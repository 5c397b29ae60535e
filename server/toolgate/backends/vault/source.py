"""Lends what a vault makes: a run's token, under it a call's, and with that what it may read."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from pydantic import SecretStr

from toolgate.backends.lease_book import LeaseBook
from toolgate.backends.lending import Wanted
from toolgate.backends.vault.client import VaultClient
from toolgate.backends.vault.replies import Reply, VaultFault
from toolgate.backends.vault.runs import RunToken, RunTokens, filled
from toolgate.backends.vault.secrets_read import Read, read_of
from toolgate.backends.vault.sign_in import GateToken
from toolgate.backends.vault.upkeep import Upkeep
from toolgate.core.credential_roles import CredentialRole, VaultRole
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable
from toolgate.core.lease import PARTS, Lease, Lent
from toolgate.core.record import JsonObject
from toolgate.core.vault_settings import VaultSettings

log = logging.getLogger(__name__)

_TRIES: Final = 3
"""How many runs a call begins, when the one that it has was ended by somebody."""


@dataclass(frozen=True, kw_only=True)
class VaultLease(Lease):
    """A lease, and the run whose token stands behind it."""

    run: RunToken


@dataclass(kw_only=True)
class _Shared:
    """A lease that the calls of one run share."""

    lease: VaultLease
    stale_at: float
    """Monotonic."""


_Key: TypeAlias = tuple[str, str, VaultRole, str]
"""The run's accessor, the system, the role as the manifest has it, and its path for this caller."""


class VaultSource:
    """Lends credentials that a vault makes for a call or for a run, and sees to it that they end.

    Args:
        root: the deployment's folder, from which paths in the settings begin.
        book: where leases are made durable before they are used.
    """

    def __init__(
        self, settings: VaultSettings, root: Path, book: LeaseBook, *, now: Callable[[], datetime]
    ) -> None:
        self._settings, self._now, self._book = settings, now, book
        self._client = VaultClient(settings, root)
        gate = GateToken(self._client, settings, root, self._drop_all)
        self._runs = RunTokens(self._client, gate, settings, book, now=now)
        self.upkeep = Upkeep(self._client, gate, self._runs, book, now=now)
        self._shared: dict[_Key, _Shared] = {}
        self._making: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()

    def _drop_all(self) -> None:
        self._runs.drop_all()

    async def lend(self, wanted: Wanted) -> Lease:
        """Lend what the role's path gives, as the only thing that the call's token may read.

        Raises:
            CredentialUnavailable: there is none; what was made on the way has been or will be ended.
        """
        role = wanted.role
        if not isinstance(role, VaultRole):
            raise TypeError(f"{wanted.name} is not lent from here")
        for left in reversed(range(_TRIES)):
            run = await self._runs.of(wanted)
            try:
                return await self._under(wanted, role, run)
            except VaultFault as fault:
                self._runs.let_go(run)
                if fault.unanswered or fault.code == "vault_run_over":
                    self._runs.drop(run.accessor)  # what may have been made all the same ends with its run
                if fault.code != "vault_run_over" or not left:
                    raise
            except BaseException:
                self._runs.let_go(run)
                raise
        raise TypeError("the last try gives a lease or a fault")

    async def take_back(self, lease: Lease, *, refused: bool = False) -> Lent:
        """End the lease before anybody is answered; where the vault is slow, queue that."""
        if isinstance(lease, VaultLease):
            self._runs.let_go(lease.run)
        if refused and lease.shared:  # somebody may have ended it
            for key in [key for key, known in self._shared.items() if known.lease is lease]:
                del self._shared[key]
        lent = lease.lent
        if lease.shared:
            return lent
        if lent.kind == "token":
            return lent.model_copy(update={"end": "lapses"})
        if lent.kind == "dynamic" and not await self.upkeep.end_soon(
            lent.id, within=self._settings.give_back_seconds
        ):
            return lent.model_copy(update={"end": "queued"})
        return lent

    def faults(self, role: CredentialRole) -> Iterator[tuple[str, str]]:
        """Say what would keep the role from being lent, and what to do; the vault is not asked."""
        return vault_faults(self._settings, role)

    async def keep(self) -> None:
        """Keep the gate signed in, and end what is over and what others left."""
        await self.upkeep.work_off()
        self._forget_old()

    def readiness(self) -> JsonObject:
        """Say whether the gate is signed in, and what it still has to end."""
        return self.upkeep.readiness()

    async def aclose(self) -> None:
        """End every run, and so all that was made; then the gate's own token."""
        await self.upkeep.aclose()
        await self._client.aclose()

    async def _under(self, wanted: Wanted, role: VaultRole, run: RunToken) -> Lease:
        if role.lease == "per_call":
            return await self._made(wanted, role, run)
        key = (run.accessor, wanted.tool.system, role, filled(role.path, wanted.call))
        if (fresh := self._fresh(key)) is None:
            making = self._making.setdefault(key, asyncio.Lock())
            async with making:
                if (fresh := self._fresh(key)) is None:
                    fresh = await self._made(wanted, role, run)
                    life = (fresh.until - self._now()).total_seconds() if fresh.until else float(role.ttl)
                    self._forget_old()
                    self._shared[key] = _Shared(
                        lease=fresh, stale_at=time.monotonic() + life * (1 - 1 / PARTS)
                    )
        return fresh

    def _fresh(self, key: _Key) -> VaultLease | None:
        known = self._shared.get(key)
        return known.lease if known is not None and time.monotonic() < known.stale_at else None

    def _forget_old(self) -> None:
        """Forget leases that are nobody's any more: they lapse with the token that they were read with."""
        at = time.monotonic()
        for key, known in list(self._shared.items()):
            if at >= known.stale_at or not self._runs.is_open(key[0]):
                del self._shared[key]

    async def _made(self, wanted: Wanted, role: VaultRole, run: RunToken) -> VaultLease:
        path, policy = filled(role.path, wanted.call), filled(role.role, wanted.call)
        token = await self._call_token(wanted, role, run, policy)
        asked = path if role.version is None else f"{path}?version={role.version}"
        reply = await self._client.read(asked, token, call=wanted.opened.call_id, late=self.upkeep.end_late)
        try:
            read = read_of(role, reply)
            lent = _lent(wanted, role, read, reply, scope=f"{path} as {policy}")
            # A vault says how long a lease would live by itself; it dies with the run's token all the same.
            until = min(self._now() + timedelta(seconds=read.seconds), run.until)
            if not lent.static:
                lent = await self._book.lent(
                    wanted.call, wanted.tool, wanted.opened, lent, until, run.accessor
                )
        except BaseException as error:
            self.upkeep.end_late(reply)
            if isinstance(error, LedgerUnavailable):
                problem = "the lease could not be recorded, so it was not used"
                raise CredentialUnavailable("ledger_unavailable", problem, retryable=True) from error
            raise
        shared = role.lease == "per_run"
        return VaultLease(
            secret=read.secret,
            lent=lent.model_copy(update={"end": "kept"}) if shared else lent,
            until=until if read.seconds else None,
            shared=shared,
            run=run,
        )

    async def _call_token(self, wanted: Wanted, role: VaultRole, run: RunToken, policy: str) -> SecretStr:
        """Make the call's own token: a batch token that may read one path, and lives for seconds."""
        data = {
            "type": "batch",
            "policies": [policy],
            "no_default_policy": True,
            "ttl": f"{role.ttl}s",
            "display_name": "toolgate-call",
            "meta": {"toolgate": "call", "call": wanted.opened.call_id, "tool": wanted.tool.name},
        }
        try:
            reply = await self._client.write(
                "auth/token/create", data, run.secret, call=wanted.opened.call_id
            )
        except VaultFault as fault:
            if fault.code == "vault_forbidden":
                problem = "the run was ended"
                raise VaultFault("vault_run_over", problem, retryable=True) from None
            if fault.code == "vault_refused":
                problem = f"the tenant's ceiling in the vault does not have the policy {policy}"
                raise VaultFault("vault_forbidden", problem, retryable=False) from None
            raise
        return reply.token


def vault_faults(settings: VaultSettings, role: CredentialRole) -> Iterator[tuple[str, str]]:
    """Say what would keep the role from being lent, and what to do; the vault is not asked."""
    if not isinstance(role, VaultRole):
        return
    if "oidc/token/" in role.path and not settings.entity_alias:
        problem = "a signed token needs an entity, and the run's token would have the gate's own"
        yield problem, 'say entity_alias = "{tenant}:{subject}" in [vault]; see docs/how-to/vault.md'
    if role.kind != "kv" and role.ttl * PARTS > settings.run_seconds:
        least = role.ttl * PARTS
        problem = f"with ttl = {role.ttl} it could outlive the run's token, which may be near its end"
        yield problem, f"say a smaller ttl, or run_seconds = {least} or more in [vault]"


def _lent(wanted: Wanted, role: VaultRole, read: Read, reply: Reply, *, scope: str) -> Lent:
    return Lent(
        id=reply.lease or f"{role.kind}-{reply.request}",
        role=wanted.name,
        source="vault",
        kind="static" if role.kind == "kv" else role.kind,
        scope=scope,
        ttl=0 if role.kind == "kv" else read.seconds,
        version=read.version,
        request=reply.request,
    )
