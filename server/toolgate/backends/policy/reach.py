"""Which tools the `tool` and `action` cells of a rule reach, as sets of bits: quick for many rules."""

from collections.abc import Iterable, Sequence

from toolgate.backends.policy.index import tool_match
from toolgate.backends.policy.text import GroupLink
from toolgate.core.tool import Tool


class Reach:
    """Answers which of `tools` a pair of cells means; bit n of an answer stands for the tool at place n."""

    def __init__(self, tools: Sequence[Tool], groups: Iterable[GroupLink]) -> None:
        self._names = [tool.name for tool in tools]
        self._effects: dict[str, int] = {}
        self._called: dict[str, int] = {}
        self._known: dict[tuple[str, str], int] = {}
        up: dict[str, set[str]] = {}
        for link in groups:
            up.setdefault(link.tool, set()).add(link.group)
        for place, tool in enumerate(tools):
            bit = 1 << place
            self._effects[tool.terms.effect] = self._effects.get(tool.terms.effect, 0) | bit
            for name in above(tool.name, up):
                self._called[name] = self._called.get(name, 0) | bit
        self.all = (1 << len(tools)) - 1

    def of(self, tool: str, action: str) -> int:
        """Give the tools that the cells `tool` and `action` mean."""
        key = tool, action
        found = self._known.get(key)
        if found is None:
            effects = self.all if action == "*" else self._effects.get(action, 0)
            found = self._known[key] = self.named(tool) & effects
        return found

    def named(self, tool: str) -> int:
        """Give the tools that the cell `tool` means: a tool, a group, a pattern."""
        if "*" not in tool:
            return self._called.get(tool, 0)
        return sum(1 << place for place, name in enumerate(self._names) if tool_match(name, tool))


def above(name: str, up: dict[str, set[str]]) -> set[str]:
    """Give `name` and all that it belongs to, by any number of steps."""
    reached, level = {name}, {name}
    while level:
        level = {higher for one in level for higher in up.get(one, ())} - reached
        reached |= level
    return reached


def bits(mask: int) -> Iterable[int]:
    """Give the places of the bits of `mask`, lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
