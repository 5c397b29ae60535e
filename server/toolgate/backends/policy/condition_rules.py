"""What a condition may name and call, and what it costs at most. No schema is needed to tell."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from toolgate.backends.policy.cel_tree import (
    MACROS,
    Call,
    ConditionFault,
    Each,
    Field,
    Has,
    Items,
    Literal,
    Name,
    Node,
    Path,
    parts_of,
    path_of,
    walk,
)
from toolgate.backends.policy.patterns import pattern
from toolgate.backends.policy.windows import window

ROOTS: Final = frozenset({"args", "caller", "now", "run"})
TYPES: Final = frozenset({"bool", "int", "double", "string", "list", "map", "null_type"})
FIELDS: Final[Mapping[str, Collection[str]]] = {
    "caller": ("subject", "tenant", "client", "roles", "scopes"),
    "run": ("calls", "tools"),
}
OF_A_TIME: Final = frozenset(
    {"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"}
    | {"getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)
OURS: Final = frozenset({"during", "like", "called", "count"})
OF_THE_RUN: Final = frozenset({"called", "count"})
_COSTLY: Final = OF_THE_RUN | {"during", "like", "timestamp", "duration"}
CONVERSIONS: Final = frozenset({"int", "double", "string", "timestamp", "duration"})

_METHODS: Final = {
    **dict.fromkeys(("contains", "startsWith", "endsWith", "matches"), 1),
    **dict.fromkeys(OF_A_TIME, 0),
    "size": 0,
}
_FUNCTIONS: Final = {
    **dict.fromkeys(("size", "type", "dyn", "called", "count", *CONVERSIONS), 1),
    "like": 2,
    "during": 3,
}
_LISTS: Final = frozenset({("caller", "roles"), ("caller", "scopes"), ("run", "tools")})
_COUNTS: Final = re.compile(r"\{[\s\d,]*\}")
_MOST_REPEATS: Final = 100


@dataclass(frozen=True, slots=True)
class Range:
    """One way through a list, as far as its cost goes."""

    over: Path | None
    """None for a list that is written out."""
    uses: int
    """How often an item is looked at."""
    others: tuple[Path, ...]
    """What else is looked at for each item."""
    items: int = 0
    """Of a list that is written out."""
    macro: str = ""
    """`map` and `filter` make a list, and copy what they have of it for each further item."""
    costly: int = 0
    """How many functions are called for each item that cost more than a comparison does."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a condition looks at: the same for all conditions that differ only in numbers and texts."""

    needs: frozenset[str]
    """Roots, and functions that are not CEL's own."""
    paths: frozenset[Path]
    """What it reads, from its root on; what `has()` asks for is not in it."""
    asked: frozenset[Path]
    """What `has()` asks for."""
    ranges: tuple[Range, ...]


def reading_of(tree: Node) -> Reading:
    """Check a tree against what rules may use.

    Raises:
        ConditionFault: it names or calls what is not there, goes through a list in a way whose cost has no
            bound, or holds a pattern or a window that cannot be used.
    """
    _check(tree, None)
    nodes = [node for _, node in walk(tree)]
    called = {node.name for node in nodes if isinstance(node, Call)}
    roots = {node.name for node in nodes if isinstance(node, Name)} & ROOTS
    return Reading(
        needs=frozenset(roots | (called & OURS)),
        paths=frozenset(path for path in _paths_in(tree) if path[0] in ROOTS),
        asked=frozenset(
            path for node in nodes if isinstance(node, Has) and (path := path_of(node.of)) is not None
        ),
        ranges=tuple(_range(node) for node in nodes if isinstance(node, Each)),
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """A part of a condition whose value is written out, and can be asked for at once."""

    at: int
    name: str
    spelled: str


def tried_early(tree: Node) -> Iterator[Trial]:
    """Give the conversions and patterns that are written out: one without an answer would never have one."""
    for _, node in walk(tree):
        if isinstance(node, Call) and node.arguments and isinstance(last := node.arguments[-1], Literal):
            if node.name in CONVERSIONS and isinstance(last.value, str):
                yield Trial(node.at, node.name, f"{node.name}({_spelled(last.value)})")
            elif node.name == "matches" and isinstance(last.value, str):
                yield Trial(node.at, node.name, f'"".matches({_spelled(last.value)})')


def _spelled(text: str) -> str:
    """Write a text as CEL reads it."""
    return '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'


def nearest(name: str, known: Collection[str]) -> str:
    """Say which of `known` may have been meant, as the end of a sentence; empty when none is near."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _check(node: Node, item: str | None) -> None:
    """Check `node`; `item` is the name for the item of the list that it stands in."""
    match node:
        case Name(at=at, name=name) if name not in ROOTS | TYPES and name != item:
            near = nearest(name, sorted(ROOTS))
            raise ConditionFault(f"unknown name {name}{near}; a condition sees {_SEEN}", at)
        case Field(at=at, of=Name(name=root), name=name) if root in FIELDS and root != item:
            if name not in FIELDS[root]:
                known = ", ".join(FIELDS[root])
                raise ConditionFault(f"{root} has no {name}; it has {known}", at)
        case Call():
            _check_call(node, item)
        case Each():
            _check_each(node, item)
            _check(node.over, None)
            _check(node.body, node.variable)
            return
        case _:
            pass
    for part in parts_of(node):
        _check(part, item)


def _check_call(call: Call, item: str | None) -> None:
    if call.name == "matches":
        _check_matches(call, item)
    known = _FUNCTIONS if call.target is None else _METHODS
    if call.name not in known:
        if call.name in _FUNCTIONS or call.name in _METHODS:
            other = "x.{}()" if call.target is None else "{}(x)"
            raise ConditionFault(f"{call.name} is written {other.format(call.name)}", call.at)
        near = nearest(call.name, sorted({*_FUNCTIONS, *_METHODS, *MACROS}))
        raise ConditionFault(f"unknown function {call.name}{near}", call.at)
    if len(call.arguments) != known[call.name]:
        said = f"{call.name}() takes {known[call.name]}, not {len(call.arguments)}, between its parentheses"
        raise ConditionFault(said, call.at)
    if call.name in OURS:
        _check_ours(call)


def _check_matches(call: Call, item: str | None) -> None:
    text = call.arguments[-1] if call.arguments else None
    if not isinstance(text, Literal) or not isinstance(text.value, str):
        raise ConditionFault(
            "matches() takes a pattern in quotes, not one that a caller could choose", call.at
        )
    counts = (int(count) for said in _COUNTS.findall(text.value) for count in re.findall(r"[0-9]+", said))
    if any(count > _MOST_REPEATS for count in counts):
        raise ConditionFault(f"a pattern repeats a part at most {_MOST_REPEATS} times", text.at)
    if item is not None:
        raise ConditionFault("matches() is too slow for each item of a list; use like()", call.at)


def _check_ours(call: Call) -> None:
    """Read windows and patterns now: they are written out."""
    places = call.arguments[1:] if call.name == "like" else call.arguments
    texts: list[str] = []
    for place in places:
        if not isinstance(place, Literal) or not isinstance(place.value, str):
            problem = "takes texts in quotes" if call.name == "during" else "takes a pattern in quotes"
            raise ConditionFault(f"{call.name}() {problem}, not what a caller could choose", place.at)
        texts.append(place.value)
    try:
        if call.name == "during":
            window(texts[0], texts[1], texts[2])
        else:
            pattern(texts[0])
    except ValueError as error:
        raise ConditionFault(f"{call.name}(): {error}", call.at) from error


def _check_each(each: Each, item: str | None) -> None:
    if item is not None:
        raise ConditionFault(f"{each.macro}() stands inside another list: its cost has no bound", each.at)
    if each.variable in ROOTS | TYPES:
        raise ConditionFault(f"{each.variable} already means something; call the item otherwise", each.at)
    if isinstance(each.over, Items):
        if any(isinstance(node, Each) for _, node in walk(each.over)):
            raise ConditionFault(f"{each.macro}() stands over another: its cost has no bound", each.at)
        return
    path = path_of(each.over)
    if path is None or not (path[0] == "args" or path in _LISTS):
        what = "a list of the call, such as args.to, or one that is written out"
        raise ConditionFault(f"{each.macro}() goes through {what}", each.at)


def _range(each: Each) -> Range:
    inside = list(_paths_in(each.body))
    uses = sum(path[0] == each.variable for path in inside)
    others = tuple(path for path in inside if path[0] != each.variable)
    called = [node.name for _, node in walk(each.body) if isinstance(node, Call)]
    costly = sum(name in _COSTLY for name in called)
    if isinstance(each.over, Items):
        others += tuple(_paths_in(each.over))
        return Range(None, uses, others, len(each.over.items), each.macro, costly)
    return Range(path_of(each.over), uses, others, 0, each.macro, costly)


def _paths_in(node: Node) -> Iterator[Path]:
    """Give the longest paths that are read."""
    left = [node]
    while left:
        part = left.pop()
        path = path_of(part)
        if path is not None:
            yield path
        elif isinstance(part, Has):
            left.append(part.of.of)
        else:
            left.extend(parts_of(part))


_SEEN: Final = "args, caller, now and run"
