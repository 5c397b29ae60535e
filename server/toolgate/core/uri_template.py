"""Addresses of resources: URI templates (RFC 6570, level 1), and the way back from a URI to its values.

A variable stands for a whole part of the URI, from one delimiter to the next. So a URI matches a template in
one way at most, in time linear in its length, and whether one URI could match two templates can be told.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import unquote

_DELIMITER: Final = re.compile(r"([:/?\[\]@$&+,;=])")
"""What RFC 3986 reserves, but for `!*'()`: clients that encode as browsers do leave these as they are."""
_TEXT: Final = re.compile(r"(?:[A-Za-z0-9._~!*'()-]|%[0-9A-Fa-f]{2})+")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9.-]*")
_VARIABLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FETCHED_BY_CLIENTS: Final = frozenset({"http", "https"})


@dataclass(frozen=True)
class UriTemplate:
    """A template as a manifest has it; without a variable, the address of one resource.

    Raises:
        ValueError: it is not a template of this kind; the message says why.
    """

    text: str

    def __post_init__(self) -> None:
        """Check it."""
        scheme, *rest = self.parts
        if not _SCHEME.fullmatch(scheme) or rest[:1] != [":"]:
            raise ValueError("it must begin with a scheme in lower case and a colon, as tickets: does")
        if scheme in _FETCHED_BY_CLIENTS:
            raise ValueError(f"clients fetch {scheme}: addresses past the gate; use another scheme")
        for part in rest:
            if part and not (_DELIMITER.match(part) or _TEXT.fullmatch(part) or _VARIABLE.fullmatch(part)):
                whole = "{name} stands for all between two delimiters"
                raise ValueError(f"{part!r} is neither a text nor a variable: {whole}")
        if not any(self.parts[2::2]):
            raise ValueError("there is nothing behind its scheme")
        if len(set(self.variables)) < len(self.variables):
            raise ValueError("a variable is there twice")

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Their names, from left to right."""
        return tuple(match[1] for part in self.parts if (match := _VARIABLE.fullmatch(part)))

    def values_in(self, uri: str) -> dict[str, str] | None:
        """Give what the variables stand for in `uri`, decoded; None where it is no URI of this template."""
        parts = _DELIMITER.split(uri)
        if len(parts) != len(self.parts):
            return None
        values: dict[str, str] = {}
        for ours, theirs in zip(self.parts, parts, strict=True):
            if not (variable := _VARIABLE.fullmatch(ours)):
                if ours != theirs:
                    return None
                continue
            value = _decoded(theirs)
            if value is None:
                return None
            values[variable[1]] = value
        return values

    def meets(self, other: "UriTemplate") -> bool:
        """Whether some URI could match both."""
        pairs = zip(self.parts, other.parts, strict=False)
        return len(self.parts) == len(other.parts) and all(_could_be(*pair) for pair in pairs)

    @cached_property
    def parts(self) -> list[str]:
        """Texts and variables, and between any two of them a delimiter."""
        return _DELIMITER.split(self.text)


def _decoded(part: str) -> str | None:
    if not _TEXT.fullmatch(part):
        return None
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        return None


def _could_be(one: str, other: str) -> bool:
    """Whether a part of one template and the same part of another could stand for one text."""
    a_variable = _VARIABLE.fullmatch(one) or _VARIABLE.fullmatch(other)
    return one == other or bool(a_variable and one and other)
