"""`/api/v1/studies/{id}/trials`: pages that stay right, conditions, curves, receipts and what figures take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import optuna
import pytest
from fastapi.testclient import TestClient

from hpo.api.paging import encode_cursor
from hpo.service.state import Service
from storage import history
from storage.database import Store
from storage.optuna_storage import HistoryStorage
from storage.studies import create_study
from tests.integration.service.conftest import ClientAs

TRIALS = 30


@pytest.fixture
def study(service: Service) -> optuna.Study:
    """A study whose trials report, are pruned and fail; its parameters are conditional and of every kind."""
    made = optuna.create_study(storage=HistoryStorage(service.store), study_name="a <b>'s", direction="minimize")
    made.optimize(_objective, n_trials=TRIALS, catch=(ValueError,))
    return made


def _objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    kind = trial.suggest_categorical("kind", ["adam", "sgd", True, 3])
    if kind == "sgd":
        trial.suggest_int("steps", 1, 5)
    for step in range(20):
        trial.report(lr / (step + 1) if step != 7 else math.nan, step)
    if trial.number % 7 == 3:
        raise optuna.TrialPruned
    if trial.number % 7 == 5:
        raise ValueError(f"no luck with {lr}")
    return lr


def _id(store: Store, study: optuna.Study) -> int:
    return history.get_study(store, study.study_name).study_id


def _pages(client: TestClient, path: str, **query: Any) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = client.get(path, params={**query, **({"cursor": cursor} if cursor else {})})
        assert page.status_code == 200, page.text
        yield from page.json()["items"]
        cursor = page.json()["next"]
        if cursor is None:
            return


ORDERS = (
    "number",
    "-number",
    "value",
    "-value",
    "params.lr",
    "-params.kind",
    "params.steps",
    "state",
    "-cost",
    "error",
)


def test_pages_hold_each_trial_once_in_every_order(client_as: ClientAs, service: Service, study: optuna.Study) -> None:
    path = f"/api/v1/studies/{_id(service.store, study)}/trials"
    client = client_as("viewer")
    for order in ORDERS:
        whole = client.get(path, params={"order": order}).json()["items"]
        assert sorted(each["number"] for each in whole) == list(range(TRIALS))
        assert list(_pages(client, path, order=order, limit=7)) == whole
        if order.endswith("value"):
            values = [each["value"] for each in whole if each["value"] is not None]
            assert values == sorted(values, reverse=order.startswith("-"))
            assert all(each["value"] is None for each in whole[len(values) :])


def test_trials_that_come_in_shift_nothing(client_as: ClientAs, service: Service, study: optuna.Study) -> None:
    path = f"/api/v1/studies/{_id(service.store, study)}/trials"
    for order in ("-number", "-params.lr"):
        seen = []
        for trial in _pages(client_as("viewer"), path, order=order, limit=7):
            seen.append(trial["number"])
            if len(seen) in (3, 12):
                study.optimize(_objective, n_trials=2, catch=(ValueError,))
        assert len(set(seen)) == len(seen)
        assert set(range(TRIALS)) <= set(seen)


def test_a_condition_is_met_page_by_page(
    client_as: ClientAs, service: Service, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/v1/studies/{_id(service.store, study)}/trials"
    client = client_as("viewer")
    wanted = {trial.number for trial in study.trials if trial.params["lr"] < 0.05 and trial.state.name == "COMPLETE"}
    where = "params.lr < 0.05 and state = complete"
    for few, peeked, stretch in ((1_000, (300,), 8_000), (1, (3, 5), 2)):  # however many trials are looked at, at once
        monkeypatch.setattr("storage.trial_pages.FEW", few)
        monkeypatch.setattr("storage.trial_pages.PEEKED_ROWS", peeked)
        monkeypatch.setattr("storage.trial_pages.FIRST_STRETCH", stretch)
        for condition, order in product(
            (where, "params.lr < 0.05"), ("number", "-number", "value", "-value", "-started", "params.kind")
        ):
            one_by_one = [each["number"] for each in _pages(client, path, where=condition, order=order, limit=2)]
            at_once = [each["number"] for each in _pages(client, path, where="", order=order, limit=1_000)]
            assert one_by_one == [number for number in at_once if number in set(one_by_one)], (condition, order)
            assert len(set(one_by_one)) == len(one_by_one) and wanted <= set(one_by_one)
            assert condition != where or set(one_by_one) == wanted
    refused = client.get(path, params={"where": "params.lr <"})
    assert (refused.status_code, refused.json()["code"]) == (422, "query")
    assert "^" in refused.json()["detail"]
    assert client.get(path, params={"order": "attrs.x"}).status_code == 422
    cursor = client.get(path, params={"limit": 2}).json()["next"]
    other = client.get(path, params={"cursor": cursor, "order": "value"})
    assert (other.status_code, other.json()["code"]) == (422, "invalid-cursor")


def test_one_trial_its_curve_and_its_receipt(client_as: ClientAs, service: Service, study: optuna.Study) -> None:
    path = f"/api/v1/studies/{_id(service.store, study)}/trials"
    client = client_as("viewer")
    trial = client.get(f"{path}/0").json()
    assert trial["params"] == study.trials[0].params
    assert trial["intermediate_values"]["7"] is None  # there was no number
    curve = client.get(f"{path}/0/curve", params={"points": 5}).json()
    assert curve["steps"] == [0, 4, 9, 14, 19]
    assert curve["reported"] == 20
    receipt = client.get(f"{path}/0/receipt").json()
    assert receipt["proposer"] == "another sampler"
    missing = client.get(f"{path}/{TRIALS}")
    assert (missing.status_code, missing.json()["code"]) == (404, "trial-not-found")
    assert f"it has 0 … {TRIALS - 1}" in missing.json()["detail"]
    assert client.get("/api/v1/studies/999/trials").json()["code"] == "study-not-found"


def test_what_figures_take(client_as: ClientAs, service: Service, study: optuna.Study) -> None:
    path = f"/api/v1/studies/{_id(service.store, study)}"
    client = client_as("viewer")
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    course = client.get(f"{path}/course", params={"points": 3}).json()
    assert course["finished"] == TRIALS
    assert course["incumbent"][-1] == study.best_value
    assert course["after"][-1] == TRIALS
    assert course["forecast"] is None  # it has no study file
    parallel = client.get(f"{path}/parallel", params={"most": 10}).json()
    assert len(parallel["numbers"]) == 10
    assert study.best_trial.number in parallel["numbers"]
    slice_ = client.get(f"{path}/slice", params={"parameter": ["steps"], "intervals": False}).json()
    with_steps = [trial for trial in complete if "steps" in trial.params]
    assert slice_["numbers"] == [trial.number for trial in with_steps]
    assert slice_["parameters"][0]["chosen"] == [trial.params["steps"] for trial in with_steps]
    unknown = client.get(f"{path}/slice", params={"parameter": "step"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "settings")
    assert "'steps'" in unknown.json()["detail"]
    curves = client.get(f"{path}/curves", params={"where": "state = pruned", "points": 4}).json()["curves"]
    assert [len(each["steps"]) for each in curves] == [4] * len(curves) and curves


def test_trials_of_the_whole_history(client_as: ClientAs, service: Service, study: optuna.Study) -> None:
    client = client_as("viewer")
    create_study(service.store, name="empty", task="t", metric="m")
    found = list(_pages(client, "/api/v1/trials", where="state = complete", order="best", limit=7))
    assert [each["value"] for each in found] == sorted(each["value"] for each in found)
    assert found[0]["study"] == "a <b>'s" and found[0]["params"] == study.best_params
    recorded = list(_pages(client, "/api/v1/trials", limit=7))
    assert [each["number"] for each in recorded] == list(range(TRIALS))


def test_half_a_surrogate_pair_spoils_no_page(client_as: ClientAs, service: Service, study: optuna.Study) -> None:
    study.ask().set_user_attr("said", "\ud800")
    client = client_as("viewer")
    (found,) = client.get("/api/v1/trials", params={"where": "state = running", "limit": 1}).json()["items"]
    assert found["attrs"] == {"said": "\ud800"}


ODD = (
    *("\0", "params.`", "-", "--value", "value = 'a\0b'", "number = 99999999999999999999999", "value < 1e999"),
    *("é" * 300, "task like '%\\'", "started > '9999999-01-01'", "seed in (1,2,99999999999999999999)", "(" * 200),
    *("params.lr between 1 and 'x'", "attrs.x is null and tags.`a b` = 'c'", "state = nobodys", "params.kind = true"),
)
POSITIONS = (["value", "text", 1], ["number", None, -1], ["value", float("inf"), 1], ["state", "x", 1], [1, 2], "x",
             ["params.lr", "x", 1], ["params.lr", "9:x", 1], ["-number", 3, 2**70], ["error", "a\0b", 1])  # fmt: skip


def test_odd_questions_are_answered_or_refused(client_as: ClientAs, service: Service, study: optuna.Study) -> None:
    path = f"/api/v1/studies/{_id(service.store, study)}"
    client = client_as("viewer")
    for text in ODD:
        for place, name in (("trials", "where"), ("trials", "order"), ("curves", "where"), ("slice", "parameter")):
            answer = client.get(f"{path}/{place}", params={name: text})
            assert answer.status_code in (200, 422), (place, name, text, answer.text)
        for place, name in (("/trials", "where"), ("/trials", "order"), ("/studies", "search"), ("/studies", "name")):
            answer = client.get(f"/api/v1{place}", params={name: text})
            assert answer.status_code in (200, 422), (place, name, text, answer.text)
    for position in POSITIONS:
        order = position[0] if isinstance(position[0], str) and len(position) == 3 else "number"
        for place in (f"{path}/trials", "/api/v1/trials", "/api/v1/studies"):
            query = {"cursor": encode_cursor(position)} | ({"order": order} if "trials" in place else {})
            answer = client.get(place, params=query)
            assert answer.status_code in (200, 422), (place, position, answer.text)
