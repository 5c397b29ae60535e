"""The views for auditors."""

from alembic import op

from toolgate.backends.audit_views import VIEWS

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query.strip()}")
