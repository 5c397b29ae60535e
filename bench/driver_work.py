"""What `bench.drivers` measures: the tables of a ledger in PostgreSQL, and the work of one group commit."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

TABLES: Final = """
CREATE TABLE tip (id int PRIMARY KEY, size bigint NOT NULL, frontier bytea NOT NULL);
INSERT INTO tip VALUES (1, 0, '');
CREATE TABLE flushed (writer text PRIMARY KEY, at bigint NOT NULL);
CREATE TABLE entry (idx bigint PRIMARY KEY, leaf bytea NOT NULL, kind text NOT NULL, call_id text NOT NULL,
    at bigint NOT NULL, tenant text NOT NULL, who text NOT NULL, tool text NOT NULL, status text NOT NULL,
    run text NOT NULL, refers bigint, body bytea NOT NULL);
CREATE INDEX ON entry (call_id);
CREATE INDEX ON entry (tool, at) WHERE kind = 'intent' OR kind = 'refusal' OR kind = 'repeat';
CREATE INDEX ON entry (who, at) WHERE kind = 'intent' OR kind = 'refusal' OR kind = 'repeat';
CREATE INDEX ON entry (at) WHERE kind = 'intent' OR kind = 'refusal' OR kind = 'repeat';
CREATE INDEX ON entry (run) WHERE run <> '';
CREATE INDEX ON entry (refers, at, status) WHERE kind = 'outcome' OR kind = 'unknown';
CREATE TABLE payload (idx bigint, field text, salt bytea NOT NULL, value bytea, PRIMARY KEY (idx, field));
CREATE TABLE claim (call_id text PRIMARY KEY, key bytea, alike bytea NOT NULL, fingerprint bytea NOT NULL,
    tool text NOT NULL, state text NOT NULL, attempt bigint NOT NULL, owner text NOT NULL,
    ended bigint NOT NULL, opened_at bigint NOT NULL, until bigint NOT NULL, expires_at bigint NOT NULL,
    asked_at bigint NOT NULL, intent bigint NOT NULL, "end" bigint, outcome bytea, request bytea,
    remembered bytea);
CREATE UNIQUE INDEX ON claim (key) WHERE key IS NOT NULL;
CREATE INDEX ON claim (alike, opened_at);
CREATE INDEX ON claim (expires_at) WHERE outcome IS NOT NULL;
CREATE INDEX ON claim (state, until) WHERE state = 'in_progress' OR state = 'unknown';
CREATE FUNCTION written(begun bigint, entries bytea[], kinds text[], calls text[], keys bytea[], ids text[],
    settled text[], packed bytea) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE taken bigint; old bigint;
BEGIN
    SELECT size INTO old FROM tip WHERE id = 1 FOR UPDATE;
    SELECT count(*) INTO taken FROM claim c WHERE c.key = ANY (keys);
    IF taken > 0 THEN RAISE 'taken'; END IF;
    SELECT count(*) INTO taken FROM claim c
        WHERE c.call_id = ANY (settled) AND c.attempt = 1 AND c.state = 'in_progress';
    IF taken <> cardinality(settled) THEN RAISE 'lost'; END IF;
    INSERT INTO claim SELECT u.id, u.key, u.key, u.key, 'desk.write', 'in_progress', 1, 'me', 0, 1, 1, 1, 0,
        old, NULL, NULL, packed, NULL FROM unnest(ids, keys) AS u (id, key);
    UPDATE claim SET state = 'succeeded', ended = 1, "end" = old, outcome = packed, until = 1, request = NULL
        WHERE call_id = ANY (settled) AND attempt = 1 AND state = 'in_progress';
    INSERT INTO entry SELECT old + u.n - 1, sha256(u.body), u.kind, u.call, 1, 'home', 'p1', 'desk.write',
        'ok', '', CASE WHEN u.kind = 'outcome' THEN 1 END, u.body
        FROM unnest(entries, kinds, calls) WITH ORDINALITY AS u (body, kind, call, n);
    INSERT INTO payload SELECT old + u.n - 1, 'arguments', packed, NULL
        FROM unnest(kinds) WITH ORDINALITY AS u (kind, n);
    UPDATE tip SET size = old + cardinality(entries), frontier = packed WHERE id = 1 AND size = old;
    RETURN old;
END $$;
"""
ENTRY = ("idx", "leaf", "kind", "call_id", "at", "tenant", "who", "tool", "status", "run", "refers", "body")
PAYLOAD = ("idx", "field", "salt", "value")
CLAIM = (
    "call_id", "key", "alike", "fingerprint", "tool", "state", "attempt", "owner", "ended", "opened_at",
    "until", "expires_at", "asked_at", "intent", '"end"', "outcome", "request", "remembered",
)  # fmt: skip
INTENT, OUTCOME, LEASE = b"i" * 560, b"o" * 340, b"l" * 300
PACKED: Final = bytes(32 * 12)
TIP = "SELECT size, frontier FROM tip WHERE id = 1 FOR UPDATE"
MOVE = "UPDATE tip SET size = $1, frontier = $2 WHERE id = 1 AND size = $3"
BY_KEY = "SELECT * FROM claim WHERE key = $1"
OWNS = (
    "SELECT call_id FROM claim WHERE call_id = $1 AND attempt = $2 AND state = 'in_progress' AND owner = $3"
)
BY_KEYS = "SELECT * FROM claim WHERE key = ANY ($1::bytea[])"
OWNED = (
    "SELECT call_id FROM claim WHERE call_id = ANY ($1::text[]) AND attempt = 1 AND state = 'in_progress' "
    "AND owner = 'me'"
)
SETTLE = (
    'UPDATE claim SET state = $3, ended = 1, "end" = $4, outcome = $5, until = $6, request = NULL '
    "WHERE call_id = $1 AND attempt = $2 AND state = 'in_progress'"
)
SETTLE_ALL = (
    'UPDATE claim SET state = u.state, ended = 1, "end" = u.at, outcome = u.outcome, until = u.until, '
    "request = NULL FROM unnest($1::text[], $2::int[], $3::text[], $4::bigint[], $5::bytea[], $6::bigint[]) "
    "AS u (call_id, attempt, state, at, outcome, until) "
    "WHERE claim.call_id = u.call_id AND claim.attempt = u.attempt AND claim.state = 'in_progress'"
)
WRITTEN = "SELECT written($1, $2, $3, $4, $5, $6, $7, $8)"
FLUSH = "INSERT INTO flushed VALUES ($1, 1) ON CONFLICT (writer) DO UPDATE SET at = flushed.at + 1"
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Jobs:
    """What one commit does: calls that are opened, and calls that are closed."""

    opened: list[str]
    closed: list[str]

    def key_digests(self) -> list[bytes]:
        return [sha256(call.encode()).digest() for call in self.opened]

    def entries(self, size: int) -> list[Row]:
        said = [("intent", call, INTENT) for call in self.opened]
        for call in self.closed:
            said += [("lease", call, LEASE), ("outcome", call, OUTCOME)]
        return [
            (size + n, sha256(body).digest(), kind, call, 1_700_000_000_000_000 + n, "home", "p1",
             "desk.write", "ok", "", size if kind == "outcome" else None, body)
            for n, (kind, call, body) in enumerate(said)
        ]  # fmt: skip

    def payloads(self, entries: list[Row]) -> list[Row]:
        return [(entry[0], "arguments", bytes(32), None) for entry in entries]

    def claims(self, size: int) -> list[Row]:
        return [
            (call, key, key, key, "desk.write", "in_progress", 1, "me", 0, 1_700_000_000_000_000,
             1_700_000_000_000_000, 1_700_000_000_000_000, 0, size + n, None, None, INTENT, None)
            for n, (call, key) in enumerate(zip(self.opened, self.key_digests(), strict=True))
        ]  # fmt: skip

    def settled(self, size: int) -> list[Row]:
        at = 1_700_000_000_000_000
        return [(call, 1, "succeeded", size, OUTCOME, at) for call in self.closed]


def many(table: str, names: tuple[str, ...], rows: list[Row]) -> list[tuple[str, list[Any]]]:
    """Spell rows as few statements of few sizes: 64, 32, 16 ... rows each."""
    said: list[tuple[str, list[Any]]] = []
    begin, size = 0, 64
    while begin < len(rows):
        while size > len(rows) - begin:
            size //= 2
        places = iter(range(1, 1 + size * len(names)))
        row = [f"({', '.join(f'${next(places)}' for _ in names)})" for _ in range(size)]
        text = _spelled.setdefault(
            (table, size),
            f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join(row)}",  # noqa: S608 - of names
        )
        said.append((text, [value for row_ in rows[begin : begin + size] for value in row_]))
        begin += size
    return said


_spelled: dict[tuple[str, int], str] = {}


def inserts(jobs: Jobs, size: int) -> tuple[int, list[tuple[str, list[Any]]]]:
    entries = jobs.entries(size)
    rest = many("entry", ENTRY, entries) + many("payload", PAYLOAD, jobs.payloads(entries))
    return len(entries), rest
