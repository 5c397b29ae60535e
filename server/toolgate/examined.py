"""Looks at all parts of a deployment, and finds everything that is wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from toolgate.backends.ledger_parts import LedgerParts
from toolgate.backends.lending import Lending
from toolgate.backends.manifest_catalog import ManifestCatalog, Registry
from toolgate.backends.policy.second_judge import Difference, SecondJudge
from toolgate.backends.policy_stored import StoredPolicies
from toolgate.backends.witnesses import Witnesses
from toolgate.callers import issuer_faults
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.ports import Rulebook
from toolgate.core.witness_policy import WitnessPolicy
from toolgate.parts import audit_of, host_faults, ledger_database, ledger_faults, ledger_of, tls_found
from toolgate.rulebooks import Chosen, Found, activated, found_of, on_disk, read_registry
from toolgate.settings import NOTHING, Settings, read_settings
from toolgate.sources import lending_of
from toolgate.witnessing import other_logs, policy_of, unwitnessed, witnesses_of


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
    ledger: LedgerParts | None = None
    second: SecondJudge | None = None
    witness_policy: WitnessPolicy | None = None
    witnesses: Witnesses | None = None

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
        if self.witnesses is not None:
            await self.witnesses.aclose()
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
    found.ledger, closed = ledger_of(root, settings) if to_serve else (None, ledger_faults(root, settings))
    audit = None if found.ledger is None else audit_of(root, settings, found.ledger)
    found.registry = Registry(root / settings.registry, root, audit)
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
    found.faults = [*faults, *locked, *closed, *issuer_faults(root, settings), *host_faults(settings)]
    found.faults += [*tls.faults, *_with_witnesses(root, settings, found)]
    found.warnings = [*tls.warnings, *other_logs(root, settings, found.witness_policy)]
    return found


def _with_witnesses(root: Path, settings: Settings, found: Examined) -> list[Fault]:
    """Add the witnesses, where there are any; give what is wrong with them."""
    policy, faults = policy_of(root, settings)
    found.witness_policy = policy
    if policy is not None and found.ledger is not None:
        found.witnesses = witnesses_of(root, settings, policy, found.ledger)
    if faults or found.catalog is None:
        return faults
    return unwitnessed(found.catalog.tools, policy)


def chosen(root: Path, settings: Settings) -> Chosen:
    """Choose the policy that governs: the activated one; in dev mode what lies on the disk."""
    if settings.mode == "dev":
        return on_disk(root / settings.policies)
    return activated(StoredPolicies(ledger_database(root, settings)))


async def _note_difference(ledger: LedgerParts, difference: Difference) -> None:
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
