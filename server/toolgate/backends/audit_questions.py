"""The questions that auditors ask about calls, by name, and with them those about the ledger itself.

`docs/reference/queries.md` says what their columns mean.
"""

from typing import Final

from toolgate.backends.audit_duckdb import HOLDS
from toolgate.backends.audit_queries import EVERY, WHOSE, NamedQuery, only
from toolgate.backends.audit_upkeep import UPKEEP

_HOUR: Final = "{hour}"
_FROM, _TO = "substr(:hours, 1, 2)", "substr(:hours, 4, 2)"
_OUTSIDE: Final = f"""CASE WHEN {_FROM} < {_TO}
                THEN {_HOUR} < {_FROM} OR {_HOUR} >= {_TO}
                ELSE {_HOUR} < {_FROM} AND {_HOUR} >= {_TO} END"""

QUERIES: Final = (
    NamedQuery(
        name="calls",
        question="Who called which tool when, on whose behalf, and how did it end?",
        sql="""
            SELECT entry, time, tenant, subject, client, acting, tool, asked, effect, verdict, rules, status,
                end_entry, call_id
            FROM audit_calls_v1 WHERE {where} ORDER BY "at" DESC, entry DESC
        """,
        page="SELECT idx FROM ledger_entry WHERE {asked} AND {where} {newest}",
        filters=EVERY,
    ),
    NamedQuery(
        name="run",
        question="What did a run do, in order, and what was decided?",
        sql="""
            SELECT entry, time, subject, tool, asked, effect, verdict, rules, status,
                (ended_at - "at") / 1000 AS took_ms, end_entry, call_id
            FROM audit_calls_v1 WHERE {where} ORDER BY entry
        """,
        filters=EVERY,
        needed=only("run"),
    ),
    NamedQuery(
        name="allowed-by",
        question="Which rules of which policy decided a call, and is that policy still in force?",
        sql="""
            SELECT c.entry, c.time, c.tool, c.verdict, c.rules, c.status, c.config, g.policy, g.registry,
                CASE WHEN g.policy = (
                    SELECT policy FROM audit_changes_v1 WHERE kind = 'config' ORDER BY entry DESC LIMIT 1
                ) THEN 'yes' ELSE 'no' END AS still_in_force, c.call_id
            FROM (SELECT * FROM audit_calls_v1 WHERE {where}) c
            LEFT JOIN audit_changes_v1 g ON g.entry = c.config
            ORDER BY c.at DESC, c.entry DESC
        """,
        page="SELECT idx FROM ledger_entry WHERE {asked} AND {where} {newest}",
        filters=EVERY,
    ),
    NamedQuery(
        name="denials",
        question="Which calls were refused, and by which rule?",
        sql="""
            SELECT entry, time, tenant, subject, client, tool, asked, status, verdict, rules, call_id
            FROM audit_denials_v1 WHERE {where} ORDER BY "at" DESC, entry DESC
        """,
        page="SELECT idx FROM ledger_entry WHERE kind = 'refusal' AND {where} {newest}",
        filters=EVERY,
    ),
    NamedQuery(
        name="denials-by-rule",
        question="How often did each rule refuse whom?",
        sql="""
            SELECT rule, status, tenant, subject, count(*) AS calls, min(time) AS first, max(time) AS last
            FROM audit_denials_v1 WHERE {where}
            GROUP BY rule, status, tenant, subject
            ORDER BY calls DESC, rule{binary} NULLS FIRST, status{binary}, subject{binary}
        """,
        filters=WHOSE,
    ),
    NamedQuery(
        name="shadow",
        question="What would rules or versions in shadow have judged otherwise, and how often?",
        sql="""
            SELECT would_rule, tool, verdict, would_be, tenant, subject, policy, count(*) AS calls,
                min(time) AS first, max(time) AS last
            FROM audit_shadow_v1 WHERE {where}
            GROUP BY would_rule, tool, verdict, would_be, tenant, subject, policy
            ORDER BY calls DESC, would_rule{binary} NULLS FIRST, tool{binary}, subject{binary}
        """,
        filters=WHOSE,
    ),
    NamedQuery(
        name="approvals",
        question="Which calls asked for an approval? (This version cannot give one: they were refused.)",
        sql="""
            SELECT entry, time, tenant, subject, tool, rule, call_id
            FROM audit_denials_v1 WHERE status = 'approval_required' AND {where}
            ORDER BY "at" DESC, entry DESC
        """,
        page="""
            SELECT idx FROM ledger_entry
            WHERE kind = 'refusal' AND status = 'approval_required' AND {where} {newest}
        """,
        filters=EVERY,
    ),
    NamedQuery(
        name="unknowns",
        question="Which calls have no end, or an end that nobody knows, and since when?",
        sql="""
            SELECT entry, time, tenant, subject, tool, status, why, age_seconds, last_asked, call_id
            FROM audit_open_v1 WHERE {where} ORDER BY "at", entry
        """,
        filters=WHOSE | only("call"),
    ),
    NamedQuery(
        name="resolutions",
        question="What was found out about unknown calls: by whom, and on what evidence?",
        sql="""
            SELECT entry, time, kind, status, by_whom, because, tenant, subject, tool, attempt, intent,
                call_id
            FROM audit_resolutions_v1 WHERE {where} ORDER BY entry DESC
        """,
        filters=WHOSE | only("call"),
    ),
    NamedQuery(
        name="duplicates-prevented",
        question="Which calls were answered out of memory: replays, conflicts, suspected repetitions?",
        sql="""
            SELECT entry, time, tenant, subject, tool, status, answered_with, call_id
            FROM audit_repeats_v1 WHERE {where} ORDER BY "at" DESC, entry DESC
        """,
        page="SELECT idx FROM ledger_entry WHERE kind = 'repeat' AND {where} {newest}",
        filters=EVERY,
    ),
    NamedQuery(
        name="leases",
        question="Which credentials were lent for which calls, how good were they, and how did they end?",
        sql="""
            SELECT entry, time, tenant, subject, tool, role, source, made, static, scope, ttl, version, lease,
                request, status, because, lent_ms, intent, end_entry, call_id
            FROM audit_leases_v1 WHERE {where} ORDER BY "at" DESC, entry DESC
        """,
        filters=EVERY,
    ),
    NamedQuery(
        name="leases-astray",
        question="Which credentials were lent and never given back? (For more than 2 hours: --until 2h.)",
        sql="""
            SELECT entry, time, tenant, subject, tool, role, source, made, static, scope, ttl, lease, request,
                status, ({now} - lent_at) / 1000000 AS age_seconds, intent,
                end_entry, call_id
            FROM audit_leases_v1
            WHERE status IN ('lent', 'queued', 'kept') AND COALESCE(issued, entry) = entry
                AND NOT (status = 'kept' AND static = 1)
                AND NOT (COALESCE(made, '') = 'token' AND lent_at + ttl * 1000000 < {now})
                AND {where}
            ORDER BY "at" DESC, entry DESC
        """,
        filters=EVERY,
    ),
    NamedQuery(
        name="vault-runs",
        question="Which tokens of runs were opened in a vault, for whom, and how did they end?",
        sql="""
            SELECT entry, time, tenant, subject, run_name, source, accessor, request, ttl, status, because,
                asked_by, open_ms, end_entry, intent, call_id
            FROM audit_vault_runs_v1 WHERE {where} ORDER BY "at" DESC, entry DESC
        """,
        filters=EVERY,
    ),
    NamedQuery(
        name="touched",
        question="Which calls had a value anywhere in their arguments? (Where `capture` keeps them.)",
        sql="""
            SELECT c.entry, c.time, c.tenant, c.subject, c.tool, c.status, p.value AS arguments, c.call_id
            FROM (SELECT h.entry AS holder, h.value FROM audit_payloads_v1 h
                WHERE h.field = 'arguments' AND h.kept = 1 AND {holds}) p
            JOIN (SELECT * FROM audit_calls_v1 WHERE {where}) c ON c.entry = p.holder
            ORDER BY c.entry DESC
        """,
        page=f"""
            SELECT e.idx FROM ledger_entry e JOIN payload p ON p.idx = e.idx AND {HOLDS}
            WHERE {{asked}} AND {{where}} ORDER BY e.idx DESC
        """,  # noqa: S608 - from constants
        filters=WHOSE | only("value"),
        needed=only("value"),
    ),
    NamedQuery(
        name="definitions",
        question="Which definitions of a tool were calls made under?",
        sql="""
            SELECT d.tool, d.definition, d.calls, f.time AS first, l.time AS last
            FROM (
                SELECT max(tool) AS tool, definition, count(*) AS calls, min(entry) AS first,
                    max(entry) AS last
                FROM audit_calls_v1 WHERE kind = 'intent' AND {where} GROUP BY definition
            ) d JOIN audit_calls_v1 f ON f.entry = d.first JOIN audit_calls_v1 l ON l.entry = d.last
            ORDER BY d.tool{binary}, d.first
        """,
        alone=True,
        filters=WHOSE,
    ),
    NamedQuery(
        name="destroyed",
        question="Which calls destroyed something? (None had an approval: this version cannot give one.)",
        sql="""
            SELECT entry, time, tenant, subject, tool, rules, status, end_entry, call_id
            FROM audit_calls_v1 WHERE kind = 'intent' AND effect = 'destroy' AND {where}
            ORDER BY "at" DESC, entry DESC
        """,
        page="SELECT idx FROM ledger_entry WHERE kind = 'intent' AND effect = 'destroy' AND {where} {newest}",
        filters=EVERY,
    ),
    NamedQuery(
        name="outside-hours",
        question="Which calls came outside the hours given (UTC, as 08-18, or 22-06 over midnight)?",
        sql=f"""
            SELECT entry, time, tenant, subject, client, tool, status, call_id
            FROM audit_calls_v1
            WHERE {_OUTSIDE} AND {{where}}
            ORDER BY "at" DESC, entry DESC
        """,  # noqa: S608 - from constants of this module
        page=f"""
            SELECT idx FROM ledger_entry WHERE {{asked}} AND {_OUTSIDE} AND {{where}} {{newest}}
        """,  # noqa: S608 - from constants of this module
        filters=EVERY | only("hours"),
        needed=only("hours"),
    ),
    NamedQuery(
        name="clients",
        question="Which clients called, for how many subjects, and when first and last?",
        sql="""
            SELECT n.tenant, COALESCE(n.clear, c.client_id) AS client, c.subjects, c.calls,
                f.time AS first, l.time AS last
            FROM (
                SELECT client_id, count(DISTINCT who) AS subjects, count(*) AS calls,
                    min(entry) AS first, max(entry) AS last
                FROM audit_calls_v1 WHERE {where} GROUP BY client_id
            ) c JOIN audit_calls_v1 f ON f.entry = c.first JOIN audit_calls_v1 l ON l.entry = c.last
            LEFT JOIN audit_names_v1 n ON n.pseudonym = c.client_id
            ORDER BY c.calls DESC, COALESCE(n.clear, c.client_id){binary} NULLS FIRST
        """,
        alone=True,
        filters=WHOSE,
    ),
    NamedQuery(
        name="arguments",
        question="What was asked and answered in a call? (That it was exactly this: toolgate ledger show.)",
        sql="""
            SELECT p.entry, c.tool, p.field, p.kept, p.value, c.call_id
            FROM (SELECT * FROM audit_calls_v1 WHERE {where}) c
            JOIN audit_payloads_v1 p ON p.entry IN (c.entry, c.end_entry)
            ORDER BY p.entry, p.field
        """,
        filters=EVERY,
        needed=only("call"),
    ),
    NamedQuery(
        name="top-callers",
        question="Who calls most, and how much of it is refused?",
        sql="""
            SELECT n.tenant, COALESCE(n.clear, c.who) AS subject, c.calls, COALESCE(d.refused, 0) AS refused
            FROM (SELECT who, count(*) AS calls FROM audit_calls_v1 WHERE {where} GROUP BY who) c
            LEFT JOIN (
                SELECT who, count(*) AS refused FROM audit_denials_v1 WHERE {where} GROUP BY who
            ) d ON d.who = c.who
            LEFT JOIN audit_names_v1 n ON n.pseudonym = c.who
            ORDER BY c.calls DESC, COALESCE(n.clear, c.who){binary}
        """,
        alone=True,
        filters=WHOSE,
    ),
    NamedQuery(
        name="latency",
        question="How long do calls take, from the intent to the end, by tool?",
        sql="""
            SELECT tool, size AS calls,
                min(CASE WHEN so_far >= (size * 50 + 99) / 100 THEN took END) / {ten} AS p50_ms,
                min(CASE WHEN so_far >= (size * 99 + 99) / 100 THEN took END) / {ten} AS p99_ms,
                max(took) / {ten} AS max_ms
            FROM (
                SELECT tool, took,
                    CAST(sum(alike) OVER (PARTITION BY tool ORDER BY took) AS BIGINT) AS so_far,
                    CAST(sum(alike) OVER (PARTITION BY tool) AS BIGINT) AS size
                FROM (
                    SELECT tool, (ended_at - "at") / 100 AS took, count(*) AS alike
                    FROM audit_calls_v1 WHERE ended_at IS NOT NULL AND {where} GROUP BY tool, took
                ) a
            ) t GROUP BY tool, size ORDER BY p99_ms DESC, tool{binary}
        """,
        alone=True,
        filters=WHOSE,
    ),
    NamedQuery(
        name="first-use",
        question="When did a subject first use a tool?",
        sql="""
            SELECT entry, time, tenant, subject, tool, call_id FROM audit_calls_v1
            WHERE entry IN (
                SELECT min(entry) FROM audit_calls_v1 WHERE kind = 'intent' AND {whose}
                GROUP BY {apart}who, tool
            ) AND {where} ORDER BY entry DESC
        """,
        page="""
            SELECT idx FROM ledger_entry
            WHERE {where} AND idx IN (
                SELECT min(idx) FROM ledger_entry WHERE kind = 'intent' AND {whose} GROUP BY who, tool
            ) ORDER BY idx DESC
        """,
        filters=WHOSE,
    ),
    *UPKEEP,
)
BY_NAME: Final = {query.name: query for query in QUERIES}
