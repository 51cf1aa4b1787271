"""Backtests: what was asked, whether it runs, and its report."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "backtests",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("policy", sa.String(200), nullable=False),
        sa.Column("question", sa.JSON, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("began_at", sa.BigInteger, nullable=False),
        sa.Column("beat_at", sa.BigInteger, nullable=False),
        sa.Column("report", sa.JSON),
        sa.Column("error", sa.Text),
    )
    op.create_index("backtests_began", "backtests", ["began_at"])


def downgrade() -> None:
    op.drop_table("backtests")
