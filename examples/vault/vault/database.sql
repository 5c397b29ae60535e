-- Whom the vault is in PostgreSQL: it makes users, gives them a group of a tenant, and cuts their sessions.
-- It reads no table: it may pass the groups on (ADMIN), and is not in them (INHERIT, SET).
CREATE ROLE vault LOGIN CREATEROLE;
GRANT pg_signal_backend TO vault;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
