"""What the ledger keeps of one person: which entries speak of them, and which names are theirs alone."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine, func, select

from toolgate.backends.erased_names import KEPT_REASONS
from toolgate.backends.sql_tables import CLAIM, ENTRY, PAYLOAD, PSEUDONYM, TIP

WINDOW: Final = 20_000
"""Entries that are read in one go."""
MOST_AT_ONCE: Final = 400
"""Entries that one statement names."""
LOOKED_AT: Final = (ENTRY.c.idx, ENTRY.c.kind, ENTRY.c.call_id, ENTRY.c.who, ENTRY.c.run, ENTRY.c.body)
_CLIENT: Final = re.compile(rb'"client":"(p[0-9a-f]{20})"')
"""Where an entry names its client: in no text of an entry do quotes stand without a backslash."""

Show = Callable[[int, int | None], None]
"""Hears how many entries were looked at, and of how many."""


@dataclass(frozen=True, kw_only=True, order=True)
class Person:
    """Whom a pseudonym stands for."""

    tenant: str
    issuer: str
    subject: str
    name: str
    """The pseudonym."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How much is kept of somebody."""

    entries: int = 0
    values: int = 0
    answers: int = 0
    """Claims that hold what was asked for, or the answer."""


def people(
    connection: Connection, subject: str, *, tenant: str | None = None, issuer: str | None = None
) -> list[Person]:
    """Give everybody of this name, or pseudonym, under the tenant and issuer that are named."""
    spelled = orjson.dumps(subject)
    found: list[Person] = []
    named = select(PSEUDONYM.c.name, PSEUDONYM.c.value).where(PSEUDONYM.c.kind == "subject")
    for name, value in connection.execution_options(yield_per=1000).execute(named):
        if spelled not in value and name != subject:
            continue
        its_tenant, its_issuer, its_subject = orjson.loads(value)
        if subject in {its_subject, name} and tenant in {None, its_tenant} and issuer in {None, its_issuer}:
            found.append(Person(tenant=its_tenant, issuer=its_issuer, subject=its_subject, name=name))
    return sorted(found)


def size_of(connection: Connection) -> int:
    """Give how many entries there are."""
    return int(connection.execute(select(TIP.c.size)).scalar_one())


def mentions(connection: Connection, names: Sequence[str], first: int, end: int) -> list[tuple[int, str]]:
    """Give the entries from `first` to before `end` that name one of these, each with its call.

    Those are left out whose reasons stay; and the call of an entry by which one of these only did something
    about somebody else's, as who resolves it does.
    """
    spelled = [name.encode() for name in names]
    rows = connection.execution_options(yield_per=1000).execute(
        select(ENTRY.c.idx, ENTRY.c.kind, ENTRY.c.call_id, ENTRY.c.body)
        .where(ENTRY.c.idx >= first, ENTRY.c.idx < end)
        .order_by(ENTRY.c.idx)
    )
    return [
        (idx, "" if orjson.loads(body).get("by") in names else call_id)
        for idx, kind, call_id, body in rows
        if any(name in body for name in spelled) and kind not in KEPT_REASONS
    ]


@dataclass
class Survey:
    """What was seen of one person so far."""

    person: Person
    size: int = 0
    """So many entries were looked at, from the first on."""
    kept: Kept = field(default_factory=Kept)
    runs: set[str] = field(default_factory=set[str])
    """Of runs that the person named; others may have named them, too."""
    reads: list[int] = field(default_factory=list[int])
    """Entries that say that somebody asked the ledger something."""
    _clients: set[str] = field(default_factory=set[str])
    _of_others: set[str] = field(default_factory=set[str])

    @property
    def clients(self) -> set[str]:
        """The clients that nobody else called through."""
        return self._clients - self._of_others

    def read(self, rows: Iterable[Any]) -> list[int]:
        """Look at entries that follow those before; gives those that speak of the person."""
        spelled, mine = self.person.name.encode(), list[int]()
        for idx, kind, _, who, run, body in rows:
            self.size = idx + 1
            client = _CLIENT.search(body)
            if client is not None:
                (self._clients if who == self.person.name else self._of_others).add(client[1].decode())
            if kind == "audit_read":
                self.reads.append(idx)
            if spelled in body and kind not in KEPT_REASONS:
                mine.append(idx)
                if run and who == self.person.name:
                    self.runs.add(run)
        return mine


def survey(engine: Engine, person: Person, show: Show | None = None) -> Survey:
    """Look at the whole ledger."""
    seen = Survey(person)
    with engine.connect() as connection:
        size = size_of(connection)
        while seen.size < size:
            mine = seen.read(_window(connection, seen.size, min(seen.size + WINDOW, size)))
            for few in _parts(mine):
                seen.kept = _and(seen.kept, _kept(connection, few))
            if show is not None:
                show(seen.size, size)
    return seen


def questions_about(connection: Connection, person: Person, reads: Sequence[int]) -> list[int]:
    """Give those of these entries whose question to the ledger names the person."""
    found: list[int] = []
    for few in _parts(reads):
        asked = select(PAYLOAD.c.idx, PAYLOAD.c.value).where(
            PAYLOAD.c.idx.in_(few), PAYLOAD.c.field == "asked", PAYLOAD.c.value.is_not(None)
        )
        found += [idx for idx, value in connection.execute(asked) if asks_about(value, person)]
    return found


def asks_about(value: bytes | None, person: Person) -> bool:
    """Whether a recorded question to the ledger names a person."""
    said: dict[str, Any] = {} if value is None else orjson.loads(value)
    return any(text in {person.subject, person.name} for text in said.values() if isinstance(text, str))


def _window(connection: Connection, first: int, end: int) -> Iterable[Any]:
    wanted = select(*LOOKED_AT).where(ENTRY.c.idx >= first, ENTRY.c.idx < end).order_by(ENTRY.c.idx)
    return connection.execution_options(yield_per=1000).execute(wanted)


def _kept(connection: Connection, entries: Sequence[int]) -> Kept:
    beside = select(func.count()).select_from(PAYLOAD).where(PAYLOAD.c.idx.in_(entries))
    calls = select(ENTRY.c.call_id).where(ENTRY.c.idx.in_(entries), ENTRY.c.kind == "intent")
    claims = (
        select(func.count())
        .select_from(CLAIM)
        .where(CLAIM.c.call_id.in_(calls), CLAIM.c.intent.in_(entries), CLAIM.c.fingerprint != bytes(32))
    )
    values, answers = connection.execute(beside).scalar_one(), connection.execute(claims).scalar_one()
    return Kept(entries=len(entries), values=values, answers=answers)


def _and(one: Kept, other: Kept) -> Kept:
    return Kept(
        entries=one.entries + other.entries,
        values=one.values + other.values,
        answers=one.answers + other.answers,
    )


def _parts(entries: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(entries), MOST_AT_ONCE):
        yield entries[first : first + MOST_AT_ONCE]
