"""The judge with its index against Casbin as it comes: every rule, Casbin's own roles, parser and loop.

Nothing of ours is in the plain one but the text of the model: the rows go in through Casbin's own interface,
and conditions, patterns, approvals and obligations are written down here a second time, in Python.
"""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import casbin
import pytest

from tests.policies_for_tests import (
    AMOUNTS,
    CONDITIONS,
    EFFECTS,
    NOON,
    OBLIGING,
    PATTERNS,
    RUNS,
    SUNDAY,
    Row,
    cells_of,
    judge,
    question,
    tool,
    with_index,
)
from toolgate.backends.policy.casbin_judge import MODEL, CasbinPolicy, PlainPolicy
from toolgate.backends.policy.index import Roles, RuleIndex
from toolgate.backends.policy.text import Rule
from toolgate.core.call import Caller
from toolgate.core.decision import Decision, Question
from toolgate.core.record import Json
from toolgate.core.tool import Tool

Meaning = Callable[[Question], bool | None]
Said = tuple[str, tuple[str, ...], tuple[str, ...], dict[str, object], tuple[str, ...], tuple[str, ...]]
"""Verdict, rules, approvers, obligations, what was unknown, and what rules in shadow would have said."""
ORDER = ("metadata", "digests", "arguments", "full")


# Conditions, in Python.


def number(value: Json) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def always(_: Question) -> bool:
    return True


def more_than_five(asked: Question) -> bool | None:
    amount = number(asked.arguments.get("amount"))
    return None if amount is None else amount > 5


def at_most_ten(asked: Question) -> bool | None:
    amount = number(asked.arguments.get("amount"))
    return None if amount is None else amount <= 10


def is_mia(asked: Question) -> bool:
    return asked.caller.subject == "mia"


def short_text(asked: Question) -> bool | None:
    text = asked.arguments.get("text")
    return len(text) < 3 if isinstance(text, str) else None


def text_with_a(asked: Question) -> bool | None:
    text = asked.arguments.get("text")
    return text.startswith("a") if isinstance(text, str) else None


def in_the_week(asked: Question) -> bool:
    return asked.at.weekday() < 5 and 9 <= asked.at.hour < 17


def after_the_crm(asked: Question) -> bool | None:
    return None if asked.run is None else any(past.tool.startswith("crm.") for past in asked.run)


def after_two_deletes(asked: Question) -> bool | None:
    return None if asked.run is None else sum(past.tool.endswith(".delete") for past in asked.run) >= 2


IN_PYTHON: tuple[Meaning, ...] = (
    always,
    more_than_five,
    at_most_ten,
    is_mia,
    short_text,
    in_the_week,
    after_the_crm,
    after_two_deletes,
    text_with_a,
)
MEANING: dict[str, Meaning] = dict(zip(CONDITIONS, IN_PYTHON, strict=True))


# Policies of several shapes.


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What rules of one kind of policy are made of."""

    effects: Sequence[str] = ("allow", "allow", "allow", "deny")
    who: Sequence[str] = ("support", "lead", "boss")
    tenants: Sequence[str] = ("acme", "globex")
    tools: Sequence[str] = ("crm.read", "crm.grant", "crm.delete", "tickets.delete", "tickets.read")
    actions: Sequence[str] = ("read", "write", "destroy", "*")
    conditions: Sequence[str] = ("-",)
    unless: Sequence[str] = ("-",)
    obliging: Sequence[str] = ("-",)
    sizes: tuple[int, int] = (3, 24)


USERS = ("user:mia", "user:rob", "user:support")
PLAIN_TOOLS = Shape().tools
CONDITIONED = ("-", *CONDITIONS)
SHAPES = {
    "access lists": Shape(who=USERS, sizes=(5, 40)),
    "roles in tenants": Shape(tenants=("acme", "globex", "initech"), sizes=(5, 40)),
    "wildcards and groups": Shape(
        who=("*", "support", "lead", "user:mia"), tenants=("*", "acme"), tools=(*PATTERNS, *PLAIN_TOOLS)
    ),
    "conditions": Shape(conditions=CONDITIONED, tools=(*PLAIN_TOOLS, "*", "crm.*")),
    "approvals": Shape(
        effects=("allow", "deny"),
        who=("*", "support", "lead"),
        tenants=("*", "acme"),
        tools=("*", "crm.*", "crm.grant", "group"),
        conditions=("-", *CONDITIONS[1:3]),
        unless=("-", "approval:boss", "approval:finance", "approval:lead"),
        sizes=(2, 9),
    ),
    "obligations": Shape(
        effects=("allow", "oblige", "oblige", "deny"),
        who=("*", "support", "lead"),
        tenants=("*", "acme"),
        conditions=("-", *CONDITIONED),
        unless=("-", "approval:boss"),
        obliging=("-", *OBLIGING),
    ),
    "shadows": Shape(
        effects=("allow", "deny", "shadow-allow", "shadow-deny", "oblige"),
        who=("*", "support", "lead"),
        tenants=("*", "acme"),
        tools=("*", "crm.*", *PLAIN_TOOLS),
        conditions=CONDITIONED,
        unless=("-", "approval:boss"),
        obliging=OBLIGING,
        sizes=(3, 15),
    ),
    "everything, dense": Shape(
        effects=("allow", "allow", "allow", "deny", "oblige", "shadow-allow", "shadow-deny"),
        who=("*", "support", "lead", "boss", "user:mia", "mia"),
        tenants=("*", "*", "acme", "globex"),
        tools=("*", "crm.*", "*.delete", "group", "part", *PLAIN_TOOLS),
        conditions=CONDITIONED,
        unless=("-", "approval:boss", "approval:finance"),
        obliging=("-", *OBLIGING),
        sizes=(10, 60),
    ),
    "many": Shape(
        effects=("allow",) * 9 + ("deny",),
        who=(*(f"role{n}" for n in range(20)), "support", "lead", "user:mia"),
        tenants=("acme", "globex", "initech", "*"),
        tools=(*(f"s{n}.op" for n in range(40)), *PLAIN_TOOLS, "crm.*", "*.delete", "group"),
        conditions=("-", *CONDITIONS),
        unless=("-", "-", "-", "approval:boss"),
        sizes=(400, 400),
    ),
}
DENSE = SHAPES["everything, dense"]
TELLING = Shape(
    effects=("allow", "allow", "allow", "deny"),
    who=("*", "support", "lead", "boss", "user:mia"),
    tenants=("*", "acme", "globex"),
    tools=("crm.*", "*.delete", "group", "part", *PLAIN_TOOLS),
    conditions=("-", "-", *CONDITIONS[1:3]),
    unless=("-", "-", "approval:boss"),
    sizes=(6, 15),
)
"""Policies in which many a decision hangs on one rule."""


@dataclass(frozen=True)
class Story:
    """A policy, and who may ask under it."""

    rows: list[Row]
    roles: list[tuple[str, str, str]]
    groups: list[tuple[str, str]]
    callers: list[Caller]
    tools: Sequence[str]

    def question(self, chance: random.Random) -> Question:
        what = tool(chance.choice(self.tools), chance.choice(EFFECTS))
        return question(
            chance.choice(self.callers),
            what,
            chance.choice(AMOUNTS),
            at=chance.choice([NOON, SUNDAY]),
            run=chance.choice(RUNS),
        )


def story(shape: Shape, chance: random.Random) -> Story:
    rows = [row(shape, chance) for _ in range(chance.randint(*shape.sizes))]
    links = [
        (
            chance.choice([*USERS, "lead", "boss", "role1"]),
            chance.choice(("support", "lead", "boss", "role2")),
        )
        for _ in range(chance.randint(0, 5))
    ]
    roles = [(who, role, chance.choice(["acme", "globex"])) for who, role in links if who != role]
    groups = [("crm.grant", "group"), ("crm.delete", "part"), ("part", "group"), ("tickets.read", "part")]
    callers = [
        Caller(
            subject=subject,
            issuer="test",
            tenant=chance.choice(["acme", "acme", "globex", "elsewhere"]),
            roles=frozenset(chance.sample(("support", "lead", "boss", "user:mia"), chance.randint(0, 2))),
        )
        for subject in ("mia", "rob", "support", "zoe")
    ]
    return Story(rows, roles, groups[: chance.randint(0, 4)], callers, [*PLAIN_TOOLS, "s1.op", "odd"])


def row(shape: Shape, chance: random.Random) -> Row:
    effect = chance.choice(shape.effects)
    with_ = chance.choice(shape.obliging) if effect in {"allow", "oblige"} else "-"
    return (
        effect,
        chance.choice(shape.who),
        chance.choice(shape.tenants),
        chance.choice(shape.tools),
        chance.choice(shape.actions),
        chance.choice(shape.conditions),
        chance.choice(shape.unless),
        OBLIGING[0] if effect == "oblige" and with_ == "-" else with_,
    )


# Plain Casbin.


@dataclass
class Notes:
    """What plain Casbin's matcher notes in one pass."""

    asked: Question
    approved: bool = False
    seen: list[str] = field(default_factory=list[str])
    lifted: set[str] = field(default_factory=set[str])
    unknown: set[str] = field(default_factory=set[str])


class Plain:
    """Casbin with all rows and its own role manager; each caller's roles are links of their own."""

    def __init__(self, story: Story) -> None:
        self._cells = cells_of(story.rows)
        self._effects = {cells[0]: cells[1] for cells in self._cells}
        self._story = story
        enforced = [cells for cells in self._cells if not cells[1].startswith("shadow")]
        promoted = [(cells[0], cells[1].removeprefix("shadow-"), *cells[2:]) for cells in self._cells]
        self._enforced = self._enforcer(enforced)
        self._obliging = self._enforcer([cells for cells in enforced if cells[1] == "oblige"])
        self._promoted = self._enforcer(promoted) if len(enforced) < len(promoted) else None
        could = [(cells[0], "none", *cells[2:6], "-", "-", "-") for cells in self._cells]
        self._could = self._enforcer(could)

    def say(self, asked: Question) -> Said:
        verdict, rules, notes = self._judged(self._enforced, asked)
        approvers = tuple(sorted(notes.lifted)) if verdict == "hold" else ()
        if verdict == "deny":
            obliging = self._pass(self._obliging, asked, approved=False)[1]
            seen, notes.unknown = obliging.seen, notes.unknown | obliging.unknown
        else:
            seen = notes.seen
        shadow: tuple[str, ...] = ()
        if self._promoted is not None:
            other, why, _ = self._judged(self._promoted, asked)
            shadow = (other, *why) if other != verdict else ()
        return verdict, rules, approvers, self._joined(seen), self._unknown(asked, notes), shadow

    def _judged(self, enforcer: Any, asked: Question) -> tuple[str, tuple[str, ...], Notes]:  # noqa: ANN401
        allowed, first = self._pass(enforcer, asked, approved=False)
        if allowed:
            return "allow", tuple(sorted(first.seen, key=lambda id_: self._effects[id_] != "oblige")), first
        allowed, second = self._pass(enforcer, asked, approved=True)
        second.unknown |= first.unknown
        denies, hard = (
            tuple(id_ for id_ in notes.seen if self._effects[id_].endswith("deny"))[-1:]
            for notes in (first, second)
        )
        return ("hold", denies, second) if allowed else ("deny", hard or denies, second)

    @staticmethod
    def _pass(enforcer: Any, asked: Question, *, approved: bool) -> tuple[bool, Notes]:  # noqa: ANN401
        notes = Notes(asked, approved)
        who, what = asked.caller, asked.tool
        allowed: bool = enforcer.enforce(name(who), who.tenant, what.name, what.terms.effect, notes)
        return allowed, notes

    def _joined(self, seen: Iterable[str]) -> dict[str, object]:
        """Join obligations by what the reference says: every mask, the fewest rows, the least capture."""
        withs = [self._cells[int(id_[1:])][8] for id_ in seen if self._effects[id_] in {"allow", "oblige"}]
        parts = [part.strip().split("=") for cell in withs if cell != "-" for part in cell.split(";")]
        rows = [int(value) for word, value in parts if word == "rows"]
        captures = [value for word, value in parts if word == "capture"]
        return {
            "mask": {one for word, value in parts if word == "mask" for one in value.split("|")},
            "rows": min(rows) if rows else None,
            "capture": min(captures, key=ORDER.index) if captures else None,
        }

    def _unknown(self, asked: Question, notes: Notes) -> tuple[str, ...]:
        """Give the rules for this caller and tool with a condition that Casbin met and could not be told."""
        matching = self._pass(self._could, asked, approved=False)[1].seen if notes.unknown else []
        return tuple(id_ for id_ in matching if self._cells[int(id_[1:])][6] in notes.unknown)

    def _enforcer(self, rows: Iterable[tuple[str, ...]]) -> Any:  # noqa: ANN401
        enforcer: Any = casbin.Enforcer(casbin.Enforcer.new_model(text=MODEL))
        logging.getLogger("casbin").setLevel(logging.CRITICAL)
        enforcer.get_role_manager().matching_func = None  # else its graph takes quadratic time
        for cells in rows:
            enforcer.add_policy(*cells)
        tokens = ((name(one), role, one.tenant) for one in self._story.callers for role in one.roles)
        for link in (*self._story.roles, *(link for link in tokens if ":" not in link[1])):
            enforcer.add_named_grouping_policy("g", *link)
        for group in self._story.groups:
            enforcer.add_named_grouping_policy("g2", *group)
        for word, function in (
            ("toolMatch", fnmatchcase),
            ("when", when),
            ("lifted", lifted),
            ("seen", seen),
        ):
            enforcer.add_function(word, function)
        return enforcer


def when(text: str, effect: str, notes: Notes) -> bool:
    holds = MEANING[text](notes.asked)
    if holds is None:
        notes.unknown.add(text)
        return effect != "allow"
    return holds


def lifted(unless: str, notes: Notes) -> bool:
    if not notes.approved or unless == "-":
        return False
    notes.lifted.add(unless.removeprefix("approval:"))
    return True


def seen(id_: str, notes: Notes) -> bool:
    notes.seen.append(id_)
    return True


def name(who: Caller) -> str:
    return f"user:{who.subject}"


def said(decision: Decision) -> Said:
    obliged, shadow = decision.obligations, decision.would_be
    return (
        decision.verdict,
        decision.rules,
        decision.approvers,
        {"mask": set(obliged.mask), "rows": obliged.rows, "capture": obliged.capture},
        decision.unknown,
        (shadow.verdict, *shadow.rules) if shadow else (),
    )


def differences(judged: CasbinPolicy, plain: Plain, story: Story, chance: random.Random, count: int) -> int:
    asked = [story.question(chance) for _ in range(count)]
    return sum(said(judged.decide(one)) != plain.say(one) for one in asked)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(8))
def test_the_index_gives_the_same_decisions_as_plain_casbin(shape: str, seed: int) -> None:
    """21,920 calls under 72 policies: all that a decision says is the same."""
    chance = random.Random(f"{shape}{seed}")  # noqa: S311 - cases, not secrets
    told = story(SHAPES[shape], chance)
    judged, plain = judge(told.rows, told.roles, told.groups), Plain(told)
    for _ in range(20 if shape == "many" else 340):
        asked = told.question(chance)

        assert said(judged.decide(asked)) == plain.say(asked), (told.rows, asked)


# The comparison has teeth.


class Lossy(RuleIndex):
    """An index that loses rules of one kind."""

    def __init__(self, rules: Sequence[Rule], loses: Callable[[Rule, Tool, frozenset[str]], bool]) -> None:
        super().__init__(rules)
        self._loses = loses

    def rules_for(self, tool: Tool, groups: frozenset[str], tenant: str, names: frozenset[str]) -> list[Rule]:
        found = super().rules_for(tool, groups, tenant, names)
        return [rule for rule in found if not self._loses(rule, tool, groups)]


class RolesOfTheToken(Roles):
    """Roles that forget what roles.csv adds."""

    def of(self, caller: Caller) -> frozenset[str]:
        return frozenset({name(caller), *caller.roles})


LOSSES: dict[str, Callable[[Rule, Tool, frozenset[str]], bool]] = {
    "tenant wildcards": lambda rule, tool, groups: rule.tenant == "*",
    "action wildcards": lambda rule, tool, groups: rule.action == "*",
    "patterns": lambda rule, tool, groups: "*" in rule.tool,
    "groups": lambda rule, tool, groups: rule.tool in groups - {tool.name},
    "who-wildcards": lambda rule, tool, groups: rule.who == "*",
    "denies": lambda rule, tool, groups: rule.effect == "deny",
}


def test_an_index_that_is_whole_shows_no_difference() -> None:
    assert differences_with(lambda _: None) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_an_index_that_loses_rules_is_noticed(loss: str) -> None:
    def lose(judged: CasbinPolicy) -> None:
        with_index(judged, Lossy(judged.text.rules, LOSSES[loss]))

    assert differences_with(lose) > 3


def test_roles_that_are_not_followed_are_noticed() -> None:
    def lose(judged: CasbinPolicy) -> None:
        judged.roles = RolesOfTheToken(())

    assert differences_with(lose) > 3


def differences_with(breakage: Callable[[CasbinPolicy], None]) -> int:
    """Break the judge of ten policies in one way, and count among 1,000 calls."""
    found = 0
    for seed in range(10):
        chance = random.Random(seed)  # noqa: S311
        told = story(TELLING, chance)
        judged = judge(told.rows, told.roles, told.groups)
        breakage(judged)
        found += differences(judged, Plain(told), told, chance, 100)
    return found


@pytest.mark.parametrize("seed", range(10))
def test_the_plain_judge_of_the_product_says_the_same(seed: int) -> None:
    """The one that judges again in production, with conditions in CEL and roles as Casbin comes with them."""
    chance = random.Random(f"product{seed}")  # noqa: S311
    told = story(DENSE, chance)
    judged = judge(told.rows, told.roles, told.groups)
    plain = PlainPolicy(judged.text)
    for _ in range(100):
        asked = told.question(chance)

        assert said(plain.decide(asked)) == said(judged.decide(asked)), (told.rows, asked)
