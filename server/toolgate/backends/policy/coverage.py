"""Which rules the cases prove: each needs a case that it decides, and one just outside it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.conditions import Facts
from toolgate.backends.policy.reach import Reach, bits
from toolgate.backends.policy.text import Rule
from toolgate.core.decision import Decision, Question, Verdict
from toolgate.core.tool import Tool

ANY: Final = "*"


@dataclass(frozen=True)
class Gap:
    """A rule that the cases do not prove."""

    rule: Rule
    missing: tuple[str, ...]
    """In words: which cases it still needs."""


class Coverage:
    """Holds judged cases against the rules.

    A case is *just outside* a rule when everything of the rule fits but one thing. For a rule with a
    condition that is the condition; for any other it is who, tenant, or tool and action together.
    """

    def __init__(
        self, policy: CasbinPolicy, tools: Sequence[Tool], judged: Sequence[tuple[Question, Decision]]
    ) -> None:
        self._policy = policy
        self._questions = [question for question, _ in judged]
        self._facts = [Facts(question) for question in self._questions]
        self._reach = Reach(tools, policy.text.groups)
        self._every = (1 << len(judged)) - 1
        self._of_who: dict[str, int] = {}
        self._of_tenant: dict[str, int] = {}
        self._of_tool = [0] * len(tools)
        self._of_reach: dict[int, int] = {}
        self._answers: dict[tuple[str, int], bool | None] = {}
        self._decided = {said for _, decision in judged for said in _deciding(decision)}
        places = {tool.name: place for place, tool in enumerate(tools)}
        for number, question in enumerate(self._questions):
            bit = 1 << number
            for name in policy.roles.of(question.caller):
                self._of_who[name] = self._of_who.get(name, 0) | bit
            tenant = question.caller.tenant
            self._of_tenant[tenant] = self._of_tenant.get(tenant, 0) | bit
            self._of_tool[places[question.tool.name]] |= bit
        self._allowed = _joined(
            1 << number for number, (_, decision) in enumerate(judged) if decision.verdict == "allow"
        )

    def gaps(self) -> list[Gap]:
        """Give every rule that lacks a case, in the order of the files."""
        gaps = (Gap(rule, tuple(self._missing(rule))) for rule in self._policy.text.rules)
        return [gap for gap in gaps if gap.missing]

    def _missing(self, rule: Rule) -> list[str]:
        who, tenant, tool = self._fitting(rule)
        inside = who & tenant & tool
        missing: list[str] = []
        if not self._decides(rule, inside):
            missing.append(
                "a case that it applies to" if rule.effect == "oblige" else "a case that it decides"
            )
        if rule.when is not None:
            if not any(self._kept_out(rule, number) for number in bits(inside)):
                missing.append("a case that only its condition keeps out")
            return missing
        if self._has_an_outside(rule) and not (
            (~who & tenant & tool) | (who & ~tenant & tool) | (who & tenant & ~tool)
        ):
            missing.append("a case just outside it: another caller, tenant or tool, and all else fitting")
        return missing

    def _decides(self, rule: Rule, inside: int) -> bool:
        if rule.effect != "oblige":
            verdict: Verdict = rule.effect if rule.approver is None else "hold"
            return (verdict, rule.id) in self._decided
        return any(not self._kept_out(rule, number) for number in bits(inside & self._allowed))

    def _kept_out(self, rule: Rule, number: int) -> bool:
        if rule.when is None:
            return False
        key = rule.when.text, number
        if key not in self._answers:
            self._answers[key] = rule.when.holds(self._facts[number])
        answer = self._answers[key]
        return answer is not True if rule.effect == "allow" else answer is False

    def _fitting(self, rule: Rule) -> tuple[int, int, int]:
        """Give the cases that fit the rule's who, its tenant, its tool and action."""
        reach = self._reach.of(rule.tool, rule.action)
        if reach not in self._of_reach:
            self._of_reach[reach] = _joined(self._of_tool[place] for place in bits(reach))
        return _said(rule.who, self._of_who, self._every), self._tenants(rule), self._of_reach[reach]

    def _tenants(self, rule: Rule) -> int:
        return _said(rule.tenant, self._of_tenant, self._every)

    def _has_an_outside(self, rule: Rule) -> bool:
        return not (
            rule.who == rule.tenant == ANY and self._reach.of(rule.tool, rule.action) == self._reach.all
        )


def _deciding(decision: Decision) -> Iterator[tuple[Verdict, str]]:
    """Give the deciding rule with the verdict; where rules in shadow say something else, theirs too."""
    for said in (decision, decision.would_be):
        if said is not None and said.rules:
            yield said.verdict, said.rules[-1]


def _said(cell: str, known: Mapping[str, int], every: int) -> int:
    return every if cell == ANY else known.get(cell, 0)


def _joined(masks: Iterable[int]) -> int:
    joined = 0
    for mask in masks:
        joined |= mask
    return joined
