"""Parameter versions, lists, roles, the log of all changes, and the counter that decision processes watch."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "parameter_versions",
        sa.Column("policy", sa.String(200), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("values", sa.JSON, nullable=False),
        sa.Column("base_version", sa.Integer, nullable=False),
        sa.Column("share_percent", sa.Integer, nullable=False),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("approved_by", sa.String(200)),
        sa.Column("live_at", sa.BigInteger),
        sa.Column("dry_run", sa.JSON),
    )
    op.create_index("parameter_versions_state", "parameter_versions", ["policy", "state"])
    op.create_table(
        "list_entries",
        sa.Column("list", sa.String(200), primary_key=True),
        sa.Column("value", sa.String(500), primary_key=True),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "roles",
        sa.Column("user", sa.String(200), primary_key=True),
        sa.Column("role", sa.String(20), nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("user", sa.String(200), nullable=False),
        sa.Column("what", sa.String(40), nullable=False),
        sa.Column("policy", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("detail", sa.JSON, nullable=False),
    )
    counter = op.create_table("generation", sa.Column("number", sa.Integer, nullable=False))
    op.bulk_insert(counter, [{"number": 1}])


def downgrade() -> None:
    for table in ("generation", "changes", "roles", "list_entries", "parameter_versions"):
        op.drop_table(table)
