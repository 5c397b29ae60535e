"""Which policy governs, and the rulebook made of it: in dev mode the disk's, else the activated one."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from toolgate.backends.lending import Lending
from toolgate.backends.manifest_catalog import ManifestCatalog, Registry
from toolgate.backends.policy.against_registry import faults_against
from toolgate.backends.policy.casbin_judge import CasbinPolicy, model_faults
from toolgate.backends.policy.reading import parse_policy, read_policy
from toolgate.backends.policy.second_judge import SecondJudge
from toolgate.backends.policy.shadowed import ShadowedPolicy
from toolgate.backends.policy.text import PolicyText
from toolgate.backends.policy_stored import SHORT, Standing, StoredPolicies
from toolgate.backends.registry_lock import reviewed
from toolgate.core.errors import Fault, LedgerUnavailable, NothingRecorded
from toolgate.core.ports import Catalog, Policy, Rulebook

T = TypeVar("T")
log = logging.getLogger(__name__)

_FEW: Final = 200
NONE_ACTIVATED: Final = Fault(
    "policies",
    "activation",
    "no version of the policy is activated, and in production mode no other is in force",
    "run: toolgate policy activate",
)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The policy that shall govern, before anybody has looked whether it fits the registry."""

    enforced: PolicyText | None = None
    shadow: PolicyText | None = None
    standing: Standing | None = field(default_factory=Standing)
    """What was activated; None where that could not be read."""
    unread: str = ""
    """Why the database does not say what was activated, or what is in it. It may say so the next time."""
    faults: tuple[Fault, ...] = ()
    shadow_faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """A rulebook, or why there is none."""

    rulebook: Rulebook | None
    standing: Standing | None
    """What was activated; None where that could not be read."""
    unread: str = ""
    """Why the database could not be read in full. What is missing is no misfit, and is looked for again."""
    shadow: str = ""
    """Digest of the version in shadow."""
    texts: tuple[PolicyText, ...] = ()
    """What the policy was made of."""
    faults: tuple[Fault, ...] = ()
    shadow_faults: tuple[Fault, ...] = ()
    """Why the version in shadow does not watch. That keeps no other from being in force."""


@dataclass(kw_only=True)
class InForce:
    """Holds the rulebook in force: one reference, swapped as a whole."""

    rulebook: Rulebook
    since: datetime
    """From when on this process judges by this policy."""
    standing: Standing
    """What was activated, as far as it is known."""
    settled: int | None
    """The entry of the newest activation of which it is decided whether it can be in force here."""
    shadow: str = ""
    texts: tuple[PolicyText, ...] = ()
    refused: int = 0
    """How many faults keep what was read last from being in force."""

    @classmethod
    def of(cls, found: Found, rulebook: Rulebook, at: datetime) -> "InForce":
        """Begin with what was found at the start."""
        shadow_faults = len(found.shadow_faults)
        return cls(
            rulebook=rulebook,
            since=at,
            standing=found.standing or Standing(),
            settled=_settled(found),
            shadow=found.shadow,
            texts=found.texts,
            refused=shadow_faults,
        )

    def __call__(self) -> Rulebook:
        return self.rulebook

    def keeps(self, found: Found) -> bool:
        """Whether what was found is what is in force already."""
        return found.rulebook is not None and (found.rulebook.version, found.shadow) == (
            self.rulebook.version,
            self.shadow,
        )

    def swap(self, found: Found, at: datetime) -> None:
        """Put in force what was found; what was in force before stays where nothing else was."""
        self.settled, self.refused = _settled(found), len(found.shadow_faults)
        if found.rulebook is not None and not self.keeps(found):
            if found.rulebook.policy.digest != self.rulebook.policy.digest:
                self.since = at
            self.rulebook, self.shadow, self.texts = found.rulebook, found.shadow, found.texts

    def parts(self) -> list[object]:
        """Give what the policy in force consists of, for `let_go` when it is no longer."""
        return [part for text in self.texts for part in (*text.rules, *text.roles, *text.groups)]

    def learn(self, found: Found) -> Standing:
        """Take note of what was activated, whatever comes of it; gives what was known before."""
        before = self.standing
        self.standing = found.standing or before
        return before

    def refuse(self, found: Found, faults: int, *, for_good: bool) -> None:
        """Keep what is in force. Only what was read and is refused for good is not looked at again."""
        self.refused = faults
        if for_good:
            self.settled = _settled(found)


def on_disk(policies: Path) -> Chosen:
    """Choose what is on the disk."""
    text, faults = read_policy(policies)
    return Chosen(enforced=text, faults=tuple(faults))


def activated(stored: StoredPolicies) -> Chosen:
    """Choose what was activated last. Never raises: what cannot be read is a fault, and told as `unread`."""
    try:
        standing = stored.standing()
    except LedgerUnavailable as error:
        return Chosen(standing=None, unread=str(error), faults=(_unreadable(str(error)),))
    if standing.enforced is None:
        return Chosen(standing=standing, faults=(NONE_ACTIVATED,))
    enforced = _version(stored, standing.enforced.digest)
    shadow = _version(stored, standing.shadow.digest) if standing.shadow else _Version()
    return Chosen(
        enforced=enforced.text,
        shadow=shadow.text,
        standing=standing,
        unread=enforced.unread or shadow.unread,
        faults=enforced.faults,
        shadow_faults=shadow.faults,
    )


def found_of(catalog: Catalog | None, chosen: Chosen, second: SecondJudge | None = None) -> Found:
    """Make the rulebook of a catalogue and a chosen policy, or say why they do not fit.

    Half a second of work at ten thousand rules: a gate that serves has it done in a thread (`beside`).

    Args:
        catalog: the admitted tools; None when they could not be read.
        chosen: the policy that shall govern.
        second: judges some decisions of the version in force again.
    """
    faults = (*chosen.faults, *misfits(chosen.enforced, catalog))
    shadow_faults = (*chosen.shadow_faults, *misfits(chosen.shadow, catalog))
    if catalog is None or chosen.enforced is None or faults:
        return Found(
            rulebook=None,
            standing=chosen.standing,
            unread=chosen.unread,
            faults=faults,
            shadow_faults=shadow_faults,
        )
    enforced = CasbinPolicy(chosen.enforced)
    policy: Policy = enforced if second is None else second.sampled(enforced, chosen.enforced)
    shadow = None if shadow_faults else chosen.shadow
    if shadow is not None:
        policy = ShadowedPolicy(policy, CasbinPolicy(shadow))
    return Found(
        rulebook=Rulebook(catalog=catalog, policy=policy),
        standing=chosen.standing,
        unread=chosen.unread,
        shadow=shadow.digest if shadow else "",
        texts=(chosen.enforced,) if shadow is None else (chosen.enforced, shadow),
        shadow_faults=shadow_faults,
    )


def misfits(text: PolicyText | None, catalog: Catalog | None) -> list[Fault]:
    """Say why a policy that was understood cannot be in force with these tools."""
    if text is None:
        return []
    return model_faults(text) + (faults_against(text, catalog.tools) if catalog is not None else [])


def read_registry(
    registry: Registry, lending: Lending | None, *, locked: bool
) -> tuple[ManifestCatalog | None, list[Fault]]:
    """Read the manifests, and hold them against the lock, which must be there where they have to be `locked`.

    What would keep their credentials from being lent is told too.
    """
    catalog, faults = registry.read()
    if catalog is None:
        return None, faults
    catalog, faults = reviewed(catalog, registry.folder, required=locked)
    return catalog, faults if lending is None else [*faults, *_credential_faults(catalog, lending)]


async def beside(build: Callable[[], T]) -> T:
    """Build in a thread, while the event loop goes on answering.

    The garbage collector stands still meanwhile, and leaves what was built alone afterwards: one walk over
    a large policy holds up everybody for longer than the whole swap may (docs/decisions/0007).
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return await asyncio.to_thread(build)
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def let_go(parts: list[object]) -> None:
    """Free the parts of a policy a few at a time, in a thread: all at once would hold up everybody."""
    while parts:
        del parts[-_FEW:]
        time.sleep(0)  # whoever waits for the interpreter gets it


def announce(found: Found, before: Standing) -> None:
    """Say to the log what is taken up, where somebody should look."""
    for tool in found.rulebook.catalog.tools if found.rulebook is not None else ():
        if tool.unreviewed:
            log.warning("%s is not served: %s", tool.name, tool.unreviewed)
    for fault in found.shadow_faults:
        log.error("the policy in shadow does not watch: %s", fault)
    standing, known = found.standing or Standing(), {before.enforced, before.shadow}
    for activation in (standing.enforced, standing.shadow):
        if activation is not None and activation.override and activation not in known:
            log.error(
                "the policy %s was activated although its cases fail (ledger entry %d has the reason)",
                activation.digest[:SHORT],
                activation.entry,
            )


@dataclass(frozen=True, kw_only=True)
class _Version:
    text: PolicyText | None = None
    unread: str = ""
    faults: tuple[Fault, ...] = ()


def _version(stored: StoredPolicies, digest: str) -> _Version:
    try:
        text, faults = parse_policy(stored.files(digest))
    except (LedgerUnavailable, NothingRecorded) as error:
        return _Version(unread=str(error), faults=(_unreadable(str(error)),))
    return _Version(text=text, faults=tuple(faults))


def _settled(found: Found) -> int | None:
    """Give the activation that need not be looked at again; none where something could not be read."""
    return None if found.unread or found.standing is None else found.standing.newest


def _unreadable(problem: str) -> Fault:
    return Fault("the ledger", "policy versions", problem, "see docs/how-to/deploy.md, policy versions")


def _credential_faults(catalog: Catalog, lending: Lending) -> Iterator[Fault]:
    """Say which credentials could not be lent, each once, as far as can be told without asking anybody."""
    seen: set[tuple[str, str, str]] = set()
    for tool in catalog.tools:
        for problem, remedy in lending.faults(tool):
            fault = (tool.system, tool.terms.credential, problem)
            if fault not in seen:
                seen.add(fault)
                place = f"credentials.{tool.terms.credential}"
                yield Fault(f"registry/{tool.system}.toml", place, problem, remedy)
