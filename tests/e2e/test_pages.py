"""The pages as a person uses them, in a real browser: from the first login to the champion."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from urllib.parse import urljoin

import numpy as np
import optuna
import pytest

from storage import studies
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store
from tests.browser import Watched, window
from tests.e2e.test_serve import Serving, serving

PATIENCE = 120_000.0  # milliseconds, on a machine that does much else


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`hpo serve` on a history in which two studies have been run already."""
    folder = tmp_path_factory.mktemp("served")
    store = open_store(f"sqlite:///{folder / 'hpo.db'}")
    for seed, name in enumerate(("cold", "warm")):
        _tune(HistoryStorage(store), name, seed)
    store.dispose()
    with serving(folder) as running:
        yield running


def _tune(storage: HistoryStorage, name: str, seed: int) -> None:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study_id = studies.create_study(storage.store, name=name, task="bowl", metric="loss")
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    assert study._study_id == study_id
    rng = np.random.default_rng(seed)

    def objective(trial: optuna.Trial) -> float:
        lr, depth = trial.suggest_float("lr", 1e-4, 1.0, log=True), trial.suggest_int("depth", 1, 4)
        return (math.log10(lr) + 2.0) ** 2 + 0.1 * depth + 0.05 * float(rng.standard_normal())

    study.optimize(objective, n_trials=16)


@pytest.fixture(scope="module")
def there(service: Serving) -> Iterator[Watched]:
    """A window that has followed the link of the first start."""
    with window(may_fail="/mlflow") as watched:
        watched.page.set_default_timeout(PATIENCE)
        watched.page.goto(service.said["login"])
        watched.page.wait_for_url("**/studies")
        assert "token" not in watched.page.url
        yield watched


def test_a_study_is_launched_watched_followed_into_mlflow_and_promoted(there: Watched, service: Serving) -> None:
    page = there.page
    page.get_by_role("link", name="Launch a study").click()
    page.select_option("#recipe", "wine_mlp/all")
    page.wait_for_url("**/launch?recipe=*")
    file = page.input_value("#file")
    page.fill("#file", file.replace("trials: 20", "trials: several"))
    page.wait_for_selector("#check code:text-is('budget.trials')")
    page.fill("#file", re.sub(r"max_epochs: \d+", "max_epochs: 2", file).replace("trials: 20", "trials: 1"))
    page.wait_for_selector("#check >> text=In order: wine_mlp-all")
    page.get_by_role("button", name="Launch", exact=True).click()
    page.wait_for_url("**/studies/*")
    study = page.url

    page.wait_for_selector("#trials .badge.complete")  # by events alone: nobody loads the page again
    page.wait_for_selector("#study-head .badge.done")
    page.wait_for_selector("#course .main-svg")
    assert page.url == study

    page.click("#trials a[data-row]")
    page.wait_for_selector("text=Why it was proposed")
    until_mlflow_has(f"{study}/trials/0", service)
    page.get_by_role("link", name="MLflow run").click()
    page.wait_for_url("**/mlflow/#/experiments/*/runs/*")
    back = page.get_by_role("link", name="trial 0 of wine_mlp-all").get_attribute("href")  # in the run's description
    assert back is not None
    page.goto(urljoin(service.url, back))
    assert page.url == f"{study}/trials/0"

    page.get_by_role("link", name="Promote…").click()
    assert page.input_value("#name") == "wine_mlp-all"
    page.get_by_role("button", name="Promote it").click()
    page.wait_for_url("**/imports/*")  # a job, whose page shows what comes of it
    page.wait_for_selector("text=wine_mlp-all, version 1, is the champion")
    page.goto(f"{service.url}/champions")
    page.wait_for_selector("main >> text=wine_mlp-all")
    there.check()


def until_mlflow_has(trial: str, service: Serving) -> None:
    """Until MLflow answers, and was told of a trial: who asks for its run before that is told to look again."""
    deadline = time.monotonic() + PATIENCE / 1000
    client = service.logged_in()
    while client.get("/mlflow/health").status_code != 200 or client.get(f"{trial}/mlflow").status_code == 404:
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_effects_are_read_and_two_studies_compared(there: Watched, service: Serving) -> None:
    page = there.page
    page.goto(f"{service.url}/tasks?name=bowl")
    page.wait_for_selector("figure .main-svg")
    page.goto(f"{service.url}/studies?search=cold")
    page.click("a[data-row]")
    page.get_by_role("link", name="Hyperparameters").click()
    plane = page.locator("figure[data-figure*='over=']")
    plane.scroll_into_view_if_needed()  # figures are drawn once they come into sight
    plane.locator(".main-svg").first.wait_for()
    page.select_option("select[name=of]", "depth")
    page.wait_for_url("**/parameters?of=depth*")
    page.wait_for_selector("text=Along depth")
    page.goto(f"{service.url}/compare?studies=cold&studies=warm")
    page.wait_for_selector("figure .main-svg")
    there.check()


def test_keys_themes_and_a_phone(there: Watched, service: Serving) -> None:
    from playwright.sync_api import expect

    page = there.page
    page.goto(f"{service.url}/studies")
    page.keyboard.press("/")
    page.keyboard.type("warm")
    expect(page.locator("#list tbody tr")).to_have_count(1, timeout=PATIENCE)
    assert page.url.endswith("search=warm&order=-created")
    page.keyboard.press("Tab")
    page.locator("body").click(position={"x": 5, "y": 300})
    page.keyboard.press("?")
    page.wait_for_selector("dialog#keys[open]")
    page.keyboard.press("Escape")
    before = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    for _ in range(2):  # light, then dark
        page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") != before
    page.keyboard.press("g")
    page.keyboard.press("h")
    page.wait_for_url("**/history")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.keyboard.press("t")
    page.set_viewport_size({"width": 390, "height": 844})
    for path in (
        "/studies",
        "/studies/1",
        "/studies/1/parameters",
        "/studies/1/best",
        "/studies/1/trials/0",
        "/launch",
    ):
        page.goto(f"{service.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    there.check()
