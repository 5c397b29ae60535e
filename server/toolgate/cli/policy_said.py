"""How an explanation is said: to people, line by line, and to programs."""

from collections.abc import Iterator, Sequence
from typing import Any

from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.comparing import place_of
from toolgate.backends.policy.explaining import Explanation, Part, Weighed, aloud
from toolgate.backends.policy.text import Rule
from toolgate.cli.policy_parts import short
from toolgate.core.decision import Question

_ENDS = {"allow": "ALLOWED", "hold": "HELD", "deny": "DENIED"}


def fault_before(question: Question, judge: CasbinPolicy) -> str | None:
    """Say why the gate would refuse the call before it asks the policy, or None."""
    caller, tool = question.caller, question.tool
    if not judge.visible(caller, tool):
        return "unknown_tool: no rule could ever allow it to this caller, so the tool is not shown to it"
    if fault := tool.input.fault_in(question.arguments):
        return f"bad_arguments: {fault}"
    if missing := tool.terms.scopes - caller.scopes:
        return f"insufficient_scope: the token lacks {' '.join(sorted(missing))}"
    return None


def lines(found: Explanation, before: str | None) -> Iterator[str]:
    """Say it to a person."""
    question, decision = found.question, found.decision
    caller = question.caller
    yield (
        f"{_ENDS[decision.verdict]}: {question.tool.name} for {caller.subject} in {caller.tenant}"
        f" at {question.at:%Y-%m-%d %H:%M} UTC (policy {short(decision.policy)})"
    )
    if before:
        yield f"  The gate refuses it before it asks the policy: {before}"
    yield f"  {_because(found)}"
    if decision.approvers:
        yield f"  Who would have to approve: {' and '.join(decision.approvers)}"
    if duties := decision.obligations.spelled():
        yield f"  Obliged to: {', '.join(duties)}"
    if other := decision.would_be:
        rules = ", ".join(other.rules) or "no rule"
        yield f"  With the rules in shadow it would be: {other.verdict} ({rules})"
    yield from _rules("Rules that mattered:", found.mattered)
    yield from _rules("Rules that could have, and did not match:", found.missed)
    yield from _rules("Rules in shadow, judged and not enforced:", found.shadow)
    if found.changes:
        yield "What would change it (each was tried):"
        yield from (f"  {change.what}: {change.verdict}" for change in found.changes)


def _because(found: Explanation) -> str:
    rule = found.deciding
    if rule is None:
        return "No rule allows it, and what no rule allows is denied."
    return f"{said(rule)}."


def said(rule: Rule) -> str:
    """Read a rule aloud, with its id and place."""
    sentence = aloud(rule)
    return f"{sentence[0].upper()}{sentence[1:]} ({rule.id}, {place_of(rule)})"


def _rules(title: str, weighed: Sequence[Weighed]) -> Iterator[str]:
    if weighed:
        yield title
    for one in weighed:
        yield f"  {said(one.rule)}"
        if one.answer == "unknown":
            effect = "does not match" if one.rule.effect == "allow" else "matches"
            yield f"      cannot be told, so it {effect}: {_parts(one)}"
        elif one.answer == "no":
            yield f"      because this does not hold: {_parts(one)}"


def _parts(one: Weighed) -> str:
    return " and ".join(map(_part, one.parts))


def _part(part: Part) -> str:
    if part.answer != "unknown":
        return part.condition
    return f"{part.condition} (unknown{f': {part.why}' if part.why else ''})"


def document(found: Explanation, before: str | None) -> dict[str, Any]:
    """Say it to a program."""
    decision, question = found.decision, found.question
    return {
        "verdict": decision.verdict,
        "refused_before": before,
        "tool": question.tool.name,
        "subject": question.caller.subject,
        "tenant": question.caller.tenant,
        "at": question.at.isoformat(),
        "policy": decision.policy,
        "deciding": None if found.deciding is None else _rule(found.deciding),
        "mattered": [_weighed(one) for one in found.mattered],
        "missed": [_weighed(one) for one in found.missed],
        "shadow": [_weighed(one) for one in found.shadow],
        "unknown": list(decision.unknown),
        "approvers": list(decision.approvers),
        "obligations": decision.obligations.spelled(),
        "would_be": None if decision.would_be is None else decision.would_be.verdict,
        "allowed": decision.allowed,
        "changes": [vars(change) for change in found.changes],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {"id": rule.id, "place": place_of(rule), "aloud": aloud(rule)}


def _weighed(one: Weighed) -> dict[str, Any]:
    parts = [vars(part) for part in one.parts]
    return {**_rule(one.rule), "answer": one.answer, "because": parts}
