"""What a vault has made for calls, for as long as it may live, and what auditors see of it."""

from alembic import op

from toolgate.backends.audit_views import VIEWS

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
    CREATE TABLE vault_run (
        accessor VARCHAR NOT NULL PRIMARY KEY,
        intent INTEGER NOT NULL,
        call_id VARCHAR NOT NULL,
        tool VARCHAR NOT NULL,
        tenant VARCHAR NOT NULL,
        who VARCHAR NOT NULL,
        run VARCHAR NOT NULL,
        opened_at INTEGER NOT NULL,
        until INTEGER NOT NULL,
        owner VARCHAR NOT NULL,
        state VARCHAR NOT NULL
    )
    """,
    """
    CREATE TABLE lease (
        id VARCHAR NOT NULL PRIMARY KEY,
        accessor VARCHAR NOT NULL,
        intent INTEGER NOT NULL,
        call_id VARCHAR NOT NULL,
        tool VARCHAR NOT NULL,
        tenant VARCHAR NOT NULL,
        who VARCHAR NOT NULL,
        run VARCHAR NOT NULL,
        role VARCHAR NOT NULL,
        source VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,
        scope VARCHAR NOT NULL,
        issued INTEGER NOT NULL,
        lent_at INTEGER NOT NULL,
        until INTEGER NOT NULL,
        owner VARCHAR NOT NULL,
        state VARCHAR NOT NULL
    )
    """,
    "CREATE INDEX ix_lease_accessor ON lease (accessor)",
    "DROP VIEW audit_leases_v1",
    f"CREATE VIEW audit_leases_v1 AS {VIEWS['audit_leases_v1'].strip()}",
    # A new ledger has got it with all the others.
    f"CREATE VIEW IF NOT EXISTS audit_vault_runs_v1 AS {VIEWS['audit_vault_runs_v1'].strip()}",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
