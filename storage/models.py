"""Which tables hold the history.

Core tables rather than mapped classes: live work is single statements, and queries return domain objects.
Times are seconds since the epoch, UTC. Columns called JSON hold JSON text, written and read by Python.
"""

from typing import Any

from optuna.trial import TrialState
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

UNFINISHED = (TrialState.RUNNING.value, TrialState.WAITING.value)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _part_of(parent: str, **options: Any) -> Column[int]:
    """The id of the parent row, with which this row disappears."""
    name = {"studies": "study_id", "trials": "trial_id", "families": "family_id"}[parent]
    return Column(name, Integer, ForeignKey(f"{parent}.id", ondelete="CASCADE"), nullable=False, **options)


tasks = Table(
    "tasks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("direction", String(8), nullable=False),  # minimize or maximize
    Column("created_at", Double, nullable=False),
    UniqueConstraint("name", "metric"),
)

families = Table(  # tasks that share a search space, the metric and the direction
    "families",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),  # the metric and a fingerprint
    Column("metric", Text),
    Column("directions", Text, nullable=False),  # JSON, one per objective
    Column("space", Text, nullable=False),  # JSON, in the words of a study file
    Column("revision", Integer, nullable=False, server_default="0"),  # grows with each change to its finished trials
    Column("lost_at", Integer, nullable=False, server_default="0"),  # the revision at which some last went away
    sqlite_autoincrement=True,
)

sources = Table(  # where imported studies came from
    "sources",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # mlflow, optuna, table or lightning
    Column("location", Text, nullable=False),  # URI or path, without passwords
    Column("settings", Text, nullable=False),  # JSON: how it was read
    Column("created_at", Double, nullable=False),
    Column("imported_at", Double, nullable=False),  # the last time
)

studies = Table(
    "studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("task_id", Integer, ForeignKey("tasks.id"), index=True),
    Column("family_id", Integer, ForeignKey("families.id"), index=True),  # null: to be told when a trial finishes
    Column("directions", Text, nullable=False),  # JSON, one per objective
    Column("space", Text),  # JSON: the declared search space; null when it is defined by running
    Column("spec", Text),  # JSON: the study file
    Column("source", Text, nullable=False, server_default="hindsight", index=True),
    # hindsight, optuna, or the name of the source that it was imported from
    Column("quarantine", Text),  # why nobody must learn from it; null: all is well
    Column("mlflow_uri", Text),  # null: not sent to MLflow
    Column("created_at", Double, nullable=False),
    Column("provenance", Text),  # JSON
    sqlite_autoincrement=True,  # an id is never used twice
)

study_changes = Table(  # when the finished trials of a study last changed, counted by its family's revision
    "study_changes",
    metadata,
    _part_of("studies", primary_key=True),
    _part_of("families"),
    Column("revision", Integer, nullable=False),
    Index("ix_study_changes_family_id_revision", "family_id", "revision"),
)

family_summaries = Table(  # what the tuner needs of a family: a cache
    "family_summaries",
    metadata,
    _part_of("families", primary_key=True),
    Column("revision", Integer, nullable=False),  # of the family, when it was made
    Column("payload", LargeBinary, nullable=False),
)

learned = Table(  # what was learned from past runs: a cache
    "learned",
    metadata,
    Column("subject", String(64), primary_key=True),
    Column("watermark", String(64), nullable=False),  # of all that it was learned from
    Column("payload", LargeBinary, nullable=False),
)

study_attributes = Table(
    "study_attributes",
    metadata,
    _part_of("studies", primary_key=True),
    Column("kind", String(6), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),  # JSON
    CheckConstraint("kind IN ('user', 'system')", name="kind"),
    sqlite_with_rowid=False,
)

distributions = Table(  # each distinct distribution is kept once
    "distributions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the definition
    Column("definition", Text, nullable=False),  # Optuna's JSON
)

parameter_sets = Table(  # each distinct list of parameters is kept once
    "parameter_sets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the definition
    Column("definition", Text, nullable=False),  # JSON: [[name, distribution id], ...]
)

study_parameters = Table(  # the first distribution a study used under a name: later ones must be compatible
    "study_parameters",
    metadata,
    _part_of("studies", primary_key=True),
    Column("name", Text, primary_key=True, index=True),
    Column("distribution_id", Integer, ForeignKey("distributions.id"), nullable=False),
    sqlite_with_rowid=False,
)

trials = Table(
    "trials",
    metadata,
    Column("id", Integer, primary_key=True),
    _part_of("studies"),
    Column("number", Integer, nullable=False),  # 0, 1, 2, ... within the study, without gaps
    Column("state", Integer, nullable=False),  # optuna.trial.TrialState
    Column("value", Double),
    Column("more_values", Text),  # JSON: the values of further objectives
    Column("parameter_set_id", Integer, ForeignKey("parameter_sets.id")),  # null: no parameters
    Column("configuration", LargeBinary),  # internal values as little-endian doubles, in the order of the set
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempt", Integer, nullable=False, server_default="0"),  # how often claimed: the fencing token
    Column("deaths", Integer, nullable=False, server_default="0"),  # attempts that ended with their process or lease
    Column("worker", Text),  # who holds the lease
    Column("lease_until", Double),  # by the database's clock; null: not leased
    Column("cost_seconds", Double),
    Column("epochs", Integer),
    Column("peak_memory_bytes", BigInteger),
    Column("seed", BigInteger),
    Column("code_version", Text),
    Column("data_fingerprint", Text),
    Column("hardware", Text),
    Column("checkpoint", Text),
    Column("error", Text),
    Column("source_key", Text),  # what it was called where it was imported from
    Column("call_id", Text),  # the call that made or claimed it, which a repeated call recognises it by
    CheckConstraint("state BETWEEN 0 AND 4", name="state"),
    UniqueConstraint("study_id", "number"),
    sqlite_autoincrement=True,
)
Index("ix_trials_study_id_value", trials.c.study_id, trials.c.value, trials.c.number)
_unfinished = trials.c.state.in_(UNFINISHED)
Index("ix_trials_unfinished", trials.c.study_id, trials.c.state, sqlite_where=_unfinished, postgresql_where=_unfinished)
_imported = trials.c.source_key.is_not(None)
Index(
    "ix_trials_source_key",
    trials.c.source_key,
    trials.c.study_id,
    unique=True,
    sqlite_where=_imported,
    postgresql_where=_imported,
)

trial_attributes = Table(
    "trial_attributes",
    metadata,
    _part_of("trials", primary_key=True),
    Column("kind", String(6), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),  # JSON
    CheckConstraint("kind IN ('user', 'system')", name="kind"),
    sqlite_with_rowid=False,
)

intermediate_values = Table(
    "intermediate_values",
    metadata,
    _part_of("trials", primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("value", Double),  # null is NaN, which SQLite cannot hold
    sqlite_with_rowid=False,
)

chains = Table(  # where the chain of seals of a study ends: see `storage.seals`
    "chains",
    metadata,
    Column("study_id", Integer, primary_key=True, autoincrement=False),  # 0: the history's own; stays without its study
    Column("entries", Integer, nullable=False),
    Column("head", LargeBinary, nullable=False),  # a digest of all of them
    Column("key_hint", String(8)),  # of the key that it is sealed with; null: none
)

seals = Table(  # the entries of those chains
    "seals",
    metadata,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("first_number", Integer, nullable=False),  # of the trial that the first seal is of
    Column("digests", LargeBinary, nullable=False),  # one seal after the other
)

outbox = Table(  # what MLflow has yet to be told
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    _part_of("studies", index=True),
    Column("trial_id", Integer),
    Column("attempt", Integer),
    Column("kind", Text, nullable=False),
    Column("payload", Text, nullable=False),  # JSON
    Column("created_at", Double, nullable=False),
    sqlite_autoincrement=True,
)

mlflow_runs = Table(  # which run of which MLflow belongs to a study or to an attempt at a trial
    "mlflow_runs",
    metadata,
    Column("mlflow_uri", Text, primary_key=True),
    Column("run_key", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
)

tokens = Table(  # who may use the service; only a digest of each secret is kept
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", Text, nullable=False, index=True),  # the person or machine it was made for
    Column("role", String(8), nullable=False),  # viewer, operator, admin or worker
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the secret
    Column("hint", String(8), nullable=False),  # its last characters, to tell tokens apart
    Column("session_of", Integer, ForeignKey("tokens.id", ondelete="CASCADE"), index=True),  # a browser's: its token
    Column("created_by", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),  # null: never
    Column("revoked_at", Double),
    Column("used_at", Double),  # the last time, to the minute
    CheckConstraint("role IN ('viewer', 'operator', 'admin', 'worker')", name="role"),
    sqlite_autoincrement=True,
)

audit = Table(  # who changed what by the service; rows are only ever added
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False, index=True),  # e.g. study.pause
    Column("subject", Text, nullable=False),  # what it was done to
    Column("details", Text),  # JSON
    sqlite_autoincrement=True,
)

launches = Table(  # studies that the service runs: what is wanted, and how far it is
    "launches",
    metadata,
    _part_of("studies", primary_key=True),
    Column("owner", Text, nullable=False, index=True),
    Column("wanted", String(5), nullable=False),  # run, pause or stop
    Column("state", String(7), nullable=False, index=True),  # queued, running, paused, stopped, done or failed
    Column("place", String(7), nullable=False),  # server: a process of its own there; workers: they pull its trials
    Column("priority", Integer, nullable=False, server_default="0"),  # the larger, the sooner
    Column("jobs", Integer, nullable=False, server_default="1"),  # trials side by side
    Column("devices", Integer, nullable=False, server_default="1"),  # of a trial, on all its machines together
    Column("settings", Text, nullable=False),  # JSON: the placement
    Column("message", Text),  # why it is in that state
    Column("worker", Text),  # the server whose process runs it
    Column("lease_until", Double),  # of that server, by the database's clock
    Column("deaths", Integer, nullable=False, server_default="0"),  # processes that died with it one after the other
    Column("requested_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    CheckConstraint("wanted IN ('run', 'pause', 'stop')", name="wanted"),
    CheckConstraint("state IN ('queued', 'running', 'paused', 'stopped', 'done', 'failed')", name="state"),
    CheckConstraint("place IN ('server', 'workers')", name="place"),
)

machines = Table(  # workers that pull trials from the service
    "machines",
    metadata,
    Column("worker", Text, primary_key=True),  # as in `trials.worker`
    Column("owner", Text, nullable=False),  # of the token that it came with
    Column("host", Text, nullable=False),
    Column("devices", Text, nullable=False),  # JSON
    Column("jobs", Integer, nullable=False),  # trials side by side
    Column("version", Text, nullable=False),
    Column("joined_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("left_at", Double),  # when it said goodbye
)

background_jobs = Table(  # imports, exports and replays that the service does beside its requests
    "background_jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("state", String(9), nullable=False, index=True),  # queued, running, done, failed or cancelled
    Column("settings", Text, nullable=False),  # JSON
    Column("done", Integer, nullable=False, server_default="0"),
    Column("total", Integer),  # null: not known
    Column("result", Text),  # JSON
    Column("error", Text),
    Column("worker", Text),  # the process that does it
    Column("lease_until", Double),  # by the database's clock: whoever does it is gone after that
    Column("attempt", Integer, nullable=False, server_default="0"),  # how often it was begun: the fencing token
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="state"),
    sqlite_autoincrement=True,
)

replies = Table(  # what a request with an idempotency key was answered, for when it is repeated
    "replies",
    metadata,
    Column("token_id", Integer, ForeignKey("tokens.id", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request", String(64), nullable=False),  # SHA-256 of method, path and body
    Column("status", Integer, nullable=False),
    Column("body", Text, nullable=False),  # JSON; empty where there was none
    Column("created_at", Double, nullable=False, index=True),
)
