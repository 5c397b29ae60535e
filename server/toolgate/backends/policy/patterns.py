"""Patterns of texts: `*` stands for any text, `?` for one character, everything else for itself."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

LONGEST_PATTERN: Final = 200
LONGEST_TEXT: Final = 10_000
"""Characters of a text that is held against a pattern with `?` between two stars: the cost is a product."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern, taken apart at its stars. Its pieces are found from left to right, each only once."""

    pieces: tuple[str, ...]
    """One more than there are stars."""

    def holds(self, text: str) -> bool:
        """Whether all of `text` is meant.

        Raises:
            ValueError: the text is too long for this pattern.
        """
        first, last = self.pieces[0], self.pieces[-1]
        if len(self.pieces) == 1:
            return len(text) == len(first) and _stands_at(first, text, 0)
        begin, end = len(first), len(text) - len(last)
        if end < begin or not _stands_at(first, text, 0) or not _stands_at(last, text, end):
            return False
        for piece in self.pieces[1:-1]:
            place = _found(piece, text, begin, end)
            if place < 0:
                return False
            begin = place + len(piece)
        return True


@lru_cache(maxsize=4096)
def pattern(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        ValueError: it is longer than `LONGEST_PATTERN`.
    """
    if len(text) > LONGEST_PATTERN:
        raise ValueError(f"a pattern has at most {LONGEST_PATTERN} characters")
    return Pattern(tuple(text.split("*")))


def _stands_at(piece: str, text: str, place: int) -> bool:
    if "?" not in piece:
        return text.startswith(piece, place)
    part = text[place : place + len(piece)]
    return all(mark in {"?", found} for mark, found in zip(piece, part, strict=True))


def _found(piece: str, text: str, begin: int, end: int) -> int:
    if "?" not in piece:
        return text.find(piece, begin, end)
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"a text of more than {LONGEST_TEXT} characters")
    found = _regex(piece).search(text, begin, end)
    return found.start() if found else -1


@lru_cache(maxsize=4096)
def _regex(piece: str) -> re.Pattern[str]:
    """One character for each `?`: without repetition there is nothing to try again."""
    return re.compile("".join("." if mark == "?" else re.escape(mark) for mark in piece), re.DOTALL)
