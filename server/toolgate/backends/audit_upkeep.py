"""The questions that auditors ask about the ledger itself: who changed, kept, read and published it."""

from typing import Final

from toolgate.backends.audit_queries import EVERY, WHOSE, WINDOW, NamedQuery, only

_PARTS: Final = ("policy", "registry", "settings", "adapters", "keys", "lock")
_CHANGED: Final = " || ".join(
    f"CASE WHEN {part} {{unlike}} lag({part}) OVER (ORDER BY entry) THEN '{part} ' ELSE '' END"
    for part in _PARTS
)

UPKEEP: Final = (
    NamedQuery(
        name="changes",
        question="When did policy, registry, settings, adapters or keys change, which of them, and who "
        "activated a policy?",
        sql=f"""
            SELECT entry, time, kind, changed, by_whom, because, writer, policy, registry, settings,
                adapters, keys, lock, new_key
            FROM (
                SELECT *, trim({_CHANGED}) AS changed, NULL AS by_whom, NULL AS because
                FROM audit_changes_v1 WHERE kind = 'config'
                UNION ALL
                SELECT *, 'log key', NULL, NULL FROM audit_changes_v1 WHERE kind = 'key_rotate'
                UNION ALL
                SELECT entry, "at", time, kind, status, writer, policy, NULL, NULL, NULL, NULL, NULL, NULL,
                    NULL, 'policy ' || status || CASE WHEN override = 1 THEN ', override' ELSE '' END,
                    by_whom, because
                FROM audit_policies_v1
            ) c WHERE {{where}} ORDER BY entry DESC
        """,  # noqa: S608
        filters=WINDOW,
    ),
    NamedQuery(
        name="gaps",
        question="When did writers begin and stop, and what was wrong with clock or disk? "
        "(A missing entry: toolgate ledger verify.)",
        sql="""
            SELECT s.entry, s.time, s.kind, s.writer, s.program, s.status, s.detail, x.stop_entry, x.stopped
            FROM (SELECT * FROM audit_writers_v1 WHERE kind <> 'writer_stop' AND {where}) s
            LEFT JOIN (
                SELECT writer, entry AS stop_entry, time AS stopped FROM audit_writers_v1
                WHERE kind = 'writer_stop'
            ) x ON s.kind = 'writer_start' AND x.writer = s.writer
            ORDER BY s.entry DESC
        """,
        filters=WINDOW,
    ),
    NamedQuery(
        name="who-read",
        question="Who read the ledger, and what was asked?",
        sql="""
            SELECT entry, time, reader, query, asked, tenant, tool, call_id
            FROM (
                SELECT r.entry, r.at, r.time, r.who, r.reader, r.query, r.asked, e.tenant, e.tool, e.call_id
                FROM audit_reads_v1 r JOIN ledger_entry e ON e.idx = r.entry
                UNION ALL
                SELECT p.entry, p.at, p.time, r.who, r.reader, r.query, r.asked, p.tenant, p.tool, p.call_id
                FROM audit_reads_v1 r JOIN ledger_entry e ON e.idx = r.entry AND e.call_id <> ''
                JOIN audit_repeats_v1 p ON p.call_id = e.call_id AND p.status = 'replayed'
            ) r WHERE {where} ORDER BY entry DESC
        """,
        filters=WHOSE,
    ),
    NamedQuery(
        name="published",
        question="Which checkpoint covers a call? (The proof itself: toolgate ledger prove.)",
        sql="""
            SELECT entry, end_entry, tool, status, k.size AS checkpoint, k.time AS published,
                'toolgate ledger prove ' || COALESCE(end_entry, entry) AS proof, call_id
            FROM (SELECT *, "at" AS begun FROM audit_calls_v1 WHERE {where}) c
            LEFT JOIN (SELECT size, time FROM audit_checkpoints_v1) k ON k.size = (
                SELECT min(size) FROM audit_checkpoints_v1 WHERE size > COALESCE(end_entry, entry))
            ORDER BY begun DESC, entry DESC
        """,
        page="SELECT idx FROM ledger_entry WHERE {asked} AND {where} {newest}",
        filters=EVERY,
    ),
    NamedQuery(
        name="checkpoints",
        question="Which checkpoints were published? (That each extends the last: toolgate ledger verify.)",
        sql="""
            SELECT size, time, {root} AS root
            FROM audit_checkpoints_v1 WHERE {where} ORDER BY size DESC
        """,
        filters=WINDOW,
    ),
    NamedQuery(
        name="erased",
        question="Which callers have no name any more? (The rest still verifies: toolgate ledger verify.)",
        sql="""
            SELECT who, count(*) AS calls, min(time) AS first, max(time) AS last
            FROM audit_calls_v1 WHERE who NOT IN (SELECT pseudonym FROM audit_names_v1) AND {where}
            GROUP BY who ORDER BY who{binary}
        """,
        alone=True,
        filters=WINDOW | only("tool", "tenant"),
    ),
    NamedQuery(
        name="erasures",
        question="Which erasures happened, on what basis, by whom, and how much was removed?",
        sql="""
            SELECT entry, time, tenant, by_whom, basis, stands, done_entry, removed_values, removed_answers,
                waiting, subjects, clients, runs
            FROM audit_erasures_v1 WHERE {where} ORDER BY entry DESC
        """,
        filters=WINDOW | only("tenant"),
    ),
    NamedQuery(
        name="retention",
        question="What was removed because it had been kept long enough, and by which rule?",
        sql="""
            SELECT entry, time, rule, tenant, days, before_time AS before, arguments, results, callers,
                addresses, names, first, last
            FROM audit_retention_v1 WHERE {where} ORDER BY entry DESC
        """,
        filters=WINDOW,
    ),
    NamedQuery(
        name="auth-failures",
        question="From where, and why, were tokens refused?",
        sql="""
            SELECT entry, time, count, source, reasons FROM audit_auth_failures_v1 WHERE {where}
            ORDER BY entry DESC
        """,
        filters=WINDOW,
    ),
)
