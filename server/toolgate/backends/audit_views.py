"""Views for auditors: what the entries say, in columns, with clear names where they are still known.

A view's columns are a contract: a later revision may add `audit_calls_v2`, but does not change
`audit_calls_v1`. Times are microseconds since 1970 (`at`) and readable UTC (`time`). Subqueries stand where a
column is looked up elsewhere, because SQLite computes only those that a query asks for.
"""
# ruff: noqa: S608 - views are made of constants of this module

# The very words of the partial indexes' conditions.
ASKED = "(e.kind = 'intent' OR e.kind = 'refusal' OR e.kind = 'repeat')"
ENDED = "(kind = 'outcome' OR kind = 'unknown')"


def said(name: str, entry: str = "e") -> str:
    """Give a field of an entry's body."""
    return f"json_extract(CAST({entry}.body AS TEXT), '$.{name}')"


def time(column: str) -> str:
    """Give a moment as people read it."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1e6, 'unixepoch')"


def clear(pseudonym: str) -> str:
    """Give whom a pseudonym stands for; the pseudonym itself where that was erased."""
    return f"COALESCE((SELECT n.clear FROM audit_names_v1 n WHERE n.pseudonym = {pseudonym}), {pseudonym})"


def kept(field: str, entry: str = "e") -> str:
    """Give a value that an entry commits to, where it is kept; a text without its quotes."""
    value = "json_extract(CAST(p.value AS TEXT), '$')"
    return f"(SELECT {value} FROM payload p WHERE p.idx = {entry}.idx AND p.field = '{field}')"


def end_of(column: str, intent: str = "e.idx") -> str:
    """Give a column of the entry that ended an intent."""
    return f"(SELECT x.{column} FROM audit_ends_v1 x WHERE x.intent = {intent})"


WHO = f"e.tenant, e.who, {clear('e.who')} AS subject"
CALL = f"e.idx AS entry, e.at, {time('e.at')} AS time, {WHO}, e.tool, e.status, e.call_id"
OVER = "g.status IN ('given_back', 'revoked', 'expired')"
OF_TOKEN = f"""x.call_id = o.call_id AND x.kind = 'lease' AND {said("lease", "x")} IS NULL
                AND {said("accessor", "x")} = {said("accessor", "o")}"""
NOTE = f"e.idx AS entry, e.at, {time('e.at')} AS time, e.kind, e.status"

VIEWS = {
    "audit_names_v1": """
        SELECT name AS pseudonym, kind,
            json_extract(CAST(value AS TEXT), '$[0]') AS tenant,
            json_extract(CAST(value AS TEXT), '$[1]') AS issuer,
            json_extract(CAST(value AS TEXT), '$[2]') AS clear
        FROM pseudonym
    """,
    # How an intent ended: by its outcome, or by its being taken for lost.
    "audit_ends_v1": f"""
        SELECT refers AS intent, idx AS entry, at, status
        FROM ledger_entry WHERE {ENDED}
    """,
    "audit_calls_v1": f"""
        SELECT e.idx AS entry, e.at, {time("e.at")} AS time, {WHO},
            (SELECT n.issuer FROM audit_names_v1 n WHERE n.pseudonym = e.who) AS issuer,
            {said("client")} AS client_id, {clear(said("client"))} AS client,
            (SELECT json_group_array({clear("a.value")})
                FROM json_each(CAST(e.body AS TEXT), '$.act') a) AS acting,
            e.tool, {kept("asked")} AS asked, e.kind, {said("effect")} AS effect,
            {said("verdict")} AS verdict, {said("rules")} AS rules,
            CASE WHEN e.kind <> 'intent' THEN e.status
                ELSE COALESCE({end_of("status")}, 'open') END AS status,
            {end_of("entry")} AS end_entry, {end_of("at")} AS ended_at,
            {said("definition")} AS definition, {said("config")} AS config,
            {said("key")} AS keyed, {said("attempt")} AS attempt,
            e.run, CASE WHEN e.run <> '' THEN {clear("e.run")} END AS run_name,
            {said("trace")} AS trace, e.call_id
        FROM ledger_entry e WHERE {ASKED}
    """,
    # An attempt that was followed by another one is not in doubt itself. In the first half the index on ends
    # is asked first, and the entry itself only read where there is no end.
    "audit_open_v1": f"""
        SELECT {CALL}, e.idx AS intent, 'no end is recorded' AS why,
            (strftime('%s', 'now') * 1000000 - e.at) / 1000000 AS age_seconds, NULL AS last_asked
        FROM ledger_entry e
        WHERE {ASKED} AND CASE
            WHEN EXISTS (SELECT 1 FROM audit_ends_v1 x WHERE x.intent = e.idx) THEN 0
            ELSE e.kind = 'intent' END
        UNION ALL
        SELECT {CALL}, e.refers, 'it ended unknown',
            (strftime('%s', 'now') * 1000000 - e.at) / 1000000,
            (SELECT r.status FROM ledger_entry r WHERE r.call_id = e.call_id AND r.kind = 'reconcile'
                ORDER BY r.idx DESC LIMIT 1)
        FROM (
            SELECT * FROM ledger_entry e
            WHERE e.kind = 'outcome' AND e.status <> 'done' AND {said("outcome")} = 'unknown'
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
    "audit_denials_v1": f"""
        SELECT {CALL}, {kept("asked")} AS asked, {clear(said("client"))} AS client,
            {said("verdict")} AS verdict, {said("rules")} AS rules,
            json_extract(CAST(e.body AS TEXT), '$.rules[#-1]') AS rule, {said("config")} AS config, e.run
        FROM ledger_entry e WHERE e.kind = 'refusal'
    """,
    "audit_shadow_v1": f"""
        SELECT {CALL}, {said("verdict")} AS verdict, {said("rules")} AS rules,
            {said("shadow.verdict")} AS would_be, {said("shadow.rules")} AS would_rules,
            json_extract(CAST(e.body AS TEXT), '$.shadow.rules[#-1]') AS would_rule,
            {said("shadow.policy")} AS policy
        FROM ledger_entry e WHERE {ASKED} AND {said("shadow")} IS NOT NULL
    """,
    "audit_repeats_v1": f"""
        SELECT {CALL}, e.refers AS answered_with,
            (SELECT a.kind FROM ledger_entry a WHERE a.idx = e.refers) AS answered_with_kind, e.run
        FROM ledger_entry e WHERE e.kind = 'repeat'
    """,
    "audit_resolutions_v1": f"""
        SELECT {CALL}, e.kind, e.refers AS intent, {said("attempt")} AS attempt,
            {clear(said("by"))} AS by_whom, {kept("because")} AS because
        FROM ledger_entry e
        WHERE e.kind = 'resolve' OR e.kind = 'reconcile' OR e.kind = 'unknown' OR e.kind = 'late_outcome'
    """,
    # From the intents, which have indexes by time, tool and caller; leases have none. An intent that names a
    # role and has no outcome may have been lent its credential by a process that said no more.
    # f: what lent it to the call, or how the call left what it was not lent itself; l: what lent it;
    # g: its end, else the newest that is said of it.
    "audit_leases_v1": f"""
        SELECT COALESCE(f.idx, e.idx) AS entry, e.at, {time("COALESCE(l.at, e.at)")} AS time, {WHO}, e.tool,
            {said("lease", "f")} AS lease, COALESCE({said("role", "f")}, {said("role")}) AS role,
            {said("static", "f")} AS static, {said("source", "f")} AS source, {said("made", "f")} AS made,
            {said("scope", "f")} AS scope, {said("ttl", "f")} AS ttl, {said("version", "f")} AS version,
            {said("request", "f")} AS request, COALESCE(g.status, 'lent') AS status,
            {said("because", "g")} AS because, COALESCE(l.at, e.at) AS lent_at,
            CASE WHEN {OVER} THEN g.at END AS ended_at,
            CASE WHEN {OVER} THEN (g.at - COALESCE(l.at, e.at)) / 1000 END AS lent_ms,
            l.idx AS issued, e.idx AS intent, {end_of("entry")} AS end_entry, e.run, e.call_id
        FROM ledger_entry e
        LEFT JOIN ledger_entry f ON f.call_id = e.call_id AND f.kind = 'lease' AND f.refers = e.idx
            AND {said("lease", "f")} IS NOT NULL AND CASE f.status
                WHEN 'lent' THEN 1
                ELSE {said("because", "f")} IS NULL AND e.idx IS NOT (
                    SELECT i.refers FROM ledger_entry i WHERE i.idx = {said("issued", "f")}
                )
            END
        LEFT JOIN ledger_entry l
            ON l.idx = CASE f.status WHEN 'lent' THEN f.idx ELSE {said("issued", "f")} END
        LEFT JOIN ledger_entry g ON g.idx = (
            SELECT x.idx FROM ledger_entry x
            WHERE x.call_id IN (f.call_id, l.call_id) AND x.refers IN (f.refers, l.refers)
                AND x.kind = 'lease' AND x.status NOT IN ('lent', 'revoke_asked')
                AND {said("lease", "x")} = {said("lease", "f")}
            ORDER BY x.status IN ('queued', 'kept'), x.idx DESC LIMIT 1
        )
        WHERE e.kind = 'intent' AND CASE
            WHEN f.idx IS NOT NULL THEN 1
            WHEN EXISTS (
                SELECT 1 FROM ledger_entry o WHERE o.call_id = e.call_id AND o.refers = e.idx
                    AND (o.kind = 'outcome' OR o.kind = 'late_outcome')
            ) THEN 0
            ELSE {said("role")} <> 'none' END
    """,
    "audit_vault_runs_v1": f"""
        SELECT o.idx AS entry, e.at, {time("o.at")} AS time, {WHO}, e.tool,
            {said("source", "o")} AS source, {said("accessor", "o")} AS accessor,
            {said("request", "o")} AS request, {said("ttl", "o")} AS ttl,
            COALESCE(g.status, 'open') AS status, {said("because", "g")} AS because, g.at AS ended_at,
            (g.at - o.at) / 1000 AS open_ms, e.idx AS intent, g.idx AS end_entry,
            (SELECT {clear(said("by", "x"))} FROM ledger_entry x
                WHERE {OF_TOKEN} AND x.status = 'revoke_asked' ORDER BY x.idx LIMIT 1) AS asked_by,
            e.run, CASE WHEN e.run <> '' THEN {clear("e.run")} END AS run_name, e.call_id
        FROM ledger_entry e
        JOIN ledger_entry o ON o.call_id = e.call_id AND o.refers = e.idx
            AND o.kind = 'lease' AND o.status = 'run_opened'
        LEFT JOIN ledger_entry g ON g.idx = (
            SELECT x.idx FROM ledger_entry x WHERE {OF_TOKEN}
                AND x.status IN ('given_back', 'revoked', 'expired') LIMIT 1
        )
        WHERE e.kind = 'intent'
    """,
    "audit_changes_v1": f"""
        SELECT {NOTE}, {said("writer")} AS writer, {said("digests.policy")} AS policy,
            {said("digests.registry")} AS registry, {said("digests.settings")} AS settings,
            {said("digests.adapters")} AS adapters, {said("digests.keys")} AS keys,
            {said("digests.lock")} AS lock, {said("old")} AS old_key, {said("new")} AS new_key
        FROM ledger_entry e WHERE e.kind = 'config' OR e.kind = 'key_rotate'
    """,
    "audit_policies_v1": f"""
        SELECT {NOTE}, {said("writer")} AS writer, {said("policy")} AS policy,
            {said("previous")} AS previous, {said("by")} AS who, {clear(said("by"))} AS by_whom,
            {said("cases")} AS cases, {said("override")} AS override, {kept("because")} AS because
        FROM ledger_entry e WHERE e.kind = 'policy'
    """,
    "audit_reads_v1": f"""
        SELECT {NOTE}, {said("by")} AS who, {clear(said("by"))} AS reader, {said("query")} AS query,
            {kept("asked")} AS asked
        FROM ledger_entry e WHERE e.kind = 'audit_read'
    """,
    "audit_writers_v1": f"""
        SELECT {NOTE}, {said("writer")} AS writer, {said("program")} AS program, {said("detail")} AS detail,
            {said("origin")} AS origin
        FROM ledger_entry e
        WHERE e.kind = 'genesis' OR e.kind = 'writer_start' OR e.kind = 'writer_stop' OR e.kind = 'fault'
    """,
    "audit_auth_failures_v1": f"""
        SELECT {NOTE}, {said("count")} AS count, {kept("source")} AS source, {said("reasons")} AS reasons
        FROM ledger_entry e WHERE e.kind = 'auth_failure'
    """,
    "audit_payloads_v1": """
        SELECT idx AS entry, field, CAST(value AS TEXT) AS value, value IS NOT NULL AS kept FROM payload
    """,
    "audit_checkpoints_v1": f"""
        SELECT size, at, {time("at")} AS time, note FROM ledger_checkpoint
    """,
}
