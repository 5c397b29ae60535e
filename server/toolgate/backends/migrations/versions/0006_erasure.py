"""What was erased, how far that is, and what retention has looked at; and what auditors see of both."""

from alembic import op

from toolgate.backends.audit_views import VIEWS

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    "ALTER TABLE ledger_tip ADD COLUMN erasures INTEGER DEFAULT 0 NOT NULL",
    """
    CREATE TABLE erased_name (
        name VARCHAR NOT NULL PRIMARY KEY,
        entry INTEGER NOT NULL,
        kind VARCHAR NOT NULL
    )
    """,
    "CREATE INDEX ix_erased_entry ON erased_name (entry)",
    """
    CREATE TABLE erasure (
        entry INTEGER NOT NULL PRIMARY KEY,
        done INTEGER,
        position INTEGER NOT NULL,
        values_removed INTEGER NOT NULL,
        answers INTEGER NOT NULL,
        waiting INTEGER NOT NULL,
        worked_at INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE retention_run (
        entry INTEGER NOT NULL PRIMARY KEY,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL
    )
    """,
    "CREATE INDEX ix_retention_first ON retention_run (first)",
    """
    CREATE TABLE retention_mark (
        rule VARCHAR NOT NULL PRIMARY KEY,
        position INTEGER NOT NULL,
        name VARCHAR NOT NULL
    )
    """,
    # A new ledger has got them with all the others.
    *(
        f"CREATE VIEW IF NOT EXISTS {name} AS {VIEWS[name].strip()}"
        for name in ("audit_erasures_v1", "audit_retention_v1")
    ),
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
