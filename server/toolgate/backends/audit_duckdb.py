"""What DuckDB spells in its own way, over an export, which has each field in a column of its own."""
# ruff: noqa: S608 - made of constants of the views

from typing import Final

from toolgate.backends.audit_fields import FLAGS, column_of, milliseconds

HOLDS: Final = """p.field = 'arguments' AND list_contains(p.atoms, :value)
                AND contains(p.value, trim(CAST(to_json(CAST(:value AS VARCHAR)) AS VARCHAR), '"'))"""
"""Whether kept arguments have a value anywhere; looked for as text too, as the other databases do."""


class DuckDb:
    """DuckDB over an export, which has each field in a column of its own."""

    name: str = "duckdb"
    now: str = "epoch_us(date_trunc('second', now()))"
    binary: str = ""
    apart: str = ""
    unlike: str = "IS DISTINCT FROM"
    ten: str = "CAST(10 AS DOUBLE PRECISION)"

    def value(self, said: str | int) -> str | int:
        """It can have any."""
        return said

    def said(self, name: str, entry: str) -> str:
        """Give its column."""
        column = f'{entry}."{column_of(name)}"'
        return self.flag(column) if name in FLAGS else column

    def last(self, name: str, entry: str) -> str:
        """Give its column."""
        return f'{entry}."{column_of(name)}_last"'

    def acting(self, entry: str, clear: str) -> str:
        """Ask the table that has them, where there are any."""
        del clear
        return f"COALESCE((SELECT t.names FROM acting t WHERE t.idx = {entry}.idx), '[]')"

    def part(self, value: str, number: int) -> str:
        """Give its column, beside the value."""
        del value
        return f'"{("tenant", "issuer", "clear")[number]}"'

    def kept(self, field: str, entry: str) -> str:
        """Give its column."""
        return f"(SELECT p.said FROM payload p WHERE p.idx = {entry}.idx AND p.field = '{field}')"

    def end_of(self, column: str) -> str:
        """Give its column, or that of one which came in a later file."""
        later = f'(SELECT x."{column}" FROM late_end x WHERE x.intent = e.idx)'
        return f"COALESCE(e.end_{column}, {later})"

    def ended(self) -> str:
        """Look into its own columns first."""
        return "(e.end_entry IS NOT NULL OR EXISTS (SELECT 1 FROM late_end x WHERE x.intent = e.idx))"

    def text(self, value: str) -> str:
        """It was written as text."""
        return value

    def flag(self, condition: str) -> str:
        """Make it a number."""
        return f"CAST(({condition}) AS INTEGER)"

    def time(self, column: str) -> str:
        """Round to milliseconds."""
        return f"strftime(make_timestamp({milliseconds(column)} * 1000), '%Y-%m-%dT%H:%M:%S.%gZ')"

    def hour(self, column: str) -> str:
        """Take it from the moment."""
        return f"strftime(make_timestamp({milliseconds(column)} * 1000), '%H')"

    def holds(self, value: str, entry: str) -> str:
        """Ask the column that has all values of the arguments."""
        del value
        return f"{entry} IN (SELECT p.idx FROM payload p WHERE {HOLDS})"

    def root(self, note: str) -> str:
        """Count lines."""
        return f"split_part({note}, chr(10), 3)"


_DUCKDB: Final = DuckDb()


def _clear(pseudonym: str) -> str:
    return f"COALESCE((SELECT n.clear FROM pseudonym n WHERE n.name = {pseudonym}), {pseudonym})"


TABLES: Final = {
    "call_alone": f"""
        SELECT e.idx AS entry, e."at", {_DUCKDB.time("e.at")} AS time, e.tenant, e.who, e.tool, e.run,
            e.call_id, e.kind, e.client AS client_id, e.definition, e.effect,
            {_DUCKDB.end_of("at")} AS ended_at
        FROM ledger_entry e WHERE e.kind = 'intent' OR e.kind = 'refusal' OR e.kind = 'repeat'
    """,
    "denial_alone": "SELECT * FROM call_alone WHERE kind = 'refusal'",
    "acting": """
        SELECT a.idx, CAST(to_json(list(COALESCE(n.clear, a.name) ORDER BY a.place)) AS VARCHAR) AS names
        FROM (
            SELECT idx, unnest(act) AS name, generate_subscripts(act, 1) AS place
            FROM ledger_entry WHERE act IS NOT NULL
        ) a LEFT JOIN pseudonym n ON n.name = a.name
        GROUP BY a.idx
    """,
}
"""What questions and views ask for instead of looking at other entries one by one."""

_CALL: Final = (
    f"e.idx AS entry, e.at, {_DUCKDB.time('e.at')} AS time, e.tenant, e.who, {_clear('e.who')} AS subject, "
    "e.tool, e.status, e.call_id"
)
_OVER: Final = "g.status IN ('given_back', 'revoked', 'expired')"
VIEWS: Final = {
    # Each look at the entries opens all files: they are looked through once for leases.
    # lending: what lent a credential to a call, or how the call left what it was not lent itself; its end is
    # the end that is recorded, else the newest that is said of it.
    "audit_leases_v1": f"""
        WITH said AS MATERIALIZED (
            SELECT * FROM ledger_entry WHERE kind = 'lease' AND lease IS NOT NULL
        ), lending AS MATERIALIZED (
            SELECT f.*, l.idx AS lent_by, l.at AS lent_at, l.call_id AS lent_call, l.refers AS lent_for
            FROM said f LEFT JOIN said l
                ON l.idx = CASE f.status WHEN 'lent' THEN f.idx ELSE f.issued END
            WHERE f.status = 'lent' OR (f.because IS NULL AND f.refers IS DISTINCT FROM l.refers)
        ), lending_end AS (
            SELECT f.idx, first(x.idx ORDER BY x.status IN ('queued', 'kept'), x.idx DESC) AS end_of_it
            FROM lending f JOIN said x
                ON x.lease = f.lease AND x.status NOT IN ('lent', 'revoke_asked')
                AND (x.call_id = f.call_id OR x.call_id = f.lent_call)
                AND (x.refers = f.refers OR x.refers = f.lent_for)
            GROUP BY f.idx
        )
        SELECT COALESCE(f.idx, e.idx) AS entry, e.at, {_DUCKDB.time("COALESCE(f.lent_at, e.at)")} AS time,
            e.tenant, e.who, {_clear("e.who")} AS subject, e.tool, f.lease, COALESCE(f.role, e.role) AS role,
            {_DUCKDB.said("static", "f")} AS static, f.source, f.made, f.scope, f.ttl, f.version, f.request,
            COALESCE(g.status, 'lent') AS status, g.because, COALESCE(f.lent_at, e.at) AS lent_at,
            CASE WHEN {_OVER} THEN g.at END AS ended_at,
            CASE WHEN {_OVER} THEN (g.at - COALESCE(f.lent_at, e.at)) // 1000 END AS lent_ms,
            f.lent_by AS issued, e.idx AS intent, {_DUCKDB.end_of("entry")} AS end_entry, e.run, e.call_id
        FROM (
            SELECT idx AS intent, NULL AS lending FROM ledger_entry
            WHERE kind = 'intent' AND role <> 'none'
                AND idx NOT IN (SELECT refers FROM lending WHERE refers IS NOT NULL)
                AND idx NOT IN (SELECT refers FROM ledger_entry
                    WHERE (kind = 'outcome' OR kind = 'late_outcome') AND refers IS NOT NULL)
            UNION ALL
            SELECT refers, idx FROM lending
        ) b
        JOIN ledger_entry e ON e.idx = b.intent AND e.kind = 'intent'
        LEFT JOIN lending f ON f.idx = b.lending
        LEFT JOIN lending_end o ON o.idx = b.lending
        LEFT JOIN said g ON g.idx = o.end_of_it
    """,
    # The same of calls in doubt, of which there are few.
    "audit_open_v1": f"""
        WITH doubtful AS MATERIALIZED (
            SELECT idx, "at", tenant, who, tool, status, call_id, refers FROM ledger_entry
            WHERE kind = 'unknown' OR (kind = 'outcome' AND status <> 'done' AND outcome = 'unknown')
        ), later AS MATERIALIZED (
            SELECT idx, call_id, kind, status FROM ledger_entry
            WHERE (kind = 'intent' OR kind = 'resolve' OR kind = 'reconcile')
                AND call_id IN (SELECT call_id FROM doubtful)
        )
        SELECT {_CALL}, e.idx AS intent, 'no end is recorded' AS why,
            ({_DUCKDB.now} - e.at) / 1000000 AS age_seconds, NULL AS last_asked
        FROM ledger_entry e
        WHERE e.kind = 'intent' AND e.end_entry IS NULL
            AND NOT EXISTS (SELECT 1 FROM late_end x WHERE x.intent = e.idx)
        UNION ALL
        SELECT {_CALL}, e.refers, 'it ended unknown', ({_DUCKDB.now} - e.at) / 1000000,
            (SELECT r.status FROM later r WHERE r.call_id = e.call_id AND r.kind = 'reconcile'
                ORDER BY r.idx DESC LIMIT 1)
        FROM doubtful e
        WHERE NOT EXISTS (
            SELECT 1 FROM later r
            WHERE r.call_id = e.call_id AND r.idx > e.idx AND (
                r.kind = 'intent' OR r.kind = 'resolve' OR r.status = 'found'
                OR (r.status = 'not_found' AND NOT EXISTS (
                    SELECT 1 FROM claim c WHERE c.call_id = e.call_id AND c.state = 'unknown'))
            )
        )
    """,
}
"""Views that DuckDB is asked for in another way, with the same columns and rows."""
