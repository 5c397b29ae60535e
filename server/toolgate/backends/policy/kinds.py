"""Sorts questions into kinds that a policy answers alike, so that a judge is asked about many calls quickly.

It says only which rules tell callers apart; what they say to a call is the judge's to tell.
"""

from typing import NamedTuple

from toolgate.backends.policy.access import Unknown, reads
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.index import tool_match
from toolgate.backends.policy.text import Rule
from toolgate.core.call import Caller
from toolgate.core.tool import Tool


class Kind(NamedTuple):
    """What a caller can ask of a tool: the same for all callers whom no rule tells apart there."""

    stand_in: Caller
    """One of them. The judge answers it as it answers the others."""
    reads: frozenset[Unknown]
    """What the conditions of the rules look at that concern them."""
    all_read: frozenset[Unknown]
    """The same of all rules for the tool in the tenant, whomever they concern."""
    alike: tuple[object, ...]
    """Tells this kind from any other."""
    concerns: bool
    """Whether any rule concerns it."""


class _Place(NamedTuple):
    """The rules for one tool in one tenant."""

    rules: tuple[Rule, ...]
    names: frozenset[str]
    """By which they call callers."""
    all_read: frozenset[Unknown]
    personal: bool
    """Some condition asks who calls: then each caller is a kind of its own."""


class Kinds:
    """Gives the kinds under one policy."""

    def __init__(self, policy: CasbinPolicy) -> None:
        self._policy = policy
        self._by_cell: dict[str, dict[str, list[Rule]]] = {}
        for rule in policy.text.rules:
            self._by_cell.setdefault(rule.tool, {}).setdefault(rule.tenant, []).append(rule)
        self._patterns = [cell for cell in self._by_cell if "*" in cell]
        self._cells: dict[str, list[str]] = {}
        self._places: dict[tuple[str, str], _Place] = {}
        self._kinds: dict[tuple[object, ...], Kind] = {}
        self._callers: dict[int, tuple[Caller, frozenset[str]]] = {}
        """By identity, and kept here for as long: to hash a caller's fields takes longer than the rest."""

    def of(self, caller: Caller, tool: Tool) -> Kind:
        """Give the kind of a caller's calls of a tool."""
        place = self._place(caller.tenant, tool)
        names = place.names & self._names(caller)
        alike = (caller.tenant, tool.name, caller if place.personal else "", names)
        kind = self._kinds.get(alike)
        if kind is None:
            read = _all_read([rule for rule in place.rules if rule.who in names])
            kind = self._kinds[alike] = Kind(caller, read, place.all_read, alike, bool(names))
        return kind

    def _names(self, caller: Caller) -> frozenset[str]:
        """Give what rules call a caller by, `*` among it."""
        found = self._callers.get(id(caller))
        if found is None or found[0] is not caller:
            found = self._callers[id(caller)] = caller, self._policy.roles.of(caller) | {"*"}
        return found[1]

    def rules(self, tenant: str, tool: Tool) -> tuple[Rule, ...]:
        """Give the rules for a tool in a tenant, whomever they concern; those in shadow too."""
        return self._place(tenant, tool).rules

    def _place(self, tenant: str, tool: Tool) -> _Place:
        place = self._places.get((tenant, tool.name))
        if place is None:
            rules = tuple(
                rule
                for cell in self._cells_of(tool)
                for where in (tenant, "*")
                for rule in self._by_cell[cell].get(where, ())
                if rule.action in {"*", tool.terms.effect}
            )
            personal = any("caller" in rule.when.text for rule in rules if rule.when)
            place = self._places[tenant, tool.name] = _Place(
                rules, frozenset(rule.who for rule in rules), _all_read(rules), personal
            )
        return place

    def _cells_of(self, tool: Tool) -> list[str]:
        found = self._cells.get(tool.name)
        if found is None:
            names = self._policy.groups.closure(tool.name, "")
            plain = [name for name in names if name in self._by_cell and "*" not in name]
            matching = [cell for cell in self._patterns if tool_match(tool.name, cell)]
            found = self._cells[tool.name] = plain + matching
        return found


def _all_read(rules: tuple[Rule, ...] | list[Rule]) -> frozenset[Unknown]:
    nothing: frozenset[Unknown] = frozenset()
    return nothing.union(*(reads(rule.when) for rule in rules))
