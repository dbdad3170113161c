"""How soon is the page of a long history there? Its first paint in Chromium, and until it reacts."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dashboards.app import create_app
from hpo.service.state import Service
from storage import tokens
from storage.database import Store
from storage.importers.intake import Intake
from storage.importers.runs import PastTask, RunColumns
from storage.schema import open_store
from storage.sources import Source
from tests.measured import Figure, table
from tests.servers import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

TRIALS, TRIALS_OF_A_STUDY = 1_000_000, 100
FAMILIES, TASKS, FEWEST_PARAMETERS = 12, 4_000, 4
ROUNDS = 7
CHROMIUM = "/usr/bin/chromium"
PAINTED = """new Promise(done => new PerformanceObserver(list => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) done(entry.startTime);
}).observe({type: "paint", buffered: true}))"""
REACTS = "new Promise(done => requestIdleCallback(() => done(performance.now())))"  # its scripts ran, nothing waits


def main() -> Iterator[Figure]:
    """Milliseconds since the navigation, medians of visits after the first."""
    trials = int(os.environ.get("HPO_BENCH_TRIALS", TRIALS))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        store = open_store(f"sqlite:///{folder}/history.db")
        fill(store, trials)
        secret, _ = tokens.create_token(store, owner="a benchmark", role="viewer", created_by="a benchmark")
        service = Service(store=store, mlflow_uri=None, runs=Path(folder), projects=Path(folder))
        with served(create_app(service)) as url:
            for path in ("/history", "/history?search=loss3", "/tasks?name=task%201&view=trials"):
                painted, reacts = visit(url, path, secret)
                what = f"{path} with {trials:,} trials"
                yield Figure(what=f"{what}, first paint", ours=painted, unit="ms", at_most=1_000.0)
                yield Figure(what=f"{what}, until it reacts", ours=reacts, unit="ms", at_most=2_000.0)
        service.calculations.close()
        service.desk.close()
        store.dispose()


def visit(url: str, path: str, secret: str) -> tuple[float, float]:
    """When the page is first painted, and when it reacts: milliseconds."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{url}/login?next=/machines")  # which has nothing to work out
        page.fill("#token", secret)
        page.press("#token", "Enter")
        page.wait_for_url("**/machines", wait_until="commit")
        taken = [_timed(page, f"{url}{path}") for _ in range(1 + ROUNDS)][1:]
        browser.close()
    painted, reacts = zip(*taken, strict=True)
    return statistics.median(painted), statistics.median(reacts)


def _timed(page: Page, url: str) -> tuple[float, float]:
    page.goto(url, wait_until="domcontentloaded")
    painted = float(page.evaluate(PAINTED))
    reacts = float(page.evaluate(REACTS))
    page.wait_for_load_state("networkidle")
    return painted, reacts


def fill(store: Store, trials: int) -> None:
    """Families of several sizes, each with tasks that have a bowl of their own."""
    rng = np.random.default_rng(0)
    intake = Intake(store, source=Source(name="benchmark", kind="table", location="made up"))
    for place in range(trials // TRIALS_OF_A_STUDY):
        family = place % FAMILIES
        names = [f"x{family}_{axis}" for axis in range(FEWEST_PARAMETERS + family % 5)]
        points = rng.random((TRIALS_OF_A_STUDY, len(names)))
        best = rng.uniform(0.3, 0.7, len(names))
        columns = RunColumns(
            keys=[str(key) for key in range(TRIALS_OF_A_STUDY)],
            names=tuple(names),
            internal=points,
            values=((points - best) ** 2).sum(1) + rng.normal(0.0, 0.02, TRIALS_OF_A_STUDY),
        )
        space = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in names}
        task = PastTask(
            name=f"task {place % TASKS}",
            study=f"study {place}",
            metric=f"loss{family}",
            direction="minimize",
            space=space,
        )
        intake.take_table(task, columns)
    intake.finish()


if __name__ == "__main__":
    print(table(main()))
