"""What the service needs: tokens, an audit log, launches, machines, background jobs, remembered replies."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(8), nullable=False),
        sa.Column("session_of", sa.Integer()),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("revoked_at", sa.Double()),
        sa.Column("used_at", sa.Double()),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin', 'worker')", name="ck_tokens_role"),
        sa.ForeignKeyConstraint(["session_of"], ["tokens.id"], name="fk_tokens_session_of", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tokens_owner", "tokens", ["owner"])
    op.create_index("ix_tokens_session_of", "tokens", ["session_of"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_action", "audit", ["action"])
    op.create_table(
        "launches",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("wanted", sa.String(5), nullable=False),
        sa.Column("state", sa.String(7), nullable=False),
        sa.Column("place", sa.String(7), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("jobs", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("devices", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("message", sa.Text()),
        sa.Column("worker", sa.Text()),
        sa.Column("lease_until", sa.Double()),
        sa.Column("deaths", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("requested_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.CheckConstraint("wanted IN ('run', 'pause', 'stop')", name="ck_launches_wanted"),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'paused', 'stopped', 'done', 'failed')", name="ck_launches_state"
        ),
        sa.CheckConstraint("place IN ('server', 'workers')", name="ck_launches_place"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_launches_study_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study_id", name="pk_launches"),
    )
    op.create_index("ix_launches_owner", "launches", ["owner"])
    op.create_index("ix_launches_state", "launches", ["state"])
    op.create_table(
        "machines",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("joined_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("left_at", sa.Double()),
        sa.PrimaryKeyConstraint("worker", name="pk_machines"),
    )
    op.create_table(
        "background_jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("state", sa.String(9), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("total", sa.Integer()),
        sa.Column("result", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("worker", sa.Text()),
        sa.Column("lease_until", sa.Double()),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="ck_background_jobs_state"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_background_jobs"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_background_jobs_state", "background_jobs", ["state"])
    op.create_index("ix_trials_study_id_value", "trials", ["study_id", "value", "number"])
    op.create_table(
        "replies",
        sa.Column("token_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_replies_token_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token_id", "key", name="pk_replies"),
    )
    op.create_index("ix_replies_created_at", "replies", ["created_at"])
    op.create_table(
        "chains",
        sa.Column("study_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("key_hint", sa.String(8)),
        sa.PrimaryKeyConstraint("study_id", name="pk_chains"),
    )
    op.create_table(
        "seals",
        sa.Column("study_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("position", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("first_number", sa.Integer(), nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("study_id", "position", name="pk_seals"),
    )


def downgrade() -> None:
    """Seals, tokens, the audit log, what is queued, and the background jobs; studies and trials stay."""
    op.drop_index("ix_trials_study_id_value", "trials")
    for table in ("seals", "chains", "replies", "background_jobs", "machines", "launches", "audit", "tokens"):
        op.drop_table(table)
