"""What may be written in a policy, and is most likely not meant. Each is a warning, never a refusal."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from toolgate.backends.policy.conditions import Condition, Facts
from toolgate.backends.policy.index import Roles
from toolgate.backends.policy.reach import Reach
from toolgate.backends.policy.text import RULE_CELLS, PolicyText, RoleLink, Rule
from toolgate.core.call import Caller
from toolgate.core.decision import Question
from toolgate.core.errors import Fault
from toolgate.core.tool import Tool

ANY: Final = "*"
_READS: Final = re.compile(r"\b(args|caller|run|now|during|called|count)\b")
_TOKEN: Final = re.compile(r"""r?"(?:[^"\\]|\\.)*"|r?'(?:[^'\\]|\\.)*'|\s+|[^\s"']+|.""")
_ANYTIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NOBODY: Final = Caller(subject="nobody", issuer="urn:toolgate:lint", tenant="-")


def lint(
    text: PolicyText, tools: Sequence[Tool], callers: Sequence[Caller] = (), tenants: Iterable[str] = ()
) -> list[Fault]:
    """Give what is most likely not meant, in the order of files and lines.

    Args:
        text: the policy.
        tools: those that manifests admit.
        callers: whom the settings and the cases name; a rule for a user who is not among them, and who
            has no role, is told.
        tenants: those of the settings' callers and issuers; where they know none, no tenant is told.
    """
    reach = Reach(tools, text.groups)
    found = [
        *_constant(text.rules, tools),
        *_repeated(text.rules),
        *_beaten(text, reach),
        *_for_nobody(text, callers),
        *_nowhere(text, frozenset(tenants), callers),
        *_roles_of_no_rule(text),
        *_groups_of_no_rule(text),
    ]
    return [fault for *_, fault in sorted(found, key=lambda one: one[:2])]


_Place = tuple[str, int, Fault]


def _at(file: str, line: int, problem: str, remedy: str, column: int = 0) -> _Place:
    place = f"line {line}, column {column}" if column else f"line {line}"
    return file, line, Fault(f"policies/{file}", place, problem, remedy)


def _rule(rule: Rule, problem: str, remedy: str) -> _Place:
    return _at(rule.file, rule.line, f"rule {rule.id} {problem}", remedy)


def _constant(rules: Sequence[Rule], tools: Sequence[Tool]) -> Iterator[_Place]:
    """Tell conditions that look at nothing of a call."""
    if not tools:
        return
    facts = Facts(Question(caller=_NOBODY, tool=tools[0], arguments={}, at=_ANYTIME))
    for rule in rules:
        if rule.when is None or _READS.search(_bare(rule.when)):
            continue
        match rule.when.holds(facts), rule.effect:
            case True, _:
                yield _rule(rule, "has a condition that always holds", "write - in its when cell")
            case False, _:
                yield _rule(
                    rule, "can never match: its condition never holds", "correct it, or remove the rule"
                )
            case None, "allow":
                yield _rule(rule, "can never match: its condition cannot be told", "correct it")
            case _:
                yield _rule(rule, "always matches: its condition cannot be told", "correct it")


def _repeated(rules: Sequence[Rule]) -> Iterator[_Place]:
    """Tell rules that say what another one says under another id."""
    first: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        when = _spelled(rule.when) if rule.when else ""
        meaning = (*rule.cells[1:6], when, rule.cells[7], tuple(rule.obligations.spelled()))
        other = first.setdefault(meaning, rule)
        if other is not rule:
            problem = f"says what {other.id} says ({other.file} line {other.line})"
            yield _rule(rule, problem, "remove one of them")


def _beaten(text: PolicyText, reach: Reach) -> Iterator[_Place]:
    """Tell rules of which nothing is left, because denies without condition and approval cover all of it."""
    roles = Roles((link.who, link.role, link.tenant) for link in text.roles)
    hard: dict[tuple[str, str], list[Rule]] = {}
    for rule in text.rules:
        if _is_hard(rule):
            hard.setdefault((rule.who, rule.tenant), []).append(rule)
    masks = {key: _joined(reach, rules) for key, rules in hard.items()}
    for rule in text.rules if hard else ():
        mine = reach.of(rule.tool, rule.action)
        keys = [key for key in _covering(rule, roles) if masks.get(key, 0) & mine]
        if not mine or _is_hard(rule) or not keys:
            continue
        left = mine
        for key in keys:
            left &= ~masks[key]
        if not left:
            ids = _beating(mine, [one for key in keys for one in hard[key]], reach)
            yield _rule(
                rule, f"{_LOST[rule.effect]}: {ids} always denies it", "remove the rule, or narrow the deny"
            )


_LOST: Final[Mapping[str, str]] = {
    "allow": "is always beaten",
    "deny": "adds nothing",
    "oblige": "obliges to nothing",
}


def _is_hard(rule: Rule) -> bool:
    return rule.effect == "deny" and not rule.shadow and rule.when is None and rule.approver is None


def _covering(rule: Rule, roles: Roles) -> list[tuple[str, str]]:
    """Give who and tenant of every rule that concerns whomever `rule` concerns."""
    names = {ANY, rule.who}
    keys = [(name, ANY) for name in sorted(names)]
    if rule.tenant != ANY:
        names |= roles.closure(rule.who, rule.tenant)
        keys += [(name, ANY) for name in sorted(names - {ANY, rule.who})]
        keys += [(name, rule.tenant) for name in sorted(names)]
    return keys


def _joined(reach: Reach, rules: Iterable[Rule]) -> int:
    mask = 0
    for rule in rules:
        mask |= reach.of(rule.tool, rule.action)
    return mask


def _beating(mine: int, denies: Sequence[Rule], reach: Reach) -> str:
    """Name the one deny that is enough, else those that are enough together."""
    named: list[str] = []
    left = mine
    for rule in denies:
        covers = reach.of(rule.tool, rule.action)
        if not mine & ~covers:
            return rule.id
        if covers & left:
            named.append(rule.id)
            left &= ~covers
    return " with ".join(named)


def _for_nobody(text: PolicyText, callers: Iterable[Caller]) -> Iterator[_Place]:
    """Tell rules for a user whom no role row, no caller of the settings and no case names."""
    known = {(f"user:{caller.subject}", caller.tenant) for caller in callers}
    known |= {(link.who, link.tenant) for link in text.roles}
    anywhere = {who for who, _ in known}
    for rule in text.rules:
        if not rule.who.startswith("user:"):
            continue
        if rule.who in anywhere if rule.tenant == ANY else (rule.who, rule.tenant) in known:
            continue
        problem = f"names {rule.who} in {rule.tenant}, and nothing else does: no role, no [callers], no case"
        yield _rule(rule, problem, "correct the name, or add a case with this user")


def _nowhere(text: PolicyText, settings: frozenset[str], callers: Iterable[Caller]) -> Iterator[_Place]:
    """Tell tenants that nobody can be in: a deny for one of them lets everybody through.

    A rule never vouches for its own tenant, nor does a role row; but role rows do so for rules.
    """
    if not settings:
        return
    known = settings | {caller.tenant for caller in callers}
    for link in text.roles:
        if link.tenant not in known:
            problem = f"{link.who} gets a role in {link.tenant}, {_UNKNOWN}"
            yield _at(link.file, link.line, problem, _nearest(link.tenant, known), _last_column(text, link))
    known |= {ANY, *(link.tenant for link in text.roles)}
    for rule in text.rules:
        if rule.tenant not in known:
            problem = f"rule {rule.id} is for the tenant {rule.tenant}, {_UNKNOWN}"
            column = rule.columns[_TENANT] if rule.columns else 0
            yield _at(rule.file, rule.line, problem, _nearest(rule.tenant, known - {ANY}), column)


_TENANT: Final = RULE_CELLS.index("tenant")
_UNKNOWN: Final = "which no caller, issuer, role or case knows"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"write {near[0]}" if near else "correct the name, or add a case with somebody in this tenant"


def _last_column(text: PolicyText, link: RoleLink) -> int:
    """Say where the last cell of a row begins, from 1."""
    line = text.files[link.file].replace("\r\n", "\n").replace("\r", "\n").split("\n")[link.line - 1]
    return line.rfind(link.tenant) + 1


def _roles_of_no_rule(text: PolicyText) -> Iterator[_Place]:
    """Tell role rows that give nothing: no rule names the role, nor one that it leads to."""
    roles = Roles((link.who, link.role, link.tenant) for link in text.roles)
    used: dict[str, set[str]] = {ANY: set()}
    for rule in text.rules:
        used.setdefault(rule.tenant, set()).update((rule.who, rule.approver or rule.who))
    for link in text.roles:
        names = roles.closure(link.role, link.tenant)
        if names.isdisjoint(used[ANY]) and names.isdisjoint(used.get(link.tenant, ())):
            problem = f"{link.who} gets the role {link.role} in {link.tenant}, and no rule there names it"
            yield _at(link.file, link.line, problem, "correct the name, or remove the row")


def _groups_of_no_rule(text: PolicyText) -> Iterator[_Place]:
    named = {rule.tool for rule in text.rules}
    groups = Roles((link.tool, link.group, "") for link in text.groups)
    for link in text.groups:
        if named.isdisjoint(groups.closure(link.group, "")):
            problem = f"no rule names the group {link.group}"
            yield _at(link.file, link.line, problem, "name it in a rule, or remove the row")


def _bare(when: Condition) -> str:
    """Give a condition without its texts in quotes."""
    return "".join(token for token in _TOKEN.findall(when.text) if token.strip("r")[:1] not in {'"', "'"})


def _spelled(when: Condition) -> str:
    """Give a condition without spaces that mean nothing."""
    return "".join(token for token in _TOKEN.findall(when.text) if not token.isspace())
