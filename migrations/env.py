"""How Alembic reaches the database: over the connection, and inside the transaction, that `storage.schema` holds."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=None,
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
