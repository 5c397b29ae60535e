"""Who can use what under a policy: never, only if, or always.

The judge is asked twice, about a policy in which everything that is not known is answered in favour of the
call, and about one in which it is answered against it. Verdicts only ever grow with more allows and shrink
with more denies, so where both give the same verdict every possible answer does.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Final, Literal

from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.conditions import Condition, Facts
from toolgate.backends.policy.text import NONE, PolicyText, Rule
from toolgate.core.call import Caller
from toolgate.core.decision import Past, Question, Verdict
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

Unknown = Literal["args", "roles", "now", "run"]
"""What of a call may not be known: its arguments, what its token said, when it came, what came before it."""
Level = Literal["never", "only if", "always"]
LEVELS: Final[tuple[Level, ...]] = ("never", "only if", "always")
VERDICTS: Final[tuple[Verdict, ...]] = ("deny", "hold", "allow")
"""From the least that is allowed to the most."""
ANY_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Stands for the moment of a call where no answer depends on it."""
NOT_KNOWN: Final[frozenset[Unknown]] = frozenset({"args", "now", "run"})

_READS: Final[Mapping[Unknown, re.Pattern[str]]] = {
    "args": re.compile(r"\bargs\b"),
    "roles": re.compile(r"\bcaller\b(?!\s*\.\s*(subject|tenant|client)\b)"),
    "now": re.compile(r"\bnow\b|\bduring\s*\("),
    "run": re.compile(r"\brun\b|\b(called|count)\s*\("),
}


@cache
def _reads(text: str) -> frozenset[Unknown]:
    # A word in a text in quotes counts too: better too much than too little.
    return frozenset(name for name, pattern in _READS.items() if pattern.search(text))


def reads(when: Condition | None) -> frozenset[Unknown]:
    """Say what a condition looks at, rather too much than too little."""
    return frozenset() if when is None else _reads(when.text)


@dataclass(frozen=True)
class Worlds:
    """Two policies between which every possible answer lies."""

    most: CasbinPolicy
    """What is not known speaks for the call."""
    least: CasbinPolicy
    """What is not known speaks against it."""

    def verdict(self, question: Question) -> Verdict | None:
        """Give the verdict, or None where it depends on what is not known."""
        least, most = self.least.decide(question).verdict, self.most.decide(question).verdict
        return most if least == most else None


def worlds(text: PolicyText, unknown: frozenset[Unknown]) -> Worlds:
    """Make the two policies for calls of which `unknown` is not known."""
    return Worlds(
        CasbinPolicy(replace(text, rules=_supposed(text.rules, unknown, "allow"))),
        CasbinPolicy(replace(text, rules=_supposed(text.rules, unknown, "deny"))),
    )


def _supposed(rules: Sequence[Rule], unknown: frozenset[Unknown], favoured: str) -> tuple[Rule, ...]:
    """Let every rule of the favoured effect match where it may, and no other where it may not."""
    supposed: list[Rule] = []
    for rule in rules:
        if rule.effect == "oblige" or rule.shadow:
            continue
        if rule.effect == favoured:
            supposed.append(_matching(rule, unknown))
        elif not reads(rule.when) & unknown:
            supposed.append(rule)
    return tuple(supposed)


def _matching(rule: Rule, unknown: frozenset[Unknown]) -> Rule:
    cells, who, when = list(rule.cells), rule.who, rule.when
    if reads(when) & unknown:
        when, cells[6] = None, NONE
    if "roles" in unknown and not who.startswith("user:"):
        who = cells[2] = "*"
    return replace(rule, cells=tuple(cells), who=who, when=when)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what terms a call is allowed. Rules that say the same count once, whatever their ids are."""

    allowed_if: frozenset[str] = frozenset()
    """Conditions of which one must hold; empty where none is needed."""
    denied_if: frozenset[str] = frozenset()
    held_if: frozenset[tuple[str, str]] = frozenset()
    """A condition, or an empty text for every call, and the role that must approve then."""
    obligations: frozenset[tuple[str, str]] = frozenset()
    """A condition, or an empty text, and what it obliges to."""

    def spoken(self) -> list[str]:
        """Say them, one a line."""
        said = [f"when {' or '.join(sorted(self.allowed_if))}"] if self.allowed_if else []
        said += [f"not when {condition}" for condition in sorted(self.denied_if)]
        for condition, role in sorted(self.held_if):
            said.append(f"after approval by {role}" + (f", when {condition}" if condition else ""))
        return said


@dataclass(frozen=True, kw_only=True)
class Access:
    """What somebody can do with a tool."""

    level: Level
    terms: Terms
    """Without any where the level is `never`."""
    rules: tuple[str, ...]
    """Ids of the rules behind it."""


class Survey:
    """Answers who can do what under one policy.

    Args:
        arguments: of the calls that are asked about; None where they may have any.
    """

    def __init__(self, text: PolicyText, arguments: JsonObject | None = None) -> None:
        self.text, self.policy = text, CasbinPolicy(text)
        self._arguments = arguments
        unknown = NOT_KNOWN if arguments is None else NOT_KNOWN - {"args"}
        self._unknown: frozenset[Unknown] = unknown
        self._named = frozenset(rule.who for rule in text.rules)
        self._known: dict[tuple[object, ...], Access] = {}

    def names(self, caller: Caller) -> frozenset[str]:
        """Give the names of a caller by which some rule calls it: with the same ones, two can do the same."""
        return self.policy.roles.of(caller) & self._named

    def access(self, caller: Caller, tool: Tool) -> Access:
        """Say whether and on what terms `caller` can use `tool`."""
        candidates = self.candidates(caller, tool)
        personal = any("caller" in rule.when.text for rule in candidates if rule.when)
        about = (caller,) if personal else (caller.tenant, tuple(rule.id for rule in candidates))
        key = (*about, tool.name)
        if key not in self._known:
            self._known[key] = self._access(caller, tool, candidates)
        return self._known[key]

    def candidates(self, caller: Caller, tool: Tool) -> list[Rule]:
        """Give the enforced rules that could match, obligations among them."""
        return [rule for rule in self.policy.candidates(caller, tool) if not rule.shadow]

    def _access(self, caller: Caller, tool: Tool, candidates: Sequence[Rule]) -> Access:
        question = asked(caller, tool, self._arguments or {})
        most = self._worlds.most.decide(question)
        if most.verdict == "deny":
            return Access(level="never", terms=Terms(), rules=most.rules)
        open_ = [rule for rule in candidates if self._is_open(rule, question)]
        least = self._worlds.least.decide(question).verdict
        level: Level = "always" if least == "allow" else "only if"
        return Access(level=level, terms=terms_of(open_), rules=tuple(rule.id for rule in open_))

    def _is_open(self, rule: Rule, question: Question) -> bool:
        """Whether a rule may still match: its condition cannot be told yet, or it does hold."""
        if rule.when is None or reads(rule.when) & self._unknown:
            return True
        answer = rule.when.holds(Facts(question))
        return answer is not False if rule.effect == "deny" else answer is True

    @cached_property
    def _worlds(self) -> Worlds:
        return worlds(self.text, self._unknown)


def terms_of(rules: Iterable[Rule]) -> Terms:
    """Join rules that all may match into terms; what another makes needless is left out."""
    allows: set[str] = set()
    denies: set[str] = set()
    holds_: set[tuple[str, str]] = set()
    obliged: set[tuple[str, str]] = set()
    for rule in rules:
        when = rule.when.text if rule.when else ""
        obliged |= {(when, spelled) for spelled in rule.obligations.spelled()}
        match rule.effect:
            case "allow":
                allows.add(when)
            case "deny" if rule.approver is not None:
                holds_.add((when, rule.approver))
            case "deny":
                denies.add(when)
            case "oblige":
                pass
    return Terms(
        allowed_if=frozenset() if "" in allows else frozenset(allows),
        denied_if=frozenset(denies),
        held_if=frozenset(one for one in holds_ if not one[0] or ("", one[1]) not in holds_),
        obligations=frozenset(obliged),
    )


def asked(
    caller: Caller,
    tool: Tool,
    arguments: JsonObject,
    at: datetime = ANY_TIME,
    run: tuple[Past, ...] | None = None,
) -> Question:
    """Make a question to the judge."""
    return Question(caller=caller, tool=tool, arguments=arguments, at=at, run=run)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Somebody whom a policy or the settings know."""

    name: str
    """As rules say it: `user:SUBJECT`, a role, or `*` for anybody else."""
    caller: Caller


def known_people(
    texts: Iterable[PolicyText], callers: Iterable[Caller], tenant: str | None = None
) -> list[Known]:
    """Give every subject and role, and anybody else, in each tenant that is known.

    A caller of the settings has its roles from there; everybody else those of the `g` rows alone.
    """
    texts, callers = list(texts), list(callers)
    tenants = {tenant} if tenant else _tenants(texts, callers)
    people = {
        (f"user:{caller.subject}", caller.tenant): caller for caller in callers if caller.tenant in tenants
    }
    for name, where in sorted(_names(texts)):
        for one in tenants if where == "*" else tenants & {where}:
            people.setdefault((name, one), caller_called(name, one))
    return [Known(name=name, caller=caller) for (name, _), caller in sorted(people.items(), key=_place)]


def caller_called(name: str, tenant: str, roles: Iterable[str] = ()) -> Caller:
    """Give a caller whom rules would call `name`, with these roles besides."""
    if name.startswith("user:"):
        return Caller(subject=name[5:], issuer="", tenant=tenant, roles=frozenset(roles))
    own = {name} - {"*"}
    return Caller(subject="", issuer="", tenant=tenant, roles=frozenset({*own, *roles}))


def _place(person: tuple[tuple[str, str], Caller]) -> tuple[str, bool, str]:
    (name, tenant), _ = person
    return tenant, name.startswith("user:"), name


def _tenants(texts: Sequence[PolicyText], callers: Sequence[Caller]) -> set[str]:
    found = {caller.tenant for caller in callers}
    for text in texts:
        found |= {rule.tenant for rule in text.rules} | {link.tenant for link in text.roles}
    return (found - {"*"}) or {"any"}


def _names(texts: Sequence[PolicyText]) -> set[tuple[str, str]]:
    found = {("*", "*")}
    for text in texts:
        found |= {(rule.who, rule.tenant) for rule in text.rules}
        found |= {(link.who, link.tenant) for link in text.roles}
        found |= {(link.role, link.tenant) for link in text.roles}
    return found


def more_or_less(before: Verdict, after: Verdict) -> Literal["gain", "loss"] | None:
    """Say whether more is allowed after than before; None where it is the same."""
    if before == after:
        return None
    return "gain" if VERDICTS.index(after) > VERDICTS.index(before) else "loss"
