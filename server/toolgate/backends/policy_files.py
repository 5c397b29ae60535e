"""Reads the files under `policies/`, strictly: every line is understood, or the policy is refused.

Casbin's own loader ignores a line whose kind or effect is in the wrong case, or that has a byte-order mark
before it, and so turns a typo in a deny into an allow.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from toolgate.backends.conditions import Condition
from toolgate.core.canonical import digest
from toolgate.core.errors import Fault
from toolgate.core.record import JsonObject

NONE: Final = "-"
RULE_CELLS: Final = ("id", "effect", "who", "tenant", "tool", "action", "when", "unless", "with")

_REFERENCE: Final = "see docs/reference/policy.md"
_QUOTING: Final = 'quote a whole cell: "a, b"; a quote inside it is written twice'
_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}")
_WHO: Final = re.compile(r"\*|user:[^\s,\"*]+|[A-Za-z0-9_.-]+")
_PLAIN: Final = re.compile(r"\*|[A-Za-z0-9_.-]+")
_TOOL: Final = re.compile(r"[a-z0-9_.*-]+")
_GROUPED: Final = re.compile(r"[a-z0-9_.-]+")
_CELL: Final = re.compile(r'\s*(?P<cell>"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<plain>[^\s",][^,]*)?)(?P<end>,|\Z)')
_APPROVAL: Final = re.compile(r"approval:([A-Za-z0-9_.-]+)")
_ACTIONS: Final = frozenset({"*", "read", "write", "destroy"})


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row of `rules.csv`."""

    cells: tuple[str, ...]
    """All nine, as Casbin gets them."""
    id: str
    effect: Literal["allow", "deny"]
    who: str
    tenant: str
    tool: str
    action: str
    when: Condition | None
    approver: str | None
    """The role whose approval lifts a deny; None when nothing does."""
    file: str
    line: int


@dataclass(frozen=True, kw_only=True)
class PolicyText:
    """One version of the policy, read."""

    model: str
    rules: tuple[Rule, ...]
    roles: tuple[tuple[str, str, str], ...]
    """Who, the role that it has, and the tenant in which."""
    groups: tuple[tuple[str, str], ...]
    """A tool, and the group that it belongs to."""
    digest: str


@dataclass
class _Found:
    rules: list[Rule] = field(default_factory=list[Rule])
    roles: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    groups: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    faults: list[Fault] = field(default_factory=list[Fault])
    lines_of_ids: dict[str, str] = field(default_factory=dict[str, str])


def read_policy(folder: Path) -> tuple[PolicyText | None, list[Fault]]:
    """Read `model.conf` and every `.csv` of `folder`. With any fault there is no policy, and all are told."""
    found = _Found()
    texts: JsonObject = {}
    for file in [folder / "model.conf", *sorted(folder.glob("*.csv"))]:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            found.faults.append(_fault(file, "file", f"cannot be read ({error})", "restore it"))
            continue
        texts[file.name] = text
        if file.suffix == ".csv":
            for number, line in enumerate(text.split("\n"), 1):
                _Line(file, number, line.rstrip("\r"), found).read()
    if not found.faults and not found.rules:
        fault = _fault(folder / "rules.csv", "file", "there is no rule", "add one; none means no")
        found.faults.append(fault)
    if found.faults:
        return None, found.faults
    return PolicyText(
        model=str(texts["model.conf"]),
        rules=tuple(found.rules),
        roles=tuple(found.roles),
        groups=tuple(found.groups),
        digest=digest(texts),
    ), []


def unknown_tools(text: PolicyText, admitted: Collection[str]) -> list[Fault]:
    """Tell each tool that a rule or a group names and no manifest admits: such a deny would deny nothing."""
    known = {*admitted, *(group for _, group in text.groups)}
    faults = [
        _unknown_tool(f"policies/{rule.file}", f"line {rule.line}", rule.tool)
        for rule in text.rules
        if "*" not in rule.tool and rule.tool not in known
    ]
    return faults + [
        _unknown_tool("policies", f"the g2 row of {group}", tool)
        for tool, group in text.groups
        if tool not in known
    ]


def _unknown_tool(file: str, place: str, tool: str) -> Fault:
    problem = f"no manifest admits a tool {tool!r}, and no group is called so"
    return Fault(file=file, place=place, problem=problem, remedy="correct it, or remove the row")


class _Line:
    """One line of a `.csv`, with its place for faults."""

    def __init__(self, file: Path, number: int, text: str, found: _Found) -> None:
        self._file, self._number, self._text, self._found = file, number, text, found
        self._clean = True
        self._columns: list[int] = []

    def read(self) -> None:
        if self._number == 1 and self._text.startswith("\ufeff"):
            self._tell(1, "the file begins with a byte-order mark", "save it without one")
            return
        if not self._text.strip() or self._text.lstrip().startswith("#"):
            return
        found = _cells(self._text)
        if found is None:
            self._tell(1, "not proper CSV: a quoted cell does not end where it should", _QUOTING)
            return
        self._columns = [column for column, _ in found]
        cells = [cell for _, cell in found]
        match cells[0]:
            case "p":
                self._rule(cells[1:])
            case "g":
                self._role(cells[1:])
            case "g2":
                self._group(cells[1:])
            case kind:
                problem = f"a line begins with p, g or g2, not {kind!r}"
                self._tell(1, problem, "correct it, or put # before a comment")

    def _rule(self, cells: list[str]) -> None:
        if not self._has(cells, RULE_CELLS):
            return
        id_, effect, who, tenant, tool, action, when, unless, with_ = cells
        self._expect(0, id_, _ID, "a short name that begins with a letter")
        if id_ in self._found.lines_of_ids:
            problem = f"the id {id_!r} is already used in {self._found.lines_of_ids[id_]}"
            self._tell(self._column(0), problem, "give it an id of its own")
        self._found.lines_of_ids.setdefault(id_, f"{self._file.name} line {self._number}")
        if effect not in {"allow", "deny"}:
            self._tell(self._column(1), f"the effect is {effect!r}", "write allow or deny")
        self._expect(2, who, _WHO, "*, a role, or user:SUBJECT")
        self._expect(3, tenant, _PLAIN, "* or a tenant")
        self._expect(4, tool, _TOOL, "a tool or a group, with * for any text")
        if action not in _ACTIONS:
            self._tell(self._column(5), f"the action is {action!r}", "write read, write, destroy or *")
        condition = self._condition(when)
        approver = self._approver(unless, effect)
        if with_ != NONE:
            problem = "this version enforces no obligations, and says so rather than ignore one"
            self._tell(self._column(8), problem, f"write {NONE}")
        if self._clean:
            rule = Rule(
                cells=tuple(cells),
                id=id_,
                effect="allow" if effect == "allow" else "deny",
                who=who,
                tenant=tenant,
                tool=tool,
                action=action,
                when=condition,
                approver=approver,
                file=self._file.name,
                line=self._number,
            )
            self._found.rules.append(rule)

    def _role(self, cells: list[str]) -> None:
        if self._has(cells, ("who", "role", "tenant")):
            for place, cell in enumerate(cells):
                expected = (_WHO, _PLAIN, _PLAIN)[place]
                self._expect(place, cell, expected, "user:SUBJECT or a role, a role, a tenant")
                if cell == "*":
                    self._tell(self._column(place), "a role is never given to all", "name it")
            self._found.roles.append((cells[0], cells[1], cells[2]))

    def _group(self, cells: list[str]) -> None:
        if self._has(cells, ("tool", "group")):
            for place, cell in enumerate(cells):
                self._expect(place, cell, _GROUPED, "a tool and the group that it is in, in full")
            self._found.groups.append((cells[0], cells[1]))

    def _condition(self, text: str) -> Condition | None:
        if text == NONE:
            return None
        try:
            return Condition(text)
        except ValueError as error:
            self._tell(self._column(6), f"the condition: {error}", _REFERENCE)
            return None

    def _approver(self, text: str, effect: str) -> str | None:
        if text == NONE:
            return None
        approval = _APPROVAL.fullmatch(text)
        if approval is None or effect != "deny":
            problem = f"the unless cell is {text!r}"
            self._tell(self._column(7), problem, "a deny may say approval:ROLE, an allow only -")
            return None
        return approval[1]

    def _has(self, cells: list[str], names: tuple[str, ...]) -> bool:
        if len(cells) == len(names):
            return True
        problem = f"the line has {len(cells) + 1} cells, not {len(names) + 1}"
        self._tell(1, problem, f"its cells are: {', '.join(names)}; an empty one is written {NONE}")
        return False

    def _expect(self, place: int, cell: str, pattern: re.Pattern[str], words: str) -> None:
        if not pattern.fullmatch(cell):
            self._tell(self._column(place), f"{cell[:40]!r} stands where {words} is expected", _REFERENCE)

    def _column(self, place: int) -> int:
        return self._columns[place + 1]

    def _tell(self, column: int, problem: str, remedy: str) -> None:
        self._clean = False
        place = f"line {self._number}, column {column}"
        self._found.faults.append(_fault(self._file, place, problem, remedy))


def _cells(line: str) -> list[tuple[int, str]] | None:
    """Give each cell with the column where it begins, from 1; None if the quotes are wrong."""
    cells: list[tuple[int, str]] = []
    place = 0
    while found := _CELL.match(line, place):
        quoted = found["quoted"]
        cell = (found["plain"] or "") if quoted is None else quoted.replace('""', '"')
        cells.append((found.start("cell") + 1, cell.strip()))
        if not found["end"]:
            return cells
        place = found.end()
    return None


def _fault(file: Path, place: str, problem: str, remedy: str) -> Fault:
    return Fault(file=f"policies/{file.name}", place=place, problem=problem, remedy=remedy)
