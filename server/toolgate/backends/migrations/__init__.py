"""Revisions of the gate's tables, applied in order by Alembic under the writers' lock."""
