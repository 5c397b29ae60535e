"""The gates that write to a ledger, and the log's key as they share it."""

from alembic import op

revision = "0008"
down_revision = "0006"

TABLES = (
    """
    CREATE TABLE gate (
        owner VARCHAR NOT NULL PRIMARY KEY,
        name VARCHAR NOT NULL,
        program VARCHAR NOT NULL,
        address VARCHAR NOT NULL,
        started_at INTEGER NOT NULL,
        seen_at INTEGER NOT NULL,
        policy VARCHAR NOT NULL,
        catalog VARCHAR NOT NULL,
        settings VARCHAR NOT NULL,
        shadow VARCHAR NOT NULL
    )
    """,
    """
    CREATE TABLE shared_key (
        verifier VARCHAR NOT NULL PRIMARY KEY,
        at INTEGER NOT NULL,
        sealed BLOB NOT NULL
    )
    """,
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
