"""Types of conditions: what each part can be when a tool is called as its input schema says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from toolgate.backends.policy.cel_tree import (
    Binary,
    Call,
    Chain,
    Choice,
    Each,
    Entries,
    Field,
    Has,
    Index,
    Items,
    Literal,
    Name,
    Node,
    Path,
    Unary,
    path_of,
)
from toolgate.backends.policy.condition_rules import CONVERSIONS, OF_A_TIME, nearest
from toolgate.backends.policy.schema_types import (
    ANYTHING,
    BOOL,
    DOUBLE,
    INT,
    NULL,
    NUMBERS,
    SPAN,
    TEXT,
    TIME,
    TYPE,
    Kind,
    Type,
    either,
    field_of,
    item_of,
    list_of,
    of_kind,
    typed,
)
from toolgate.core.record import Json

_WORDS: Final[Mapping[Kind, str]] = {
    "bool": "yes or no",
    "int": "a whole number",
    "double": "a number",
    "text": "a text",
    "null": "null",
    "list": "a list",
    "map": "an object",
    "time": "a moment",
    "span": "a duration",
    "type": "a type",
}
_SUMS: Final[Mapping[str, Mapping[tuple[Kind, Kind], Kind]]] = {
    "+": {
        ("int", "int"): "int",
        ("double", "double"): "double",
        ("text", "text"): "text",
        ("list", "list"): "list",
        ("time", "span"): "time",
        ("span", "time"): "time",
        ("span", "span"): "span",
    },
    "-": {
        ("int", "int"): "int",
        ("double", "double"): "double",
        ("time", "time"): "span",
        ("time", "span"): "time",
        ("span", "span"): "span",
    },
    "*": {("int", "int"): "int", ("double", "double"): "double"},
    "/": {("int", "int"): "int", ("double", "double"): "double"},
    "%": {("int", "int"): "int"},
}
_ORDERED: Final[frozenset[Kind]] = frozenset({"int", "double", "text", "bool", "time", "span"})
_SIZED: Final[frozenset[Kind]] = frozenset({"text", "list", "map"})
_CONVERTED: Final[Mapping[str, tuple[frozenset[Kind], Type]]] = {
    "int": (frozenset({"int", "double", "text"}), INT),
    "double": (frozenset({"int", "double", "text"}), DOUBLE),
    "string": (frozenset({"int", "double", "text", "time"}), TEXT),
    "timestamp": (frozenset({"text"}), TIME),
    "duration": (frozenset({"text"}), SPAN),
}
_RESULTS: Final[Mapping[str, Type]] = {
    **dict.fromkeys(("contains", "startsWith", "endsWith", "matches", "during", "like", "called"), BOOL),
    **dict.fromkeys(OF_A_TIME, INT),
    "count": INT,
}
_CALLER: Final[Mapping[str, Type]] = {
    "subject": TEXT,
    "tenant": TEXT,
    "client": TEXT,
    "roles": list_of(TEXT),
    "scopes": list_of(TEXT),
}
_RUN: Final[Mapping[str, Type]] = {"calls": INT, "tools": list_of(TEXT)}


@dataclass(frozen=True, slots=True)
class TypeFault:
    """What cannot work, or may surprise, in a condition; `at` counts its characters from 0."""

    at: int
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Types:
    """What a condition's types say for one tool."""

    faults: tuple[TypeFault, ...]
    """Why it could never be told, or not for every call that its schema admits."""
    unguarded: tuple[TypeFault, ...]
    """Where it reads an argument that may be missing, without asking `has()`: a deny bites then."""
    absent: tuple[TypeFault, ...]
    """What it asks `has()` for and this tool never has: a fault unless another tool of the rule has it."""


def types_of(tree: Node, schema: Json) -> Types:
    """Check a condition against a tool's input schema (JSON Schema 2020-12)."""
    checker = _Checker(schema)
    found = checker.type_of(tree, _Scope({}, frozenset()))
    if not _may_be(found, "bool"):
        checker.tell(tree.at, f"the condition is {_said(found)}, not yes or no", "compare it with something")
    unguarded = {fault.at: fault for fault in checker.unguarded}
    return Types(tuple(checker.faults), tuple(unguarded.values()), tuple(checker.absent))


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a part stands: names for items of lists, and paths that are known to be there."""

    items: Mapping[str, Type]
    present: frozenset[Path]

    def knowing(self, paths: frozenset[Path]) -> "_Scope":
        return _Scope(self.items, self.present | paths) if paths else self


@dataclass
class _Checker:
    schema: Json
    faults: list[TypeFault] = field(default_factory=list[TypeFault])
    unguarded: list[TypeFault] = field(default_factory=list[TypeFault])
    absent: list[TypeFault] = field(default_factory=list[TypeFault])

    def tell(self, at: int, problem: str, remedy: str) -> Type:
        """Note a fault; what it stands in is not blamed for it too."""
        self.faults.append(TypeFault(at, problem, remedy))
        return ANYTHING

    def type_of(self, node: Node, scope: _Scope) -> Type:  # noqa: PLR0911, C901 - one for each kind of node
        match node:
            case Literal(value=value):
                return _of_value(value)
            case Name(name=name):
                return self._named(name, scope)
            case Field() | Index():
                return self._selected(node, scope)
            case Items(items=items):
                return list_of(either([self.type_of(item, scope) for item in items]))
            case Entries(entries=entries):
                values = either([self._entry(key, value, scope) for key, value in entries])
                return Type(frozenset({"map"}), item=values)
            case Has(of=of):
                self._selected(of, scope, asked=True)
                return BOOL
            case Unary():
                return self._signed(node, scope)
            case Binary():
                return self._operation(node, scope)
            case Chain():
                return self._chain(node, scope)
            case Choice():
                return self._choice(node, scope)
            case Call():
                return self._call(node, scope)
            case Each():
                return self._each(node, scope)

    def _named(self, name: str, scope: _Scope) -> Type:
        if name in scope.items:
            return scope.items[name]
        match name:
            case "args":
                return typed(self.schema, self.schema)
            case "now":
                return TIME
            case "caller":
                return Type(frozenset({"map"}), fields=_CALLER)
            case "run":
                return Type(frozenset({"map"}), fields=_RUN)
            case _:
                return TYPE

    def _entry(self, key: Node, value: Node, scope: _Scope) -> Type:
        self.type_of(key, scope)
        return self.type_of(value, scope)

    def _selected(self, node: Field | Index, scope: _Scope, *, asked: bool = False) -> Type:
        of = self.type_of(node.of, scope)
        match node:
            case Field(at=at, name=name) | Index(at=at, key=Literal(value=str(name))):
                return self._field(node, of, at, name, scope, asked=asked)
            case Index(at=at, key=key):
                return self._indexed(of, at, self.type_of(key, scope))

    def _field(
        self, node: Field | Index, of: Type, at: int, name: str, scope: _Scope, *, asked: bool
    ) -> Type:
        if not _may_be(of, "map"):
            whole = ".".join(path_of(node.of) or ()) or "it"
            return self.tell(at, f"{whole} is {_said(of)}, which has no field {name}", "correct it")
        found, path = field_of(of, name), path_of(node)
        guarded = asked or path in scope.present
        if found is None:
            fault = _no_field(node, of, at, name)
            (self.absent if guarded else self.faults).append(fault)
            return ANYTHING
        if not found.required and not guarded:
            what = ".".join(path or (name,))
            remedy = f"write has({what}) && ..., or leave it so if it shall bite where {what} is missing"
            self.unguarded.append(TypeFault(at, f"{what} may be missing, and then the rule bites", remedy))
        return found.type

    def _indexed(self, of: Type, at: int, key: Type) -> Type:
        if not (_may_be(of, "list") or _may_be(of, "map")):
            return self.tell(at, f"{_said(of)} has no items", "correct it")
        if of.kinds == _LIST and not _may_be(key, "int"):
            return self.tell(
                at, f"an item of a list is found by a whole number, not {_said(key)}", "correct it"
            )
        return item_of(of)

    def _signed(self, node: Unary, scope: _Scope) -> Type:
        of = self.type_of(node.of, scope)
        if node.sign == "!":
            if not _may_be(of, "bool"):
                return self.tell(node.at, f"! is for yes or no, not {_said(of)}", "correct it")
            return BOOL
        if not (of.anything or of.kinds & NUMBERS):
            return self.tell(node.at, f"- is for numbers, not {_said(of)}", "correct it")
        return ANYTHING if of.anything else Type(of.kinds & NUMBERS)

    def _operation(self, node: Binary, scope: _Scope) -> Type:
        left, right = self.type_of(node.left, scope), self.type_of(node.right, scope)
        match node.sign:
            case "==" | "!=":
                if not _comparable(left, right):
                    problem = f"{_said(left)} and {_said(right)} are never equal"
                    return self.tell(node.at, problem, "correct it")
            case "<" | "<=" | ">" | ">=":
                if not _comparable(left, right, _ORDERED):
                    problem = f"{_said(left)} and {_said(right)} have no order"
                    return self.tell(node.at, problem, "correct it")
            case "in":
                return self._among(node, left, right)
            case "/" if _may_be_zero(node.right, right):
                problem = "what is divided by 0.0 has an answer all the same: endless, or no number at all"
                remedy = "divide by a number that is written there, or multiply the other side"
                return self.tell(node.at, problem, remedy)
            case _:
                return self._sum(node, left, right)
        return BOOL

    def _among(self, node: Binary, left: Type, right: Type) -> Type:
        if not (_may_be(right, "list") or _may_be(right, "map")):
            remedy = "write x.contains(y)" if "text" in right.kinds else "correct it"
            return self.tell(node.at, f"in looks into a list or an object, not into {_said(right)}", remedy)
        if right.kinds == _MAP and not right.fields and right.item is None and not _may_be(left, "text"):
            return self.tell(node.at, f"an object's names are texts, not {_said(left)}", "correct it")
        if right.kinds == _LIST and not _comparable(left, item_of(right)):
            problem = f"{_said(left)} is never among items that are {_said(item_of(right))}"
            return self.tell(node.at, problem, "correct it")
        return BOOL

    def _sum(self, node: Binary, left: Type, right: Type) -> Type:
        if left.anything or right.anything:
            return ANYTHING
        sums = _SUMS[node.sign]
        found: set[Kind | None] = {
            sums.get((one, other)) for one in left.kinds - _NOT for other in right.kinds - _NOT
        }
        if len(found) == 1 and (kind := next(iter(found))) is not None:
            return of_kind(kind)
        if left.kinds & NUMBERS and right.kinds & NUMBERS:
            remedy = _mixed_remedy(node, left, right)
            problem = f"{node.sign} joins {_said(left)} with {_said(right)}, and CEL does not mix them"
            return self.tell(node.at, problem, remedy)
        return self.tell(node.at, f"{node.sign} cannot join {_said(left)} with {_said(right)}", "correct it")

    def _chain(self, node: Chain, scope: _Scope) -> Type:
        """Where one side says that a path is there, the other may read it: CEL asks both, in any order."""
        sure = [_present(part, holds=node.sign == "&&") for part in node.parts]
        for place, part in enumerate(node.parts):
            others = frozenset[Path]().union(*sure[:place], *sure[place + 1 :])
            found = self.type_of(part, scope.knowing(others))
            if not _may_be(found, "bool"):
                self.tell(
                    part.at, f"{node.sign} joins yes or no, not {_said(found)}", "compare it with something"
                )
        return BOOL

    def _choice(self, node: Choice, scope: _Scope) -> Type:
        test = self.type_of(node.test, scope)
        if not _may_be(test, "bool"):
            self.tell(node.at, f"? asks for yes or no, not {_said(test)}", "compare it with something")
        yes = self.type_of(node.yes, scope.knowing(_present(node.test, holds=True)))
        no = self.type_of(node.no, scope.knowing(_present(node.test, holds=False)))
        return either([yes, no])

    def _call(self, node: Call, scope: _Scope) -> Type:
        given = [self.type_of(one, scope) for one in ([node.target] if node.target else [])]
        given += [self.type_of(one, scope) for one in node.arguments]
        if node.name == "dyn":
            return ANYTHING
        if node.name == "type":
            return TYPE
        if node.name == "size":
            return self._wants(node, given, _SIZED, INT)
        if node.name in CONVERSIONS:
            return self._wants(node, given, *_CONVERTED[node.name])
        wanted: Kind = "time" if node.name in OF_A_TIME else "text"
        return self._wants(node, given, frozenset({wanted}), _RESULTS[node.name])

    def _wants(self, node: Call, given: list[Type], kinds: frozenset[Kind], result: Type) -> Type:
        for one in given:
            if not one.anything and not one.kinds & kinds:
                wanted = " or ".join(_WORDS[kind] for kind in _WORDS if kind in kinds)
                problem = f"{node.name}() takes {wanted}, not {_said(one)}"
                return self.tell(node.at, problem, "correct it")
        return result

    def _each(self, node: Each, scope: _Scope) -> Type:
        over = self.type_of(node.over, scope)
        if not _may_be(over, "list"):
            return self.tell(node.at, f"{node.macro}() goes through a list, not {_said(over)}", "correct it")
        item = item_of(over)
        present = frozenset(path for path in scope.present if path[0] != node.variable)
        body = self.type_of(node.body, _Scope({**scope.items, node.variable: item}, present))
        if node.macro == "map":
            return list_of(body)
        if not _may_be(body, "bool"):
            problem = f"{node.macro}() asks yes or no of each item, not {_said(body)}"
            return self.tell(node.body.at, problem, "compare it with something")
        return list_of(item) if node.macro == "filter" else BOOL


def _present(node: Node, *, holds: bool) -> frozenset[Path]:
    """Give the paths that are surely there when `node` holds, or when it does not."""
    match node:
        case Has(of=of) if holds:
            path = path_of(of) or ()
            return frozenset(path[:length] for length in range(2, len(path) + 1))
        case Unary(sign="!", of=of):
            return _present(of, holds=not holds)
        case Chain(sign=sign, parts=parts) if (sign == "&&") == holds:
            return frozenset[Path]().union(*(_present(part, holds=holds) for part in parts))
        case _:
            return frozenset()


def _no_field(node: Field | Index, of: Type, at: int, name: str) -> TypeFault:
    path = path_of(node.of)
    problem = f"{'.'.join(path or ()) or 'it'} has no field {name}"
    if path == ("args",):
        problem = f"the tool has no argument {name}"
    return TypeFault(at, problem, f"correct it{nearest(name, of.names()) or of.listed()}")


def _comparable(left: Type, right: Type, among: frozenset[Kind] | None = None) -> bool:
    if left.anything or right.anything:
        return True
    one, other = _as_numbers(left.kinds), _as_numbers(right.kinds)
    common = one & other
    return bool(common if among is None else common & among)


def _as_numbers(kinds: frozenset[Kind]) -> frozenset[Kind]:
    return kinds | NUMBERS if kinds & NUMBERS else kinds


def _may_be_zero(node: Node, of: Type) -> bool:
    """Whether a divisor may be a double that is zero. Of a whole number that is zero nobody can tell."""
    if isinstance(node, Literal):
        return isinstance(node.value, float) and not node.value
    return of.anything or "double" in of.kinds


def _mixed_remedy(node: Binary, left: Type, right: Type) -> str:
    for side, other in ((node.left, right), (node.right, left)):
        if isinstance(side, Literal) and isinstance(side.value, int) and other.kinds - _NOT == _DOUBLE:
            return f"write {side.value}.0"
    if node.sign == "%":
        return "write int(...) around both sides"
    return "write double(...) around the whole number"


def _may_be(found: Type, kind: Kind) -> bool:
    return found.anything or kind in found.kinds


def _said(found: Type) -> str:
    """Say what something is: `a text or null`."""
    return " or ".join(_in_words(found)) or "anything"


def _in_words(found: Type) -> Iterator[str]:
    kinds = found.kinds - {"int"} if "double" in found.kinds else found.kinds
    return (words for kind, words in _WORDS.items() if kind in kinds)


def _of_value(value: bool | float | str | None) -> Type:  # noqa: FBT001 - a literal of CEL
    match value:
        case bool():
            return BOOL
        case int():
            return INT
        case float():
            return DOUBLE
        case str():
            return TEXT
        case None:
            return NULL


_NOT: Final[frozenset[Kind]] = frozenset({"null"})
_LIST: Final[frozenset[Kind]] = frozenset({"list"})
_MAP: Final[frozenset[Kind]] = frozenset({"map"})
_DOUBLE: Final[frozenset[Kind]] = frozenset({"double"})
