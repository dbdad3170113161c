"""Does a mark change with what it stands for, so that no answer of before is given again?"""

import optuna
import pytest
from optuna.distributions import FloatDistribution

from storage.database import Store
from storage.history import get_study
from storage.importers.flags import quarantine
from storage.optuna_storage import HistoryStorage
from storage.revisions import history_mark, study_mark


@pytest.mark.parametrize("space", [{}, {"lr": FloatDistribution(0.0, 1.0)}], ids=["no parameter", "a parameter"])
def test_a_trial_that_finishes_changes_the_marks_and_nothing_else_does(
    store: Store, space: dict[str, FloatDistribution]
) -> None:
    study = optuna.create_study(study_name="seeds", storage=HistoryStorage(store), direction="maximize")
    study_id = get_study(store, "seeds").study_id
    seen = {(history_mark(store), study_mark(store, study_id))}
    for value in (0.1, 0.2):
        trial = study.ask(space)
        before = history_mark(store)
        trial.report(value, 1)
        assert history_mark(store) == before
        study.tell(trial, value)
        seen.add((history_mark(store), study_mark(store, study_id)))
    assert [len({each[which] for each in seen}) for which in range(2)] == [3, 3]
    before = history_mark(store)
    quarantine(store, "seeds", "a wrong data set")
    assert history_mark(store) != before
