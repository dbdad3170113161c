"""The history: studies, trials, their curves, and the outbox to MLflow."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("direction", sa.String(8), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("name", "metric", name="uq_tasks_name_metric"),
    )
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=True),
        sa.Column("directions", sa.Text(), nullable=False),
        sa.Column("space", sa.Text(), nullable=True),
        sa.Column("spec", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), server_default="hindsight", nullable=False),
        sa.Column("mlflow_uri", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("provenance", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sa.UniqueConstraint("name", name="uq_studies_name"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_studies_task_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_studies_task_id", "studies", ["task_id"])
    op.create_table(
        "study_attributes",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(6), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("study_id", "kind", "key", name="pk_study_attributes"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_study_attributes_study_id", ondelete="CASCADE"),
        sa.CheckConstraint("kind IN ('user', 'system')", name="ck_study_attributes_kind"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "distributions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_distributions"),
        sa.UniqueConstraint("digest", name="uq_distributions_digest"),
    )
    op.create_table(
        "study_parameters",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("distribution_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("study_id", "name", name="pk_study_parameters"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_study_parameters_study_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["distribution_id"], ["distributions.id"], name="fk_study_parameters_distribution_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_study_parameters_name", "study_parameters", ["name"])
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("more_values", sa.Text(), nullable=True),
        sa.Column("params", sa.Text(), server_default="{}", nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deaths", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("cost_seconds", sa.Double(), nullable=True),
        sa.Column("epochs", sa.Integer(), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("code_version", sa.Text(), nullable=True),
        sa.Column("data_fingerprint", sa.Text(), nullable=True),
        sa.Column("hardware", sa.Text(), nullable=True),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("source_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_trials"),
        sa.UniqueConstraint("study_id", "number", name="uq_trials_study_id_number"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_trials_study_id", ondelete="CASCADE"),
        sa.CheckConstraint("state BETWEEN 0 AND 4", name="ck_trials_state"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_trials_unfinished",
        "trials",
        ["study_id", "state"],
        sqlite_where=sa.text("state IN (0, 4)"),
        postgresql_where=sa.text("state IN (0, 4)"),
    )
    op.create_index(
        "ix_trials_source_key",
        "trials",
        ["study_id", "source_key"],
        unique=True,
        sqlite_where=sa.text("source_key IS NOT NULL"),
        postgresql_where=sa.text("source_key IS NOT NULL"),
    )
    op.create_table(
        "trial_attributes",
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(6), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("trial_id", "kind", "key", name="pk_trial_attributes"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_trial_attributes_trial_id", ondelete="CASCADE"),
        sa.CheckConstraint("kind IN ('user', 'system')", name="ck_trial_attributes_kind"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "intermediate_values",
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("trial_id", "step", name="pk_intermediate_values"),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["trials.id"], name="fk_intermediate_values_trial_id", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_outbox_study_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_study_id", "outbox", ["study_id"])
    op.create_table(
        "mlflow_runs",
        sa.Column("mlflow_uri", sa.Text(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("mlflow_uri", "run_key", name="pk_mlflow_runs"),
    )


def downgrade() -> None:
    """The whole history is lost: every study, every trial, and what MLflow has yet to be told."""
    for table in (
        "mlflow_runs",
        "outbox",
        "intermediate_values",
        "trial_attributes",
        "trials",
        "study_parameters",
        "distributions",
        "study_attributes",
        "studies",
        "tasks",
    ):
        op.drop_table(table)
