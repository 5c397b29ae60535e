"""Builds all parts of a gate and hands them to each other. Nothing else reaches for a part."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from toolgate.backends.adapter_tools import AdapterTools
from toolgate.backends.keystore import Keystore, KeystoreVault
from toolgate.backends.manifest_catalog import Registry
from toolgate.backends.sqlite_ledger import SqliteLedger
from toolgate.core.errors import Fault, LedgerUnavailable, Misconfigured
from toolgate.core.gateway import Gateway
from toolgate.core.ports import Rulebook
from toolgate.core.reconcile import Reconciler
from toolgate.core.shield import Shield
from toolgate.core.strangers import Strangers
from toolgate.parts import (
    RANDOM,
    database_faults,
    governed_by,
    host_faults,
    issuer_faults,
    ledger_of,
    new_call_id,
    now,
    open_keystore,
    open_ledger,
    read_rulebook,
    trusted_issuers,
)
from toolgate.settings import Settings, read_settings

__all__ = [
    "Examined",
    "House",
    "InForce",
    "examine",
    "new_call_id",
    "now",
    "open_house",
    "open_ledger",
    "trusted_issuers",
]

log = logging.getLogger(__name__)


@dataclass
class InForce:
    """Holds the rulebook in force: one reference, swapped as a whole."""

    rulebook: Rulebook

    def __call__(self) -> Rulebook:
        return self.rulebook


@dataclass(frozen=True, kw_only=True)
class House:
    """A gate with all its parts, open."""

    root: Path
    settings: Settings
    gateway: Gateway
    registry: Registry
    in_force: InForce
    new_id: Callable[[], str]
    ledger: SqliteLedger
    keystore: Keystore
    strangers: Strangers

    async def reload(self) -> list[Fault]:
        """Read policy and registry again. With any fault that `serve` would refuse, nothing changes.

        Raises:
            LedgerUnavailable: the change could not be recorded, and is not in force.
        """
        found, faults = read_rulebook(self.registry, self.root / self.settings.policies, self.keystore)
        if found is not None and found.version != self.in_force.rulebook.version:
            await self.ledger.governing.take_up(found, governed_by(self.root, self.settings))
            self.in_force.rulebook = found
        return faults

    async def keep(self) -> None:
        """Look after the ledger: changes of what governs, ends not recorded, answers too old, strangers.

        Raises:
            LedgerUnavailable: it cannot be written.
        """
        await self.ledger.governing.take_up(self.in_force.rulebook, governed_by(self.root, self.settings))
        await self.ledger.endings.take_back()
        await self.ledger.doubts.expire()
        await self.note_strangers()

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


@dataclass(kw_only=True)
class Examined:
    """The parts of a deployment as far as they could be opened, and what is wrong with the others."""

    faults: list[Fault]
    settings: Settings | None = None
    registry: Registry | None = None
    rulebook: Rulebook | None = None
    keystore: Keystore | None = None
    ledger: SqliteLedger | None = None

    async def aclose(self) -> None:
        """Close what was opened."""
        if self.ledger is not None:
            await self.ledger.aclose()
        if self.registry is not None:
            await self.registry.aclose()


def examine(root: Path, *, to_serve: bool) -> Examined:
    """Open the parts of the deployment under `root`, and find everything that is wrong with them.

    Without `to_serve` nothing is written: the ledger's database is looked at and not opened.
    """
    try:
        settings = read_settings(root)
    except Misconfigured as error:
        return _examined_without_settings(root, error.faults)
    found = Examined(faults=[], settings=settings)
    found.registry = Registry(root / settings.registry, root)
    found.keystore, locked = open_keystore(root, settings)
    found.rulebook, faults = read_rulebook(found.registry, root / settings.policies, found.keystore)
    database = root / settings.database
    found.ledger, closed = ledger_of(root, settings) if to_serve else (None, database_faults(database))
    found.faults = [*faults, *locked, *closed, *issuer_faults(root, settings), *host_faults(settings)]
    return found


def _examined_without_settings(root: Path, faults: list[Fault]) -> Examined:
    """Look at policies and registry all the same, where they usually are."""
    found = Examined(faults=faults)
    if (root / "policies").is_dir() and (root / "registry").is_dir():
        found.registry = Registry(root / "registry", root)
        _, more = read_rulebook(found.registry, root / "policies", None)
        found.faults = [*faults, *more]
    return found


@asynccontextmanager
async def open_house(root: Path) -> AsyncGenerator[House]:
    """Build the gate of the deployment under `root`; close it when all begun calls have ended.

    Raises:
        Misconfigured: with every fault that was found.
    """
    found = examine(root, to_serve=True)
    shield = Shield()
    try:
        if (
            found.faults
            or found.settings is None
            or found.registry is None
            or found.rulebook is None
            or found.keystore is None
            or found.ledger is None
        ):
            raise Misconfigured(found.faults)
        in_force, vault, tools = InForce(found.rulebook), KeystoreVault(found.keystore), AdapterTools(now=now)
        ledger = found.ledger
        await ledger.governing.take_up(found.rulebook, governed_by(root, found.settings))
        try:
            await ledger.endings.take_back()
        except LedgerUnavailable as error:
            log.warning("an end that was kept outside could not be recorded yet: %s", error)
        gateway = Gateway(
            rulebook=in_force,
            ledger=ledger.calls,
            vault=vault,
            tools=tools,
            shield=shield,
            reconciler=Reconciler(doubts=ledger.doubts, vault=vault, tools=tools),
        )
        house = House(
            root=root,
            settings=found.settings,
            gateway=gateway,
            registry=found.registry,
            in_force=in_force,
            new_id=partial(new_call_id, RANDOM.take),
            ledger=ledger,
            keystore=found.keystore,
            strangers=Strangers(now),
        )
        yield house
        with contextlib.suppress(LedgerUnavailable):  # nothing more can be done for them
            await house.note_strangers(at_once=True)
    finally:
        await shield.drain()
        await found.aclose()
