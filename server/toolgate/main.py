"""Builds all parts of a gate and hands them to each other. Nothing else reaches for a part."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from toolgate.backends.adapter_tools import AdapterTools
from toolgate.backends.gates import Gates, Running
from toolgate.backends.ledger_parts import LedgerParts
from toolgate.backends.lending import Lending
from toolgate.backends.manifest_catalog import Registry
from toolgate.backends.policy.second_judge import SecondJudge
from toolgate.backends.policy_stored import Standing
from toolgate.backends.witnesses import Witnesses
from toolgate.core.errors import Fault, LedgerUnavailable, Misconfigured
from toolgate.core.gateway import Gateway
from toolgate.core.ports import Catalog, Rulebook, Unwitnessed
from toolgate.core.reconcile import Reconciler
from toolgate.core.record import JsonObject
from toolgate.core.shield import Shield
from toolgate.core.strangers import Strangers
from toolgate.examined import Examined, chosen, examine
from toolgate.parts import (
    RANDOM,
    governed_by,
    new_call_id,
    now,
    open_ledger,
    trusted_issuers,
)
from toolgate.rulebooks import Found, InForce, announce, beside, found_of, let_go, read_registry
from toolgate.settings import NOTHING, Settings, settings_digest
from toolgate.witnessing import unwitnessed

__all__ = [
    "House",
    "InForce",
    "new_call_id",
    "now",
    "open_house",
    "open_ledger",
    "trusted_issuers",
]

log = logging.getLogger(__name__)
_AT_A_TIME: Final = 0.5
"""Seconds of looking after what is over before other upkeep has its turn."""


@dataclass(frozen=True, kw_only=True)
class House:
    """A gate with all its parts, open."""

    root: Path
    settings: Settings
    gateway: Gateway
    registry: Registry
    in_force: InForce
    new_id: Callable[[], str]
    ledger: LedgerParts
    lending: Lending
    strangers: Strangers
    gates: Gates
    second: SecondJudge | None = None
    """Judges a sample of all decisions again; in production mode."""
    witnesses: Witnesses | None = None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reload(self) -> list[Fault]:
        """Read policy and registry again. With any fault that `serve` would refuse, nothing changes.

        Raises:
            LedgerUnavailable: the change could not be recorded, and is not in force.
        """
        async with self.changing:
            locked = self.settings.mode == "production"
            catalog, faults = read_registry(self.registry, self.lending, locked=locked)
            policy = None if self.witnesses is None else self.witnesses.policy
            faults += unwitnessed(() if catalog is None else catalog.tools, policy)
            return await self._take_up(catalog, faults)

    async def follow(self) -> list[Fault]:
        """Take up the policy that was activated since the last time. With any fault, nothing changes.

        Raises:
            LedgerUnavailable: it cannot be told, or the change could not be recorded. To be tried again.
        """
        if await asyncio.to_thread(self.ledger.writer.newest_activation) == self.in_force.settled:
            return []
        async with self.changing:
            return await self._take_up(self.in_force.rulebook.catalog, [])

    async def _take_up(self, catalog: Catalog | None, faults: list[Fault]) -> list[Fault]:
        found = await beside(lambda: found_of(catalog, chosen(self.root, self.settings), self.second))
        faults = [*faults, *found.faults]
        before = self.in_force.learn(found)
        if found.rulebook is None or faults:
            # another registry is no measure: `follow` still tries the activation with the one in force
            for_good = catalog is self.in_force.rulebook.catalog
            self.in_force.refuse(found, len(faults), for_good=for_good)
        else:
            await self._put_in_force(found, found.rulebook, before)
        if found.unread:
            raise LedgerUnavailable(found.unread)
        return faults

    async def _put_in_force(self, found: Found, rulebook: Rulebook, before: Standing) -> None:
        if not found.unread or found.standing != before:  # else it was announced when it was first tried
            announce(found, before)
        if not self.in_force.keeps(found):
            await self.ledger.governing.take_up(rulebook, governed_by(self.root, self.settings))
        parts = [] if self.in_force.keeps(found) else self.in_force.parts()
        self.in_force.swap(found, now())
        with contextlib.suppress(LedgerUnavailable):  # it is said again in a moment
            await self.gates.look(self.running())
        await asyncio.to_thread(let_go, parts)

    def running(self) -> Running:
        """Say what this gate runs."""
        book = self.in_force.rulebook
        return Running(
            policy=book.policy.digest,
            catalog=book.catalog.digest,
            settings=settings_digest(self.root),
            shadow=self.in_force.shadow,
            address=self.gates.address,
        )

    def readiness(self) -> JsonObject:
        """Say what is in force, and what should be and is not."""
        held, standing = self.in_force, self.in_force.standing
        said: JsonObject = {
            "ready": self.ledger.writer.is_alive(),
            "version": held.rulebook.version,
            "policy": held.rulebook.policy.digest,
            "since": held.since.isoformat(timespec="milliseconds"),
        }
        if held.shadow:
            said["shadow"] = held.shadow
        if standing.enforced is not None and standing.enforced.digest != held.rulebook.policy.digest:
            said["activated"] = standing.enforced.digest
        if standing.shadow is not None and standing.shadow.digest != held.shadow:
            said["shadow_activated"] = standing.shadow.digest
        if held.refused:
            said["faults"] = held.refused
        if differences := self.gates.differences():
            said["gates_differ"] = [*differences]
        if credentials := self.lending.readiness():
            said["credentials"] = credentials
        if self.witnesses is not None:
            said["witnesses"] = self.witnesses.readiness()
        if self.second is not None:
            said["judged_again"] = {**asdict(self.second.compared)}
        return said

    async def keep(self) -> None:
        """Look after the ledger: changes of what governs, ends not recorded, answers too old, strangers.

        Raises:
            LedgerUnavailable: it cannot be written.
        """
        await self.ledger.governing.take_up(self.in_force.rulebook, governed_by(self.root, self.settings))
        await self.gates.look(self.running())
        await self.ledger.endings.take_back()
        await self.ledger.doubts.expire()
        if await self.ledger.erasing.go_on(left=True):
            await self.ledger.writer.scrub()
        await self.ledger.retaining.go_on(seconds=_AT_A_TIME)
        await self.note_strangers()

    async def ask_witnesses(self) -> None:
        """Ask for cosignatures of the newest checkpoint, where there are witnesses.

        Raises:
            LedgerUnavailable: it cannot be read, or what they say cannot be kept.
        """
        if self.witnesses is not None:
            await self.witnesses.keep()

    async def ask_around(self) -> None:
        """Ask systems what became of calls in doubt; that may take as long as they take.

        Raises:
            LedgerUnavailable: it cannot be recorded.
        """
        await self.gateway.reconciler.go_round(self.in_force.rulebook.catalog.find)

    async def note_strangers(self, *, at_once: bool = False) -> None:
        """Record refused tokens that were counted.

        Raises:
            LedgerUnavailable: they are counted on.
        """
        rejected = self.strangers.due(at_once=at_once)
        try:
            await self.ledger.calls.note_rejected(rejected)
        except LedgerUnavailable:
            self.strangers.put_back(rejected)
            raise


@asynccontextmanager
async def open_house(root: Path, said: Mapping[str, object] = NOTHING) -> AsyncGenerator[House]:
    """Build the gate of the deployment under `root`; close it when all begun calls have ended.

    Raises:
        Misconfigured: with every fault that was found.
    """
    found = examine(root, to_serve=True, said=said)
    shield = Shield()
    try:
        house = _house(root, found, shield)
        found.book = None  # else the first policy would stay in memory when another is in force
        await house.ledger.governing.take_up(house.in_force.rulebook, governed_by(root, house.settings))
        await house.gates.look(house.running())
        try:
            await house.ledger.endings.take_back()
        except LedgerUnavailable as error:
            log.warning("an end that was kept outside could not be recorded yet: %s", error)
        yield house
        with contextlib.suppress(LedgerUnavailable):  # nothing more can be done for them
            await house.note_strangers(at_once=True)
    finally:
        await shield.drain()
        shield.cut()  # nothing is sent any more: the parts that it would need are closed one by one
        await found.aclose()


def _house(root: Path, found: Examined, shield: Shield) -> House:
    """Build the house of parts that are all there.

    Raises:
        Misconfigured: one is not, or something is wrong with it.
    """
    book, ledger, lending = found.book, found.ledger, found.lending
    if found.faults or found.settings is None or found.registry is None or lending is None:
        raise Misconfigured(found.faults)
    if book is None or book.rulebook is None or ledger is None:
        raise Misconfigured(found.faults)
    announce(book, Standing())
    in_force = InForce.of(book, book.rulebook, now())
    return House(
        root=root,
        settings=found.settings,
        gateway=_gateway(in_force, ledger, lending, shield, found.witnesses),
        registry=found.registry,
        in_force=in_force,
        new_id=partial(new_call_id, RANDOM.take),
        ledger=ledger,
        lending=lending,
        strangers=Strangers(now),
        gates=Gates(ledger.writer),
        second=found.second,
        witnesses=found.witnesses,
    )


def _gateway(
    in_force: InForce, ledger: LedgerParts, lending: Lending, shield: Shield, witnesses: Witnesses | None
) -> Gateway:
    tools = AdapterTools(now=now)
    return Gateway(
        rulebook=in_force,
        ledger=ledger.calls,
        vault=lending,
        tools=tools,
        shield=shield,
        reconciler=Reconciler(doubts=ledger.doubts, vault=lending, tools=tools),
        witnesses=witnesses or Unwitnessed(),
    )
