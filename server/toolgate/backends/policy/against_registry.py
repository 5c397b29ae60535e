"""Holds a policy against the admitted tools: names, types of conditions, approvers, obligations.

A rule is checked against every tool that it can match. A misspelt name in a deny would deny nothing, and a
condition that a tool's arguments cannot answer would deny everything.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Final

from toolgate.backends.policy.cel_tree import Call, Literal, walk
from toolgate.backends.policy.condition_rules import OF_THE_RUN, nearest
from toolgate.backends.policy.condition_types import TypeFault, Types, types_of
from toolgate.backends.policy.conditions import Condition
from toolgate.backends.policy.index import Roles, tool_match
from toolgate.backends.policy.obligation_checks import ObligationChecks
from toolgate.backends.policy.patterns import pattern
from toolgate.backends.policy.text import GroupLink, PolicyText, Rule
from toolgate.core.errors import Fault
from toolgate.core.record import Json
from toolgate.core.tool import Tool

_WHO, _TOOL, _ACTION, _WHEN, _UNLESS, _WITH = 2, 4, 5, 6, 7, 8
_MOST_TOLD: Final = 3
"""Faults of one rule's condition."""


def faults_against(
    text: PolicyText, tools: Sequence[Tool], *, known_roles: Collection[str] = ()
) -> list[Fault]:
    """Tell what in `text` cannot work with `tools`: a gate with such a policy does not start.

    Args:
        text: the policy.
        tools: all that are admitted.
        known_roles: roles that callers may come with though `roles.csv` does not name them.
    """
    check = _Check(text, tools, known_roles)
    return [*check.group_faults(), *(fault for rule in text.rules for fault in check.faults_of(rule))]


def warnings_against(
    text: PolicyText, tools: Sequence[Tool], *, known_roles: Collection[str] = ()
) -> list[Fault]:
    """Tell what in `text` works and may not be meant. The arguments are those of `faults_against`."""
    check = _Check(text, tools, known_roles)
    return [fault for rule in text.rules for fault in check.warnings_of(rule)]


class _Check:
    """One policy and one registry. What is found once for a condition and a schema is kept."""

    def __init__(self, text: PolicyText, tools: Sequence[Tool], known_roles: Collection[str]) -> None:
        self._text = text
        self._tools = {tool.name: tool for tool in tools}
        self._groups = {link.group for link in text.groups}
        self._roles = {
            *known_roles,
            *(name for link in text.roles for name in (link.who, link.role) if not name.startswith("user:")),
        }
        self._obligations = ObligationChecks()
        self._named: dict[str, list[Tool]] = {}
        self._types: dict[tuple[int, int], Types] = {}
        self._own_types: dict[tuple[str, int], Types] = {}
        self._lines: dict[str, list[str]] = {}
        self._in_vain: dict[str, list[tuple[int, str]]] = {}

    def group_faults(self) -> Iterator[Fault]:
        for link in self._text.groups:
            if link.tool not in self._tools and link.tool not in self._groups:
                yield self._unknown(link)
            if link.group in self._tools:
                problem = (
                    f"a group is called {link.group!r}, as a tool is: a rule on the tool would mean both"
                )
                yield Fault(f"policies/{link.file}", f"line {link.line}", problem, "rename the group")

    def faults_of(self, rule: Rule) -> Iterator[Fault]:
        yield from self._tool_faults(rule)
        if rule.approver is not None and rule.approver not in self._roles:
            problem = f"nobody has the role {rule.approver!r}, so nobody could approve"
            near = nearest(rule.approver, self._roles)
            yield self._fault(rule, _UNLESS, problem, f"correct it, or give the role in roles.csv{near}")
        if rule.when is not None:
            for tool, fault in islice(self._type_faults(rule.when, self._reached(rule)), _MOST_TOLD):
                problem = f"the condition, for {tool.name}: {fault.problem}"
                yield self._fault(rule, _WHEN, problem, fault.remedy, fault.at)
            for at, meant in self._asked_in_vain(rule.when):
                problem = f"the condition: no manifest admits a tool that {meant!r} means"
                yield self._fault(rule, _WHEN, problem, "correct the pattern", at)
        yield from self._obligation_faults(rule)

    def warnings_of(self, rule: Rule) -> Iterator[Fault]:
        named = self._named_by(rule.tool)
        if named and not self._reached(rule):
            has = ", ".join(sorted({tool.terms.effect for tool in named}))
            problem = f"no tool that the rule names can {rule.action}, so it never matches"
            yield self._fault(rule, _ACTION, problem, f"what they do is: {has}")
        if rule.who != "*" and not rule.who.startswith("user:") and rule.who not in self._roles:
            problem = f"no row of roles.csv names the role {rule.who!r}"
            near = nearest(rule.who, self._roles)
            yield self._fault(rule, _WHO, problem, f"correct it, unless tokens carry it{near}")
        if rule.effect == "deny" and rule.when is not None:
            yield from self._unguarded(rule, rule.when)

    def _tool_faults(self, rule: Rule) -> Iterator[Fault]:
        if "*" not in rule.tool and rule.tool not in self._tools and rule.tool not in self._groups:
            problem = f"no manifest admits a tool {rule.tool!r}, and no group is called so"
            near = nearest(rule.tool, self._names)
            yield self._fault(rule, _TOOL, problem, f"correct it, or remove the row{near}")
        elif "*" in rule.tool and rule.tool != "*" and not self._named_by(rule.tool):
            problem = f"no manifest admits a tool that {rule.tool!r} means"
            yield self._fault(rule, _TOOL, problem, "correct it, or remove the row")

    def _obligation_faults(self, rule: Rule) -> Iterator[Fault]:
        tools = self._reached(rule)
        if not tools:
            return
        for name in sorted(rule.obligations.mask):
            if problem := self._obligations.mask_fault(name, tools):
                yield self._fault(rule, _WITH, problem, f"correct mask={name}, or narrow the rule's tools")
        if rule.obligations.rows is not None:
            problem = self._obligations.rows_fault(rule.obligations.rows, tools)
            if problem:
                yield self._fault(rule, _WITH, problem, "correct rows=, or narrow the rule's tools")
        if rule.obligations.dynamic and (problem := self._obligations.dynamic_fault(tools)):
            remedy = "give one of them a dynamic role in its manifest, or correct the rule's tools"
            yield self._fault(rule, _WITH, problem, remedy)

    def _type_faults(self, when: Condition, tools: Sequence[Tool]) -> Iterator[tuple[Tool, TypeFault]]:
        """Give what the types say; a name that is guarded by `has()` is one if any of the tools has it."""
        told: set[TypeFault] = set()
        absent: dict[int, tuple[Tool, TypeFault]] = {}
        having: list[set[int]] = []
        for tool in tools:
            found = self._checked(when, tool)
            for fault in found.faults:
                if fault not in told:
                    told.add(fault)
                    yield tool, fault
            having.append({fault.at for fault in found.absent})
            absent = {fault.at: (tool, fault) for fault in found.absent} | absent
        nowhere = set[int].intersection(*having) if having else set[int]()
        yield from (absent[at] for at in sorted(nowhere))

    def _asked_in_vain(self, when: Condition) -> list[tuple[int, str]]:
        """Give the patterns of earlier calls that mean no tool, with their places."""
        if when.uses_run and when.text not in self._in_vain:
            asked = [
                node for _, node in walk(when.tree) if isinstance(node, Call) and node.name in OF_THE_RUN
            ]
            meant = [
                (part.at, part.value)
                for node in asked
                for part in node.arguments
                if isinstance(part, Literal)
            ]
            self._in_vain[when.text] = [
                (at, value)
                for at, value in meant
                if isinstance(value, str) and not any(map(pattern(value).holds, self._tools))
            ]
        return self._in_vain.get(when.text, [])

    def _unguarded(self, rule: Rule, when: Condition) -> Iterator[Fault]:
        told: set[TypeFault] = set()
        for tool in self._reached(rule):
            for fault in self._checked(when, tool).unguarded:
                if fault not in told and len(told) < _MOST_TOLD:
                    told.add(fault)
                    problem = f"the condition, for {tool.name}: {fault.problem}"
                    yield self._fault(rule, _WHEN, problem, fault.remedy, fault.at)

    def _checked(self, when: Condition, tool: Tool) -> Types:
        """Check types; conditions that differ only in numbers and texts share a reading, and so its types."""
        reads_arguments = "args" in when.reading.needs
        schema: Json = tool.input.document if reads_arguments else True
        key = (id(when.reading), id(tool.input) if reads_arguments else 0)
        if key not in self._types:
            self._types[key] = types_of(when.tree, schema)
        if self._types[key] == _CLEAN:
            return _CLEAN
        own = (when.text, key[1])
        if own not in self._own_types:  # the places are this text's own
            self._own_types[own] = types_of(when.tree, schema)
        return self._own_types[own]

    def _reached(self, rule: Rule) -> list[Tool]:
        named = self._named_by(rule.tool)
        return named if rule.action == "*" else [tool for tool in named if tool.terms.effect == rule.action]

    def _named_by(self, cell: str) -> list[Tool]:
        found = self._named.get(cell)
        if found is None:
            found = self._named[cell] = list(self._find(cell))
        return found

    def _find(self, cell: str) -> Iterator[Tool]:
        if cell in self._groups:
            yield from (tool for name, tool in self._tools.items() if cell in self._groups_of[name])
        elif "*" in cell:
            yield from (tool for name, tool in self._tools.items() if tool_match(name, cell))
        elif cell in self._tools:
            yield self._tools[cell]

    @cached_property
    def _groups_of(self) -> dict[str, frozenset[str]]:
        groups = Roles((link.tool, link.group, "") for link in self._text.groups)
        return {name: groups.closure(name, "") for name in self._tools}

    @cached_property
    def _names(self) -> list[str]:
        return [*self._tools, *self._groups]

    def _unknown(self, link: GroupLink) -> Fault:
        problem = f"no manifest admits a tool {link.tool!r}, and no group is called so"
        place = f"line {link.line}" if link.line else f"the g2 row of {link.group}"
        file = f"policies/{link.file}" if link.file else "policies"
        near = nearest(link.tool, self._names)
        return Fault(file, place, problem, f"correct it, or remove the row{near}")

    def _fault(self, rule: Rule, cell: int, problem: str, remedy: str, offset: int = 0) -> Fault:
        place = f"line {rule.line}"
        if rule.columns:
            place += f", column {self._column(rule, cell, offset)}"
        return Fault(f"policies/{rule.file}", place, problem, remedy)

    def _column(self, rule: Rule, cell: int, offset: int) -> int:
        """Give the column, from 1, of a character of a cell; a quote in a quoted cell is written twice."""
        begin = rule.columns[cell]
        line = self._line(rule)
        if line[begin - 1 : begin] != '"':
            return begin + offset
        place = begin + len(line[begin:]) - len(line[begin:].lstrip())
        for _ in range(offset):
            place += 2 if line.startswith('""', place) else 1
        return place + 1

    def _line(self, rule: Rule) -> str:
        if rule.file not in self._lines:
            self._lines[rule.file] = self._text.files.get(rule.file, "").split("\n")
        lines = self._lines[rule.file]
        return lines[rule.line - 1] if rule.line <= len(lines) else ""


_CLEAN: Final = Types((), (), ())
