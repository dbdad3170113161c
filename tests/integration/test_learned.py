"""Is what was learned kept for other processes, the same as if learned anew, and forgotten with the history?"""

from __future__ import annotations

import io

import numpy as np
import optuna
import pytest
from sqlalchemy import func, select

from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from hpo.spaces.space_mapping import relate
from hpo.tuning import learning
from hpo.tuning.evidence import look_back
from hpo.tuning.learning import learned_past
from hpo.tuning.past import TRIALS_FOR_A_KERNEL
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.sampler import HistorySampler
from storage.learned import Learned, losses
from storage.models import learned
from storage.optuna_storage import HistoryStorage

ENOUGH = TRIALS_FOR_A_KERNEL + 4
SPACE = SearchSpace.from_json(
    {
        "kind": {"type": "categorical", "choices": ["a", "b"]},
        "x": {"type": "float", "low": 0.0, "high": 1.0},
        "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    }
)
ENCODING = Encoding(space=SPACE)


def loss(trial, centre):
    params = SPACE.suggest(trial)
    return (params["x"] - centre) ** 2 + 0.1 * (np.log10(params["lr"]) + 2) ** 2 + 0.2 * (params["kind"] == "b")


def add_past(storage, *numbers, n_trials=ENOUGH):
    for number in numbers:
        sampler = optuna.samplers.RandomSampler(seed=number)
        study = optuna.create_study(storage=storage, study_name=f"past {number}", sampler=sampler)
        study.optimize(lambda trial, number=number: loss(trial, 0.3 + 0.05 * number), n_trials=n_trials)


def learn_from(storage):
    """What the studies of a store teach, as the sampler asks for it."""
    since, rng = storage.losses(), np.random.default_rng(0)
    looks = [
        look_back(
            sample, relate(SearchSpace.from_json(family.space), SPACE), ENCODING,
            most_trials=96, most_landmarks=20, rng=rng,
        )
        for family in storage.past_families()
        for sample in storage.past_studies(family)
    ]  # fmt: skip
    return learned_past(storage, looks, ENCODING, None, aim="loss", since=since)


def assert_same(one, other):
    assert one.shares.unrelated == other.shares.unrelated
    pairs = [(one.shares.related, other.shares.related), (one.wide, other.wide), (one.close, other.close)]
    pairs += [(a.point, b.point) for a, b in zip(one.picks, other.picks, strict=True)]
    pairs += [(a.credit, b.credit) for a, b in zip(one.picks, other.picks, strict=True)]
    for a, b in zip(
        [one.history, *one.history.tasks], [other.history, *other.history.tasks], strict=True
    ):  # the kernel of all, and each one's own
        assert (a.kernel is None) == (b.kernel is None)
        if a.kernel is not None:
            pairs += [(a.kernel.lengthscales, b.kernel.lengthscales), (a.kernel.noise, b.kernel.noise)]
    looks = [each.history.look(one.close) for each in (one, other)]
    for a, b in [*pairs, (looks[0].values, looks[1].values), (looks[0].variances, looks[1].variances)]:
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def learnings(monkeypatch):
    """Per time that something had to be learned, which studies' own kernels were known before."""
    seen, learn = [], learning.learn

    def counted(studies, encoding, candidates, *, known):
        seen.append([kernel is not None for kernel in known])
        return learn(studies, encoding, candidates, known=known)

    monkeypatch.setattr(learning, "learn", counted)
    return seen


def kept(store):
    with store.read() as connection:
        return connection.scalar(select(func.count()).select_from(learned))


def test_another_process_takes_over_what_was_learned(store, learnings):
    add_past(HistoryStorage(store), 0, 1, 2)
    first = learn_from(HistoryStorage(store))
    assert_same(learn_from(HistoryStorage(store)), first)
    assert learnings == [[False] * 3]


def test_one_more_study_is_as_if_all_were_learned_anew(store, learnings):
    storage = HistoryStorage(store)
    add_past(storage, 0, 1)
    add_past(storage, 2, n_trials=TRIALS_FOR_A_KERNEL // 2)  # too few for a kernel of its own
    learn_from(storage)
    add_past(storage, 3)
    incremental = learn_from(storage)
    with store.write() as connection:
        connection.execute(learned.delete())
    assert_same(learn_from(HistoryStorage(store)), incremental)
    assert learnings == [[False] * 3, [True, True, False, False], [False] * 4]
    assert kept(store) == 1, "what is out of date is replaced"


def test_a_study_that_goes_on_is_learned_again(store, learnings):
    storage = HistoryStorage(store)
    add_past(storage, 0, 1)
    learn_from(storage)
    optuna.load_study(storage=storage, study_name="past 1").optimize(lambda trial: loss(trial, 0.35), n_trials=1)
    learn_from(storage)
    assert learnings == [[False, False], [True, False]]


@pytest.mark.parametrize(("damage", "is_one_more"), [("cut", False), ("cut", True), ("another archive", False)])
def test_what_is_kept_and_damaged_is_learned_anew(store, learnings, caplog, damage, is_one_more):
    storage = HistoryStorage(store)
    add_past(storage, 0, 1, n_trials=TRIALS_FOR_A_KERNEL // 2)
    first = learn_from(storage)
    with store.write() as connection:
        payload = connection.scalar(select(learned.c.payload))
        other = io.BytesIO()
        np.savez(other, x=np.zeros(3))
        damaged = payload[: len(payload) // 2] if damage == "cut" else other.getvalue()
        connection.execute(learned.update().values(payload=damaged))
    if is_one_more:
        add_past(storage, 2, n_trials=TRIALS_FOR_A_KERNEL // 2)
    again = learn_from(HistoryStorage(store))
    assert "is damaged, and learned anew" in caplog.text
    if not is_one_more:
        assert_same(again, first)
    assert learnings[1:] == [[False] * (3 if is_one_more else 2)]
    assert_same(learn_from(HistoryStorage(store)), again)  # which is kept in its place
    assert len(learnings) == 2


def test_what_is_forgotten_leaves_nothing_behind(store, learnings):
    storage = HistoryStorage(store)
    add_past(storage, 0, 1)
    learn_from(storage)
    assert kept(store) == 1
    optuna.delete_study(study_name="past 0", storage=storage)
    assert kept(store) == 0
    assert len(learn_from(storage).studies) == 1
    assert learnings == [[False, False], [False]]


def test_what_was_learned_before_a_loss_is_not_kept_after_it(store):
    storage = HistoryStorage(store)
    add_past(storage, 0, 1)
    before = losses(store)
    optuna.delete_study(study_name="past 0", storage=storage)
    storage.keep("subject", Learned(watermark="0f", payload=b"learned from both"), since=before)
    assert kept(store) == 0
    storage.keep("subject", Learned(watermark="0f", payload=b"learned from one"), since=losses(store))
    assert storage.recall("subject") == Learned(watermark="0f", payload=b"learned from one")


def test_a_family_that_goes_as_a_whole_is_a_loss(store):
    storage = HistoryStorage(store)
    add_past(storage, 0)
    before = losses(store)
    optuna.delete_study(study_name="past 0", storage=storage)
    storage.keep("subject", Learned(watermark="0f", payload=b""), since=before)
    assert kept(store) == 0


def test_proposals_are_the_same_whoever_learned(store, learnings):
    add_past(HistoryStorage(store), 0, 1, 2)
    answers = []
    for name in ("one", "two"):
        storage = HistoryStorage(store)
        study = optuna.create_study(storage=storage, study_name=name, sampler=HistorySampler(storage, seed=1))
        for _ in range(6):
            SPACE.suggest(study.ask())
        answers.append([(trial.params, trial.system_attrs[RECEIPT]["leans_on"]) for trial in study.trials])
    assert answers[0] == answers[1]
    assert [len(each) for each in learnings if len(each) > 1] == [3], "learned by both"
