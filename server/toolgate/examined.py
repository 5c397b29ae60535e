"""Looks at all parts of a deployment, and finds everything that is wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from toolgate.backends.lending import Lending
from toolgate.backends.manifest_catalog import ManifestCatalog, Registry
from toolgate.backends.policy.second_judge import Difference, SecondJudge
from toolgate.backends.policy_stored import StoredPolicies
from toolgate.backends.sqlite_ledger import SqliteLedger
from toolgate.callers import issuer_faults
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.ports import Rulebook
from toolgate.parts import database_faults, host_faults, ledger_of, tls_found
from toolgate.rulebooks import Chosen, Found, activated, found_of, on_disk, read_registry
from toolgate.settings import NOTHING, Settings, read_settings
from toolgate.sources import lending_of


@dataclass(kw_only=True)
class Examined:
    """The parts of a deployment as far as they could be opened, and what is wrong with the others."""

    faults: list[Fault]
    warnings: Sequence[Fault] = ()
    """What is served all the same, and is most likely not meant."""
    settings: Settings | None = None
    registry: Registry | None = None
    catalog: ManifestCatalog | None = None
    book: Found | None = None
    """The rulebook that would be in force, or why there is none."""
    lending: Lending | None = None
    ledger: SqliteLedger | None = None
    second: SecondJudge | None = None

    @property
    def rulebook(self) -> Rulebook | None:
        """The one that would be in force."""
        return None if self.book is None else self.book.rulebook

    async def aclose(self) -> None:
        """Close what was opened."""
        if self.second is not None:
            await self.second.aclose()
        if self.lending is not None:
            await self.lending.aclose()
        if self.ledger is not None:
            await self.ledger.aclose()
        if self.registry is not None:
            await self.registry.aclose()


def examine(root: Path, *, to_serve: bool, said: Mapping[str, object] = NOTHING) -> Examined:
    """Open the parts of the deployment under `root`, and find everything that is wrong with them.

    Without `to_serve` nothing is written: the ledger's database is looked at and not opened. What was `said`
    on the command line wins over the settings.
    """
    try:
        settings = read_settings(root, said)
    except Misconfigured as error:
        return _examined_without_settings(root, error.faults)
    found = Examined(faults=[], settings=settings)
    found.registry = Registry(root / settings.registry, root)
    database = root / settings.database
    found.ledger, closed = ledger_of(root, settings) if to_serve else (None, database_faults(database))
    found.lending, locked = lending_of(root, settings, found.ledger.leases if found.ledger else None)
    catalog, faults = read_registry(found.registry, found.lending, locked=settings.mode == "production")
    found.catalog = catalog
    policies = Chosen() if closed and settings.mode == "production" else chosen(root, settings)
    if found.ledger is not None and settings.mode == "production" and settings.second_judge_every:
        told = partial(_note_difference, found.ledger)
        found.second = SecondJudge(every=settings.second_judge_every, on_difference=told)
    found.book = found_of(catalog, policies, found.second)
    faults += found.book.faults
    if settings.mode == "production" and not to_serve:
        faults += found_of(catalog, on_disk(root / settings.policies)).faults
    tls = tls_found(root, settings)
    found.warnings = tls.warnings
    found.faults = [*faults, *locked, *closed, *issuer_faults(root, settings), *host_faults(settings)]
    found.faults += tls.faults
    return found


def chosen(root: Path, settings: Settings) -> Chosen:
    """Choose the policy that governs: the activated one; in dev mode what lies on the disk."""
    if settings.mode == "dev":
        return on_disk(root / settings.policies)
    return activated(StoredPolicies(root / settings.database))


async def _note_difference(ledger: SqliteLedger, difference: Difference) -> None:
    """Record that two judges do not agree."""
    said = {"policy": difference.policy, "tool": difference.tool, "detail": str(difference)}
    entry = ledger.entries.bare("fault", "judges_differ", **said)
    await ledger.writer.write(lambda batch: batch.append(entry))


def _examined_without_settings(root: Path, faults: list[Fault]) -> Examined:
    """Look at policies and registry all the same, where they usually are."""
    found = Examined(faults=faults)
    if (root / "policies").is_dir() and (root / "registry").is_dir():
        found.registry = Registry(root / "registry", root)
        catalog, more = read_registry(found.registry, None, locked=False)
        found.faults = [*faults, *more, *found_of(catalog, on_disk(root / "policies")).faults]
    return found
