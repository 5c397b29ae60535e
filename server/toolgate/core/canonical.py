"""One spelling for every JSON value: RFC 8785 (JCS), with integers beyond 2^53 kept exact."""

import hashlib
import json
from typing import Final

import orjson
import rfc8785

from toolgate.core.record import Json

_SAFE_INTEGER: Final = 2**53 - 1


def canonical(value: Json) -> bytes:
    """Spell `value` by RFC 8785.

    An integer beyond 2^53-1 is outside that RFC; here it is its exact decimal digits, so that two different
    ids never share a spelling.

    Raises:
        ValueError: a number that is not finite, or text that is not Unicode (a lone surrogate).
    """
    if _is_plain(value):
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError as error:
            raise ValueError(str(error)) from error
    return _spell(value).encode()


def digest(value: Json) -> str:
    """SHA-256 of the canonical spelling, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _is_plain(value: Json) -> bool:
    """Whether orjson's sorted spelling is RFC 8785's: no floats, safe integers, ASCII names."""
    if value is None or isinstance(value, str | bool):
        return True
    if isinstance(value, int):
        return -_SAFE_INTEGER <= value <= _SAFE_INTEGER
    if isinstance(value, dict):
        return all(name.isascii() and _is_plain(part) for name, part in value.items())
    return isinstance(value, list) and all(map(_is_plain, value))


def _spell(value: Json) -> str:
    match value:
        case dict():
            names = sorted(value, key=lambda name: name.encode("utf-16be"))
            return "{" + ",".join(f"{_spell(name)}:{_spell(value[name])}" for name in names) + "}"
        case list():
            return "[" + ",".join(map(_spell, value)) + "]"
        case int() if not isinstance(value, bool) and abs(value) > _SAFE_INTEGER:
            return json.dumps(value)
        case _:
            return rfc8785.dumps(value).decode()
