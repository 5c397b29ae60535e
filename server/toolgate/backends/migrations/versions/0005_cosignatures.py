"""What witnesses said of checkpoints."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
    CREATE TABLE ledger_cosignature (
        size INTEGER NOT NULL,
        witness VARCHAR NOT NULL,
        at INTEGER NOT NULL,
        line VARCHAR NOT NULL,
        PRIMARY KEY (size, witness)
    )
    """,
    "CREATE INDEX ix_cosignature_witness ON ledger_cosignature (witness, size)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
