"""Lends credentials: each role from the source that its manifest names, and from no other."""

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pydantic import SecretStr

from toolgate.core.call import Call
from toolgate.core.claims import Opened
from toolgate.core.credential_roles import CredentialRole, OAuthRole, VaultRole
from toolgate.core.errors import CredentialUnavailable, without_values
from toolgate.core.lease import PARTS, Lease, LeaseSource, Lent, spellings_of
from toolgate.core.outcome import Failed, Outcome
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

log = logging.getLogger(__name__)

_NOT_LET_IN: Final = frozenset({"upstream_sign_in", "unreachable", "credential_expired"})
"""Ends that a credential may be the reason of: a database cuts the sessions of users that it drops."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A credential of one role, for one call that has an intent."""

    name: str
    """The role's name in its manifest."""
    role: CredentialRole
    tool: Tool
    call: Call
    opened: Opened
    client: SecretStr | None = None
    """For an OAuth role: `client_id:client_secret` at the token endpoint."""


class Static:
    """What sources of static secrets have in common: there is nothing to look after, and nothing to end."""

    def __init__(self) -> None:
        self._spelled: dict[str, tuple[SecretStr, tuple[str, ...]]] = {}

    def lease_of(self, wanted: Wanted, entry: str, secret: SecretStr) -> Lease:
        """Lend a secret that outlives the call; how it is spelled is worked out once for each."""
        known = self._spelled.get(entry)
        if known is None or known[0] != secret:
            known = self._spelled[entry] = secret, spellings_of(secret)
        lent = Lent(id=f"static-{wanted.call.id}", role=wanted.name, source=wanted.role.source)
        return Lease(secret=secret, lent=lent, known_spellings=known[1])

    def forget(self) -> None:
        """Forget how secrets are spelled, of which some may be no longer there."""
        self._spelled.clear()

    def at_hand(self, wanted: Wanted) -> Lease | None:
        """Lend what needs no waiting, and so no timeout; None for what does. Raises as `lend`."""
        del wanted
        return None

    async def take_back(self, lease: Lease, *, refused: bool = False) -> Lent:
        """Nothing ends a static secret: the call has let go of it."""
        del refused
        return lease.lent

    async def keep(self) -> None:
        """Nothing is out."""

    def readiness(self) -> JsonObject:
        """Nothing can be the matter."""
        return {}

    async def aclose(self) -> None:
        """Nothing is open."""


class Source(Protocol):
    """One place that credentials come from."""

    async def lend(self, wanted: Wanted) -> Lease:
        """Lend a credential; raises `CredentialUnavailable`, and leaves nothing behind then."""
        ...

    async def take_back(self, lease: Lease, *, refused: bool = False) -> Lent:
        """End it, or see to it that it will be ended. Never raises.

        With `refused` the system did not let it in: it is not lent again.
        """
        ...

    def faults(self, role: CredentialRole, /) -> Iterator[tuple[str, str]]:
        """Say what would keep `role` from being lent, and what to do; without asking anybody."""
        ...

    async def keep(self) -> None:
        """Look after what is out; to be called every few seconds. Raises `LedgerUnavailable`."""
        ...

    def readiness(self) -> JsonObject:
        """Say what an operator should know of it; nothing where there is nothing to say."""
        ...

    async def aclose(self) -> None:
        """End what is still out."""
        ...


class Lending:
    """The sources that this deployment has chosen. A role of another is refused, here and at the start."""

    def __init__(self, sources: Mapping[LeaseSource, Source]) -> None:
        self._sources = sources

    async def lend(self, tool: Tool, call: Call, opened: Opened) -> Lease | None:
        """Lend the credential that `tool` needs; None where it needs none. There is none without an intent.

        Raises:
            CredentialUnavailable: there is none; whatever was made on the way has been given back.
        """
        role = tool.credential
        if role is None:
            return None
        if tool.terms.require_dynamic and role.static:
            raise CredentialUnavailable(
                "static_credential",
                "only a credential that ends with the call will do, and this one is static",
                retryable=False,
            )
        wanted = Wanted(name=tool.terms.credential, role=role, tool=tool, call=call, opened=opened)
        try:
            source = self._source(role)
            if isinstance(source, Static) and (lease := source.at_hand(wanted)) is not None:
                return lease
            async with asyncio.timeout(tool.terms.timeout):
                if isinstance(role, OAuthRole):
                    return await self._with_client(wanted, role)
                return await source.lend(wanted)
        except CredentialUnavailable:
            raise
        except TimeoutError:
            problem = f"there was no credential within the tool's {tool.terms.timeout:g} s"
            raise CredentialUnavailable("credential_timeout", problem, retryable=True) from None
        except Exception as error:  # the intent is recorded, and must get an end
            log.error("call %s: no credential of role %s: %s", call.id, wanted.name, without_values(error))  # noqa: TRY400
            problem = "the credential could not be lent; the gate's log says why"
            raise CredentialUnavailable("credential_error", problem, retryable=True) from error

    async def take_back(self, lease: Lease, outcome: Outcome | None = None) -> tuple[Lent, ...]:
        """End a lease, or see to it that it will be ended; say what became of it. Never raises."""
        refused = isinstance(outcome, Failed) and outcome.code in _NOT_LET_IN
        said: list[Lent] = []
        for one in (lease, *lease.beside):
            try:
                said.append(await self._sources[one.lent.source].take_back(one, refused=refused))
            except Exception as error:  # noqa: BLE001 - the call has been done, and its end must be recorded
                problem = without_values(error)
                log.error("a credential of role %s was not taken back: %s", one.lent.role, problem)  # noqa: TRY400
                said.append(one.lent.model_copy(update={"end": "queued"}))
        return tuple(said)

    def faults(self, tool: Tool) -> Iterator[tuple[str, str]]:
        """Say what would keep the tool's credential from being lent, and what to do."""
        roles = [tool.credential] if tool.credential is not None else []
        if isinstance(tool.credential, OAuthRole) and (client := tool.helpers.get(tool.credential.client)):
            roles.append(client)
        for role in roles:
            if (source := self._sources.get(role.source)) is None:
                problem = f'its role says from = "{role.source}", and this deployment has no such source'
                yield problem, f'add "{role.source}" to credentials in toolgate.toml'
            else:
                yield from source.faults(role)
        if isinstance(tool.credential, VaultRole) and tool.credential.kind != "kv":
            yield from _too_short(tool.credential, tool.terms.timeout)
        if tool.terms.require_dynamic and tool.credential is not None and tool.credential.static:
            yield "it requires a dynamic credential, and its role is static", "name another role"

    async def keep(self) -> None:
        """Look after what is out.

        Raises:
            LedgerUnavailable: what ended could not be recorded.
        """
        for source in self._sources.values():
            await source.keep()

    def readiness(self) -> JsonObject:
        """Say what an operator should know of the sources."""
        said = {name: source.readiness() for name, source in self._sources.items()}
        return {name: words for name, words in said.items() if words}

    async def aclose(self) -> None:
        """End what is still out."""
        for source in self._sources.values():
            await source.aclose()

    async def _with_client(self, wanted: Wanted, role: OAuthRole) -> Lease:
        """Lend a token that is asked for with the credential of another role of the manifest."""
        client = wanted.tool.helpers[role.client]
        asked = Wanted(
            name=role.client, role=client, tool=wanted.tool, call=wanted.call, opened=wanted.opened
        )
        beside = await self._source(client).lend(asked)
        try:
            lease = await self._source(role).lend(
                Wanted(
                    name=wanted.name,
                    role=role,
                    tool=wanted.tool,
                    call=wanted.call,
                    opened=wanted.opened,
                    client=beside.secret,
                )
            )
        except BaseException:
            await self.take_back(beside)
            raise
        return Lease(
            secret=lease.secret,
            lent=lease.lent,
            until=lease.until,
            shared=lease.shared,
            beside=(*lease.beside, beside),
        )

    def _source(self, role: CredentialRole) -> Source:
        if (source := self._sources.get(role.source)) is None:
            raise CredentialUnavailable(
                "no_credential", f"this deployment lends nothing from {role.source}", retryable=False
            )
        return source


def _too_short(role: VaultRole, timeout: float) -> Iterator[tuple[str, str]]:
    """Say whether a credential could end in the middle of a call; a shared one may be near its end."""
    least = math.ceil(timeout * (PARTS if role.lease == "per_run" else 1))
    if role.ttl < least:
        problem = f"with ttl = {role.ttl} it could end in the middle of a call, which may take {timeout:g} s"
        yield problem, f"say ttl = {least} or more, or a shorter timeout of the tool"
