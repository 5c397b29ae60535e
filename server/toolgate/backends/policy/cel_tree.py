"""A condition as a tree: what its parts are and where each begins.

The parts are those of CEL (github.com/google/cel-spec, doc/langdef.md) that a rule may use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias
from typing import Literal as Word

MACROS: Final = frozenset({"all", "exists", "exists_one", "filter", "map"})
"""They go through a list, with a name for the item at hand."""


class ConditionFault(ValueError):  # noqa: N818 - named by what is the matter
    """A condition that cannot be used, with the place where that shows: characters from its begin, from 0."""

    def __init__(self, problem: str, offset: int = 0) -> None:
        super().__init__(problem)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that is written out."""

    at: int
    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Name:
    """`args`, `caller`, `now`, `run`, a type, or the item of a macro."""

    at: int
    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """`of.name`; its place is that of the name."""

    at: int
    of: "Node"
    name: str


@dataclass(frozen=True, slots=True)
class Index:
    """`of[key]`; its place is that of the key."""

    at: int
    of: "Node"
    key: "Node"


@dataclass(frozen=True, slots=True)
class Items:
    """`[a, b]`."""

    at: int
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """`{"a": b}`, as keys and values."""

    at: int
    entries: tuple[tuple["Node", "Node"], ...]


@dataclass(frozen=True, slots=True)
class Has:
    """`has(a.b)`."""

    at: int
    of: Field


@dataclass(frozen=True, slots=True)
class Unary:
    """`!of` or `-of`."""

    at: int
    sign: str
    of: "Node"


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, a comparison or `in`; its place is that of the sign."""

    at: int
    sign: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Chain:
    """`a && b && c` or `a || b || c`."""

    at: int
    sign: Word["&&", "||"]
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """`test ? yes : no`."""

    at: int
    test: "Node"
    yes: "Node"
    no: "Node"


@dataclass(frozen=True, slots=True)
class Call:
    """`name(arguments)` or `target.name(arguments)`; its place is that of the name."""

    at: int
    name: str
    target: "Node | None"
    arguments: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Each:
    """`over.macro(variable, body)`; its place is that of the macro."""

    at: int
    macro: str
    over: "Node"
    variable: str
    body: "Node"


Node: TypeAlias = (
    Literal | Name | Field | Index | Items | Entries | Has | Unary | Binary | Chain | Choice | Call | Each
)
Path: TypeAlias = tuple[str, ...]
"""Names from a root on: `("args", "to", "city")` for `args.to.city`."""


def parts_of(node: Node) -> tuple[Node, ...]:  # noqa: PLR0911 - one for each kind
    """Give the parts directly under `node`, from left to right."""
    match node:
        case Literal() | Name():
            return ()
        case Field(of=of) | Has(of=of) | Unary(of=of):
            return (of,)
        case Index(of=of, key=key):
            return (of, key)
        case Items(items=parts) | Chain(parts=parts):
            return parts
        case Entries(entries=entries):
            return tuple(part for entry in entries for part in entry)
        case Binary(left=left, right=right):
            return (left, right)
        case Choice(test=test, yes=yes, no=no):
            return (test, yes, no)
        case Call(target=target, arguments=arguments):
            return arguments if target is None else (target, *arguments)
        case Each(over=over, body=body):
            return (over, body)


def walk(node: Node) -> Iterator[tuple[int, Node]]:
    """Give every part of the tree, `node` first, each with its depth from 0. Does not recurse."""
    left: list[tuple[int, Node]] = [(0, node)]
    while left:
        depth, part = left.pop()
        yield depth, part
        left.extend((depth + 1, below) for below in reversed(parts_of(part)))


def path_of(node: Node) -> Path | None:
    """Read `a.b` and `a["b"]` as a path; None for anything else."""
    match node:
        case Name(name=name):
            return (name,)
        case Field(of=of, name=name) | Index(of=of, key=Literal(value=str(name))):
            above = path_of(of)
            return None if above is None else (*above, name)
        case _:
            return None
