"""Why the judge answers a call as it does, and what would change the answer.

Every change that is told was tried: the judge was asked again about the changed call.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from toolgate.backends.policy.access import VERDICTS, Unknown, reads
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.conditions import Condition, Facts
from toolgate.backends.policy.probes import bounds_in
from toolgate.backends.policy.text import Rule
from toolgate.core.decision import Decision, Question, Verdict
from toolgate.core.record import Json

Answer = Literal["yes", "no", "unknown"]
Kind = Literal["argument", "role", "approval", "time", "run"]

_STEP: Final = timedelta(minutes=15)
_STEPS: Final = 4 * 24 * 8
"""A week and a day, so that an hour before now on the same weekday is found too."""
_MOST_ROLES: Final = 500

_VERBS: Final = {"read": "read with", "write": "write with", "destroy": "destroy with", "*": "use"}
_USES: Final = {"read": "reads with", "write": "writes with", "destroy": "destroys with", "*": "uses"}
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the conditions that `&&` joins, and how it is answered."""

    condition: str
    answer: Answer
    why: str = ""
    """Why it cannot be told; an empty text where it can."""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """A rule that could match, and whether it does."""

    rule: Rule
    answer: Answer
    """What its condition says; `yes` where it has none."""
    parts: tuple[Part, ...]
    """Those that keep it from holding; none where it holds."""

    @property
    def matches(self) -> bool:
        """Whether the rule counts: an unknown answer makes everything but an allow match."""
        return self.answer == "yes" or (self.answer == "unknown" and self.rule.effect != "allow")


@dataclass(frozen=True, kw_only=True)
class Change:
    """The smallest change of its kind with which the judge answers otherwise."""

    kind: Kind
    what: str
    verdict: Verdict
    """What the judge says then."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a call is answered as it is."""

    question: Question
    decision: Decision
    deciding: Rule | None
    """None when no rule allows the call."""
    mattered: tuple[Weighed, ...]
    missed: tuple[Weighed, ...]
    shadow: tuple[Weighed, ...]
    """Rules in shadow that could match: judged, and not enforced."""
    changes: tuple[Change, ...]


def explain(policy: CasbinPolicy, question: Question, roles: Iterable[str] = ()) -> Explanation:
    """Explain one call; `roles` are such as could be given, besides those that the policy names."""
    decision = policy.decide(question)
    weighed = [_weighed(rule, question) for rule in policy.candidates(question.caller, question.tool)]
    enforced = [one for one in weighed if not one.rule.shadow]
    return Explanation(
        question=question,
        decision=decision,
        deciding=policy.rules[decision.rules[-1]] if decision.rules else None,
        mattered=tuple(one for one in enforced if one.matches),
        missed=tuple(one for one in enforced if not one.matches),
        shadow=tuple(one for one in weighed if one.rule.shadow),
        changes=tuple(_Changes(policy, question, decision).all(roles)),
    )


def aloud(rule: Rule) -> str:
    """Read a rule as a sentence."""
    who = "everyone" if rule.who == "*" else rule.who.removeprefix("user:")
    where = "" if rule.tenant == "*" else f" in {rule.tenant}"
    condition = f", when {rule.when.text}" if rule.when else ""
    unless = f", unless {rule.approver} approves" if rule.approver else ""
    duties = rule.obligations.spelled()
    obliged = f", with {' and '.join(duties)}" if duties and rule.effect != "oblige" else ""
    if rule.effect == "oblige":
        said = f"when {who}{where} {_USES[rule.action]} {_named(rule)}{condition}: {' and '.join(duties)}"
    else:
        said = (
            f"{rule.effect} {who}{where} to {_VERBS[rule.action]} {_named(rule)}{condition}{unless}{obliged}"
        )
    return f"in shadow: {said}" if rule.shadow else said


def _named(rule: Rule) -> str:
    return "any tool" if rule.tool == "*" else rule.tool


def _weighed(rule: Rule, question: Question) -> Weighed:
    if rule.when is None:
        return Weighed(rule=rule, answer="yes", parts=())
    answer = _answer(rule.when, question)
    parts: list[Part] = []
    for text in conjuncts(rule.when.text) if answer != "yes" else ():
        part = _part(text, question)
        if part.answer != "yes":
            parts.append(part)
    return Weighed(rule=rule, answer=answer, parts=tuple(parts))


def _answer(condition: Condition, question: Question) -> Answer:
    holds = condition.holds(Facts(question))
    return "unknown" if holds is None else "yes" if holds else "no"


def _part(text: str, question: Question) -> Part:
    try:
        condition = Condition(text)
    except ValueError:
        return Part(condition=text, answer="unknown")
    why = condition.why_unknown(Facts(question))
    return Part(condition=text, answer=_answer(condition, question), why=why)


def conjuncts(condition: str) -> list[str]:
    """Divide a condition at each `&&` outside quotes and brackets; with a bare `||` or `?` it stays whole."""
    parts, depth, begin, place = list[str](), 0, 0, 0
    while place < len(condition):
        char = condition[place]
        if char in "\"'":
            place = _end_of_text(condition, place)
            continue
        depth += (char in _CLOSING) - (char in _CLOSING.values())
        if depth == 0 and condition.startswith(("||", "?"), place):
            return [condition]
        if depth == 0 and condition.startswith("&&", place):
            parts.append(condition[begin:place].strip())
            begin = place = place + 2
            continue
        place += 1
    return [*parts, condition[begin:].strip()]


def _end_of_text(condition: str, place: int) -> int:
    quote, place = condition[place], place + 1
    while place < len(condition) and condition[place] != quote:
        place += 2 if condition[place] == "\\" else 1
    return place + 1


class _Changes:
    """Looks for what would change an answer, one thing at a time, then an argument and a role together."""

    def __init__(self, policy: CasbinPolicy, question: Question, decision: Decision) -> None:
        self._policy, self._question, self._decision = policy, question, decision
        self._candidates = [r for r in policy.candidates(question.caller, question.tool) if not r.shadow]

    def all(self, roles: Iterable[str]) -> Iterator[Change]:
        if self._decision.verdict == "hold":
            approvers = " and ".join(self._decision.approvers)
            yield Change(kind="approval", what=f"an approval by {approvers}", verdict="allow")
        found = [*self.arguments(self._question), *self.roles(roles), *self.times(), *self.runs()]
        yield from found
        if self._decision.verdict == "deny" and not found:
            yield from self.role_and_argument(roles)

    def arguments(self, question: Question) -> Iterator[Change]:
        """For each argument and each other verdict, give the value nearest to the present one."""
        candidates = [r for r in self._policy.candidates(question.caller, question.tool) if not r.shadow]
        tries: dict[str, list[Json]] = {}
        for rule in candidates:
            for name, value in bounds_in(rule.when.text) if rule.when else ():
                tries.setdefault(name, []).append(value)
        for name, values in sorted(tries.items()):
            present = question.arguments.get(name)
            found: dict[Verdict, Json] = {}
            for value in sorted(values, key=lambda value: _distance(present, value)):
                verdict = self._verdict_with(question, name, value)
                if verdict is not None and verdict != self._decision.verdict:
                    found.setdefault(verdict, value)
            for verdict, value in found.items():
                yield Change(kind="argument", what=_set(name, present, value), verdict=verdict)
            yield from self._without(question, name)

    def _verdict_with(self, question: Question, name: str, value: Json) -> Verdict | None:
        """Ask with another value; None where the tool would not take it."""
        arguments = question.arguments | {name: value}
        if question.tool.input.fault_in(arguments) is not None:
            return None
        return self._ask(replace(question, arguments=arguments))

    def _without(self, question: Question, name: str) -> Iterator[Change]:
        arguments = {other: value for other, value in question.arguments.items() if other != name}
        if name in question.arguments and question.tool.input.fault_in(arguments) is None:
            verdict = self._ask(replace(question, arguments=arguments))
            if verdict != self._decision.verdict:
                yield Change(kind="argument", what=f"without {name}", verdict=verdict)

    def roles(self, roles: Iterable[str]) -> Iterator[Change]:
        """Give the roles that would allow more; of an allowed call, those without which it is not allowed."""
        found: dict[Verdict, list[str]] = {}
        for role in self._could_be_given(roles):
            verdict = self._ask(self._as(role))
            if VERDICTS.index(verdict) > VERDICTS.index(self._decision.verdict):
                found.setdefault(verdict, []).append(role)
        for verdict, names in found.items():
            yield Change(kind="role", what=f"with the role {' or '.join(names)}", verdict=verdict)
        caller = self._question.caller
        for role in sorted(caller.roles):
            fewer = caller.model_copy(update={"roles": caller.roles - {role}})
            verdict = self._ask(replace(self._question, caller=fewer))
            if verdict != self._decision.verdict:
                yield Change(kind="role", what=f"without the role {role}", verdict=verdict)

    def role_and_argument(self, roles: Iterable[str]) -> Iterator[Change]:
        """Give what a role and an argument do together, where neither does anything alone."""
        for role in self._could_be_given(roles):
            for change in self.arguments(self._as(role)):
                yield Change(
                    kind="role", what=f"with the role {role}, and {change.what}", verdict=change.verdict
                )

    def times(self) -> Iterator[Change]:
        """Give the next moment at which each other verdict holds, by quarters of an hour, for eight days."""
        if not self._read("now"):
            return
        found: dict[Verdict, datetime] = {}
        begin = self._question.at.replace(minute=self._question.at.minute // 15 * 15, second=0, microsecond=0)
        for step in range(1, _STEPS):
            at = begin + step * _STEP
            verdict = self._ask(replace(self._question, at=at))
            if verdict != self._decision.verdict:
                found.setdefault(verdict, at)
        for verdict, at in found.items():
            yield Change(kind="time", what=f"from {at:%A %Y-%m-%d %H:%M} UTC", verdict=verdict)

    def runs(self) -> Iterator[Change]:
        """Say whether a run in which nothing was called before changes the answer."""
        if self._read("run"):
            verdict = self._ask(replace(self._question, run=()))
            if verdict != self._decision.verdict:
                yield Change(kind="run", what="as the first call of a run", verdict=verdict)

    def _could_be_given(self, roles: Iterable[str]) -> list[str]:
        text, caller = self._policy.text, self._question.caller
        named = {rule.who for rule in text.rules if rule.tenant in {"*", caller.tenant}} | set(roles)
        for link in text.roles:
            if link.tenant == caller.tenant:
                named |= {link.who, link.role}
        own = self._policy.roles.of(caller)
        return sorted(name for name in named - own if name != "*" and ":" not in name)[:_MOST_ROLES]

    def _as(self, role: str) -> Question:
        caller = self._question.caller
        more = caller.model_copy(update={"roles": caller.roles | {role}})
        return replace(self._question, caller=more)

    def _read(self, what: Unknown) -> bool:
        return any(what in reads(rule.when) for rule in self._candidates)

    def _ask(self, question: Question) -> Verdict:
        return self._policy.decide(question).verdict


def _distance(present: Json, value: Json) -> tuple[int, float, str]:
    """Order values by how near they are to the present one: numbers by their difference."""
    numbers = _number(present) is not None and _number(value) is not None
    if numbers:
        return 0, abs((_number(present) or 0) - (_number(value) or 0)), ""
    if isinstance(present, str) and isinstance(value, str):
        return 0, abs(len(present) - len(value)), value
    return 1, _number(value) or 0, str(value)


def _number(value: Json) -> float | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _set(name: str, present: Json, value: Json) -> str:
    if isinstance(value, str) and re.fullmatch("x{4,}", value):
        return f"{name} with {len(value)} characters"
    now = "" if present is None or isinstance(present, dict | list) else f" (now {present!r})"
    return f"{name} = {value!r}{now}"
