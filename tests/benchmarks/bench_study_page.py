"""How soon is the page of a study of 10,000 trials there, and how soon does it show what a trial reports?"""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from dashboards.app import create_app
from hpo.service.state import Service
from storage import studies, tokens
from storage.database import Store
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store
from tests.browser import window
from tests.measured import Figure, table
from tests.servers import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

TRIALS, STEPS = 10_000, 8
VISITS, FIRST_VISITS, REPORTS = 7, 3, 15
SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 0.1, log=True),
    "layers": IntDistribution(1, 5),
    "optimizer": CategoricalDistribution(["sgd", "adam", "lion"]),
    "dropout": FloatDistribution(0.0, 0.6),
}
PAINTED = """new Promise(done => new PerformanceObserver(list => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) done(entry.startTime);
}).observe({type: "paint", buffered: true}))"""
REACTS = "new Promise(done => requestIdleCallback(() => done(performance.now())))"  # its scripts ran, nothing waits
READ = """new Promise(done => {
  const look = () => window.Plotly ? requestIdleCallback(done) : setTimeout(look, 50);
  look();
})"""
BUSY = """new Promise(done => { let last = 0; new PerformanceObserver(list => {
  for (const entry of list.getEntries()) last = Math.max(last, entry.startTime + entry.duration);
}).observe({type: "longtask", buffered: true}); setTimeout(() => done(last), 50); })"""


def main() -> Iterator[Figure]:
    """Milliseconds since the navigation, medians of visits; and from a report until it is seen.

    A first visit is one by a browser with nothing in its cache, once the list of studies has nothing left to do.
    """
    trials = int(os.environ.get("HPO_BENCH_TRIALS", TRIALS))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        store = open_store(f"sqlite:///{folder}/history.db")
        study_id = fill(store, trials)
        secret, _ = tokens.create_token(store, owner="a benchmark", role="viewer", created_by="a benchmark")
        service = Service(store=store, mlflow_uri=None, runs=Path(folder), projects=Path(folder))
        with served(create_app(service)) as url, window() as watched:
            page = watched.page
            page.goto(f"{url}/login#token={secret}")
            page.wait_for_url("**/studies")
            visits = [_visited(page, f"{url}/studies/{study_id}") for _ in range(1 + VISITS)][1:]
            first = [_visited_first(page, url, secret, study_id) for _ in range(FIRST_VISITS)]
            for which, those in (("", visits), (", first visit", first)):
                painted, reacts, drawn = (statistics.median(each) for each in zip(*those, strict=True))
                what = f"study page with {trials:,} trials{which}"
                yield Figure(what=f"{what}, first paint", ours=painted, unit="ms", at_most=1_000.0)
                yield Figure(what=f"{what}, until it reacts", ours=reacts, unit="ms", at_most=2_000.0)
                yield Figure(what=f"{what}, until its figures are drawn", ours=drawn, unit="ms", at_most=2_000.0)
            seen = _seen(store, page, url)
            yield Figure(what="a report until it is seen on the page", ours=1000.0 * seen, unit="ms", at_most=1_000.0)
        service.calculations.close()
        service.desk.close()
        store.dispose()


def _visited(page: Page, url: str) -> tuple[float, float, float]:
    """When it is first painted, when it reacts, and when the last long task of drawing has ended."""
    page.goto(url, wait_until="domcontentloaded")
    painted, reacts = float(page.evaluate(PAINTED)), float(page.evaluate(REACTS))
    page.wait_for_selector("#course .main-svg")
    page.wait_for_selector("#curves .main-svg")
    page.wait_for_timeout(300)
    return painted, reacts, float(page.evaluate(BUSY))


def _visited_first(page: Page, url: str, secret: str, study_id: int) -> tuple[float, float, float]:
    """As `_visited`, by somebody who has just logged in in a window with an empty cache."""
    browser = page.context.browser
    assert browser is not None
    with browser.new_context(viewport=page.viewport_size) as context:
        new = context.new_page()
        new.goto(f"{url}/login#token={secret}")
        new.wait_for_url("**/studies")
        new.wait_for_selector("head script[src^='/static/plotly.js']", state="attached")
        new.evaluate(READ)
        return _visited(new, f"{url}/studies/{study_id}")


def _seen(store: Store, page: Page, url: str) -> float:
    """The median of seconds from a trial's first row in the store until its row on the page."""
    study_id = studies.create_study(store, name="live", task="live", metric="loss", space={})
    claims = [_claimed(store, study_id)]
    page.goto(f"{url}/studies/{study_id}")
    page.wait_for_selector("#trial-0 .badge.running")
    seconds = []
    for number in range(1, 1 + REPORTS):
        began = time.monotonic()
        claims.append(_claimed(store, study_id))
        page.wait_for_selector(f"#trial-{number} .badge.running")
        seconds.append(time.monotonic() - began)
        time.sleep(random.random())
    return statistics.median(seconds)


def _claimed(store: Store, study_id: int) -> studies.Claim:
    claim = studies.claim_trial(store, study_id, worker="a benchmark", lease_seconds=600.0, max_trials=1_000)
    assert claim is not None
    studies.start_trial(store, claim, params={}, seed=0)
    return claim


def fill(store: Store, trials: int) -> int:
    """A study with so many trials, each with a curve; its id."""
    study_id = studies.create_study(store, name="long", task="long", metric="loss")
    storage, rng = HistoryStorage(store), random.Random(0)
    for _ in range(trials):
        params = {
            "lr": 10 ** rng.uniform(-5, -1),
            "layers": rng.randint(1, 5),
            "optimizer": rng.choice(["sgd", "adam", "lion"]),
            "dropout": rng.uniform(0.0, 0.6),
        }
        value = 0.1 + 0.05 * (math.log10(params["lr"]) + 2.6) ** 2 + 0.3 * params["dropout"] ** 2
        value += 0.02 * abs(rng.gauss(0.0, 1.0))
        trial = create_trial(
            state=TrialState.COMPLETE if rng.random() < 0.7 else TrialState.PRUNED,
            value=value,
            params=params,
            distributions=SPACE,
            intermediate_values={step: value + math.exp(-step / 2) for step in range(STEPS)},
        )
        storage.create_new_trial(study_id, template_trial=trial)
    return study_id


if __name__ == "__main__":
    print(table(main()))
