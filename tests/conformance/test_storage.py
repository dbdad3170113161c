"""Is the history an Optuna storage? Optuna's own suite decides."""

import pytest
from optuna.testing.pytest_storages import StorageTestCase

from storage.optuna_storage import HistoryStorage
from storage.schema import Store


class TestHistoryStorage(StorageTestCase):
    @pytest.fixture
    def storage(self, store: Store) -> HistoryStorage:
        return HistoryStorage(store)
