"""What was learned from the history, kept for other processes.

Down again nothing is lost: it is learned anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "learned",
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("watermark", sa.String(64), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_learned"),
    )


def downgrade() -> None:
    """Nothing is lost: what was learned is learned anew."""
    op.drop_table("learned")
