"""Which rules could match a call: by tool, tenant, action and the names of the caller."""

import fnmatch
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from toolgate.backends.policy.text import Rule
from toolgate.core.call import Caller
from toolgate.core.tool import Tool

MOST_REMEMBERED: Final = 50_000
"""Of each kind. Then the oldest makes room, one at a time: to free all at once would hold up everybody."""


class RuleIndex:
    """Rules by tool, then by tenant, action and who."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._places: dict[str, dict[tuple[str, str, str], list[int]]] = {}
        for place, rule in enumerate(rules):
            rows = self._places.setdefault(rule.tool, {})
            rows.setdefault((rule.tenant, rule.action, rule.who), []).append(place)
        self._patterns = [pattern for pattern in self._places if "*" in pattern]
        self._sources: OrderedDict[str, list[dict[tuple[str, str, str], list[int]]]] = OrderedDict()

    def rules_for(self, tool: Tool, groups: frozenset[str], tenant: str, names: frozenset[str]) -> list[Rule]:
        """Give, in the order of the files, the rules that could match."""
        wanted = [
            (tenant_, action, who)
            for tenant_ in (tenant, "*")
            for action in (tool.terms.effect, "*")
            for who in (*names, "*")
        ]
        places = {
            place
            for rows in self._sources_of(tool, groups)
            for where in wanted
            for place in rows.get(where, ())
        }
        return [self._rules[place] for place in sorted(places)]

    def _sources_of(self, tool: Tool, groups: frozenset[str]) -> list[dict[tuple[str, str, str], list[int]]]:
        """Give the rules that name the tool: by itself, by a group or by a pattern."""
        found = self._sources.get(tool.name)
        if found is None:
            names = {name for name in groups if name in self._places}
            names.update(pattern for pattern in self._patterns if tool_match(tool.name, pattern))
            if len(self._sources) >= MOST_REMEMBERED:
                self._sources.popitem(last=False)
            found = self._sources[tool.name] = [self._places[name] for name in names]
        return found


class Roles:
    """Who has which role in which tenant, by any number of steps. What it remembers has a bound.

    To Casbin it is a role manager: `has_link` is all that a matcher asks of one.
    """

    def __init__(self, links: Iterable[tuple[str, str, str]]) -> None:
        self._up: dict[tuple[str, str], list[str]] = {}
        for who, role, tenant in links:
            self._up.setdefault((tenant, who), []).append(role)
        self._known: OrderedDict[tuple[str, frozenset[str]], frozenset[str]] = OrderedDict()

    def of(self, caller: Caller) -> frozenset[str]:
        """Give every name that a rule can call this caller by."""
        roles = {role for role in caller.roles if ":" not in role}  # nobody gets a user's rules by a role
        return self._closed(caller.tenant, frozenset({f"user:{caller.subject}", *roles}))

    def closure(self, name: str, tenant: str) -> frozenset[str]:
        """Give `name` with all that it belongs to."""
        return self._closed(tenant, frozenset({name}))

    def has_link(self, who: Caller | str, role: str, tenant: str = "") -> bool:
        """Answer Casbin's `g`: a caller by its names, anything else by its own."""
        names = self.of(who) if isinstance(who, Caller) else self.closure(who, tenant)
        return role in names

    def _closed(self, tenant: str, names: frozenset[str]) -> frozenset[str]:
        key = (tenant, names)
        found = self._known.get(key)
        if found is None:
            reached, level = set(names), set(names)
            while level:
                level = {up for name in level for up in self._up.get((tenant, name), ())} - reached
                reached |= level
            if len(self._known) >= MOST_REMEMBERED:
                self._known.popitem(last=False)
            found = self._known[key] = frozenset(reached)
        return found


def tool_match(tool: str, pattern: str) -> bool:
    """Whether `pattern` means `tool`: `*` stands for any text, everything else for itself."""
    return tool == pattern or ("*" in pattern and _glob(pattern).fullmatch(tool) is not None)


@lru_cache(maxsize=8192)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))
