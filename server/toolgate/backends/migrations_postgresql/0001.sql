CREATE TABLE toolgate_schema (revision TEXT NOT NULL);

CREATE TABLE claim (
    "call_id" TEXT COLLATE "C" NOT NULL,
    "key" BYTEA,
    "alike" BYTEA NOT NULL,
    "fingerprint" BYTEA NOT NULL,
    "tool" TEXT COLLATE "C" NOT NULL,
    "state" TEXT COLLATE "C" NOT NULL,
    "attempt" BIGINT NOT NULL,
    "owner" TEXT COLLATE "C" NOT NULL,
    "ended" BIGINT NOT NULL,
    "opened_at" BIGINT NOT NULL,
    "until" BIGINT NOT NULL,
    "expires_at" BIGINT NOT NULL,
    "asked_at" BIGINT NOT NULL,
    "intent" BIGINT NOT NULL,
    "end" BIGINT,
    "outcome" BYTEA,
    "request" BYTEA,
    "remembered" BYTEA,
    PRIMARY KEY ("call_id")
);

CREATE INDEX ix_claim_alike ON claim ("alike", "opened_at");

CREATE INDEX ix_claim_kept ON claim ("expires_at") WHERE outcome IS NOT NULL;

CREATE INDEX ix_claim_open ON claim ("state", "until") WHERE state = 'in_progress' OR state = 'unknown';

CREATE UNIQUE INDEX uq_claim_key ON claim ("key") WHERE key IS NOT NULL;

CREATE TABLE erased_name (
    "name" TEXT COLLATE "C" NOT NULL,
    "entry" BIGINT NOT NULL,
    "kind" TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("name")
);

CREATE INDEX ix_erased_entry ON erased_name ("entry");

CREATE TABLE erasure (
    "entry" BIGINT NOT NULL,
    "done" BIGINT,
    "position" BIGINT NOT NULL,
    "values_removed" BIGINT NOT NULL,
    "answers" BIGINT NOT NULL,
    "waiting" BIGINT NOT NULL,
    "worked_at" BIGINT NOT NULL,
    PRIMARY KEY ("entry")
);

CREATE TABLE gate (
    "owner" TEXT COLLATE "C" NOT NULL,
    "name" TEXT COLLATE "C" NOT NULL,
    "program" TEXT COLLATE "C" NOT NULL,
    "address" TEXT COLLATE "C" NOT NULL,
    "started_at" BIGINT NOT NULL,
    "seen_at" BIGINT NOT NULL,
    "policy" TEXT COLLATE "C" NOT NULL,
    "catalog" TEXT COLLATE "C" NOT NULL,
    "settings" TEXT COLLATE "C" NOT NULL,
    "shadow" TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("owner")
);

CREATE TABLE lease (
    "id" TEXT COLLATE "C" NOT NULL,
    "accessor" TEXT COLLATE "C" NOT NULL,
    "intent" BIGINT NOT NULL,
    "call_id" TEXT COLLATE "C" NOT NULL,
    "tool" TEXT COLLATE "C" NOT NULL,
    "tenant" TEXT COLLATE "C" NOT NULL,
    "who" TEXT COLLATE "C" NOT NULL,
    "run" TEXT COLLATE "C" NOT NULL,
    "role" TEXT COLLATE "C" NOT NULL,
    "source" TEXT COLLATE "C" NOT NULL,
    "kind" TEXT COLLATE "C" NOT NULL,
    "scope" TEXT COLLATE "C" NOT NULL,
    "issued" BIGINT NOT NULL,
    "lent_at" BIGINT NOT NULL,
    "until" BIGINT NOT NULL,
    "owner" TEXT COLLATE "C" NOT NULL,
    "state" TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("id")
);

CREATE INDEX ix_lease_accessor ON lease ("accessor");

CREATE TABLE ledger_checkpoint (
    "size" BIGINT NOT NULL,
    "at" BIGINT NOT NULL,
    "note" TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("size")
);

CREATE TABLE ledger_cosignature (
    "size" BIGINT NOT NULL,
    "witness" TEXT COLLATE "C" NOT NULL,
    "at" BIGINT NOT NULL,
    "line" TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("size", "witness")
);

CREATE INDEX ix_cosignature_witness ON ledger_cosignature ("witness", "size");

CREATE TABLE ledger_entry (
    "idx" BIGINT NOT NULL,
    "leaf" BYTEA NOT NULL,
    "kind" TEXT COLLATE "C" NOT NULL,
    "call_id" TEXT COLLATE "C" NOT NULL,
    "at" BIGINT NOT NULL,
    "tenant" TEXT COLLATE "C" NOT NULL,
    "who" TEXT COLLATE "C" NOT NULL,
    "tool" TEXT COLLATE "C" NOT NULL,
    "status" TEXT COLLATE "C" NOT NULL,
    "run" TEXT COLLATE "C" NOT NULL,
    "refers" BIGINT,
    "body" BYTEA NOT NULL,
    PRIMARY KEY ("idx")
);

CREATE INDEX ix_entry_call ON ledger_entry ("call_id");

CREATE INDEX ix_entry_end ON ledger_entry ("refers", "at", "status") WHERE kind = 'outcome' OR kind = 'unknown';

CREATE INDEX ix_entry_rare ON ledger_entry ("kind", "at") WHERE kind = 'genesis' OR kind = 'writer_start' OR kind = 'writer_stop' OR kind = 'config' OR kind = 'refusal' OR kind = 'repeat' OR kind = 'unknown' OR kind = 'late_outcome' OR kind = 'reconcile' OR kind = 'resolve' OR kind = 'auth_failure' OR kind = 'audit_read' OR kind = 'key_rotate' OR kind = 'fault' OR kind = 'policy';

CREATE INDEX ix_entry_run ON ledger_entry ("run") WHERE run <> '';

CREATE INDEX ix_entry_time ON ledger_entry ("at") WHERE kind = 'intent' OR kind = 'refusal' OR kind = 'repeat';

CREATE INDEX ix_entry_tool ON ledger_entry ("tool", "at") WHERE kind = 'intent' OR kind = 'refusal' OR kind = 'repeat';

CREATE INDEX ix_entry_undone ON ledger_entry ("at") WHERE kind = 'outcome' AND status <> 'done';

CREATE INDEX ix_entry_who ON ledger_entry ("who", "at") WHERE kind = 'intent' OR kind = 'refusal' OR kind = 'repeat';

CREATE TABLE ledger_node (
    "level" BIGINT NOT NULL,
    "number" BIGINT NOT NULL,
    "hash" BYTEA NOT NULL,
    PRIMARY KEY ("level", "number")
);

CREATE TABLE ledger_tip (
    "id" BIGINT NOT NULL,
    "size" BIGINT NOT NULL,
    "frontier" BYTEA NOT NULL,
    "erasures" BIGINT NOT NULL,
    PRIMARY KEY ("id")
);

CREATE TABLE payload (
    "idx" BIGINT NOT NULL,
    "field" TEXT COLLATE "C" NOT NULL,
    "salt" BYTEA NOT NULL,
    "value" BYTEA,
    PRIMARY KEY ("idx", "field")
);

CREATE TABLE policy_activation (
    "entry" BIGINT NOT NULL,
    "digest" TEXT COLLATE "C" NOT NULL,
    "mode" TEXT COLLATE "C" NOT NULL,
    "previous" TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("entry")
);

CREATE TABLE policy_version (
    "digest" TEXT COLLATE "C" NOT NULL,
    "files" BYTEA NOT NULL,
    "at" BIGINT NOT NULL,
    PRIMARY KEY ("digest")
);

CREATE TABLE pseudonym (
    "name" TEXT COLLATE "C" NOT NULL,
    "kind" TEXT COLLATE "C" NOT NULL,
    "value" BYTEA NOT NULL,
    PRIMARY KEY ("name")
);

CREATE INDEX ix_pseudonym_value ON pseudonym USING hash (value);

CREATE TABLE retention_mark (
    "rule" TEXT COLLATE "C" NOT NULL,
    "position" BIGINT NOT NULL,
    "name" TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("rule")
);

CREATE TABLE retention_run (
    "entry" BIGINT NOT NULL,
    "first" BIGINT NOT NULL,
    "last" BIGINT NOT NULL,
    PRIMARY KEY ("entry")
);

CREATE INDEX ix_retention_first ON retention_run ("first");

CREATE TABLE shared_key (
    "verifier" TEXT COLLATE "C" NOT NULL,
    "at" BIGINT NOT NULL,
    "sealed" BYTEA NOT NULL,
    PRIMARY KEY ("verifier")
);

CREATE TABLE vault_run (
    "accessor" TEXT COLLATE "C" NOT NULL,
    "intent" BIGINT NOT NULL,
    "call_id" TEXT COLLATE "C" NOT NULL,
    "tool" TEXT COLLATE "C" NOT NULL,
    "tenant" TEXT COLLATE "C" NOT NULL,
    "who" TEXT COLLATE "C" NOT NULL,
    "run" TEXT COLLATE "C" NOT NULL,
    "opened_at" BIGINT NOT NULL,
    "until" BIGINT NOT NULL,
    "owner" TEXT COLLATE "C" NOT NULL,
    "state" TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY ("accessor")
);

INSERT INTO ledger_tip (id, size, frontier, erasures) VALUES (1, 0, ''::bytea, 0);

CREATE FUNCTION toolgate_never_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME; END $$;

CREATE TRIGGER ledger_entry_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entry FOR EACH STATEMENT EXECUTE FUNCTION toolgate_never_changed();

ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER ledger_entry_never_changed;

CREATE TRIGGER ledger_node_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_node FOR EACH STATEMENT EXECUTE FUNCTION toolgate_never_changed();

ALTER TABLE ledger_node ENABLE ALWAYS TRIGGER ledger_node_never_changed;

CREATE TRIGGER ledger_checkpoint_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_checkpoint FOR EACH STATEMENT EXECUTE FUNCTION toolgate_never_changed();

ALTER TABLE ledger_checkpoint ENABLE ALWAYS TRIGGER ledger_checkpoint_never_changed;

CREATE TRIGGER policy_version_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_version FOR EACH STATEMENT EXECUTE FUNCTION toolgate_never_changed();

ALTER TABLE policy_version ENABLE ALWAYS TRIGGER policy_version_never_changed;

CREATE TRIGGER policy_activation_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_activation FOR EACH STATEMENT EXECUTE FUNCTION toolgate_never_changed();

ALTER TABLE policy_activation ENABLE ALWAYS TRIGGER policy_activation_never_changed;
