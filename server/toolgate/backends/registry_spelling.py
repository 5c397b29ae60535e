"""Spells texts and schemas for people's eyes: what would not be seen is shown by its number.

Characters that no editor shows (zero width, right to left, Unicode tags, variation selectors) are a way to
tell a model what its reviewer never read.
"""

import json
import re
from typing import Final

from toolgate.core.record import Json

_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
"""What Python takes for printable and nobody sees: Default_Ignorable_Code_Point (UAX 44), and the empty
braille pattern."""
_BEYOND: Final = 0xFFFF
"""Behind it characters have numbers of more than four digits."""


def visible(text: str) -> str:
    r"""Spell what is not printable by its number (`\u200b`); line ends too."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_seen(char) else _numbered(char) for char in text)


def visible_json(value: Json, *, indent: int | None = None) -> str:
    """Spell JSON, names in order, such that everything in it can be seen; it reads back as the same value.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_seen(char) or char == "\n" else json.dumps(char)[1:-1] for char in text)


def toml_text(text: str) -> str:
    """Spell a TOML string such that everything in it can be seen: of several lines where the text is."""
    lines = ["".join(map(_toml_char, line)) for line in text.split("\n")]
    return f'"{lines[0]}"' if len(lines) == 1 else '"""\n' + "\n".join(lines) + '"""'


def _toml_char(char: str) -> str:
    return f"\\{char}" if char in {'"', "\\"} else visible(char)


def _is_seen(char: str) -> bool:
    return char.isprintable() and not _UNSEEN.fullmatch(char)


def _numbered(char: str) -> str:
    number = ord(char)
    return f"\\u{number:04x}" if number <= _BEYOND else f"\\U{number:08x}"
