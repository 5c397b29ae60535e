"""Reads the text of a condition into a tree, and refuses what no rule may use.

What is accepted here the evaluator accepts too, with the same meaning: tests hold both against each other.
"""

import math
import re
from typing import Final, NamedTuple

from toolgate.backends.policy.cel_tree import (
    MACROS,
    Binary,
    Call,
    Chain,
    Choice,
    ConditionFault,
    Each,
    Entries,
    Field,
    Has,
    Index,
    Items,
    Literal,
    Name,
    Node,
    Unary,
    walk,
)

LONGEST: Final = 1000
"""Characters of a condition."""
DEEPEST: Final = 32
"""Levels at which a part may stand: parentheses count, and each step of `a.b.c` and of `a + b + c` does."""

_ESCAPE: Final = r"\\(?:[abfnrtv\"'`?\\]|[0-3][0-7]{2}|[xX][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"
_TOKEN: Final = re.compile(
    rf"""[ \t\r\n\f]*(?:
      (?P<raw>[rR](?:\"{{3}}[\s\S]*?\"{{3}}|'{{3}}[\s\S]*?'{{3}}|"[^"\r\n]*"|'[^'\r\n]*'))
    | (?P<text>\"{{3}}(?:[^\\]|{_ESCAPE})*?\"{{3}}|'{{3}}(?:[^\\]|{_ESCAPE})*?'{{3}}
              |"(?:[^"\\\r\n]|{_ESCAPE})*"|'(?:[^'\\\r\n]|{_ESCAPE})*')
    | (?P<double>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?)
    | (?P<int>0x[0-9a-fA-F]+|[0-9]+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]{{}}])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPED: Final = re.compile(_ESCAPE)
_LETTERS: Final = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
_WORDS: Final = {"true": True, "false": False, "null": None}
_RESERVED: Final = frozenset(
    {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "in", "let", "loop"}
    | {"namespace", "package", "return", "var", "void", "while"}
)
_RELATIONS: Final = frozenset({"<", "<=", ">", ">=", "==", "!=", "in"})
_LEVELS: Final = (_RELATIONS, frozenset("+-"), frozenset("*/%"))
_INT: Final = range(-(2**63), 2**63)
_HAS_ARGUMENTS: Final = 1
_MACRO_ARGUMENTS: Final = 2


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(text: str) -> Node:
    """Read `text`.

    Raises:
        ConditionFault: it is longer than `LONGEST` or deeper than `DEEPEST`, or is no expression that a rule
            may use.
    """
    if len(text) > LONGEST:
        raise ConditionFault(f"a condition has at most {LONGEST} characters", LONGEST)
    if lone := _SURROGATE.search(text):
        raise ConditionFault("it is not valid Unicode (it holds a lone surrogate)", lone.start())
    tree = _Parser(_tokens(text)).whole()
    for depth, node in walk(tree):
        if depth >= DEEPEST:
            raise ConditionFault(f"it is nested deeper than {DEEPEST} levels", node.at)
    return tree


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while not tokens or tokens[-1].kind != "end":
        found = _TOKEN.match(text, at)
        if found is None:
            rest = text[at:].lstrip(" \t\r\n\f")
            raise ConditionFault(_stranger(rest), len(text) - len(rest))
        kind = found.lastgroup or "end"
        tokens.append(_Token(kind, found[kind], found.start(kind)))
        at = found.end()
    return tokens


def _stranger(text: str) -> str:
    if text[0] in "\"'":
        return "a text in quotes does not end, or holds a backslash that means nothing"
    if text[0] == "=":
        return "= is no comparison; write =="
    if text[0] in "&|":
        return f"{text[0]} joins nothing; write {text[0] * 2}"
    return f"{text[0]!r} means nothing here"


class _Parser:
    """Goes through the tokens once, from left to right: one method for each level of CEL's grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._choice()
        if self._next.kind != "end":
            raise self._unexpected()
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self) -> _Token:
        token = self._tokens[self._place]
        self._place += 1
        return token

    def _is(self, sign: str) -> bool:
        token = self._next
        return token.text == sign and token.kind == "sign"

    def _take_if(self, sign: str) -> bool:
        found = self._is(sign)
        self._place += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._take_if(sign):
            raise self._unexpected(f"; {sign} is expected")

    def _unexpected(self, remedy: str = "") -> ConditionFault:
        token = self._next
        if token.kind == "end":
            return ConditionFault(f"it ends too early{remedy}", token.at)
        what = "a text" if token.kind in {"raw", "text"} else repr(token.text[:40])
        return ConditionFault(f"{what} cannot stand here{remedy}", token.at)

    def _choice(self) -> Node:
        if self._depth >= DEEPEST:
            raise ConditionFault(f"it is nested deeper than {DEEPEST} levels", self._next.at)
        self._depth += 1
        node = self._either()
        if self._is("?"):
            at = self._take().at
            yes = self._either()
            self._expect(":")
            node = Choice(at, node, yes, self._choice())
        self._depth -= 1
        return node

    def _either(self) -> Node:
        at, parts = self._next.at, [self._both()]
        while self._take_if("||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Chain(at, "||", tuple(parts))

    def _both(self) -> Node:
        at, parts = self._next.at, [self._operation(0)]
        while self._take_if("&&"):
            parts.append(self._operation(0))
        return parts[0] if len(parts) == 1 else Chain(at, "&&", tuple(parts))

    def _operation(self, level: int) -> Node:
        """Read what binds as `level` of `_LEVELS` or tighter; all of these are read from the left."""
        if level == len(_LEVELS):
            return self._unary()
        node = self._operation(level + 1)
        while self._next.text in _LEVELS[level] and self._next.kind in {"sign", "name"}:
            token = self._take()
            node = Binary(token.at, token.text, node, self._operation(level + 1))
        return node

    def _unary(self) -> Node:
        """Read one sign at most: CEL takes two of them for none, whatever stands behind them."""
        if self._at_negative_number() or not (self._is("!") or self._is("-")):
            return self._member()
        sign = self._take()
        if self._is("!") or self._is("-"):
            raise self._unexpected("; put it in parentheses")
        return Unary(sign.at, sign.text, self._member())

    def _at_negative_number(self) -> bool:
        return self._is("-") and self._tokens[self._place + 1].kind in {"int", "double"}

    def _member(self) -> Node:
        node = self._primary()
        while True:
            if self._take_if("."):
                node = self._selected(node)
            elif self._take_if("["):
                at = self._next.at
                node = Index(at, node, self._choice())
                self._expect("]")
            else:
                return node

    def _selected(self, of: Node) -> Node:
        token = self._next
        if token.kind != "name" or token.text in {*_WORDS, "in"}:
            raise self._unexpected("; the name of a field or function is expected")
        self._take()
        if not self._take_if("("):
            return Field(token.at, of, token.text)
        arguments = self._until(")", last_comma=False)
        if token.text not in MACROS:
            return Call(token.at, token.text, of, arguments)
        return _each(token, of, arguments)

    def _primary(self) -> Node:
        token = self._take()
        match token.kind:
            case "text" | "raw":
                return Literal(token.at, _text(token))
            case "int" | "double":
                return _number(token, token.text)
            case "name":
                return self._named(token)
            case "sign" if token.text in {"(", "[", "{", "-"}:
                return self._enclosed(token)
            case _:
                self._place -= 1
                raise self._unexpected()

    def _enclosed(self, token: _Token) -> Node:
        match token.text:
            case "(":
                node = self._choice()
                self._expect(")")
                return node
            case "[":
                return Items(token.at, self._until("]", last_comma=True))
            case "{":
                return Entries(token.at, self._entries())
            case _ if self._next.kind in {"int", "double"}:
                return _number(token, f"-{self._take().text}")
            case _:
                raise self._unexpected()

    def _named(self, token: _Token) -> Node:
        if token.text in _WORDS:
            return Literal(token.at, _WORDS[token.text])
        if token.text in _RESERVED:
            raise ConditionFault(f"{token.text!r} is reserved in CEL", token.at)
        if not self._take_if("("):
            return Name(token.at, token.text)
        arguments = self._until(")", last_comma=False)
        if token.text != "has":
            return Call(token.at, token.text, None, arguments)
        if len(arguments) != _HAS_ARGUMENTS or not isinstance(arguments[0], Field):
            raise ConditionFault("has() asks for a field, such as has(args.limit)", token.at)
        return Has(token.at, arguments[0])

    def _until(self, end: str, *, last_comma: bool) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._take_if(end):
            if items:
                self._expect(",")
                if last_comma and self._take_if(end):
                    break
            items.append(self._choice())
        return tuple(items)

    def _entries(self) -> tuple[tuple[Node, Node], ...]:
        entries: list[tuple[Node, Node]] = []
        while not self._take_if("}"):
            if entries:
                self._expect(",")
                if self._take_if("}"):
                    break
            key = self._choice()
            self._expect(":")
            entries.append((key, self._choice()))
        return tuple(entries)


def _each(token: _Token, over: Node, arguments: tuple[Node, ...]) -> Each:
    if len(arguments) != _MACRO_ARGUMENTS or not isinstance(arguments[0], Name):
        raise ConditionFault(f"{token.text}() takes a name for an item, and what is asked of it", token.at)
    return Each(token.at, token.text, over, arguments[0].name, arguments[1])


def _number(token: _Token, text: str) -> Literal:
    if token.kind == "double" or ("." in text or ("e" in text.lower() and "x" not in text)):
        value = float(text)
        if not math.isfinite(value):
            raise ConditionFault("a number is too large", token.at)
        return Literal(token.at, value)
    whole = int(text, 16 if "x" in text else 10)
    if whole not in _INT:
        raise ConditionFault("a whole number has more than 64 bits", token.at)
    return Literal(token.at, whole)


def _text(token: _Token) -> str:
    text = token.text[1:] if token.kind == "raw" else token.text
    quotes = 3 if text[:3] in {'"""', "'''"} else 1
    inside = text[quotes:-quotes]
    if token.kind == "raw" or "\\" not in inside:
        return inside
    try:
        return _ESCAPED.sub(_unescaped, inside)
    except ValueError as error:
        raise ConditionFault("a backslash stands for no character of Unicode", token.at) from error


def _unescaped(found: re.Match[str]) -> str:
    mark, digits = found[0][1], found[0][2:]
    if mark in "xXuU":
        character = chr(int(digits, 16))
        character.encode()
        return character
    if mark in "0123":
        return chr(int(mark + digits, 8))
    return _LETTERS.get(mark, mark)
