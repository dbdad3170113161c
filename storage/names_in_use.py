"""By which names are values kept: of parameters, and of what users have noted beside?"""

from sqlalchemy import select

from storage.database import Store
from storage.models import study_attributes, study_parameters, trial_attributes


def parameter_names(store: Store) -> list[str]:
    """The parameters of all studies, by name."""
    with store.read() as connection:
        return sorted(connection.execute(select(study_parameters.c.name).distinct()).scalars())


def attribute_names(store: Store) -> list[str]:
    """The user attributes of all studies and trials, by name."""
    tables = (study_attributes, trial_attributes)
    queries = [select(table.c.key).where(table.c.kind == "user").distinct() for table in tables]
    with store.read() as connection:
        return sorted({name for query in queries for name in connection.execute(query).scalars()})
