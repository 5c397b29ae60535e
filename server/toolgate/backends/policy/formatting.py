"""Aligns the columns of a policy's `.csv` files. What the files mean does not change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from toolgate.backends.policy.reading import parse_policy
from toolgate.backends.policy.text import RULE_CELLS, PolicyText

WIDEST: Final = 40
"""Characters of a cell up to which its column is made wide for it."""
_HEADS: Final[Mapping[str, tuple[str, ...]]] = {
    "p": RULE_CELLS,
    "g": ("who", "role", "tenant"),
    "g2": ("tool", "group"),
}


@dataclass(frozen=True)
class _Row:
    kind: str
    cells: tuple[str, ...]
    """All of the line's, spelled as they will be written, the kind first."""


def formatted(text: PolicyText) -> dict[str, str]:
    """Give every `.csv` file of `text` with aligned columns, by its name.

    Order, ids, comments and blank lines stay. A comment that names the columns is aligned with them.
    Lines end with a line feed, and a cell with a comma or a quote is in quotes (RFC 4180, section 2).

    Raises:
        ValueError: the files would not mean the same; this would be a fault of ours.
    """
    rows = _rows_of(text)
    aligned = {
        name: _file(body, rows.get(name, {})) for name, body in text.files.items() if name.endswith(".csv")
    }
    again, faults = parse_policy(dict(text.files) | aligned)
    if again is None or _meaning(again) != _meaning(text):
        raise ValueError(f"the files would mean something else, and are left as they are: {faults}")
    return aligned


def _rows_of(text: PolicyText) -> dict[str, dict[int, _Row]]:
    """Give each line that means something, by file and number."""
    rows: dict[str, dict[int, _Row]] = {}
    for rule in text.rules:
        rows.setdefault(rule.file, {})[rule.line] = _row("p", rule.cells)
    for link in text.roles:
        rows.setdefault(link.file, {})[link.line] = _row("g", (link.who, link.role, link.tenant))
    for group in text.groups:
        rows.setdefault(group.file, {})[group.line] = _row("g2", (group.tool, group.group))
    return rows


def _row(kind: str, cells: Iterable[str]) -> _Row:
    return _Row(kind, (kind, *map(_spelled, cells)))


def _spelled(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if "," in cell or '"' in cell else cell


def _file(body: str, rows: Mapping[int, _Row]) -> str:
    lines = [line.rstrip() for line in body.split("\n")]
    found = {number: rows.get(number) or _head(line) for number, line in enumerate(lines, 1)}
    widths = _widths(row for row in found.values() if row is not None)
    written = [
        line if (row := found[number]) is None else _line(row, widths) for number, line in enumerate(lines, 1)
    ]
    return "\n".join(written).rstrip("\n") + "\n" if any(lines) else ""


def _head(line: str) -> _Row | None:
    """Read a comment that names the columns of a kind of line."""
    if not line.startswith("#"):
        return None
    kind, *names = (cell.strip() for cell in line[1:].split(","))
    return _Row(kind, (f"# {kind}", *names)) if _HEADS.get(kind) == tuple(names) else None


def _widths(rows: Iterable[_Row]) -> dict[tuple[str, int], int]:
    widths: dict[tuple[str, int], int] = {}
    for row in rows:
        for place, cell in enumerate(row.cells):
            if len(cell) <= WIDEST:
                widths[row.kind, place] = max(len(cell), widths.get((row.kind, place), 0))
    return widths


def _line(row: _Row, widths: Mapping[tuple[str, int], int]) -> str:
    *cells, last = row.cells
    padded = (f"{cell},".ljust(widths.get((row.kind, place), 0) + 2) for place, cell in enumerate(cells))
    return "".join(cell if cell.endswith(" ") else f"{cell} " for cell in padded) + last


def _meaning(text: PolicyText) -> tuple[object, ...]:
    """What the files say, apart from where it stands in a line."""
    return (
        [(rule.cells, rule.file, rule.line) for rule in text.rules],
        [(link.who, link.role, link.tenant) for link in text.roles],
        [(link.tool, link.group) for link in text.groups],
    )
