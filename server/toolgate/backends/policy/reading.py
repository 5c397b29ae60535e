"""Reads the files under `policies/`, strictly: every line is understood, or the policy is refused.

Casbin's own loader ignores a line whose kind or effect is in the wrong case, or that has a byte-order mark
before it, and so turns a typo in a deny into an allow.
"""

import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast, get_args

from toolgate.backends.policy.conditions import Condition
from toolgate.backends.policy.text import NONE, RULE_CELLS, Effect, GroupLink, PolicyText, RoleLink, Rule
from toolgate.core.canonical import digest
from toolgate.core.errors import Fault
from toolgate.core.obligations import Obligations
from toolgate.core.record import JsonObject
from toolgate.core.tool import Capture

MODEL_FILE: Final = "model.conf"
CASES: Final = "cases"
DEEPEST: Final = 100
"""Steps from a user to a role, or from a tool to a group."""
MOST_BYTES: Final = 64 * 2**20
"""Of one file."""

_REFERENCE: Final = "see docs/reference/policy.md"
_QUOTING: Final = 'quote a whole cell: "a, b"; a quote inside it is written twice'
_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}")
_WHO: Final = re.compile(r"\*|user:[^\s,\"*]+|[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_PLAIN: Final = re.compile(r"\*|[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_UNSEEN: Final = re.compile(
    r"[^\S \t\r\n]|[\x00-\x08\x0e-\x1f\x7f-\x9f\xad]"
    r"|[\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""White space other than blanks, tabs and line ends, and what controls how others are shown: a reader would
not see what stands there, or see it elsewhere."""
_TOOL: Final = re.compile(r"[a-z0-9_.*-]+")
_GROUPED: Final = re.compile(r"[a-z0-9_.-]+")
_CELL: Final = re.compile(r'\s*(?P<cell>"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<plain>[^\s",][^,]*)?)(?P<end>,|\Z)')
_APPROVAL: Final = re.compile(r"approval:([A-Za-z0-9_.-]+)")
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_ROWS: Final = re.compile(r"[1-9][0-9]{0,8}")
_ACTIONS: Final = frozenset({"*", "read", "write", "destroy"})
_EFFECTS: Final[Mapping[str, tuple[Effect, bool]]] = {
    "allow": ("allow", False),
    "deny": ("deny", False),
    "oblige": ("oblige", False),
    "shadow-allow": ("allow", True),
    "shadow-deny": ("deny", True),
}
_OBLIGATIONS: Final = (
    "this version enforces mask=FIELD|FIELD, rows=NUMBER, credential=dynamic and capture="
    + "|".join(get_args(Capture))
)


def read_policy(folder: Path) -> tuple[PolicyText | None, list[Fault]]:
    """Read the files of `folder`. With any fault there is no policy, and all are told."""
    files, faults = read_files(folder)
    if not faults:
        return parse_policy(files)
    rules = any(name.endswith(".csv") for name in files)
    return None, faults + (parse_policy(files)[1] if rules else [])


def read_files(folder: Path) -> tuple[dict[str, str], list[Fault]]:
    """Read the texts of all files of the policy in `folder`, by their names in it."""
    texts: dict[str, str] = {}
    faults: list[Fault] = []
    for name, file in _found_in(folder):
        if not _is_read(name):
            problem = "a file of this name is not read, and a rule in it would be none"
            faults.append(_fault(name, "file", problem, "rename it, move it away, or hide it with a dot"))
            continue
        try:
            name.encode()
            texts[name] = _text_of(file)
        except _TooLarge:
            faults.append(_fault(name, "file", f"larger than {MOST_BYTES >> 20} MiB", "divide it"))
        except (OSError, UnicodeError) as error:
            shown = name.encode("utf-8", "backslashreplace").decode()
            faults.append(_fault(shown, "file", f"cannot be read ({_said(error)})", "restore it"))
    return texts, faults


class _TooLarge(Exception):  # noqa: N818 - named by what is the matter
    """A file is beyond all bounds."""


def _text_of(file: Path) -> str:
    """Read a plain file; what only looks like one could make the reader wait for ever."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(f"{file.name} is no plain file")
    with file.open("rb") as opened:
        data = opened.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise _TooLarge
    return data.decode("utf-8")


def _said(error: Exception) -> str:
    return str(error).encode("utf-8", "backslashreplace").decode()


def parse_policy(files: Mapping[str, str]) -> tuple[PolicyText | None, list[Fault]]:
    """Read texts as the files of a policy. With any fault there is no policy, and all are told."""
    found = _Found()
    for name, text in sorted(files.items()):
        if text.startswith("\ufeff"):
            remedy = "save it without one"
            found.faults.append(
                _fault(name, "line 1, column 1", "the file begins with a byte-order mark", remedy)
            )
        elif name.endswith(".csv"):
            found.faults.extend(_unseen(name, text))
            for number, line in enumerate(_lines(text), 1):
                _Line(name, number, line, found).read()
    found.faults.extend(_circles("g", [(link.tenant, link.who, link.role, link) for link in found.roles]))
    found.faults.extend(_circles("g2", [("", link.tool, link.group, link) for link in found.groups]))
    if not found.faults and not found.rules:
        found.faults.append(_fault("rules.csv", "file", "there is no rule", "add one; none means no"))
    if found.faults:
        return None, found.faults
    return PolicyText(
        files=dict(files),
        rules=tuple(found.rules),
        roles=tuple(found.roles),
        groups=tuple(found.groups),
        digest=digest(cast("JsonObject", dict(files))),
    ), []


def _unseen(name: str, text: str) -> Iterator[Fault]:
    """Tell characters that a reader of the file would not see, in comments too."""
    for odd in _UNSEEN.finditer(text):
        before = text[: odd.start()]
        line, column = len(_lines(before)), odd.start() - max(before.rfind("\n"), before.rfind("\r"))
        problem = f"the character U+{ord(odd[0]):04X} cannot be seen, or breaks the line for some readers"
        yield _fault(name, f"line {line}, column {column}", problem, "remove it")
        return  # one tells enough: a file that has them has many


def _circles(kind: str, links: Sequence[tuple[str, str, str, RoleLink | GroupLink]]) -> Iterator[Fault]:
    """Tell a row that closes a circle, or makes a chain longer than Casbin follows."""
    up: dict[tuple[str, str], list[str]] = {}
    for where, name, above, _ in links:
        up.setdefault((where, name), []).append(above)
    heights: dict[tuple[str, str], int] = {}
    for where, name, _, link in links:
        if _height(up, heights, (where, name)) > DEEPEST:
            problem = f"the {kind} rows above {name!r} lead in a circle, or over more than {DEEPEST} steps"
            yield _fault(link.file, f"line {link.line}", problem, "remove the row that closes it")
            return


def _height(
    up: Mapping[tuple[str, str], Sequence[str]],
    heights: dict[tuple[str, str], int],
    begin: tuple[str, str],
) -> int:
    """Count the steps from a name to the end of the longest chain above it; in a circle, too many."""
    way, highest = [(begin, iter(up.get(begin, ())))], [0]
    while way:
        at, rest = way[-1]
        above = next(rest, None)
        if above is None:
            way.pop()
            heights[at] = highest.pop()
            if highest:
                highest[-1] = max(highest[-1], heights[at] + 1)
        elif (one := (at[0], above)) in heights:
            highest[-1] = max(highest[-1], heights[one] + 1)
        elif len(way) > DEEPEST:
            return DEEPEST + 1
        else:
            way.append((one, iter(up.get(one, ()))))
            highest.append(0)
    return heights[begin]


def _found_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give what lies in `folder`: a name in it, and the file. Hidden files, notes, backups do not count."""
    yield MODEL_FILE, folder / MODEL_FILE
    for place in (folder, folder / CASES):
        for file in sorted(place.glob("[!.]*")):
            name = file.relative_to(folder).as_posix()
            if name not in {MODEL_FILE, CASES} and file.suffix != ".md" and not name.endswith("~"):
                yield name, file


def _is_read(name: str) -> bool:
    where, _, file = name.rpartition("/")
    return name == MODEL_FILE or file.endswith(".toml" if where == CASES else ".csv")


@dataclass
class _Found:
    rules: list[Rule] = field(default_factory=list[Rule])
    roles: list[RoleLink] = field(default_factory=list[RoleLink])
    groups: list[GroupLink] = field(default_factory=list[GroupLink])
    faults: list[Fault] = field(default_factory=list[Fault])
    lines_of_ids: dict[str, str] = field(default_factory=dict[str, str])
    conditions: dict[str, Condition] = field(default_factory=dict[str, Condition])


class _Line:
    """One line of a `.csv`, with its place for faults."""

    def __init__(self, file: str, number: int, text: str, found: _Found) -> None:
        self._file, self._number, self._text, self._found = file, number, text, found
        self._clean = True
        self._columns: tuple[int, ...] = ()

    def read(self) -> None:
        if not self._text.strip() or self._text.lstrip().startswith("#"):
            return
        found = _cells(self._text)
        if found is None:
            self._tell(1, "not proper CSV: a quoted cell does not end where it should", _QUOTING)
            return
        cells, self._columns = found
        match cells[0]:
            case "p":
                self._rule(cells[1:])
            case "g":
                self._role(cells[1:])
            case "g2":
                self._group(cells[1:])
            case kind:
                problem = f"a line begins with p, g or g2, not {kind[:40]!r}"
                self._tell(1, problem, "correct it, or put # before a comment")

    def _rule(self, cells: list[str]) -> None:
        if not self._has(cells, RULE_CELLS):
            return
        id_, word, who, tenant, tool, action, when, unless, with_ = cells
        self._expect(0, id_, _ID, "a short name that begins with a letter")
        self._once(id_)
        effect, shadow = _EFFECTS.get(word, ("deny", False))
        if word not in _EFFECTS:
            self._tell(self._column(1), f"the effect is {word[:40]!r}", f"write {' or '.join(_EFFECTS)}")
        self._expect(2, who, _WHO, "*, a role, or user:SUBJECT")
        self._expect(3, tenant, _PLAIN, "* or a tenant")
        self._expect(4, tool, _TOOL, "a tool or a group, with * for any text")
        if action not in _ACTIONS:
            self._tell(self._column(5), f"the action is {action[:40]!r}", "write read, write, destroy or *")
        condition = self._condition(when)
        approver = self._approver(unless, effect)
        obligations = self._obligations(with_, effect if word in _EFFECTS else "allow", shadow=shadow)
        if self._clean:
            rule = Rule(
                cells=tuple(cells),
                id=id_,
                effect=effect,
                shadow=shadow,
                who=who,
                tenant=tenant,
                tool=tool,
                action=action,
                when=condition,
                approver=approver,
                obligations=obligations,
                file=self._file,
                line=self._number,
                columns=self._columns[1:],
            )
            self._found.rules.append(rule)

    def _once(self, id_: str) -> None:
        if id_ in self._found.lines_of_ids:
            problem = f"the id {id_[:40]!r} is already used in {self._found.lines_of_ids[id_]}"
            self._tell(self._column(0), problem, "give it an id of its own")
        self._found.lines_of_ids.setdefault(id_, f"{self._file} line {self._number}")

    def _role(self, cells: list[str]) -> None:
        if self._has(cells, ("who", "role", "tenant")):
            for place, cell in enumerate(cells):
                expected = (_WHO, _PLAIN, _PLAIN)[place]
                self._expect(place, cell, expected, "user:SUBJECT or a role, a role, a tenant")
                if cell == "*":
                    self._tell(self._column(place), "a role is never given to all", "name it")
            who, role, tenant = cells
            self._found.roles.append(RoleLink(who, role, tenant, self._file, self._number))

    def _group(self, cells: list[str]) -> None:
        if self._has(cells, ("tool", "group")):
            for place, cell in enumerate(cells):
                self._expect(place, cell, _GROUPED, "a tool and the group that it is in, in full")
            tool, group = cells
            self._found.groups.append(GroupLink(tool, group, self._file, self._number))

    def _condition(self, text: str) -> Condition | None:
        if text == NONE:
            return None
        known = self._found.conditions.get(text)
        if known is not None:
            return known
        try:
            condition = self._found.conditions[text] = Condition(text)
        except ValueError as error:
            inside: int = getattr(error, "offset", 0)
            column = self._column(6) + inside + (self._text[self._column(6) - 1] == '"')
            self._tell(column, f"the condition: {error}", "see docs/reference/conditions.md")
            return None
        return condition

    def _approver(self, text: str, effect: Effect) -> str | None:
        if text == NONE:
            return None
        approval = _APPROVAL.fullmatch(text)
        if approval is None or effect != "deny":
            problem = f"the unless cell is {text[:40]!r}"
            self._tell(self._column(7), problem, "a deny may say approval:ROLE, everything else only -")
            return None
        return approval[1]

    def _obligations(self, text: str, effect: Effect, *, shadow: bool) -> Obligations:
        if text == NONE:
            if effect == "oblige":
                self._tell(self._column(8), "it obliges to nothing", f"{_OBLIGATIONS}; {_REFERENCE}")
            return Obligations()
        if effect == "deny" or shadow:
            problem = "only an allow or an oblige that is in force can oblige to something"
            self._tell(self._column(8), problem, f"write {NONE}, and add a rule with the effect oblige")
            return Obligations()
        try:
            return obligations_in(text)
        except ValueError as error:
            self._tell(self._column(8), str(error), f"{_OBLIGATIONS}; {_REFERENCE}")
            return Obligations()

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


def obligations_in(text: str) -> Obligations:
    """Read a `with` cell, such as `mask=email|phone; rows=100`.

    Raises:
        ValueError: it says something that this version does not enforce, or says it twice.
    """
    said: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name in said:
            raise ValueError(f"{name} is said twice")
        said[name] = value
    if strangers := said.keys() - {"mask", "rows", "capture", "credential"}:
        raise ValueError(f"the obligation {min(strangers)[:40]!r} would not be enforced")
    mask = (
        frozenset(field.strip() for field in said["mask"].split("|")) if "mask" in said else frozenset[str]()
    )
    for name in sorted(mask):
        if not _FIELD.fullmatch(name):
            raise ValueError(f"{name[:40]!r} is no name of a field")
    if "rows" in said and not _ROWS.fullmatch(said["rows"]):
        raise ValueError(f"rows is {said['rows'][:40]!r}")
    if "capture" in said and said["capture"] not in get_args(Capture):
        raise ValueError(f"capture is {said['capture'][:40]!r}")
    if said.get("credential", "dynamic") != "dynamic":
        raise ValueError(f"credential is {said['credential'][:40]!r}")
    return Obligations(
        mask=mask,
        rows=int(said["rows"]) if "rows" in said else None,
        capture=cast("Capture", said["capture"]) if "capture" in said else None,
        dynamic="credential" in said,
    )


def _lines(text: str) -> list[str]:
    """Divide a text where any editor would; other separators that Unicode knows are parts of a cell."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _cells(line: str) -> tuple[list[str], tuple[int, ...]] | None:
    """Give the cells, and the column where each begins, from 1; None if the quotes are wrong."""
    if '"' not in line:
        return _plain_cells(line)
    cells: list[str] = []
    columns: list[int] = []
    place = 0
    while found := _CELL.match(line, place):
        quoted = found["quoted"]
        cells.append(((found["plain"] or "") if quoted is None else quoted.replace('""', '"')).strip())
        columns.append(found.start("cell") + 1)
        if not found["end"]:
            return cells, tuple(columns)
        place = found.end()
    return None


def _plain_cells(line: str) -> tuple[list[str], tuple[int, ...]]:
    cells: list[str] = []
    columns: list[int] = []
    place = 1
    for cell in line.split(","):
        bare = cell.lstrip()
        columns.append(place + len(cell) - len(bare))
        cells.append(bare.rstrip())
        place += len(cell) + 1
    return cells, tuple(columns)


def _fault(name: str, place: str, problem: str, remedy: str) -> Fault:
    return Fault(file=f"policies/{name}", place=place, problem=problem, remedy=remedy)
