"""Casbin as the judge, with an index in front that hands it only the rules that could match.

Casbin's own matcher, roles and effect decide. The index includes a rule too many rather than one too few;
`PlainPolicy` gives the same answers at a scan of every rule.
"""

import ast
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Final

import casbin
from casbin.rbac.default_role_manager import DomainManager, RoleManager

from toolgate.backends.policy.conditions import Condition, Facts
from toolgate.backends.policy.index import MOST_REMEMBERED, Roles, RuleIndex, tool_match
from toolgate.backends.policy.nearest import Bounds
from toolgate.backends.policy.reading import DEEPEST
from toolgate.backends.policy.text import NONE, PolicyText, RoleLink, Rule
from toolgate.core.call import Caller
from toolgate.core.decision import Decision, Question, Verdict, WouldBe
from toolgate.core.errors import Fault, without_values
from toolgate.core.obligations import Obligations, together
from toolgate.core.tool import Tool

log = logging.getLogger(__name__)

MODEL: Final = """\
[request_definition]
r = sub, dom, tool, act, ctx

[policy_definition]
p = id, eft, sub, dom, tool, act, when, unless, with

[role_definition]
g = _, _, _
g2 = _, _

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = (p.dom == "*" || r.dom == p.dom) && (p.act == "*" || r.act == p.act) \\
    && (p.sub == "*" || g(r.sub, p.sub, r.dom)) && (toolMatch(r.tool, p.tool) || g2(r.tool, p.tool)) \\
    && when(p.when, p.eft, r.ctx) && !lifted(p.unless, r.ctx) && seen(p.id, r.ctx)
"""
"""The one model that this version understands. Read aloud: see docs/reference/policy.md."""

_MATCHER_NODES: Final = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Compare, ast.Eq, ast.Call,
    ast.Name, ast.Load, ast.Constant,
)  # fmt: skip
_MOST_TRIED: Final = 8
"""Rules whose bounds are tried for a call that is denied."""

Rows = Sequence[tuple[str, ...]]


@dataclass(slots=True)
class Asking:
    """One question to Casbin, and the notes that its matcher takes while it answers."""

    facts: Facts
    conditions: Mapping[str, Condition]
    suppose_approved: bool = False
    seen: list[str] = field(default_factory=list[str])
    approvers: list[str] = field(default_factory=list[str])
    unknown: set[str] = field(default_factory=set[str])
    """Conditions that could not be told."""


@dataclass(slots=True)
class _Found:
    """What one pass over rows says."""

    verdict: Verdict
    deciding: list[str]
    seen: list[str]
    unknown: set[str]
    approvers: list[str] = field(default_factory=list[str])


class _Candidates:
    """The rules that could match one kind of call, and the rows in which Casbin gets them."""

    __slots__ = ("asks_run", "depends_on_run", "obliging", "promoted", "rows", "rules", "visible")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        enforced = [rule for rule in rules if not rule.shadow]
        self.rows: Rows = [rule.cells for rule in enforced]
        self.obliging: Rows = [rule.cells for rule in enforced if rule.effect == "oblige"]
        self.promoted: Rows = [_promoted(rule) for rule in rules] if len(enforced) < len(rules) else []
        self.asks_run = any(rule.when is not None and rule.when.uses_run for rule in rules)
        self.depends_on_run = any(rule.when is not None and rule.when.uses_run for rule in enforced)
        self.visible = any(rule.effect == "allow" for rule in enforced) and not any(
            rule.effect == "deny" and rule.when is None and rule.approver is None for rule in enforced
        )


class CasbinPolicy:
    """One immutable version of the policy. Synchronous and not re-entrant: one event loop asks it."""

    def __init__(self, text: PolicyText) -> None:
        self.text = text
        self.digest = text.digest
        self.rules = {rule.id: rule for rule in text.rules}
        self.roles = Roles((link.who, link.role, link.tenant) for link in text.roles)
        self.groups = Roles((link.tool, link.group, "") for link in text.groups)
        self._conditions = {rule.when.text: rule.when for rule in text.rules if rule.when}
        self._index = RuleIndex(text.rules)
        self._enforcer = self._new_enforcer()
        self._rows = self._enforcer.model["p"]["p"]
        self._candidates: OrderedDict[tuple[Any, ...], _Candidates] = OrderedDict()

    def visible(self, caller: Caller, tool: Tool) -> bool:
        """Whether some call of `tool` could be allowed, by whatever arguments or approval."""
        return self._could_match(caller, tool).visible

    def asks_run(self, caller: Caller, tool: Tool) -> bool:
        """Whether a rule that could match asks for the run's earlier calls."""
        return self._could_match(caller, tool).asks_run

    def candidates(self, caller: Caller, tool: Tool) -> Sequence[Rule]:
        """Give, in the order of the files, the rules that could match; those in shadow too."""
        return self._could_match(caller, tool).rules

    def decide(self, question: Question) -> Decision:
        """Judge one call. What cannot be judged is denied."""
        try:
            return self._decide(question, self._could_match(question.caller, question.tool))
        except Exception as error:  # noqa: BLE001 - whatever Casbin or a condition raises, the answer is no
            said = "the policy could not judge a call of %s; it is denied: %s"
            log.error(said, question.tool.name, without_values(error))  # noqa: TRY400 - the message may tell values
            return Decision(verdict="deny", policy=self.digest, obligations=Obligations(capture="metadata"))

    def _decide(self, question: Question, could: _Candidates) -> Decision:
        facts = Facts(question)
        found = self._judge(question, could.rows, facts)
        decision = Decision(
            verdict=found.verdict,
            rules=tuple(found.deciding),
            approvers=tuple(sorted(set(found.approvers))),
            obligations=self._obligations(question, could, facts, found),
            unknown=self._untold(question, could, found.unknown),
            allowed=self._nearest(question, could, facts) if found.verdict == "deny" else "",
            policy=self.digest,
            run=question.run if could.depends_on_run else None,
        )
        if could.promoted:
            would_be = self._judge(question, could.promoted, facts)
            if would_be.verdict != found.verdict:
                said = WouldBe(verdict=would_be.verdict, rules=tuple(would_be.deciding), policy=self.digest)
                return replace(decision, would_be=said)
        return decision

    def _judge(self, question: Question, rows: Rows, facts: Facts) -> _Found:
        """Ask Casbin; where an approval could lift a deny, ask again as if every approval were there."""
        asking = Asking(facts, self._conditions)
        if self._enforce(question, rows, asking):
            return _Found("allow", self._obliging_first(asking.seen), asking.seen, asking.unknown)
        deciding = [id_ for id_ in asking.seen[-1:] if self.rules[id_].effect == "deny"]
        if not deciding or self.rules[deciding[0]].approver is None:
            return _Found("deny", deciding, asking.seen, asking.unknown)
        supposing = Asking(facts, self._conditions, suppose_approved=True)
        if self._enforce(question, rows, supposing):
            unknown = asking.unknown | supposing.unknown
            return _Found("hold", deciding, supposing.seen, unknown, supposing.approvers)
        hard = [id_ for id_ in supposing.seen[-1:] if self.rules[id_].effect == "deny"]
        return _Found("deny", hard or deciding, supposing.seen, asking.unknown | supposing.unknown)

    def _obliging_first(self, seen: list[str]) -> list[str]:
        return sorted(seen, key=lambda id_: self.rules[id_].effect != "oblige")

    def _obligations(
        self, question: Question, could: _Candidates, facts: Facts, found: _Found
    ) -> Obligations:
        """Join the obligations of the rules that matched; Casbin stops at a deny, so they are asked again."""
        seen = found.seen
        if found.verdict == "deny":
            if not could.obliging:
                return _NOTHING
            asking = Asking(facts, self._conditions)
            self._enforce(question, could.obliging, asking)
            seen, found.unknown = asking.seen, found.unknown | asking.unknown
        obliging = [said for id_ in seen if (said := self.rules[id_].obligations) != _NOTHING]
        return together(obliging) if obliging else _NOTHING

    def _enforce(self, question: Question, rows: Rows, asking: Asking) -> bool:
        if not rows:
            return False
        self._rows.policy = rows
        caller, tool = question.caller, question.tool
        allowed, _ = self._enforcer.enforce_ex(caller, caller.tenant, tool.name, tool.terms.effect, asking)
        return bool(allowed)

    def _could_match(self, caller: Caller, tool: Tool) -> _Candidates:
        names = self.roles.of(caller)
        key = (names, caller.tenant, tool.name, tool.terms.effect)
        found = self._candidates.get(key)
        if found is None:
            if len(self._candidates) >= MOST_REMEMBERED:
                self._candidates.popitem(last=False)  # all at once would hold up everybody
            groups = self.groups.closure(tool.name, "")
            rules = self._index.rules_for(tool, groups, caller.tenant, names)
            found = self._candidates[key] = _Candidates(rules) if rules else _NO_CANDIDATES
        return found

    def _untold(self, question: Question, could: _Candidates, conditions: set[str]) -> tuple[str, ...]:
        """Give the rules of the conditions that could not be told."""
        if not conditions:
            return ()
        del question
        return tuple(rule.id for rule in could.rules if rule.when and rule.when.text in conditions)

    def _nearest(self, question: Question, could: _Candidates, facts: Facts) -> str:
        """Say bounds within which this call would be allowed; each was tried by asking Casbin."""
        rules = [rule for rule in could.rules if not rule.shadow and rule.effect != "oblige"]
        in_the_way = [rule for rule in rules if _is_in_the_way(rule, facts)]
        if any(rule.effect == "allow" and rule not in in_the_way for rule in rules):
            in_the_way = [rule for rule in in_the_way if rule.effect == "deny"]
        tried = [bounds for rule in in_the_way if (bounds := Bounds.of(rule, question.tool))][:_MOST_TRIED]
        sure = all(rule.effect == "allow" for rule in rules)
        told = [bounds.words for bounds in tried if self._is_allowed(question, could, bounds, sure=sure)]
        return ", or ".join(told)

    def _is_allowed(self, question: Question, could: _Candidates, bounds: Bounds, *, sure: bool) -> bool:
        """Whether a call within `bounds` would be allowed; `sure` when no deny could be in its way."""
        arguments = bounds.met_by(question.arguments)
        if arguments is None or sure:
            return arguments is not None
        other = replace(question, arguments=arguments)
        return self._judge(other, could.rows, Facts(other)).verdict == "allow"

    def _new_enforcer(self) -> Any:  # noqa: ANN401 - casbin has no types
        return _enforcer(_Enforcer, self.roles, self.groups)


class PlainPolicy(CasbinPolicy):
    """The same policy without index, with Casbin's own parser and roles: slow, and what ours must equal."""

    def decide(self, question: Question) -> Decision:
        """Judge one call; a judge that only checks says nothing where it cannot judge, and raises."""
        return self._decide(question, self._could_match(question.caller, question.tool))

    def _could_match(self, caller: Caller, tool: Tool) -> _Candidates:
        del caller, tool
        found = self._candidates.get(())
        if found is None:
            found = self._candidates[()] = _Candidates(self.text.rules)
        return found

    def _untold(self, question: Question, could: _Candidates, conditions: set[str]) -> tuple[str, ...]:
        """Ask Casbin which of the rules concern the call: here, all others are candidates too."""
        rows = [
            (rule.id, "none", *rule.cells[2:6], NONE, NONE, NONE)
            for rule in could.rules
            if rule.when and rule.when.text in conditions
        ]
        asking = Asking(Facts(question), {})
        self._enforce(question, rows, asking)
        return tuple(asking.seen)

    def _nearest(self, question: Question, could: _Candidates, facts: Facts) -> str:
        """Say nothing: every rule is a candidate here, those of other tools too."""
        del question, could, facts
        return ""

    def _new_enforcer(self) -> Any:  # noqa: ANN401
        groups: Any = RoleManager(DEEPEST + 1)
        for link in self.text.groups:
            groups.add_link(link.tool, link.group)
        return _enforcer(casbin.Enforcer, _PlainRoles(self.text.roles), groups)


class _PlainRoles:
    """Casbin's own roles per tenant, asked for every name that a caller comes with."""

    def __init__(self, links: Iterable[RoleLink]) -> None:
        self._roles: Any = DomainManager(DEEPEST + 1)
        self._roles.matching_func = None  # else the graph is built in quadratic time (pycasbin 2.8.0)
        for link in links:
            self._roles.add_link(link.who, link.role, link.tenant)

    def has_link(self, caller: Caller, role: str, tenant: str) -> bool:
        """Answer Casbin's `g`."""
        names = (f"user:{caller.subject}", *(name for name in caller.roles if ":" not in name))
        return any(self._roles.has_link(name, role, tenant) for name in names)


class _Matcher:
    """Casbin's matcher as a code object, compiled once; it holds no policy text and only listed syntax."""

    def __init__(self, expression: str, functions: Mapping[str, Any]) -> None:
        python = re.sub(r"!(?!=)", "not ", expression.replace("&&", "and").replace("||", "or"))
        tree = ast.parse(python.strip(), mode="eval")
        for node in ast.walk(tree):
            if not isinstance(node, _MATCHER_NODES):
                raise TypeError(f"the matcher may not use {type(node).__name__}")
        self._code = compile(tree, "<matcher>", "eval")
        self._names: dict[str, Any] = {"__builtins__": {}, **functions}

    def eval(self, names: dict[str, Any]) -> bool:
        return bool(eval(self._code, self._names, names))  # noqa: S307 - our own matcher, see above


class _Enforcer(casbin.Enforcer):  # type: ignore[misc] # casbin has no types
    """Casbin's enforcer with the matcher kept: it parses the same text on every call otherwise."""

    _kept: _Matcher | None = None

    def _get_expression(  # pyright: ignore[reportIncompatibleMethodOverride] # as above
        self, expression: str, functions: Mapping[str, Any]
    ) -> _Matcher:
        if self._kept is None:
            self._kept = _Matcher(expression, functions)
        return self._kept


def model_faults(text: PolicyText) -> list[Fault]:
    """Say what is wrong with `model.conf`, or with the installed Casbin."""
    faults: list[Fault] = []
    if _lines(text.files.get("model.conf", "")) != _lines(MODEL):
        problem = "this version understands only the model that it ships"
        remedy = "restore it: toolgate init writes it, and docs/reference/policy.md explains it"
        faults.append(Fault("policies/model.conf", "file", problem, remedy))
    try:
        distribution("casbin")
    except PackageNotFoundError:
        return faults
    problem = "the distribution casbin is installed over pycasbin, and both write the same module"
    remedy = "pip uninstall -y casbin pycasbin && pip install pycasbin"
    return [*faults, Fault("this Python environment", "casbin", problem, remedy)]


def _is_in_the_way(rule: Rule, facts: Facts) -> bool:
    """Whether the condition of an allow does not hold, or that of a deny does or cannot be told."""
    holds = True if rule.when is None else rule.when.holds(facts)
    return not holds if rule.effect == "allow" else holds is not False


def _promoted(rule: Rule) -> tuple[str, ...]:
    """Spell a rule in shadow as if it were enforced."""
    return (rule.cells[0], rule.effect, *rule.cells[2:])


def _when(text: str, effect: str, asking: Asking) -> bool:
    """Whether a rule's condition holds; one that cannot be told matches, unless the rule would allow."""
    if text == NONE:
        return True
    holds = asking.conditions[text].holds(asking.facts)
    if holds is None:
        asking.unknown.add(text)
        return effect != "allow"
    return holds


def _lifted(unless: str, asking: Asking) -> bool:
    if unless == NONE or not asking.suppose_approved:
        return False
    asking.approvers.append(unless.partition(":")[2])
    return True


def _seen(id_: str, asking: Asking) -> bool:
    asking.seen.append(id_)
    return True


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _enforcer(kind: Callable[..., Any], roles: object, groups: object) -> Any:  # noqa: ANN401
    quiet = logging.getLogger("casbin")
    quiet.setLevel(logging.CRITICAL)  # it logs whole requests, arguments included
    enforcer: Any = kind(casbin.Enforcer.new_model(text=MODEL))
    enforcer.logger.setLevel(logging.CRITICAL)
    for name, function in (("toolMatch", tool_match), ("when", _when), ("lifted", _lifted), ("seen", _seen)):
        enforcer.add_function(name, function)
    for name, manager in (("g", roles), ("g2", groups)):
        enforcer.rm_map[name] = manager
        enforcer.model["g"][name].rm = manager
    return enforcer


_NOTHING: Final = Obligations()
_NO_CANDIDATES: Final = _Candidates(())
