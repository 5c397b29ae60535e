"""Views for auditors: what the entries say, in columns, with clear names where they are still known.

A view's columns are a contract: a later revision may add `audit_calls_v2`, but does not change
`audit_calls_v1`, and it is the same in SQLite, PostgreSQL and DuckDB. Times are microseconds since 1970
(`at`) and readable UTC (`time`). Subqueries stand where a column is looked up elsewhere, because SQLite
computes only those that a query asks for.
"""
# ruff: noqa: S608 - views are made of constants of this module

from dataclasses import dataclass
from typing import Final

from toolgate.backends import audit_duckdb
from toolgate.backends.audit_dialects import SQLITE, Dialect

# The very words of the partial indexes' conditions.
ASKED = "(e.kind = 'intent' OR e.kind = 'refusal' OR e.kind = 'repeat')"
ENDED = "(kind = 'outcome' OR kind = 'unknown')"


def views(dialect: Dialect) -> dict[str, str]:
    """Give each view's query by its name; one uses only those before it."""
    s = _Spelling(dialect)
    parts = (_names, _calls, _doubts, _leases, _vault_runs, _upkeep, _beside)
    found = {name: view for part in parts for name, view in part(s).items()}
    return found | audit_duckdb.VIEWS if dialect.name == "duckdb" else found


@dataclass(frozen=True)
class _Spelling:
    """The parts of views that stand in many of them."""

    dialect: Dialect

    @property
    def who(self) -> str:
        """Whose call it is."""
        return f"e.tenant, e.who, {self.clear('e.who')} AS subject"

    @property
    def call(self) -> str:
        """Which call it is."""
        return f"e.idx AS entry, e.at, {self.time('e.at')} AS time, {self.who}, e.tool, e.status, e.call_id"

    @property
    def note(self) -> str:
        """Which entry it is."""
        return f"e.idx AS entry, e.at, {self.time('e.at')} AS time, e.kind, e.status"

    def said(self, name: str, entry: str = "e") -> str:
        """Give a field of an entry's body."""
        return self.dialect.said(name, entry)

    def last(self, name: str, entry: str = "e") -> str:
        """Give the last of a list in an entry's body."""
        return self.dialect.last(name, entry)

    def time(self, column: str) -> str:
        """Give a moment as people read it."""
        return self.dialect.time(column)

    @staticmethod
    def clear(pseudonym: str) -> str:
        """Give whom a pseudonym stands for; the pseudonym itself where that was erased."""
        return (
            f"COALESCE((SELECT n.clear FROM audit_names_v1 n WHERE n.pseudonym = {pseudonym}), {pseudonym})"
        )

    def kept(self, field: str, entry: str = "e") -> str:
        """Give a value that an entry commits to, where it is kept; a text without its quotes."""
        return self.dialect.kept(field, entry)

    def end_of(self, column: str) -> str:
        """Give a column of the entry that ended an intent."""
        return self.dialect.end_of(column)

    def issued_for(self) -> str:
        """Give the intent for which the credential of the entry `f` was made."""
        return f"(SELECT i.refers FROM ledger_entry i WHERE i.idx = {self.said('issued', 'f')})"


def _names(s: _Spelling) -> dict[str, str]:
    """Give the views of whom pseudonyms stand for, and how intents ended."""
    return {
        "audit_names_v1": f"""
        SELECT name AS pseudonym, kind,
            {s.dialect.part("value", 0)} AS tenant,
            {s.dialect.part("value", 1)} AS issuer,
            {s.dialect.part("value", 2)} AS clear
        FROM pseudonym
        """,
        # How an intent ended: by its outcome, or by its being taken for lost.
        "audit_ends_v1": f"""
        SELECT refers AS intent, idx AS entry, "at", status
        FROM ledger_entry WHERE {ENDED}
        """,
    }


def _calls(s: _Spelling) -> dict[str, str]:
    """Give the views of calls and refusals."""
    return {
        "audit_calls_v1": f"""
        SELECT e.idx AS entry, e.at, {s.time("e.at")} AS time, {s.who},
            (SELECT n.issuer FROM audit_names_v1 n WHERE n.pseudonym = e.who) AS issuer,
            {s.said("client")} AS client_id, {s.clear(s.said("client"))} AS client,
            {s.dialect.acting("e", s.clear("a.value"))} AS acting,
            e.tool, {s.kept("asked")} AS asked, e.kind, {s.said("effect")} AS effect,
            {s.said("verdict")} AS verdict, {s.said("rules")} AS rules,
            CASE WHEN e.kind <> 'intent' THEN e.status
                ELSE COALESCE({s.end_of("status")}, 'open') END AS status,
            {s.end_of("entry")} AS end_entry, {s.end_of("at")} AS ended_at,
            {s.said("definition")} AS definition, {s.said("config")} AS config,
            {s.said("key")} AS keyed, {s.said("attempt")} AS attempt,
            e.run, CASE WHEN e.run <> '' THEN {s.clear("e.run")} END AS run_name,
            {s.said("trace")} AS trace, e.call_id
        FROM ledger_entry e WHERE {ASKED}
        """,
        "audit_denials_v1": f"""
        SELECT {s.call}, {s.kept("asked")} AS asked, {s.clear(s.said("client"))} AS client,
            {s.said("verdict")} AS verdict, {s.said("rules")} AS rules,
            {s.last("rules")} AS rule, {s.said("config")} AS config, e.run
        FROM ledger_entry e WHERE e.kind = 'refusal'
        """,
        "audit_shadow_v1": f"""
        SELECT {s.call}, {s.said("verdict")} AS verdict, {s.said("rules")} AS rules,
            {s.said("shadow.verdict")} AS would_be, {s.said("shadow.rules")} AS would_rules,
            {s.last("shadow.rules")} AS would_rule,
            {s.said("shadow.policy")} AS policy
        FROM ledger_entry e WHERE {ASKED} AND {s.said("shadow")} IS NOT NULL
        """,
        "audit_repeats_v1": f"""
        SELECT {s.call}, e.refers AS answered_with,
            (SELECT a.kind FROM ledger_entry a WHERE a.idx = e.refers) AS answered_with_kind, e.run
        FROM ledger_entry e WHERE e.kind = 'repeat'
        """,
    }


def _doubts(s: _Spelling) -> dict[str, str]:
    """Give the views of calls that have no known end, and what became known of them."""
    return {
        # An attempt that was followed by another one is not in doubt itself. In the first half the index on
        # ends is asked first, and the entry itself only read where there is no end.
        "audit_open_v1": f"""
        SELECT {s.call}, e.idx AS intent, 'no end is recorded' AS why,
            ({s.dialect.now} - e.at) / 1000000 AS age_seconds, NULL AS last_asked
        FROM ledger_entry e
        WHERE {ASKED} AND CASE
            WHEN {s.dialect.ended()} THEN FALSE
            ELSE e.kind = 'intent' END
        UNION ALL
        SELECT {s.call}, e.refers, 'it ended unknown',
            ({s.dialect.now} - e.at) / 1000000,
            (SELECT r.status FROM ledger_entry r WHERE r.call_id = e.call_id AND r.kind = 'reconcile'
                ORDER BY r.idx DESC LIMIT 1)
        FROM (
            SELECT * FROM ledger_entry e
            WHERE e.kind = 'outcome' AND e.status <> 'done' AND {s.said("outcome")} = 'unknown'
            UNION ALL
            SELECT * FROM ledger_entry WHERE kind = 'unknown'
        ) e
        WHERE NOT EXISTS (
            SELECT 1 FROM ledger_entry r
            WHERE r.call_id = e.call_id AND r.idx > e.idx AND (
                r.kind = 'intent' OR r.kind = 'resolve' OR (r.kind = 'reconcile' AND r.status = 'found')
                OR (r.kind = 'reconcile' AND r.status = 'not_found' AND NOT EXISTS (
                    SELECT 1 FROM claim c WHERE c.call_id = e.call_id AND c.state = 'unknown'))
            )
        )
        """,
        "audit_resolutions_v1": f"""
        SELECT {s.call}, e.kind, e.refers AS intent, {s.said("attempt")} AS attempt,
            {s.clear(s.said("by"))} AS by_whom, {s.kept("because")} AS because
        FROM ledger_entry e
        WHERE e.kind = 'resolve' OR e.kind = 'reconcile' OR e.kind = 'unknown' OR e.kind = 'late_outcome'
        """,
    }


def _leases(s: _Spelling) -> dict[str, str]:
    """Give the views of credentials."""
    over = "g.status IN ('given_back', 'revoked', 'expired')"
    return {
        # From the intents, which have indexes by time, tool and caller; leases have none. An intent that
        # names a role and has no outcome may have been lent its credential by a process that said no more.
        # f: what lent it to the call, or how the call left what it was not lent itself; l: what lent it;
        # g: its end, else the newest that is said of it.
        "audit_leases_v1": f"""
        SELECT COALESCE(f.idx, e.idx) AS entry, e.at, {s.time("COALESCE(l.at, e.at)")} AS time, {s.who},
            e.tool, {s.said("lease", "f")} AS lease,
            COALESCE({s.said("role", "f")}, {s.said("role")}) AS role,
            {s.said("static", "f")} AS static, {s.said("source", "f")} AS source,
            {s.said("made", "f")} AS made, {s.said("scope", "f")} AS scope,
            {s.said("ttl", "f")} AS ttl, {s.said("version", "f")} AS version,
            {s.said("request", "f")} AS request, COALESCE(g.status, 'lent') AS status,
            {s.said("because", "g")} AS because, COALESCE(l.at, e.at) AS lent_at,
            CASE WHEN {over} THEN g.at END AS ended_at,
            CASE WHEN {over} THEN (g.at - COALESCE(l.at, e.at)) / 1000 END AS lent_ms,
            l.idx AS issued, e.idx AS intent, {s.end_of("entry")} AS end_entry, e.run, e.call_id
        FROM ledger_entry e
        LEFT JOIN ledger_entry f ON f.call_id = e.call_id AND f.kind = 'lease' AND f.refers = e.idx
            AND {s.said("lease", "f")} IS NOT NULL AND CASE f.status
                WHEN 'lent' THEN TRUE
                ELSE {s.said("because", "f")} IS NULL AND e.idx {s.dialect.unlike} {s.issued_for()}
            END
        LEFT JOIN ledger_entry l
            ON l.idx = CASE f.status WHEN 'lent' THEN f.idx ELSE {s.said("issued", "f")} END
        LEFT JOIN ledger_entry g ON g.idx = (
            SELECT x.idx FROM ledger_entry x
            WHERE x.call_id IN (f.call_id, l.call_id) AND x.refers IN (f.refers, l.refers)
                AND x.kind = 'lease' AND x.status NOT IN ('lent', 'revoke_asked')
                AND {s.said("lease", "x")} = {s.said("lease", "f")}
            ORDER BY x.status IN ('queued', 'kept'), x.idx DESC LIMIT 1
        )
        WHERE e.kind = 'intent' AND CASE
            WHEN f.idx IS NOT NULL THEN TRUE
            WHEN EXISTS (
                SELECT 1 FROM ledger_entry o WHERE o.call_id = e.call_id AND o.refers = e.idx
                    AND (o.kind = 'outcome' OR o.kind = 'late_outcome')
            ) THEN FALSE
            ELSE {s.said("role")} <> 'none' END
        """,
    }


def _vault_runs(s: _Spelling) -> dict[str, str]:
    """Give the views of vaults' tokens of runs."""
    of_token = f"""x.call_id = o.call_id AND x.kind = 'lease' AND {s.said("lease", "x")} IS NULL
                AND {s.said("accessor", "x")} = {s.said("accessor", "o")}"""
    return {
        "audit_vault_runs_v1": f"""
        SELECT o.idx AS entry, e.at, {s.time("o.at")} AS time, {s.who}, e.tool,
            {s.said("source", "o")} AS source, {s.said("accessor", "o")} AS accessor,
            {s.said("request", "o")} AS request, {s.said("ttl", "o")} AS ttl,
            COALESCE(g.status, 'open') AS status, {s.said("because", "g")} AS because, g.at AS ended_at,
            (g.at - o.at) / 1000 AS open_ms, e.idx AS intent, g.idx AS end_entry,
            (SELECT {s.clear(s.said("by", "x"))} FROM ledger_entry x
                WHERE {of_token} AND x.status = 'revoke_asked' ORDER BY x.idx LIMIT 1) AS asked_by,
            e.run, CASE WHEN e.run <> '' THEN {s.clear("e.run")} END AS run_name, e.call_id
        FROM ledger_entry e
        JOIN ledger_entry o ON o.call_id = e.call_id AND o.refers = e.idx
            AND o.kind = 'lease' AND o.status = 'run_opened'
        LEFT JOIN ledger_entry g ON g.idx = (
            SELECT x.idx FROM ledger_entry x WHERE {of_token}
                AND x.status IN ('given_back', 'revoked', 'expired') LIMIT 1
        )
        WHERE e.kind = 'intent'
        """,
    }


def _upkeep(s: _Spelling) -> dict[str, str]:
    """Give the views of the ledger itself."""
    return {
        "audit_changes_v1": f"""
        SELECT {s.note}, {s.said("writer")} AS writer, {s.said("digests.policy")} AS policy,
            {s.said("digests.registry")} AS registry, {s.said("digests.settings")} AS settings,
            {s.said("digests.adapters")} AS adapters, {s.said("digests.keys")} AS keys,
            {s.said("digests.lock")} AS lock, {s.said("old")} AS old_key, {s.said("new")} AS new_key
        FROM ledger_entry e WHERE e.kind = 'config' OR e.kind = 'key_rotate'
        """,
        "audit_policies_v1": f"""
        SELECT {s.note}, {s.said("writer")} AS writer, {s.said("policy")} AS policy,
            {s.said("previous")} AS previous, {s.said("by")} AS who, {s.clear(s.said("by"))} AS by_whom,
            {s.said("cases")} AS cases, {s.said("override")} AS override, {s.kept("because")} AS because
        FROM ledger_entry e WHERE e.kind = 'policy'
        """,
        "audit_reads_v1": f"""
        SELECT {s.note}, {s.said("by")} AS who, {s.clear(s.said("by"))} AS reader, {s.said("query")} AS query,
            {s.kept("asked")} AS asked
        FROM ledger_entry e WHERE e.kind = 'audit_read'
        """,
        "audit_writers_v1": f"""
        SELECT {s.note}, {s.said("writer")} AS writer, {s.said("program")} AS program,
            {s.said("detail")} AS detail, {s.said("origin")} AS origin
        FROM ledger_entry e
        WHERE e.kind = 'genesis' OR e.kind = 'writer_start' OR e.kind = 'writer_stop' OR e.kind = 'fault'
        """,
        "audit_auth_failures_v1": f"""
        SELECT {s.note}, {s.said("count")} AS count, {s.kept("source")} AS source,
            {s.said("reasons")} AS reasons
        FROM ledger_entry e WHERE e.kind = 'auth_failure'
        """,
        "audit_erasures_v1": f"""
        SELECT {s.note}, e.tenant, {s.said("by")} AS who, {s.clear(s.said("by"))} AS by_whom,
            {s.kept("basis")} AS basis,
            {s.said("names.subject")} AS subjects, {s.said("names.client")} AS clients,
            {s.said("names.run")} AS runs, CASE WHEN d.idx IS NULL THEN 'begun' ELSE 'done' END AS stands,
            d.idx AS done_entry, d.at AS done_at, {s.said("removed.values", "d")} AS removed_values,
            {s.said("removed.answers", "d")} AS removed_answers, {s.said("removed.waiting", "d")} AS waiting
        FROM erasure r JOIN ledger_entry e ON e.idx = r.entry LEFT JOIN ledger_entry d ON d.idx = r.done
        """,
        "audit_retention_v1": f"""
        SELECT {s.note}, {s.said("tenant")} AS tenant, {s.said("days")} AS days, {s.said("rule")} AS rule,
            {s.said("before")} AS before, {s.time(s.said("before"))} AS before_time, r.first, r.last,
            {s.said("removed.arguments")} AS arguments, {s.said("removed.result")} AS results,
            {s.said("removed.caller")} AS callers, {s.said("removed.addresses")} AS addresses,
            {s.said("removed.names")} AS names
        FROM retention_run r JOIN ledger_entry e ON e.idx = r.entry
        """,
    }


def _beside(s: _Spelling) -> dict[str, str]:
    """Give the views of what is kept beside the entries."""
    return {
        "audit_payloads_v1": f"""
        SELECT idx AS entry, field, {s.dialect.text("value")} AS value,
            {s.dialect.flag("value IS NOT NULL")} AS kept
        FROM payload
        """,
        "audit_checkpoints_v1": f"""
        SELECT size, "at", {s.time('"at"')} AS time, note FROM ledger_checkpoint
        """,
    }


VIEWS: Final = views(SQLITE)
"""As they are in SQLite."""
