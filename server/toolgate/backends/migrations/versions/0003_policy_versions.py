"""Versions of the policy, their activations, and the entries that tell of these."""

from alembic import op

from toolgate.backends.audit_views import VIEWS

revision = "0003"
down_revision = "0002"

RARE = (
    "kind = 'genesis' OR kind = 'writer_start' OR kind = 'writer_stop' OR kind = 'config' "
    "OR kind = 'refusal' OR kind = 'repeat' OR kind = 'unknown' OR kind = 'late_outcome' "
    "OR kind = 'reconcile' OR kind = 'resolve' OR kind = 'auth_failure' OR kind = 'audit_read' "
    "OR kind = 'key_rotate' OR kind = 'fault' OR kind = 'policy'"
)

STATEMENTS = (
    """
    CREATE TABLE policy_version (
        digest VARCHAR NOT NULL PRIMARY KEY,
        files BLOB NOT NULL,
        at INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE policy_activation (
        entry INTEGER NOT NULL PRIMARY KEY,
        digest VARCHAR NOT NULL,
        mode VARCHAR NOT NULL,
        previous VARCHAR NOT NULL
    )
    """,
    "DROP INDEX ix_entry_rare",
    f"CREATE INDEX ix_entry_rare ON ledger_entry (kind, at) WHERE {RARE}",
    # A new ledger has got it with all the others.
    f"CREATE VIEW IF NOT EXISTS audit_policies_v1 AS {VIEWS['audit_policies_v1'].strip()}",
    f"CREATE VIEW IF NOT EXISTS audit_shadow_v1 AS {VIEWS['audit_shadow_v1'].strip()}",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    for table in ("policy_version", "policy_activation"):
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'versions and activations are never changed'); END"
            )
