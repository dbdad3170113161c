"""Is it told rightly how much there is of what, and what a name means?"""

import pytest
from optuna.trial import TrialState

from storage.families import note_change
from storage.models import studies
from storage.overview import kinds_of, known_names, overview
from storage.studies import create_study
from storage.trial_rows import insert_trial

SPACE = {"lr": {"type": "float", "low": 0, "high": 1}}


def add(store, name, *, task, trials, space=SPACE, source="hindsight"):
    study_id = create_study(store, name=name, task=task, metric="loss", space=space, source=source)
    with store.write() as connection:
        for number in range(trials):
            insert_trial(connection, study_id, number, state=TrialState.COMPLETE.value, value=1.0)
        if trials:
            note_change(store, connection, study_id)
    return study_id


def test_an_empty_history(store):
    found = overview(store)
    assert (found.families, found.without_family, found.quarantine) == ((), 0, {})
    assert kinds_of(store, "anything") == ()
    assert known_names(store) == set()


def test_sizes_of_families(store):
    add(store, "a", task="t", trials=3)
    add(store, "b", task="u", trials=2)
    add(store, "c", task="u", trials=1, space={"wd": SPACE["lr"]})
    add(store, "d", task="v", trials=0, space=None)
    with store.write() as connection:
        connection.execute(studies.update().where(studies.c.name == "b").values(quarantine="scale break: percent"))
    first, second = overview(store).families
    assert (first.tasks, first.studies, first.trials, first.quarantined) == (2, 2, 5, 1)
    assert (second.tasks, second.studies, second.trials, second.quarantined) == (1, 1, 1, 0)
    assert overview(store).without_family == 1
    assert overview(store).quarantine == {"b": "scale break: percent"}


def test_what_a_name_means(store):
    add(store, "both", task="both", trials=1, source="mine")
    (family,) = overview(store).families
    assert kinds_of(store, "both") == ("task", "study")
    assert kinds_of(store, "mine") == ("source",)
    assert kinds_of(store, family.family.name) == ("family",)
    assert known_names(store) == {"both", "mine", family.family.name}


@pytest.mark.parametrize("name", ["it's", "<b>\n", "%", ""])
def test_odd_names_are_only_names(store, name):
    add(store, f"x{name}", task="t", trials=0)
    assert kinds_of(store, f"x{name}") == ("study",)
    assert kinds_of(store, "x%%") == ()
