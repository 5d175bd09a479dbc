"""Where Alembic meets the store: it is handed an open connection inside the store's write transaction.

A revision is applied whole or not at all, because that transaction commits only after the last one.
"""

from __future__ import annotations

from alembic import context

from featurestore.store.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run `featurestore migrate`: migrations need the store's own connection")

context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
