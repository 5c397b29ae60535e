"""The tree, what lies beside it, and the claims."""

from alembic import op

revision = "0001"
down_revision = None

# A query uses a partial index where its own condition is one of these terms.
ASKED = "kind = 'intent' OR kind = 'refusal' OR kind = 'repeat'"
ENDED = "kind = 'outcome' OR kind = 'unknown'"
RARE = (
    "kind = 'genesis' OR kind = 'writer_start' OR kind = 'writer_stop' OR kind = 'config' "
    "OR kind = 'refusal' OR kind = 'repeat' OR kind = 'unknown' OR kind = 'late_outcome' "
    "OR kind = 'reconcile' OR kind = 'resolve' OR kind = 'auth_failure' OR kind = 'audit_read' "
    "OR kind = 'key_rotate' OR kind = 'fault'"
)

TABLES = (
    """
    CREATE TABLE ledger_entry (
        idx INTEGER NOT NULL PRIMARY KEY,
        leaf BLOB NOT NULL,
        kind VARCHAR NOT NULL,
        call_id VARCHAR NOT NULL,
        at INTEGER NOT NULL,
        tenant VARCHAR NOT NULL,
        who VARCHAR NOT NULL,
        tool VARCHAR NOT NULL,
        status VARCHAR NOT NULL,
        run VARCHAR NOT NULL,
        refers INTEGER,
        body BLOB NOT NULL
    )
    """,
    "CREATE INDEX ix_entry_call ON ledger_entry (call_id)",
    f"CREATE INDEX ix_entry_tool ON ledger_entry (tool, at) WHERE {ASKED}",
    f"CREATE INDEX ix_entry_who ON ledger_entry (who, at) WHERE {ASKED}",
    # Behind those two: SQLite takes the newest of indexes that would do alike, and this has the tree's order.
    f"CREATE INDEX ix_entry_time ON ledger_entry (at) WHERE {ASKED}",
    "CREATE INDEX ix_entry_run ON ledger_entry (run) WHERE run <> ''",
    f"CREATE INDEX ix_entry_end ON ledger_entry (refers, at, status) WHERE {ENDED}",
    "CREATE INDEX ix_entry_undone ON ledger_entry (at) WHERE kind = 'outcome' AND status <> 'done'",
    f"CREATE INDEX ix_entry_rare ON ledger_entry (kind, at) WHERE {RARE}",
    """
    CREATE TABLE ledger_node (
        level INTEGER NOT NULL,
        number INTEGER NOT NULL,
        hash BLOB NOT NULL,
        PRIMARY KEY (level, number)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE ledger_tip (
        id INTEGER NOT NULL PRIMARY KEY,
        size INTEGER NOT NULL,
        frontier BLOB NOT NULL
    )
    """,
    "INSERT INTO ledger_tip (id, size, frontier) VALUES (1, 0, x'')",
    """
    CREATE TABLE ledger_checkpoint (
        size INTEGER NOT NULL PRIMARY KEY,
        at INTEGER NOT NULL,
        note VARCHAR NOT NULL
    )
    """,
    """
    CREATE TABLE payload (
        idx INTEGER NOT NULL,
        field VARCHAR NOT NULL,
        salt BLOB NOT NULL,
        value BLOB,
        PRIMARY KEY (idx, field)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE pseudonym (
        name VARCHAR NOT NULL PRIMARY KEY,
        kind VARCHAR NOT NULL,
        value BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX uq_pseudonym_value ON pseudonym (kind, value)",
    """
    CREATE TABLE claim (
        call_id VARCHAR NOT NULL PRIMARY KEY,
        "key" BLOB,
        alike BLOB NOT NULL,
        fingerprint BLOB NOT NULL,
        tool VARCHAR NOT NULL,
        state VARCHAR NOT NULL,
        attempt INTEGER NOT NULL,
        owner VARCHAR NOT NULL,
        ended INTEGER NOT NULL,
        opened_at INTEGER NOT NULL,
        until INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        asked_at INTEGER NOT NULL,
        intent INTEGER NOT NULL,
        "end" INTEGER,
        outcome BLOB,
        request BLOB,
        remembered BLOB
    )
    """,
    'CREATE UNIQUE INDEX uq_claim_key ON claim ("key") WHERE "key" IS NOT NULL',
    "CREATE INDEX ix_claim_alike ON claim (alike, opened_at)",
    "CREATE INDEX ix_claim_kept ON claim (expires_at) WHERE outcome IS NOT NULL",
    """
    CREATE INDEX ix_claim_open ON claim (state, until)
    WHERE state = 'in_progress' OR state = 'unknown'
    """,
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER ledger_entry_no_{verb.lower()} BEFORE {verb} ON ledger_entry "
            "BEGIN SELECT RAISE(ABORT, 'ledger entries are never changed'); END"
        )
