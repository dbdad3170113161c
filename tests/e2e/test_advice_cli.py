"""Do `hpo explain` and `hpo advise` answer a person at a terminal, and a script?"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hpo.studies.study_file import load_spec
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.sampler import HistorySampler
from storage import history
from storage.optuna_storage import HistoryStorage
from storage.schema import Store
from tests.e2e.conftest import Hpo, answer

SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True), "kind": CategoricalDistribution(("a", "b"))}


def fill(store: Store, tasks: int, *, runs: int = 24) -> str:
    """Past studies in which lr is best around 0.01 and kind is a; the name of their family."""
    storage = HistoryStorage(store)
    for t in range(tasks):
        rng = random.Random(t)
        centre = rng.gauss(-2, 0.1)
        study = optuna.create_study(storage=storage, study_name=f"past {t}")
        for _ in range(runs):
            params = {"lr": 10 ** rng.uniform(-4, 0), "kind": rng.choice("ab")}
            study.add_trial(create_trial(params=params, distributions=SPACE, value=loss(params, centre)))
    return history.list_studies(store)[0].family


def loss(params: dict[str, Any], centre: float = -2.0) -> float:
    return (math.log10(params["lr"]) - centre) ** 2 + (0.5 if params["kind"] == "b" else 0.0)


# hpo explain


def receipted(store: Store, **receipt: Any) -> optuna.Study:
    """A study whose trial 0 has the receipt and the value 0.5; trials of every other kind follow."""
    study = optuna.create_study(storage=HistoryStorage(store), study_name="mine [x]")

    def add(state: TrialState, value: float | None = None, **system: Any) -> None:
        params = {"lr": 0.01, "kind": "a"}
        trial = create_trial(state=state, value=value, params=params, distributions=SPACE, system_attrs=system)
        study.add_trial(trial)

    add(TrialState.COMPLETE, 0.5, **{RECEIPT: receipt})
    add(TrialState.COMPLETE, 0.9, **{RECEIPT: {"kind": "gaussian_process", "interval90": [0.1, 0.2]}})
    add(TrialState.COMPLETE, 0.4, fixed_params={"lr": 0.01})
    add(TrialState.COMPLETE, 0.4)
    add(TrialState.FAIL, **{RECEIPT: {"role": "explore"}})
    study.ask()
    return study


def test_explains_a_trial(hpo: Hpo, sqlite_store: Store) -> None:
    receipted(
        sqlite_store,
        role="exploit",
        predicted=0.45,
        interval90=[0.3, 0.6],
        improvement_probability=0.62,
        incumbent=0.55,
        history_weight=0.8,
        leans_on=[{"study": "past [1]", "weight": 0.75}, {"study": "mine [x]", "weight": 0.25}],
        without_history={"lr": 0.5, "kind": "a"},
        pending=1,
        seconds=0.07,
        ignored=["past 9: it orders trials the other way round"],
        why="The largest expected improvement.",
    )
    out, _ = hpo("explain", "mine [x]", "0")
    for said in (
        "mine [x], trial 0: value = 0.5",
        "exploit: the largest improvement is expected here",
        "The largest expected improvement.",
        "0.45, 90% between 0.3 and 0.6",
        "0.5, inside the interval",
        "62% that it beats the best value till then, 0.55",
        "80%",
        "1 running trial",
        "70 ms",
        "past [1]   75% ███████████████",
        "(this study itself)",
        "the same in both: kind=a",
        "it orders trials the other way round",
    ):
        assert said in out, said
    assert [line.split() for line in out.splitlines() if line.split()[:1] == ["lr"]] == [["lr", "0.01", "0.5"]]
    fields = answer(hpo, "explain", "mine [x]", "0")
    assert (fields["inside"], fields["role"], fields["proposer"]) == (True, "exploit", "hindsight")
    assert fields["without_history"] == {"lr": 0.5, "kind": "a"}


def test_explains_what_a_trial_was_to_cost(hpo: Hpo, sqlite_store: Store) -> None:
    receipted(sqlite_store, role="exploit", cost="seconds", predicted_cost=12.0, cost_interval90=[8.0, 18.0])
    assert "12, 90% between 8 and 18 seconds expected" in hpo("explain", "mine [x]", "0")[0]
    fields = answer(hpo, "explain", "mine [x]", "0")
    assert (fields["cost"], fields["predicted_cost"], fields["cost_interval90"]) == ("seconds", 12.0, [8.0, 18.0])


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("1", "above the interval"),
        ("2", "enqueued by you"),
        ("3", "proposed by another sampler"),
        ("4", "failed"),
        ("5", "still running"),
    ],
)
def test_explains_what_is_known_of_others(hpo: Hpo, sqlite_store: Store, number: str, said: str) -> None:
    receipted(sqlite_store)
    assert said in hpo("explain", "mine [x]", number)[0]


def test_explains_a_study(hpo: Hpo, sqlite_store: Store) -> None:
    receipted(sqlite_store, role="exploit", predicted=0.45, interval90=[0.3, 0.6])
    out, _ = hpo("explain", "mine [x]")
    assert "1 of 2 values fell inside their 90% interval: 50%" in out
    assert "few, so this says little" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()[:1].isdigit() and "fell" not in line}
    assert "inside" in lines["0"]
    assert "above" in lines["1"]
    assert "fail" in lines["4"]
    fields = answer(hpo, "explain", "mine [x]")
    assert (fields["interval90"]["inside"], fields["interval90"]["judged"]) == (1, 2)
    assert [trial["state"] for trial in fields["trials"]] == ["complete"] * 4 + ["fail", "running"]


def test_explains_what_the_sampler_proposed(hpo: Hpo, sqlite_store: Store) -> None:
    fill(sqlite_store, 3)
    storage = HistoryStorage(sqlite_store)
    study = optuna.create_study(storage=storage, sampler=HistorySampler(storage, seed=0), study_name="new")
    study.optimize(
        lambda trial: loss({name: trial._suggest(name, of) for name, of in SPACE.items()}), n_trials=7, catch=()
    )
    fields = answer(hpo, "explain", "new")
    assert [trial["proposer"] for trial in fields["trials"]] == ["hindsight"] * 7
    assert "past" in hpo("explain", "new", "1")[0]
    assert "predicted" in hpo("explain", "new", "6")[0]


def test_says_what_is_not_there(hpo: Hpo, sqlite_store: Store) -> None:
    receipted(sqlite_store)
    assert "There is no study named 'mine x'" in hpo("explain", "mine x", "0", code=2)[1]
    assert "no trial 99 in study 'mine [x]'; it has 0 … 5" in hpo("explain", "mine [x]", "99", code=2)[1]
    optuna.create_study(storage=HistoryStorage(sqlite_store), study_name="empty")
    assert "no trial yet" in hpo("explain", "empty")[0]
    assert "it has none yet" in hpo("explain", "empty", "0", code=2)[1]


# hpo advise


def test_advises_a_family(hpo: Hpo, sqlite_store: Store, tmp_path: Path) -> None:
    family = fill(sqlite_store, 24)
    out, _ = hpo("advise", family, "--plot", "advice.png")
    assert "24 past tasks, 576 runs" in out
    assert "all at once" in out
    assert (tmp_path / "advice.png").read_bytes().startswith(b"\x89PNG")
    assert "is there already" in hpo("advise", family, "--plot", "advice.png", code=2)[1]
    fields = answer(hpo, "advise", family)
    lr, kind = sorted(fields["parameters"], key=lambda of: of["name"], reverse=True)
    assert 1e-3 < lr["likely"][0] < lr["likely"][1] < 0.1
    assert lr["kept"] < 0.4
    assert lr["promise"] == pytest.approx(0.9, abs=0.01)
    assert kind["likely"] == ["a"]
    assert fields["joint"]["hit_rate"] > 0.7


def test_few_tasks_promise_little(hpo: Hpo, sqlite_store: Store) -> None:
    family = fill(sqlite_store, 1)
    out, _ = hpo("advise", family)
    assert "one task only" in out
    assert answer(hpo, "advise", family)["joint"] is None
    fill_more = HistoryStorage(sqlite_store)
    study = optuna.create_study(storage=fill_more, study_name="tiny")
    study.add_trial(create_trial(params={"lr": 0.1, "kind": "a"}, distributions=SPACE, value=1.0))
    assert "left out, with too few finished runs: tiny" in hpo("advise", family)[0]


def test_writes_a_study_file_only_when_told_to(hpo: Hpo, sqlite_store: Store, tmp_path: Path) -> None:
    family = fill(sqlite_store, 10)
    file = tmp_path / "study.yaml"
    text = (
        "task: {name: a, metric: loss, direction: minimize}\ntrainer: {model: their.Model, max_epochs: 1}\nspace:\n"
        "  lr: {type: float, low: 1e-4, high: 1, log: true}  # rate\n  kind: {type: categorical, choices: [a, b]}\n"
        "budget: {trials: 1}\n"
    )
    file.write_text(text)
    out, err = hpo("advise", family, "--write", file, code=2)
    assert "not yet written" in out
    assert "--force writes these changes" in err
    assert file.read_text() == text
    assert answer(hpo, "advise", family, "--write", file, code=2)["file"]["written"] is False
    out, _ = hpo("advise", family, "--write", file, "--force")
    assert "+  lr: " in out
    assert set(load_spec(file).search_space().likely) == {"lr", "kind"}
    file.write_text(text)
    assert answer(hpo, "advise", family, "--write", file, "--hard", "--force")["file"]["written"] is True
    assert load_spec(file).search_space().distributions["lr"].low > 1e-4
    assert "--hard goes with --write" in hpo("advise", family, "--hard", code=2)[1]


def test_a_task_and_what_is_not_there(hpo: Hpo, sqlite_store: Store) -> None:
    assert "(the history is empty)" in hpo("advise", "nothing", code=2)[1]
    family = fill(sqlite_store, 2)
    assert f"  {family}" in hpo("advise", "nothing", code=2)[1]
    out, _ = hpo("advise", family)
    assert "two tasks" in out
