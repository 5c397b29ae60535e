"""Reads `cases/*.toml`: calls, and what is expected of a policy. Every key is understood, or refused."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AwareDatetime, Field, ValidationError

from toolgate.backends.policy.reading import CASES, obligations_in
from toolgate.backends.policy.text import NONE, PolicyText
from toolgate.core.arguments import out_of_bounds
from toolgate.core.call import Caller
from toolgate.core.decision import Past, Question, Verdict
from toolgate.core.errors import Fault
from toolgate.core.obligations import Obligations
from toolgate.core.record import Record
from toolgate.core.tool import Tool

ISSUER: Final = "urn:toolgate:cases"
"""Who vouches for the people of cases: nobody."""
NO_MOMENT: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""When a call comes in that says no `at`: no rule that could match looks at the clock."""

Toml: TypeAlias = str | float | date | time | list["Toml"] | dict[str, "Toml"]

Moment: TypeAlias = Annotated[
    AwareDatetime,
    Field(strict=True, ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC)),
]

_REFERENCE: Final = "see docs/reference/policy.md, cases"
_HEADER: Final = re.compile(r"[ \t]*\[\[[ \t]*case[ \t]*\]\]")
_STEP: Final = timedelta(minutes=1)


class Person(Record):
    """Somebody of `[people]`, as a verified token would name them."""

    subject: str | None = Field(default=None, min_length=1)
    """Said where it is another than the person's name in the file."""
    tenant: str | None = Field(default=None, min_length=1)
    client: str = ""
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()


class WrittenCase(Record):
    """One `[[case]]` table."""

    name: str = Field(min_length=1, max_length=200)
    as_: str = Field(alias="as")
    """A name of `[people]`."""
    tool: str
    args: dict[str, Any] = Field(default_factory=dict)
    at: Moment | None = None
    run: tuple[str, ...] | None = None
    """Tools of the run's earlier calls, the first one first; left out, the call names no run."""
    expect: Verdict
    rule: str | None = None
    """The deciding rule, or `-` where none matches."""
    approvers: frozenset[str] | None = None
    with_: str | None = Field(default=None, alias="with")
    """All obligations, as a rule's `with` cell has them; `-` for none."""
    unknown: frozenset[str] | None = None
    """Every rule that cannot be told."""
    would_be: Verdict | Literal["-"] | None = None
    """What rules in shadow would say; `-` where they change nothing."""


class Defaults(Record):
    """What the file's cases have in common."""

    as_: str | None = Field(default=None, alias="as")
    tenant: str | None = Field(default=None, min_length=1)
    at: Moment | None = None
    tool: str | None = None


class Document(Record):
    """One file of cases."""

    defaults: Defaults = Field(default_factory=Defaults)
    people: dict[str, Person] = Field(default_factory=dict)
    args: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By tool: arguments that a case need not repeat."""
    case: tuple[dict[str, Any], ...] = ()
    uncovered: dict[str, str] = Field(default_factory=dict)
    """By id: why a rule has not the cases that it needs."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call, and what is expected of the policy."""

    file: str
    """Its name under `policies/`."""
    line: int
    name: str
    question: Question
    says_when: bool
    expect: Verdict
    rule: str | None
    approvers: frozenset[str] | None
    obligations: Obligations | None
    unknown: frozenset[str] | None
    would_be: Verdict | Literal["-"] | None

    @property
    def place(self) -> str:
        """Where it stands, for faults and failures."""
        return f"line {self.line}, case {self.name!r}" if self.line else f"case {self.name!r}"


@dataclass(frozen=True)
class Excuse:
    """An entry of `[uncovered]`: why a rule has not the cases that it needs."""

    file: str
    rule: str
    why: str


@dataclass
class CaseFiles:
    """What all files of cases hold."""

    cases: list[Case] = field(default_factory=list[Case])
    people: list[Caller] = field(default_factory=list[Caller])
    excuses: list[Excuse] = field(default_factory=list[Excuse])
    faults: list[Fault] = field(default_factory=list[Fault])


def read_cases(text: PolicyText, tools: Sequence[Tool]) -> CaseFiles:
    """Read every file of cases of `text`. A case with a fault is left out, and its fault told."""
    found = CaseFiles()
    named = {tool.name: tool for tool in tools}
    rules = {rule.id for rule in text.rules}
    for name, body in sorted(text.files.items()):
        if name.startswith(f"{CASES}/"):
            _File(name, body, named, rules, found).read()
    return found


class _File:
    """One file of cases, with its place for faults."""

    def __init__(
        self, name: str, body: str, tools: Mapping[str, Tool], rules: set[str], found: CaseFiles
    ) -> None:
        self._name, self._body, self._tools, self._rules, self._found = name, body, tools, rules, found
        self._names: set[str] = set()
        self._document = Document()
        self._people: dict[str, Caller] = {}

    def read(self) -> None:
        document = self._parsed()
        if document is None:
            return
        self._document = document
        self._people = dict(self._callers())
        self._found.people.extend(self._people.values())
        lines = [number for number, line in enumerate(self._body.split("\n"), 1) if _HEADER.match(line)]
        exact = len(lines) == len(document.case)
        for number, written in enumerate(document.case):
            self._case(written, lines[number] if exact else 0)
        for rule, why in document.uncovered.items():
            self._excuse(rule, why)

    def _parsed(self) -> Document | None:
        try:
            return Document.model_validate(tomllib.loads(self._body))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            self._tell("syntax", str(error), "correct the TOML")
        except ValidationError as error:
            self._tell_all("", error, Document)
        return None

    def _callers(self) -> Iterator[tuple[str, Caller]]:
        for name, person in self._document.people.items():
            tenant = person.tenant or self._document.defaults.tenant
            if tenant is None:
                self._tell(
                    f"people.{name}", "nobody says in which tenant", "add tenant, here or in [defaults]"
                )
                continue
            yield (
                name,
                Caller(
                    subject=person.subject or name,
                    issuer=ISSUER,
                    tenant=tenant,
                    client=person.client,
                    roles=person.roles,
                    scopes=person.scopes,
                ),
            )

    def _case(self, written: dict[str, Any], line: int) -> None:
        defaults = {"as": self._document.defaults.as_, "tool": self._document.defaults.tool}
        filled = {name: value for name, value in defaults.items() if value is not None} | written
        title = f"case {written.get('name', '')!r}" if isinstance(written.get("name"), str) else "case"
        place = f"line {line}, {title}" if line else title
        try:
            case = WrittenCase.model_validate(filled)
        except ValidationError as error:
            self._tell_all(place, error, WrittenCase)
            return
        faults = list(self._faults_of(case))
        for key, problem, remedy in faults:
            self._tell(f"{place}: {key}", problem, remedy)
        self._names.add(case.name)
        if not faults and case.as_ in self._people:
            self._found.cases.append(self._made(case, line))

    def _faults_of(self, case: WrittenCase) -> Iterator[tuple[str, str, str]]:
        """Give each key of `case` that cannot be used: the key, the problem, the remedy."""
        if case.name in self._names:
            yield "name", "another case of this file has it", "give each a name of its own"
        if case.as_ not in self._people and case.as_ not in self._document.people:
            yield "as", f"there is no {case.as_[:40]!r} in [people]", _nearest(case.as_, self._people)
        for name in (case.tool, *(case.run or ())):
            if name not in self._tools:
                key = "tool" if name == case.tool else "run"
                yield key, f"no manifest admits a tool {name[:80]!r}", _nearest(name, self._tools)
        for key, ids in (("rule", {case.rule} - {None, NONE}), ("unknown", case.unknown or frozenset[str]())):
            for id_ in sorted(str(one) for one in ids if one not in self._rules):
                yield key, f"there is no rule {id_[:40]!r}", _nearest(id_, self._rules)
        if case.with_ not in {None, NONE}:
            try:
                obligations_in(str(case.with_))
            except ValueError as error:
                yield "with", str(error), "write it as a rule's with cell"
        if case.tool in self._tools and (fault := self._argument_fault(case)):
            yield "args", fault, "such a call is refused as bad_arguments, before any rule is asked"

    def _argument_fault(self, case: WrittenCase) -> str | None:
        arguments = self._arguments(case)
        if moment := _moment_in(arguments, "args"):
            return f"{moment} is a date or a time of TOML; write it in quotes"
        return out_of_bounds(arguments) or self._tools[case.tool].input.fault_in(arguments)

    def _arguments(self, case: WrittenCase) -> dict[str, Any]:
        return self._document.args.get(case.tool, {}) | case.args

    def _made(self, case: WrittenCase, line: int) -> Case:
        at = case.at or self._document.defaults.at
        moment = at or NO_MOMENT
        question = Question(
            caller=self._people[case.as_],
            tool=self._tools[case.tool],
            arguments=self._arguments(case),
            at=moment,
            run=None if case.run is None else tuple(_before(moment, case.run)),
        )
        return Case(
            file=self._name,
            line=line,
            name=case.name,
            question=question,
            says_when=at is not None,
            expect=case.expect,
            rule=case.rule,
            approvers=case.approvers,
            obligations=_obligations(case.with_),
            unknown=case.unknown,
            would_be=case.would_be,
        )

    def _excuse(self, rule: str, why: str) -> None:
        place = f"uncovered.{rule[:40]}"
        if rule not in self._rules:
            self._tell(place, f"there is no rule {rule[:40]!r}", _nearest(rule, self._rules))
        elif not why.strip():
            self._tell(place, "it gives no reason", "say why the rule has not the cases that it needs")
        else:
            self._found.excuses.append(Excuse(self._name, rule, why.strip()))

    def _tell_all(self, place: str, error: ValidationError, model: type[Record]) -> None:
        known = [field.alias or name for name, field in model.model_fields.items()]
        for fault in error.errors(include_input=False, include_url=False):
            key = ".".join(map(str, fault["loc"]))
            problem, remedy = fault["msg"], _REFERENCE
            if fault["type"] == "extra_forbidden":
                problem, remedy = "there is no such key", _nearest(str(fault["loc"][-1]), known)
            self._tell(f"{place}: {key}" if place else key, problem, remedy)

    def _tell(self, place: str, problem: str, remedy: str) -> None:
        self._found.faults.append(Fault(f"policies/{self._name}", place, problem, remedy))


def _before(moment: datetime, tools: Sequence[str]) -> Iterator[Past]:
    """Give earlier calls, oldest first, a minute apart, the last one a minute before `moment`."""
    for steps, tool in zip(range(len(tools), 0, -1), tools, strict=True):
        yield Past(tool=tool, at=moment - steps * _STEP)


def _obligations(written: str | None) -> Obligations | None:
    if written is None:
        return None
    return Obligations() if written == NONE else obligations_in(written)


def _moment_in(value: Toml, path: str) -> str | None:
    """Say where a value of TOML stands that JSON has not."""
    match value:
        case date() | time():
            return path
        case dict():
            parts = [(f"{path}.{name}", part) for name, part in value.items()]
        case list():
            parts = [(f"{path}[{place}]", part) for place, part in enumerate(value)]
        case _:
            return None
    return next(filter(None, (_moment_in(part, below) for below, part in parts)), None)


def _nearest(word: str, known: Mapping[str, object] | Sequence[str] | set[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"write {near[0]}, if that is meant" if near else "correct it"
