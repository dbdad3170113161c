"""Is the model that a study is to learn from found, in the history or by its path, and is it said where it is not?"""

from __future__ import annotations

import re

import pytest
from optuna.trial import TrialState

from hpo.errors import SpecError
from hpo.studies.study_file import parse_spec
from hpo.studies.teachers import compress_section, config_of
from storage import history
from storage.optuna_storage import HistoryStorage
from storage.studies import claim_trial, create_study, finish_trial

SPACE = {"channels": {"type": "int", "low": 4, "high": 32}}


def study_file(teacher=None, **trainer):
    compress = {} if teacher is None else {"compress": {"distil": {"teacher": teacher, "temperature": 2.0}}}
    return parse_spec(
        {"trainer": {"recipe": "digits_cnn/odd", **compress, **trainer}, "space": SPACE, "budget": {"trials": 2}}
    )


@pytest.fixture
def big(sqlite_store, tmp_path):
    """A study with two complete trials, of which the second is better, and one that failed."""
    spec = study_file()
    study_id = create_study(
        sqlite_store,
        name="big/odd",
        task="odd",
        metric="val_loss",
        space=spec.search_space().to_json(),
        spec=spec.model_dump(mode="json", exclude_defaults=True),
        provenance={"folder": str(tmp_path / "project")},
    )
    storage = HistoryStorage(sqlite_store)
    for number, value in enumerate((0.5, 0.2, None)):
        claim = claim_trial(sqlite_store, study_id, worker="w", lease_seconds=60, max_trials=None)
        distribution = spec.search_space().distributions["channels"]
        storage.set_trial_param(claim.trial_id, "channels", 8 + number, distribution)
        checkpoint = tmp_path / f"{number}.ckpt"
        checkpoint.touch()
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        finish_trial(sqlite_store, claim, state=state, value=value, checkpoint=str(checkpoint))
    return sqlite_store


@pytest.mark.parametrize(("name", "number"), [("big/odd", 1), ("big/odd#0", 0)])
def test_a_trial_teaches_with_the_settings_it_was_trained_with(name, number, big, tmp_path):
    section = compress_section(study_file(name), big, folder=tmp_path)
    teacher = section["distil"]["teacher"]
    assert section["distil"]["temperature"] == 2.0
    assert teacher["checkpoint"] == str(tmp_path / f"{number}.ckpt")
    assert teacher["params"] == {"channels": 8 + number}
    assert teacher["config"]["model"] == "trainers.recipes.networks.CNN"
    assert teacher["config"]["data_args"] == {"variant": "odd"}
    assert teacher["config"]["python_path"][0] == str(tmp_path / "project")


def test_a_checkpoint_teaches_with_the_studys_class_or_another(sqlite_store, tmp_path):
    (tmp_path / "big.ckpt").touch()
    own = compress_section(study_file("big.ckpt"), sqlite_store, folder=tmp_path)["distil"]["teacher"]
    assert own["checkpoint"] == str(tmp_path / "big.ckpt")
    assert own["config"]["model"] == "trainers.recipes.networks.CNN"
    other = {"checkpoint": "big.ckpt", "model": {"class_path": "mine.Big", "init_args": {"width": 9}}}
    named = compress_section(study_file(other), sqlite_store, folder=tmp_path)["distil"]["teacher"]
    assert (named["config"]["model"], named["config"]["model_args"]) == ("mine.Big", {"width": 9})


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("big/odd#2", "study 'big/odd' has no complete trial 2"),
        ("bgi/odd", "There is no study named 'bgi/odd'"),
        ("gone.ckpt", "there is no checkpoint"),
    ],
)
def test_a_teacher_that_is_not_there_is_named(teacher, words, big, tmp_path):
    with pytest.raises(SpecError, match=r"trainer\.compress\.distil\.teacher: .*" + re.escape(words)):
        compress_section(study_file(teacher), big, folder=tmp_path)


def test_a_teacher_whose_checkpoint_is_gone_is_named(big, tmp_path):
    (tmp_path / "1.ckpt").unlink()
    with pytest.raises(SpecError, match=r"the checkpoint of trial 1 of 'big/odd' is gone"):
        compress_section(study_file("big/odd"), big, folder=tmp_path)


def test_a_study_of_another_program_has_no_settings(sqlite_store):
    create_study(sqlite_store, name="plain", metric="val_loss")
    with pytest.raises(SpecError, match="was not run by `hpo tune`"):
        config_of(history.get_study(sqlite_store, "plain"), sqlite_store)


def test_without_compression_there_is_no_section(sqlite_store, tmp_path):
    assert compress_section(study_file(), sqlite_store, folder=tmp_path) is None
