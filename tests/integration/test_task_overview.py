"""Are tasks listed with how much is known of each?"""

from optuna.trial import TrialState

from storage.database import Store
from storage.studies import create_study, finish_trial
from storage.task_overview import list_tasks
from tests.filled import SPACE, claimed


def test_a_task_has_its_families_and_sizes(store: Store):
    for name, space, count in (("a", SPACE, 2), ("b", {"lr": SPACE["lr"]}, 1), ("c", SPACE, 0)):
        study = create_study(store, name=name, task="digits <b>", metric="loss", space=space)
        for _ in range(count):
            finish_trial(store, claimed(store, study), state=TrialState.COMPLETE, value=1.0)
    create_study(store, name="other", task="another", metric="loss", space=SPACE)
    create_study(store, name="nobody's")
    another, digits = list_tasks(store)
    assert (another.name, another.studies, another.trials) == ("another", 1, 0)
    assert (digits.name, digits.studies, digits.trials, digits.quarantined) == ("digits <b>", 3, 3, 0)
    assert len(digits.families) == 2
    (only,) = list_tasks(store, family=digits.families[1])
    assert (only.name, only.studies, only.trials) == ("digits <b>", 1, 1)
    assert list_tasks(store, family="nothing") == []
    assert list_tasks(store, name="digits <b>") == [digits]
