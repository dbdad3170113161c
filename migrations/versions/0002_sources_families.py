"""Sources, families, and compact configurations in place of JSON parameters.

Down again every trial keeps its parameters as JSON; what only this version knows (sources, families, quarantine) goes.
"""

import json
import struct
from collections import defaultdict
from hashlib import sha256

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TRIALS_AT_A_TIME = 10_000


def upgrade() -> None:
    op.create_table(
        "families",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=True),
        sa.Column("directions", sa.Text(), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lost_at", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_families"),
        sa.UniqueConstraint("name", name="uq_families_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sources",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("imported_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sources"),
    )
    op.create_table(
        "family_summaries",
        sa.Column("family_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("family_id", name="pk_family_summaries"),
        sa.ForeignKeyConstraint(
            ["family_id"], ["families.id"], name="fk_family_summaries_family_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "study_changes",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("family_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("study_id", name="pk_study_changes"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_study_changes_study_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["family_id"], ["families.id"], name="fk_study_changes_family_id", ondelete="CASCADE"),
    )
    op.create_index("ix_study_changes_family_id_revision", "study_changes", ["family_id", "revision"])
    op.create_table(
        "parameter_sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_parameter_sets"),
        sa.UniqueConstraint("digest", name="uq_parameter_sets_digest"),
    )
    _add_reference("studies", "family_id", "families")
    op.add_column("studies", sa.Column("quarantine", sa.Text(), nullable=True))
    op.create_index("ix_studies_family_id", "studies", ["family_id"])
    op.create_index("ix_studies_source", "studies", ["source"])
    _add_reference("trials", "parameter_set_id", "parameter_sets")
    op.add_column("trials", sa.Column("configuration", sa.LargeBinary(), nullable=True))
    op.add_column("trials", sa.Column("call_id", sa.Text(), nullable=True))
    op.drop_index("ix_trials_source_key", "trials")
    _index_source_keys(["source_key", "study_id"])
    _pack_configurations()
    op.execute("ALTER TABLE trials DROP COLUMN params")
    _found_families()


def downgrade() -> None:
    """Sources, families and quarantine are lost; studies and trials stay."""
    op.add_column("trials", sa.Column("params", sa.Text(), server_default="{}", nullable=False))
    _unpack_configurations()
    op.drop_index("ix_trials_source_key", "trials")
    for column in ("parameter_set_id", "configuration", "call_id"):
        _drop_column("trials", column)
    _index_source_keys(["study_id", "source_key"])
    op.drop_index("ix_studies_family_id", "studies")
    op.drop_index("ix_studies_source", "studies")
    for column in ("family_id", "quarantine"):
        _drop_column("studies", column)
    for table in ("parameter_sets", "study_changes", "family_summaries", "sources", "families"):
        op.drop_table(table)


def _add_reference(table: str, column: str, target: str) -> None:
    """Add a nullable foreign key; SQLite takes it only as part of the new column."""
    name = f"fk_{table}_{column}"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER CONSTRAINT {name} REFERENCES {target} (id)")
    else:
        op.add_column(table, sa.Column(column, sa.Integer(), nullable=True))
        op.create_foreign_key(name, table, target, [column], ["id"])


def _drop_column(table: str, column: str) -> None:
    op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def _index_source_keys(columns: list[str]) -> None:
    op.create_index(
        "ix_trials_source_key",
        "trials",
        columns,
        unique=True,
        sqlite_where=sa.text("source_key IS NOT NULL"),
        postgresql_where=sa.text("source_key IS NOT NULL"),
    )


_trials = sa.table(
    "trials",
    sa.column("id", sa.Integer),
    sa.column("params", sa.Text),
    sa.column("parameter_set_id", sa.Integer),
    sa.column("configuration", sa.LargeBinary),
)
_sets = sa.table(
    "parameter_sets", sa.column("id", sa.Integer), sa.column("digest", sa.Text), sa.column("definition", sa.Text)
)


def _pack_configurations() -> None:
    """`{"lr": [3, 0.01]}` becomes the set `[["lr", 3]]` and eight bytes."""
    connection, numbers = op.get_bind(), {}
    changed = sa.bindparam("changed_id")
    pack = (
        sa.update(_trials)
        .where(_trials.c.id == changed)
        .values(parameter_set_id=sa.bindparam("set_id"), configuration=sa.bindparam("packed"))
    )
    for rows in _slices(connection, sa.select(_trials.c.id, _trials.c.params).where(_trials.c.params != "{}")):
        packed = []
        for row in rows:
            params = json.loads(row.params)
            definition = json.dumps([[name, number] for name, (number, _) in params.items()])
            if definition not in numbers:
                numbers[definition] = len(numbers) + 1
                digest = sha256(definition.encode()).hexdigest()
                known = {"id": numbers[definition], "digest": digest, "definition": definition}
                connection.execute(sa.insert(_sets), known)
            values = [value for _, value in params.values()]
            configuration = struct.pack(f"<{len(values)}d", *values)
            packed.append({"changed_id": row.id, "set_id": numbers[definition], "packed": configuration})
        connection.execute(pack, packed)
    if connection.dialect.name == "postgresql" and numbers:
        connection.execute(sa.text(f"SELECT setval('parameter_sets_id_seq', {len(numbers)})"))


def _unpack_configurations() -> None:
    connection = op.get_bind()
    definitions = {row.id: json.loads(row.definition) for row in connection.execute(sa.select(_sets))}
    unpack = sa.update(_trials).where(_trials.c.id == sa.bindparam("changed_id")).values(params=sa.bindparam("json"))
    columns = (_trials.c.id, _trials.c.parameter_set_id, _trials.c.configuration)
    for rows in _slices(connection, sa.select(*columns).where(_trials.c.parameter_set_id.is_not(None))):
        unpacked = []
        for row in rows:
            definition = definitions[row.parameter_set_id]
            values = struct.unpack(f"<{len(definition)}d", row.configuration)
            params = {name: [number, value] for (name, number), value in zip(definition, values, strict=True)}
            unpacked.append({"changed_id": row.id, "json": json.dumps(params, separators=(",", ":"))})
        connection.execute(unpack, unpacked)


def _slices(connection: sa.Connection, query: sa.Select) -> list:
    """The rows of a query of trials, so many at a time, by id."""
    last = 0
    while rows := connection.execute(
        query.where(_trials.c.id > last).order_by(_trials.c.id).limit(TRIALS_AT_A_TIME)
    ).all():
        yield rows
        last = rows[-1].id


def _found_families() -> None:
    """Give each study that has parameters its family, named as this version names it."""
    connection = op.get_bind()
    studies = sa.table(
        "studies",
        *(sa.column(name, sa.Integer) for name in ("id", "task_id", "family_id")),
        *(sa.column(name, sa.Text) for name in ("directions", "space")),
    )
    tasks = sa.table("tasks", sa.column("id", sa.Integer), sa.column("metric", sa.Text))
    families = sa.table(
        "families",
        *(sa.column(name, sa.Integer) for name in ("id", "revision")),
        *(sa.column(name, sa.Text) for name in ("name", "metric", "directions", "space")),
    )
    changes = sa.table(
        "study_changes", *(sa.column(name, sa.Integer) for name in ("study_id", "family_id", "revision"))
    )
    undeclared = defaultdict(dict)
    for study_id, name, definition in connection.execute(
        sa.text(
            "SELECT study_id, name, definition FROM study_parameters "
            "JOIN distributions ON distributions.id = study_parameters.distribution_id"
        )
    ).all():
        stored = json.loads(definition)
        kind = stored["name"].removesuffix("Distribution").lower()
        undeclared[study_id][name] = {"type": kind, **stored["attributes"]}
    rows = connection.execute(
        sa.select(studies, tasks.c.metric)
        .select_from(studies.outerjoin(tasks, tasks.c.id == studies.c.task_id))
        .order_by(studies.c.id)
    ).all()
    numbers = {}
    for row in rows:
        space = json.loads(row.space) if row.space else undeclared.get(row.id)
        if not space:
            continue
        canonical = {name: _canonical(fields) for name, fields in space.items()}
        directions = json.loads(row.directions)
        content = json.dumps([canonical, row.metric, directions], sort_keys=True)
        name = f"{(row.metric or 'value')[:24].strip()}-{sha256(content.encode()).hexdigest()[:8]}"
        if name not in numbers:
            family = {"name": name, "metric": row.metric, "directions": row.directions, "space": json.dumps(canonical)}
            result = connection.execute(sa.insert(families).values(revision=1, **family).returning(families.c.id))
            numbers[name] = result.scalar_one()
        connection.execute(sa.update(studies).where(studies.c.id == row.id).values(family_id=numbers[name]))
        change = {"study_id": row.id, "family_id": numbers[name], "revision": 1}
        connection.execute(sa.insert(changes).values(**change))


def _canonical(fields: dict) -> dict:
    """The words of a study file without what they would be anyway."""
    meaningful = ("type", "low", "high", "log", "step", "choices", "when")
    given = {name: fields.get(name) for name in meaningful}
    kept = {name: value for name, value in given.items() if value is not None and value is not False}
    for bound in ("low", "high", "step"):
        if bound in kept:
            kept[bound] = float(kept[bound])
    if kept.get("type") == "int" and kept.get("step") == 1:
        del kept["step"]
    return kept
