"""Casbin as the judge, with an index in front that hands it only the rules that could match.

Casbin's own matcher, roles and effect decide. The index includes a rule too many rather than one too few; the
plain enforcer gives the same answers at a scan of every rule.
"""

import ast
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Final

import casbin

from toolgate.backends.conditions import Condition, Facts
from toolgate.backends.policy_files import NONE, PolicyText, Rule
from toolgate.backends.policy_index import MOST_REMEMBERED, Roles, RuleIndex, tool_match
from toolgate.core.call import Caller
from toolgate.core.decision import Decision, Verdict
from toolgate.core.errors import Fault
from toolgate.core.record import JsonObject
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


@dataclass
class Asking:
    """One question to Casbin, and the notes that its matcher takes while it answers."""

    facts: Facts
    conditions: Mapping[str, Condition]
    suppose_approved: bool = False
    seen: list[str] = field(default_factory=list[str])
    approvers: list[str] = field(default_factory=list[str])


class CasbinPolicy:
    """One immutable version of the policy. Synchronous and not re-entrant: one event loop asks it."""

    def __init__(self, text: PolicyText) -> None:
        self.digest = text.digest
        self._rules = {rule.id: rule for rule in text.rules}
        self._roles = Roles(text.roles)
        self._groups = Roles((tool, group, "") for tool, group in text.groups)
        self._conditions = {rule.when.text: rule.when for rule in text.rules if rule.when}
        self._index = RuleIndex(text.rules)
        self._enforcer = _enforcer(self._roles, self._groups)
        self._rows = self._enforcer.model["p"]["p"]
        self._candidates: dict[tuple[Any, ...], list[Rule]] = {}

    def visible(self, caller: Caller, tool: Tool) -> bool:
        """Whether some call of `tool` could be allowed, by whatever arguments or approval."""
        candidates = self._could_match(caller, tool)
        if any(r.effect == "deny" and r.when is None and r.approver is None for r in candidates):
            return False
        return any(rule.effect == "allow" for rule in candidates)

    def decide(self, caller: Caller, tool: Tool, arguments: JsonObject) -> Decision:
        """Judge one call. What cannot be judged is denied."""
        candidates = self._could_match(caller, tool)
        facts = Facts(arguments, _shown(caller))
        asking = Asking(facts, self._conditions)
        try:
            if self._enforce(caller, tool, candidates, asking):
                return self._decision("allow", asking.seen)
            deciding = asking.seen[-1:]
            if deciding and self._rules[deciding[0]].approver is not None:
                supposing = Asking(facts, self._conditions, suppose_approved=True)
                if self._enforce(caller, tool, candidates, supposing):
                    return self._decision("hold", deciding, approvers=supposing.approvers)
                deciding = supposing.seen[-1:] or deciding
        except Exception:
            log.exception("the policy could not judge a call of %s; it is denied", tool.name)
            return self._decision("deny", [])
        hit = [id_ for id_ in deciding if self._rules[id_].effect == "deny"]
        return self._decision("deny", hit, allowed=self._nearest(hit, candidates, facts))

    def _enforce(self, caller: Caller, tool: Tool, candidates: Sequence[Rule], asking: Asking) -> bool:
        if not candidates:
            return False
        self._rows.policy = [rule.cells for rule in candidates]
        allowed, _ = self._enforcer.enforce_ex(caller, caller.tenant, tool.name, tool.terms.effect, asking)
        return bool(allowed)

    def _could_match(self, caller: Caller, tool: Tool) -> list[Rule]:
        names = self._roles.of(caller)
        key = (names, caller.tenant, tool.name, tool.terms.effect)
        found = self._candidates.get(key)
        if found is None:
            if len(self._candidates) >= MOST_REMEMBERED:
                self._candidates.clear()
            groups = self._groups.closure(tool.name, "")
            found = self._index.rules_for(tool, groups, caller.tenant, names)
            self._candidates[key] = found
        return found

    def _decision(
        self, verdict: Verdict, rules: Sequence[str], *, approvers: Sequence[str] = (), allowed: str = ""
    ) -> Decision:
        return Decision(
            verdict=verdict,
            rules=tuple(rules),
            approvers=tuple(sorted(set(approvers))),
            allowed=allowed,
            policy=self.digest,
        )

    def _nearest(self, hit: Sequence[str], candidates: Sequence[Rule], facts: Facts) -> str:
        """Say the bounds within which a call like this one is allowed, where rules state them plainly."""
        allows = [rule for rule in candidates if rule.effect == "allow"]
        if hit and any(rule.when is None or rule.when.holds(facts) for rule in allows):
            when = self._rules[hit[-1]].when
            return when.bounds(opposite=True) if when else ""
        near = [(rule.when.bounds(), rule.id) for rule in allows if rule.when and not rule.when.holds(facts)]
        return ", or ".join(f"{bounds} (rule {id_})" for bounds, id_ in near if bounds)


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
    if _lines(text.model) != _lines(MODEL):
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


def _when(text: str, effect: str, asking: Asking) -> bool:
    """Whether a rule's condition holds; one that cannot be told makes a deny bite and an allow not match."""
    if text == NONE:
        return True
    holds = asking.conditions[text].holds(asking.facts)
    return effect == "deny" if holds is None else holds


def _lifted(unless: str, asking: Asking) -> bool:
    if unless == NONE or not asking.suppose_approved:
        return False
    asking.approvers.append(unless.partition(":")[2])
    return True


def _seen(id_: str, asking: Asking) -> bool:
    asking.seen.append(id_)
    return True


def _shown(caller: Caller) -> dict[str, Any]:
    """What a condition may know of the caller."""
    return {
        "subject": caller.subject,
        "tenant": caller.tenant,
        "client": caller.client,
        "roles": sorted(caller.roles),
        "scopes": sorted(caller.scopes),
    }


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _enforcer(roles: Roles, groups: Roles) -> Any:  # noqa: ANN401 - casbin has no types
    quiet = logging.getLogger("casbin")
    quiet.setLevel(logging.CRITICAL)  # it logs whole requests, arguments included
    enforcer: Any = _Enforcer(_Enforcer.new_model(text=MODEL))
    enforcer.logger.setLevel(logging.CRITICAL)
    for name, function in (("toolMatch", tool_match), ("when", _when), ("lifted", _lifted), ("seen", _seen)):
        enforcer.add_function(name, function)
    for name, manager in (("g", roles), ("g2", groups)):
        enforcer.rm_map[name] = manager
        enforcer.model["g"][name].rm = manager
    return enforcer
