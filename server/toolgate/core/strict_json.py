"""The one reading of JSON that comes from outside: what two parsers could read in two ways is refused.

Stricter than RFC 8259 where it leaves a choice: a name is there once (section 4), a number is one that this
process can hold (section 6), a text is Unicode (section 8.2), and there is no byte order mark (section 8.1).
"""

import json
import math
import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, NoReturn

import orjson

from toolgate.core.record import Json, JsonObject

MAX_DEPTH: Final = 100
"""Levels of objects and lists: more than arguments may have, fewer than any parser behind this takes."""
MAX_DIGITS: Final = 1_000
"""Characters of one number."""

_BOM: Final = b"\xef\xbb\xbf"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,63}")
_STRING: Final = r'"(?:[^"\\]++|\\.)*+"?'
"""A string, or all the rest where it has no end: what does not match would be tried again and again."""
_WORDS: Final = re.compile(rf"{_STRING}|(?P<word>[-+.0-9A-Za-z]++)", re.DOTALL)
"""Strings, and the numbers and words between them."""
_STRINGS: Final = re.compile(_STRING.encode(), re.DOTALL)
_STEPS: Final = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_NO_BRACKETS: Final = bytes(set(range(256)) - _STEPS.keys())
_ESCAPES: Final = re.compile(
    r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<half>\\u[dD][89a-fA-F]..)|\\.", re.DOTALL
)


class NotJson(ValueError):  # noqa: N818 - named by what is the matter
    """What was sent is not JSON, or there is more than one way to read it; it says what and where."""


def parse(body: bytes) -> Json:
    """Read `body`, which is one JSON value.

    Raises:
        NotJson: it is not, or is not one that everybody reads alike.
    """
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(body)
    try:
        said: Json = orjson.loads(body)
        if orjson.dumps(said) == body:
            return said  # it says what it says in one way: no name twice, no number that was rounded
    except ValueError:
        pass
    return _parse_slowly(body)


def _parse_slowly(body: bytes) -> Json:
    """Read what is spelled with spaces or escapes, or find out what is wrong with it."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise NotJson(f"it is not UTF-8 at byte {error.start + 1}") from error
    if body.startswith(_BOM):
        raise NotJson("it begins with a byte order mark")
    if not text.strip(" \t\r\n"):
        raise NotJson("it is empty")
    try:
        said: Json = _STRICT.decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(f"{_said_by(error)}{_at(text, error.pos)}") from error
    except _BadLiteral as error:
        raise NotJson(f"{error}{_at(text, _place_of(error.literal, text))}") from error
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(said, text)
    return said


class _BadLiteral(ValueError):  # noqa: N818
    """A number or word that is not to be read."""

    def __init__(self, problem: str, literal: str) -> None:
        super().__init__(problem)
        self.literal = literal


def _once(pairs: list[tuple[str, Json]]) -> JsonObject:
    said = dict(pairs)
    if len(said) != len(pairs):
        twice = _first_repeated(name for name, _ in pairs)
        shown = repr(twice) if _NAME.fullmatch(twice) else "(that is not shown)"
        raise NotJson(f"an object has the name {shown} more than once")
    return said


def _first_repeated(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise ValueError("each is there once")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _BadLiteral(f"a number has more than {MAX_DIGITS} digits", digits)
    return int(digits)


def _real(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise _BadLiteral(f"a number has more than {MAX_DIGITS} digits", digits)
    number = float(digits)
    if math.isinf(number):
        raise _BadLiteral("a number is larger than 64-bit floating point can say", digits)
    return number


def _no_number(word: str) -> NoReturn:
    raise _BadLiteral(f"{word} is not JSON", word)


_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_no_number, parse_int=_integer, parse_float=_real
)


def _check_depth(body: bytes) -> None:
    """Count the levels without going down them.

    Raises:
        NotJson: there are too many.
    """
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise NotJson(f"it is nested deeper than {MAX_DEPTH} levels")


def _check_surrogates(said: Json, text: str) -> None:
    """Look for halves of surrogate pairs, which are no characters.

    Raises:
        NotJson: there is one.
    """
    try:
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise NotJson(f"a text holds a lone surrogate{_at(text, _place_of_half(text))}") from error


def _place_of_half(text: str) -> int:
    """Find the first escape of a surrogate that is not one of a pair."""
    for found in _ESCAPES.finditer(text):
        if found["half"]:
            return found.start()
    return 0


def _place_of(literal: str, text: str) -> int:
    """Find the first `literal` that is not inside a string."""
    for found in _WORDS.finditer(text):
        if found["word"] == literal:
            return found.start()
    return 0


def _said_by(error: json.JSONDecodeError) -> str:
    return (error.msg[:1].lower() + error.msg[1:]).removesuffix(" at").rstrip(": ")


def _at(text: str, place: int) -> str:
    line = text.count("\n", 0, place) + 1
    column = place - text.rfind("\n", 0, place)
    return f" at line {line}, column {column}"
