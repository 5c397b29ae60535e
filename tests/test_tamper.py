"""Whatever is done to a ledger behind the gate's back is found, and the first entry it touched is named."""

# ruff: noqa: S608 - names of tables and columns stand in the statements; all of it is ours

import json
import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledgers import (
    FIRST_ROUND,
    LENT,
    REPEATED,
    ROUND,
    Signer,
    Story,
    a_story,
    canonical,
    make_tree,
    note_of,
    publish,
    write,
)
from toolgate.verifier import Note, Report, Unreadable, VerifierKey, main, verify_ledger

OURS, FOREIGN, NEXT = Signer(1), Signer(2), Signer(3)
ROUNDS: Final = 40
SIZE: Final = FIRST_ROUND + ROUNDS * ROUND + LENT
OUTSIDE: Final = 400
"""The auditor has a checkpoint of so many entries; what comes later lies only in the database."""
SIZES: Final = (100, 124, 200, 256, 300, OUTSIDE, SIZE)

# The entries of the eleventh round, and a late one.
INTENT, OTHERS, LEASE, OUTCOME, OTHERS_OUTCOME, REFUSAL, REPEAT, LOST, UNKNOWN, LATE = range(124, 134)
BEHIND: Final = 124 + 24 * ROUND
"""An intent behind the checkpoint that the auditor has."""
# A call with credentials of every kind, at the end.
RUN_OPENED, OWN, _, _, _, SIGNED, STORED, OWN_BACK = range(SIZE - LENT + 1, SIZE - LENT + 9)
SLOW_BACK, ASKED, RUN_REVOKED = SIZE - 5, SIZE - 4, SIZE - 1


@dataclass
class Hands:
    """Somebody with the database open for writing, who knows the form but has no key of the log."""

    connection: sqlite3.Connection

    def do(self, statement: str, *values: object) -> None:
        self.connection.execute(statement, values)

    def body(self, index: int) -> dict[str, Any]:
        [(body,)] = self.connection.execute("SELECT body FROM ledger_entry WHERE idx = ?", (index,))
        said: dict[str, Any] = json.loads(body)
        return said

    def say(self, index: int, **fields: Any) -> None:  # noqa: ANN401
        """Change what an entry says, and with it the columns that repeat it; None removes a field."""
        said = {name: value for name, value in (self.body(index) | fields).items() if value is not None}
        refers = said.get("intent", said.get("answered_with"))
        columns = [refers, *(said.get(name, "") for name in REPEATED)]
        named = ", ".join(f"{name} = ?" for name in ("body", "refers", *REPEATED))
        self.do(f"UPDATE ledger_entry SET {named} WHERE idx = ?", canonical(said), *columns, index)

    def spell(self, index: int, body: bytes) -> None:
        self.do("UPDATE ledger_entry SET body = ? WHERE idx = ?", body, index)

    def add(self, index: int, more: bytes) -> None:
        """Spell more fields into a body, as they are."""
        [(body,)] = self.connection.execute("SELECT body FROM ledger_entry WHERE idx = ?", (index,))
        self.spell(index, body[:-1] + more)

    def swap(self, one: int, other: int, *columns: str) -> None:
        named = ", ".join(columns)
        first, second = (
            self.connection.execute(f"SELECT {named} FROM ledger_entry WHERE idx = ?", (index,)).fetchone()
            for index in (one, other)
        )
        for index, row in ((one, second), (other, first)):
            marks = ", ".join("?" * len(columns))
            self.do(f"UPDATE ledger_entry SET ({named}) = ({marks}) WHERE idx = ?", *row, index)

    def remove(self, index: int) -> None:
        """Take an entry out and let the later ones move up."""
        self.do("DELETE FROM ledger_entry WHERE idx = ?", index)
        self.do("UPDATE ledger_entry SET idx = -idx WHERE idx > ?", index)
        self.do("UPDATE ledger_entry SET idx = -idx - 1 WHERE idx < 0")

    def insert(self, index: int) -> None:
        """Put a copy of an entry before it and let the later ones move down."""
        self.do("UPDATE ledger_entry SET idx = -idx - 1 WHERE idx > ?", index)
        self.do("UPDATE ledger_entry SET idx = -idx WHERE idx < 0")
        every = "leaf, kind, call_id, at, tenant, who, tool, status, run, refers, body"
        copied = f"SELECT idx + 1, {every} FROM ledger_entry WHERE idx = ?"
        self.do(f"INSERT INTO ledger_entry (idx, {every}) {copied}", index)

    def cut(self, size: int) -> None:
        """Remove the end, and every trace of it."""
        for table, column in (("ledger_entry", "idx"), ("payload", "idx"), ("ledger_checkpoint", "size - 1")):
            self.do(f"DELETE FROM {table} WHERE {column} >= ?", size)

    def mend(self, signer: Signer | None = None, *, since: int = 0) -> None:
        """Make the tree agree again; checkpoints of more than `since` entries are signed anew, or dropped."""
        make_tree(self.connection)
        kept = self.connection.execute("SELECT * FROM ledger_checkpoint WHERE size <= ?", (since,)).fetchall()
        [(size,)] = self.connection.execute("SELECT size FROM ledger_tip")
        later = [at for at in SIZES if since < at <= size]
        publish(self.connection, ((at, signer) for at in later) if signer else ())
        self.connection.executemany("INSERT INTO ledger_checkpoint VALUES (?, ?, ?)", kept)


How: TypeAlias = Callable[[Hands], object]
Case: TypeAlias = tuple[str, How, int]
"""A name, what is done, and the first entry that is wrong."""


def forged(index: int, *, since: int = 0, **fields: Any) -> How:  # noqa: ANN401
    """Change an entry and mend all that can be mended without the key: only a checkpoint shows it."""

    def how(hands: Hands) -> None:
        hands.say(index, **fields)
        hands.mend(since=since)

    return how


def cut(size: int) -> How:
    """Remove the end, with every trace of it."""

    def how(hands: Hands) -> None:
        hands.cut(size)
        hands.mend(since=size)

    return how


def in_column(column: str, value: object, index: int = OUTCOME) -> How:
    return lambda hands: hands.do(f"UPDATE ledger_entry SET {column} = ? WHERE idx = ?", value, index)


def unnumbered(table: str) -> How:
    """Build a table anew without its key, and add a copy of a row that no number leads to."""

    def how(hands: Hands) -> None:
        number = "idx" if table == "ledger_entry" else "number"
        hands.do(f"CREATE TABLE anew AS SELECT * FROM {table}")
        hands.do(f"DROP TABLE {table}")
        hands.do(f"ALTER TABLE anew RENAME TO {table}")
        columns = [row[1] for row in hands.connection.execute(f"PRAGMA table_info({table})")]
        copied = ", ".join("NULL" if name == number else name for name in columns)
        hands.do(f"INSERT INTO {table} SELECT {copied} FROM {table} LIMIT 1")

    return how


def stale_index(hands: Hands) -> None:
    """Change a value in a table that was built anew, and leave an index over all its columns as it was."""
    hands.do("CREATE TABLE anew AS SELECT * FROM payload")
    hands.do("DROP TABLE payload")
    hands.do("ALTER TABLE anew RENAME TO payload")
    hands.do("CREATE INDEX cover ON payload (idx, field, salt, value)")
    find = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master WHERE name = 'cover'"
    [index] = hands.connection.execute(find)
    file = next(row[2] for row in hands.connection.execute("PRAGMA database_list"))
    hands.do("PRAGMA writable_schema = ON")
    hands.do("DELETE FROM sqlite_master WHERE name = 'cover'")
    hands.do("PRAGMA schema_version = 7001")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("UPDATE payload SET value = '{}' WHERE idx = ?", (INTENT,))
        other.execute("PRAGMA writable_schema = ON")
        other.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)
        other.execute("PRAGMA schema_version = 7002")


def sql(statement: str, *values: object) -> How:
    return lambda hands: hands.do(statement, *values)


def lease(index: int = SLOW_BACK, **fields: Any) -> How:  # noqa: ANN401
    """Say something else of a lease; by default of one that was given back after its call."""
    return lambda hands: hands.say(index, **fields)


LOOSE: Final = "INSERT INTO payload VALUES (2, 'digests', zeroblob(32), x'7b7d')"
ENTRIES: Final[list[Case]] = [
    ("a body is edited", lambda hands: hands.say(INTENT, verdict="allow", rules=["another"]), INTENT),
    ("the genesis is edited", lambda hands: hands.say(0, origin="ledger.example/else"), 0),
    ("the last entry is edited", lambda hands: hands.say(SIZE - 1, status="not_found"), SIZE - 1),
    ("a leaf is edited", in_column("leaf", b"\0" * 32, INTENT), INTENT),
    ("a leaf is text", in_column("leaf", "leaf", INTENT), INTENT),
    ("a body is text", in_column("body", "body", INTENT), INTENT),
    ("an entry is deleted", sql("DELETE FROM ledger_entry WHERE idx = ?", INTENT), INTENT),
    ("the first entry is deleted", sql("DELETE FROM ledger_entry WHERE idx = 0"), 0),
    ("the last entry is deleted", sql("DELETE FROM ledger_entry WHERE idx = ?", SIZE - 1), SIZE - 1),
    ("an entry is deleted, later ones move up", lambda hands: hands.remove(INTENT), INTENT),
    ("an entry is inserted", lambda hands: hands.insert(INTENT), INTENT + 1),
    ("an entry stands before the first", sql("UPDATE ledger_entry SET idx = -1 WHERE idx = 9"), 0),
    ("two entries change places", lambda hands: hands.swap(INTENT, LEASE, "leaf", "body", *REPEATED), INTENT),
    ("two bodies change places", lambda hands: hands.swap(INTENT, LEASE, "body"), INTENT),
    ("two tenants' bodies change places", lambda hands: hands.swap(INTENT, OTHERS, "body"), INTENT),
    ("two tenants' leaves change places", lambda hands: hands.swap(INTENT, OTHERS, "leaf"), INTENT),
    ("an entry is added", lambda hands: hands.insert(SIZE - 1), SIZE),
]
COLUMNS: Final[list[Case]] = [
    ("column kind", in_column("kind", "lease"), OUTCOME),
    ("column call_id", in_column("call_id", "c-globex-10"), OUTCOME),
    ("column at", in_column("at", 1_796_000_000_000_000), OUTCOME),
    ("column tenant", in_column("tenant", "globex"), OUTCOME),
    ("column who", in_column("who", "p" + "0" * 20), OUTCOME),
    ("column tool", in_column("tool", "crm.note.add"), OUTCOME),
    ("column status", in_column("status", "upstream_failed"), OUTCOME),
    ("column run", in_column("run", "p" + "0" * 20), OUTCOME),
    ("column refers", in_column("refers", OTHERS), OUTCOME),
    ("column refers emptied", in_column("refers", None), OUTCOME),
    ("column refers of a repeat", in_column("refers", OTHERS, REPEAT), REPEAT),
    ("column at is text", in_column("at", "yesterday"), OUTCOME),
    ("column status is bytes", in_column("status", b"done"), OUTCOME),
]
TABLES: Final[list[Case]] = [
    ("a node is edited", sql("UPDATE ledger_node SET hash = zeroblob(32) WHERE number = 0"), 0),
    ("a node is text", sql("UPDATE ledger_node SET hash = CAST(x'ff' AS TEXT)"), 0),
    ("a node is deleted", sql("DELETE FROM ledger_node"), 0),
    ("a node is added", sql("INSERT INTO ledger_node VALUES (8, 1, zeroblob(32))"), 256),
    ("a node of an unknown level", sql("INSERT INTO ledger_node VALUES (3, 2, zeroblob(32))"), 16),
    ("a node of no level", sql("INSERT INTO ledger_node VALUES ('x', 2, zeroblob(32))"), 0),
    ("an entry without a number is added to a table built anew", unnumbered("ledger_entry"), SIZE),
    ("a node without a number is added to a table built anew", unnumbered("ledger_node"), 0),
    ("a change is hidden behind a stale index", stale_index, INTENT),
    ("the tip's size is edited", sql("UPDATE ledger_tip SET size = 300"), 300),
    ("the tip's frontier is edited", sql("UPDATE ledger_tip SET frontier = zeroblob(160)"), SIZE),
    ("the tip's frontier is text", sql("UPDATE ledger_tip SET frontier = CAST(x'ff' AS TEXT)"), SIZE),
    ("the tip is deleted", sql("DELETE FROM ledger_tip"), SIZE),
    ("a second tip", sql("INSERT INTO ledger_tip SELECT 2, size, frontier, 0 FROM ledger_tip"), SIZE),
    ("a payload's value is edited", sql("UPDATE payload SET value = '{}' WHERE idx = ?", INTENT), INTENT),
    (
        "a payload's value gets longer",
        sql("UPDATE payload SET value = value || ' ' WHERE idx = 128 - 4"),
        INTENT,
    ),
    (
        "a payload's salt is edited",
        sql("UPDATE payload SET salt = zeroblob(32) WHERE idx = ?", INTENT),
        INTENT,
    ),
    ("a payload's salt is short", sql("UPDATE payload SET salt = x'00' WHERE idx = ?", INTENT), INTENT),
    ("a payload's salt is text", sql("UPDATE payload SET salt = 'salt' WHERE idx = ?", INTENT), INTENT),
    ("a payload's field is edited", sql("UPDATE payload SET field = 'step' WHERE idx = ?", INTENT), INTENT),
    ("a payload's field is another", sql("UPDATE payload SET field = 'tool' WHERE idx = ?", INTENT), INTENT),
    ("a payload's field is bytes", sql("UPDATE payload SET field = x'00' WHERE idx = ?", INTENT), INTENT),
    ("a payload of a field that commits to nothing", sql(LOOSE), 2),
    ("a payload moves", sql("UPDATE payload SET idx = ? WHERE idx = ?", LEASE, INTENT), LEASE),
    ("a payload of no entry", sql("UPDATE payload SET idx = 9999 WHERE idx = ?", INTENT), 9999),
    ("a payload of a negative entry", sql("UPDATE payload SET idx = -5 WHERE idx = ?", INTENT), 0),
    ("a payload is not UTF-8", sql("UPDATE payload SET field = CAST(x'ff' AS TEXT) WHERE idx = 9"), 7),
    ("a checkpoint is edited", sql("UPDATE ledger_checkpoint SET note = replace(note, '200', '201')"), 200),
    ("a checkpoint's size is edited", sql("UPDATE ledger_checkpoint SET size = 201 WHERE size = 200"), 201),
    ("a checkpoint's size is negative", sql("UPDATE ledger_checkpoint SET size = -1 WHERE size = 200"), 0),
    ("a checkpoint is bytes", sql("UPDATE ledger_checkpoint SET note = x'00' WHERE size = 200"), 200),
    ("a checkpoint is not UTF-8", sql("UPDATE ledger_checkpoint SET note = CAST(x'ff' AS TEXT)"), 100),
    ("checkpoints are signed by a foreign key", lambda hands: hands.mend(FOREIGN), 100),
    ("one checkpoint is signed by a foreign key", lambda hands: hands.mend(FOREIGN, since=300), OUTSIDE),
]
# The story is impossible, although each entry agrees with its columns and the tree with the entries; even the
# checkpoints are the log's own.
STORIES: Final[list[Case]] = [
    ("no genesis", lambda hands: hands.say(0, kind="fault"), 0),
    ("a second genesis", lambda hands: hands.say(REFUSAL, kind="genesis"), REFUSAL),
    ("an unknown kind", lambda hands: hands.say(REFUSAL, kind="rumour"), REFUSAL),
    ("a name twice in a body", lambda hands: hands.add(REFUSAL, b',"v":2}'), REFUSAL),
    ("a fraction in a body", lambda hands: hands.add(REFUSAL, b',"x":1.5}'), REFUSAL),
    ("an infinity in a body", lambda hands: hands.add(REFUSAL, b',"x":Infinity}'), REFUSAL),
    ("more behind a body", lambda hands: hands.add(REFUSAL, b"}{}"), REFUSAL),
    ("genesis names another log", lambda hands: hands.say(0, origin="ledger.example/else"), 100),
    ("no kind", lambda hands: hands.say(REFUSAL, kind=None), REFUSAL),
    ("another form", lambda hands: hands.say(REFUSAL, v=3), REFUSAL),
    ("no time", lambda hands: hands.say(REFUSAL, at=None), REFUSAL),
    ("a gap in wseq", lambda hands: hands.say(REFUSAL, wseq=9999), REFUSAL),
    ("wseq is no number", lambda hands: hands.say(REFUSAL, wseq="7"), REFUSAL),
    ("no writer", lambda hands: hands.say(REFUSAL, writer=None), REFUSAL),
    (
        "a writer of another form",
        lambda hands: hands.say(REFUSAL, writer="me", wseq=0, kind="writer_start"),
        REFUSAL,
    ),
    (
        "a writer that did not start",
        lambda hands: hands.say(REFUSAL, writer="00000000000000ff-1", wseq=0),
        REFUSAL,
    ),
    ("the first writer never started", lambda hands: hands.say(1, kind="writer_stop"), 1),
    ("a second start", lambda hands: hands.say(REFUSAL, kind="writer_start"), REFUSAL),
    ("config points to no config", lambda hands: hands.say(REFUSAL, config=1), REFUSAL),
    ("config points to a later entry", lambda hands: hands.say(REFUSAL, config=REFUSAL + 1), REFUSAL),
    ("config is true", lambda hands: hands.say(REFUSAL, config=True), REFUSAL),
    ("an intent that was not allowed", lambda hands: hands.say(INTENT, verdict="deny"), INTENT),
    ("an outcome of no intent", lambda hands: hands.say(OUTCOME, intent=LEASE), OUTCOME),
    ("an outcome without intent", lambda hands: hands.say(OUTCOME, intent=None), OUTCOME),
    ("an outcome of a later intent", lambda hands: hands.say(OUTCOME, intent=LOST), OUTCOME),
    ("an outcome of another call", lambda hands: hands.say(OUTCOME, call_id="c-globex-10"), OUTCOME),
    ("a second outcome", lambda hands: hands.say(OTHERS_OUTCOME, intent=INTENT), OTHERS_OUTCOME),
    ("an outcome after an unknown", lambda hands: hands.say(LATE, kind="outcome"), LATE),
    (
        "a lease after its outcome",
        lambda hands: hands.say(
            REPEAT, kind="lease", status="given_back", lease="l", intent=INTENT, answered_with=None
        ),
        REPEAT,
    ),
    ("a lease that is lent after its outcome", lease(status="lent", because=None), SLOW_BACK),
    ("a lease that is queued after its outcome", lease(status="queued", because=None), SLOW_BACK),
    ("a lease that is kept after its outcome", lease(status="kept"), SLOW_BACK),
    ("a run's token that is opened after an outcome", lease(ASKED, status="run_opened"), ASKED),
    ("a lease of an unknown status", lease(status="lost"), SLOW_BACK),
    ("a lease that ended for no known reason", lease(because="a whim"), SLOW_BACK),
    ("a lease that ended for another end's reason", lease(because="orphan"), SLOW_BACK),
    ("a lease that ended for a list of reasons", lease(because=["queued"]), SLOW_BACK),
    ("a lease whose end nobody asked for", lease(ASKED, by=None), ASKED),
    ("a lease that ends twice", lease(issued=OWN, lease="own"), SLOW_BACK),
    ("a lease that lapses and is given back", lease(issued=SIGNED, lease="signed"), SLOW_BACK),
    ("a lease that nobody lent", lease(OWN_BACK, issued=STORED), OWN_BACK),
    ("a lease that is lent later", lease(OWN_BACK, issued=SLOW_BACK), OWN_BACK),
    ("a lease that no entry lent", lease(OWN_BACK, issued=None), OWN_BACK),
    ("a lease that was lent as another", lease(OWN_BACK, lease="slow"), OWN_BACK),
    ("a lease without an id", lease(OWN_BACK, lease=7), OWN_BACK),
    ("a lease that is a run's token too", lease(RUN_OPENED, lease="own"), RUN_OPENED),
    ("a run's token without an accessor", lease(RUN_OPENED, accessor=None), RUN_OPENED),
    ("a run's token that is lent", lease(RUN_OPENED, status="lent"), RUN_OPENED),
    ("a run's token that ends twice", lease(ASKED, status="revoked", because="person"), RUN_REVOKED),
    ("a run's token that was never opened", lease(RUN_REVOKED, accessor="a-9"), RUN_REVOKED),
    ("a repeat of nothing", lambda hands: hands.say(REPEAT, answered_with=None), REPEAT),
    ("a repeat of a later answer", lambda hands: hands.say(REPEAT, answered_with=LOST), REPEAT),
    ("an unknown of no intent", lambda hands: hands.say(UNKNOWN, intent=2), UNKNOWN),
    ("a late outcome of no intent", lambda hands: hands.say(LATE, intent=UNKNOWN), LATE),
    ("a rotation that is none", lambda hands: hands.say(REFUSAL, kind="key_rotate"), REFUSAL),
    (
        "a rotation that the old key did not endorse",
        lambda hands: hands.say(
            REFUSAL, kind="key_rotate", **(FOREIGN.endorse(NEXT) | {"old": str(OURS.key)})
        ),
        REFUSAL,
    ),
]
BODIES: Final[list[tuple[str, bytes]]] = [
    ("nothing", b""),
    ("no JSON", b"{"),
    ("a list", b"[]"),
    ("a number", b"7"),
    ("two objects", b"{}{}"),
    ("a fraction", b'{"at":1.5}'),
    ("not a number", b'{"at":NaN}'),
    ("a name twice", b'{"kind":"intent","kind":"intent"}'),
    ("too deep", b'{"at":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("too long a number", b'{"at":' + b"9" * 10_000 + b"}"),
    ("not UTF-8", b'{"kind":"\xff"}'),
    ("half a character", b'{"kind":"\\ud800"}'),
    ("a kind that is a list", b'{"kind":[]}'),
    ("far too large", b'{"kind":"' + b"x" * (1 << 20) + b'"}'),
]
# Nothing in the database is wrong by itself: without a key and a checkpoint from outside nobody can tell.
FORGERIES: Final[list[Case]] = [
    ("an entry is forged", forged(INTENT, rules=["another"]), 0),
    (
        "an entry is forged, later checkpoints dropped",
        forged(INTENT, since=124, tool="x"),
        124,
    ),
    ("the first entries are forged", forged(2, digests={"policy": "f" * 64}), 0),
    ("the end is cut off", cut(300), 300),
    ("all but the genesis is cut off", cut(1), 1),
    ("everything is cut off", cut(0), 0),
    ("the entry before the outside checkpoint", forged(OUTSIDE - 1, status="cannot_tell"), 0),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that nobody has touched; tests copy it."""
    database = tmp_path_factory.mktemp("ledger") / "ledger.db"
    story = a_story(ROUNDS)
    story.lent(ROUNDS)
    write(story, database, [(size, OURS) for size in SIZES])
    return database


@pytest.fixture
def database(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "ledger.db"))


@pytest.fixture
def hands(database: Path) -> Generator[Hands]:
    """Open the copy; triggers stop nobody who owns the file."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for (trigger,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        yield Hands(connection)


def key_of(signer: Signer) -> VerifierKey:
    return VerifierKey.parse(str(signer.key))


@pytest.fixture(scope="module")
def kept(sound: Path) -> tuple[str, Note]:
    """The auditor's checkpoint."""
    with closing(sqlite3.connect(sound)) as connection:
        return "kept", Note.parse(note_of(connection, OUTSIDE, OURS))


def audited(database: Path, kept: tuple[str, Note], **more: Any) -> Report:  # noqa: ANN401
    return verify_ledger(database, keys=[key_of(OURS)], checkpoints=[kept], **more)


def named(cases: list[Case]) -> list[Any]:
    return [pytest.param(how, index, id=name) for name, how, index in cases]


def test_untouched_ledger_is_verified(database: Path, kept: tuple[str, Note]) -> None:
    heard: list[tuple[int, int]] = []

    def hear(done: int, total: int) -> None:
        heard.append((done, total))

    report = audited(database, kept, progress=hear)
    assert (report.verdict, report.faults, report.doubts) == ("verified", [], [])
    assert (report.entries, report.covered, heard[-1]) == (SIZE, OUTSIDE, (SIZE, SIZE))


@pytest.mark.parametrize(("how", "index"), named(ENTRIES + COLUMNS + TABLES))
def test_tampering_is_found_where_it_begins(
    database: Path, kept: tuple[str, Note], hands: Hands, how: How, index: int
) -> None:
    how(hands)
    report = audited(database, kept)
    assert (report.verdict, report.first_bad) == ("tampered", index)


@pytest.mark.parametrize(("how", "index"), named(STORIES))
def test_impossible_story_is_found_although_the_log_signed_it(
    database: Path, hands: Hands, how: How, index: int
) -> None:
    how(hands)
    hands.mend(OURS)
    outside = "kept", Note.parse(note_of(hands.connection, OUTSIDE, OURS))
    report = audited(database, outside)
    assert (report.verdict, report.first_bad) == ("tampered", index)


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in BODIES])
def test_body_that_is_no_entry_is_named(
    database: Path, kept: tuple[str, Note], hands: Hands, body: bytes
) -> None:
    hands.spell(INTENT, body)
    hands.mend(since=100)
    report = audited(database, kept)
    assert (report.verdict, report.first_bad) == ("tampered", INTENT)
    assert audited(database, kept, hashes_only=True).verdict == "tampered"


@pytest.mark.parametrize(("how", "index"), named(FORGERIES))
def test_careful_forgery_needs_a_key_and_a_checkpoint_from_outside(
    database: Path, kept: tuple[str, Note], hands: Hands, how: How, index: int
) -> None:
    how(hands)
    report = audited(database, kept)
    assert (report.verdict, report.first_bad) == ("tampered", index)
    assert audited(database, kept, hashes_only=True).first_bad == index
    assert verify_ledger(database).verdict == "cannot tell"
    assert verify_ledger(database, keys=[key_of(OURS)]).verdict == "cannot tell"


@pytest.mark.parametrize(("how", "index"), named(ENTRIES + COLUMNS + TABLES + FORGERIES))
def test_tampering_never_passes_without_key_or_checkpoint(
    database: Path, kept: tuple[str, Note], hands: Hands, how: How, index: int
) -> None:
    how(hands)
    ours = [key_of(OURS)]
    reports = [verify_ledger(database), verify_ledger(database, keys=ours)]
    reports.append(verify_ledger(database, checkpoints=[kept], hashes_only=True))
    assert "verified" not in {report.verdict for report in reports}


def test_tail_is_rewritten_from_the_first_checkpoint_that_does_not_match(
    database: Path, kept: tuple[str, Note], hands: Hands
) -> None:
    """Whoever forks the log anew from 256 on signs with another key, or not at all."""
    hands.say(256, rules=["another"])
    hands.mend(FOREIGN, since=256)
    report = audited(database, kept)
    assert (report.verdict, report.first_bad) == ("tampered", 256)
    hands.mend(since=256)
    report = audited(database, kept)
    assert (report.verdict, report.first_bad) == ("tampered", 256)
    assert verify_ledger(database, keys=[key_of(OURS)]).verdict == "cannot tell"


def test_end_that_was_published_is_missing_even_if_all_agrees(database: Path, hands: Hands) -> None:
    last = "last", Note.parse(note_of(hands.connection, SIZE, OURS))
    hands.cut(450)
    hands.mend(since=450)
    headline = audited(database, last).headline
    assert headline is not None
    assert "entries from 450 on are missing" in str(headline)


def test_what_the_outside_checkpoint_does_not_cover_is_said(
    database: Path, kept: tuple[str, Note], hands: Hands
) -> None:
    """A forger can rewrite what no checkpoint outside covers; the report does not say more than it knows."""
    hands.say(BEHIND, rules=["another"])
    hands.mend(since=OUTSIDE)
    report = audited(database, kept)
    assert (report.verdict, report.covered) == ("verified", OUTSIDE)
    assert any(f"entries from {OUTSIDE} on: no signature" in text for text in report.not_checked)


def test_erasing_is_no_tampering(database: Path, kept: tuple[str, Note], hands: Hands) -> None:
    hands.do("DELETE FROM payload WHERE idx < 200")
    hands.do("UPDATE payload SET value = NULL")
    hands.do("DELETE FROM pseudonym")
    assert audited(database, kept).verdict == "verified"


def test_checkpoint_of_a_stranger_proves_nothing(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        strange = "strange", Note.parse(note_of(connection, OUTSIDE, FOREIGN))
    report = audited(database, strange)
    assert (report.verdict, report.covered) == ("cannot tell", 0)


def test_strange_checkpoint_accuses_nobody(database: Path) -> None:
    strange = "strange", Note.parse(FOREIGN.note(OUTSIDE, bytes(32)))
    assert audited(database, strange).verdict == "cannot tell"
    claimed = "claimed", Note.parse(OURS.note(OUTSIDE, bytes(32)))
    assert audited(database, claimed).verdict == "tampered"


def test_given_key_that_never_signed_is_not_the_logs(database: Path, kept: tuple[str, Note]) -> None:
    report = verify_ledger(database, keys=[key_of(FOREIGN)], checkpoints=[kept])
    assert (report.verdict, report.first_bad) == ("tampered", 100)


def test_checkpoint_of_an_empty_log_covers_nothing(database: Path) -> None:
    empty = Note.parse(
        OURS.note(0, bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"))
    )
    report = verify_ledger(database, keys=[key_of(OURS)], checkpoints=[("empty", empty)])
    assert (report.verdict, report.covered) == ("cannot tell", 0)
    wrong = Note.parse(OURS.note(0, bytes(32)))
    assert verify_ledger(database, checkpoints=[("wrong", wrong)]).verdict == "tampered"


# --- Rotation of the key


ROTATION: Final = FIRST_ROUND + 20 * ROUND


@pytest.fixture
def rotated(tmp_path: Path) -> Path:
    """A ledger whose key changed at entry 244, from ours to the next."""
    return rotated_ledger(tmp_path / "rotated.db", a_story(30, (20, OURS, NEXT)), NEXT)


def rotated_ledger(database: Path, story: Story, later: Signer) -> Path:
    signers = [(size, OURS if size <= ROTATION else later) for size in (100, 200, 244, 245, 300)]
    write(story, database, signers)
    return database


@pytest.mark.parametrize("given_key", [OURS, NEXT])
@pytest.mark.parametrize(("size", "signer"), [(200, OURS), (300, NEXT)])
def test_either_key_verifies_both_sides_of_a_rotation(
    rotated: Path, given_key: Signer, size: int, signer: Signer
) -> None:
    assert with_kept(rotated, given_key, size, signer).verdict == "verified"


def with_kept(database: Path, given_key: Signer, size: int, signer: Signer) -> Report:
    with closing(sqlite3.connect(database)) as connection:
        note = Note.parse(note_of(connection, size, signer))
    return verify_ledger(database, keys=[key_of(given_key)], checkpoints=[("kept", note)])


def test_old_key_signs_nothing_after_its_rotation(rotated: Path, tmp_path: Path) -> None:
    again = rotated_ledger(tmp_path / "again.db", a_story(30, (20, OURS, NEXT)), OURS)
    report = with_kept(again, OURS, 200, OURS)
    assert (report.verdict, report.first_bad) == ("tampered", 245)
    assert with_kept(rotated, OURS, 300, OURS).verdict == "cannot tell"


def test_new_key_signs_nothing_before_its_rotation(rotated: Path) -> None:
    with closing(sqlite3.connect(rotated)) as connection, connection:
        publish(connection, [(200, NEXT), (300, NEXT)])
    assert with_kept(rotated, OURS, 300, NEXT).first_bad == 200


def test_later_key_says_nothing_of_an_earlier_one_without_a_checkpoint_over_the_rotation(
    rotated: Path,
) -> None:
    with closing(sqlite3.connect(rotated)) as connection, connection:
        publish(connection, [(100, OURS), (200, OURS)])
    report = with_kept(rotated, NEXT, 200, OURS)
    assert report.verdict == "cannot tell"
    assert "signed by an earlier key" in " ".join(report.doubts)


def test_chain_of_rotations_is_followed(tmp_path: Path) -> None:
    third = Signer(4)
    story = a_story(30, (20, OURS, NEXT), (25, NEXT, third))
    size = len(story.bodies)
    database = rotated_ledger(tmp_path / "chain.db", story, NEXT)
    for given_key in (OURS, NEXT, third):
        assert with_kept(database, given_key, size, third).verdict == "verified"
    assert with_kept(database, FOREIGN, size, third).verdict == "tampered"


def test_rotation_by_a_key_that_is_not_in_force_is_named(tmp_path: Path) -> None:
    story = a_story(30, (20, OURS, NEXT), (25, FOREIGN, Signer(4)))
    database = rotated_ledger(tmp_path / "broken.db", story, NEXT)
    report = with_kept(database, OURS, 200, OURS)
    assert (report.verdict, report.first_bad) == ("tampered", ROTATION + 1 + 5 * ROUND)


# --- Files that are no ledger, or are made to hurt


ENDLESS: Final = """
    DROP TABLE payload;
    CREATE VIEW payload AS WITH RECURSIVE endless(idx, field, salt, value) AS
        (VALUES (0, '', '', '') UNION ALL SELECT idx, field, salt, value FROM endless)
    SELECT * FROM endless
"""
HOSTILE: Final[list[tuple[str, str]]] = [
    ("no entries' table", "DROP TABLE ledger_entry"),
    ("no nodes' table", "DROP TABLE ledger_node"),
    ("no payloads' table", "DROP TABLE payload"),
    ("a column is gone", "ALTER TABLE ledger_tip RENAME COLUMN frontier TO edge"),
    ("a view", "ALTER TABLE ledger_node RENAME TO x; CREATE VIEW ledger_node AS SELECT * FROM x"),
    (
        "an endless view",
        ENDLESS,
    ),
]


@pytest.mark.parametrize("script", [pytest.param(script, id=name) for name, script in HOSTILE])
def test_database_of_another_shape_is_not_judged(database: Path, hands: Hands, script: str) -> None:
    hands.connection.executescript(script)
    with pytest.raises(Unreadable, match="this is not a ledger of this form"):
        verify_ledger(database)


def test_columns_that_hold_no_text_do_no_harm(database: Path, kept: tuple[str, Note], hands: Hands) -> None:
    hands.do("UPDATE ledger_entry SET tool = CAST(x'ff' AS TEXT) WHERE idx = ?", OUTCOME)
    assert audited(database, kept).first_bad == OUTCOME
    hands.do("UPDATE ledger_entry SET tool = CAST(zeroblob(1000000) AS TEXT) WHERE idx = ?", LEASE)
    assert audited(database, kept).first_bad == LEASE


def test_copy_without_its_wal_in_a_folder_that_cannot_be_written(
    database: Path, kept: tuple[str, Note], hands: Hands, tmp_path: Path
) -> None:
    hands.connection.execute("PRAGMA journal_mode = WAL")
    hands.do("UPDATE ledger_checkpoint SET at = at + 1")
    hands.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = tmp_path / "folder" / "copy.db"
    copy.parent.mkdir()
    shutil.copy(database, copy)
    copy.parent.chmod(0o555)
    try:
        assert audited(copy, kept).verdict == "verified"
    finally:
        copy.parent.chmod(0o755)


def test_ledger_is_read_while_the_gate_writes(database: Path, kept: tuple[str, Note], hands: Hands) -> None:
    hands.connection.execute("PRAGMA journal_mode = WAL")
    hands.connection.execute("BEGIN IMMEDIATE")
    hands.do("DELETE FROM ledger_entry WHERE idx = 7")
    assert audited(database, kept).verdict == "verified"
    hands.connection.execute("ROLLBACK")


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_value_in_any_cell_is_found(
    sound: Path, kept: tuple[str, Note], tmp_path: Path, data: st.DataObject
) -> None:
    """Values of every type SQLite has; the clock of a checkpoint is all that nobody vouches for."""
    table, columns = data.draw(
        st.sampled_from(
            [
                ("ledger_entry", ("leaf", "body", "refers", *REPEATED)),
                ("ledger_node", ("level", "number", "hash")),
                ("ledger_tip", ("id", "size", "frontier")),
                ("ledger_checkpoint", ("size", "note")),
                ("payload", ("idx", "field", "salt")),
            ]
        )
    )
    column = data.draw(st.sampled_from(columns))
    value = data.draw(st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.binary()))
    copy = Path(shutil.copy(sound, tmp_path / "copy.db"))
    with closing(sqlite3.connect(copy)) as connection, connection:
        before = connection.execute(f"SELECT * FROM {table}").fetchall()
        row = data.draw(st.sampled_from(before))
        described = connection.execute(f"PRAGMA table_info({table})").fetchall()
        spot = " AND ".join(f"{part[1]} = ?" for part in described if part[5])
        where = [row[part[0]] for part in described if part[5]]
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {spot}", (value, *where))
        except sqlite3.Error:
            return
        same = repr(before) == repr(connection.execute(f"SELECT * FROM {table}").fetchall())
    if column == "salt" and row[-1] is None and isinstance(value, bytes) and len(value) == len(row[2]):
        return
    verdict = audited(copy, kept).verdict
    assert verdict == ("verified" if same else "tampered")


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_file_never_breaks_the_verifier(
    sound: Path, kept: tuple[str, Note], tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    copy = tmp_path / "damaged.db"
    copy.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(Unreadable):
        audited(copy, kept)


# --- The command


def command(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def files(tmp_path: Path, kept: tuple[str, Note], sound: Path) -> Path:
    """A folder with the key and the checkpoint, as an auditor keeps them."""
    (tmp_path / "log.vkey").write_text(f"# the desk's\n{OURS.key}\n")
    with closing(sqlite3.connect(sound)) as connection:
        for size in (200, OUTSIDE):
            (tmp_path / f"{size}.note").write_text(note_of(connection, size, OURS))
    return tmp_path


def test_command_says_what_was_found(
    database: Path, files: Path, hands: Hands, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ledger", database, "--key", files / "log.vkey", "--checkpoint", files / "400.note"]
    assert command(*words) == 0
    assert f"VERIFIED: {SIZE} entries" in capsys.readouterr().out
    assert command("ledger", database, "--key", OURS.key) == 2
    assert "give one with --checkpoint" in capsys.readouterr().out
    hands.say(INTENT, tool="x\x1b[2J")
    assert command(*words) == 1
    said = capsys.readouterr().out
    assert f"TAMPERED: entry {INTENT}: ledger_entry.leaf" in said
    assert "\x1b" not in said
    assert command(*words, "--json") == 1
    assert json.loads(capsys.readouterr().out)["first_bad"] == INTENT


def test_command_verifies_that_one_checkpoint_extends_another(
    database: Path, files: Path, hands: Hands
) -> None:
    words = ["consistency", files / "200.note", files / "400.note", database, "--key", OURS.key]
    assert command(*words) == 0
    assert command(*words[:-2]) == 2
    assert command("consistency", files / "400.note", files / "200.note", database, "--key", OURS.key) == 2
    hands.say(INTENT, tool="x")
    hands.mend()
    assert command(*words) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["ledger", "no-such-file"],
        ["ledger", "log.vkey"],
        ["ledger", "empty.db"],
        ["ledger", "ledger.db", "--key", "no-such-file"],
        ["ledger", "ledger.db", "--key", "name+00000000+AAAA"],
        ["ledger", "ledger.db", "--key", "ledger.db"],
        ["ledger", "ledger.db", "--key", "empty.db"],
        ["ledger", "ledger.db", "--key", "200.note"],
        ["ledger", "ledger.db", "--checkpoint", "log.vkey"],
        ["ledger", "ledger.db", "--checkpoint", "large"],
        ["proof", "log.vkey"],
        ["consistency", "200.note", "400.note"],
        ["consistency", "200.note", "400.note", "ledger.db", "--proof", "log.vkey"],
        ["consistency", "200.note", "400.note", "--proof", "log.vkey"],
    ],
    ids=" ".join,
)
def test_command_that_cannot_read_says_so(
    database: Path,
    files: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    Path("empty.db").touch()
    Path("large").write_bytes(bytes(2 << 20))
    assert command(*words) == 2
    assert "CANNOT TELL" in capsys.readouterr().out
