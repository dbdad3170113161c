"""The pages about the past in a real browser: what scripts do there, with names that would rather do something else."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from dashboards.app import create_app
from hpo.service.state import Service
from storage import background_jobs, tokens
from tests.browser import Watched, window
from tests.integration.service.past_pages import RATE, family_of_tasks, service_on_past
from tests.servers import served

SECONDS = 60_000  # milliseconds that a busy machine may take


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service_on_past(tmp_path_factory.mktemp("past")) as service:
        yield service


@pytest.fixture(scope="module")
def there(service: Service) -> Iterator[Watched]:
    """A window of an admin who has logged in."""
    secret, _ = tokens.create_token(service.store, owner="ann", role="admin", created_by="a test")
    with served(create_app(service)) as url, window(base_url=url) as watched:
        watched.page.set_default_timeout(SECONDS)
        watched.page.goto("/login?next=/history")
        watched.page.fill("#token", secret)
        watched.page.press("#token", "Enter")
        watched.page.wait_for_url("**/history")
        yield watched


def test_families_and_tasks_are_searched_and_sorted_in_place(there: Watched) -> None:
    page = there.page
    page.fill("[data-filter=families] [type=search]", "optimizer")
    page.wait_for_url("**/history?search=optimizer")
    page.wait_for_selector("#tasks tbody tr")
    page.fill("[data-list=tasks] [type=search]", "task/3")
    page.wait_for_selector("#tasks tbody tr:only-child")
    assert "task/3 <script>" in page.inner_text("#tasks tbody")
    page.click("#tasks th a:has-text('Latest study')")
    page.wait_for_selector("#tasks th[aria-sort=ascending]")
    assert page.locator("#tasks tbody tr").count() == 1  # what was searched for is kept
    there.check()


def test_what_is_odd_is_mended_after_it_was_shown_and_a_configuration_is_predicted(
    there: Watched, service: Service
) -> None:
    page, family = there.page, quote(family_of_tasks(service))
    page.goto(f"/families/{family}?view=quality")
    page.click("article:has-text('in quarantine') summary:has-text('Repair')")
    page.click("article:has-text('in quarantine') button:has-text('Do it')")
    page.wait_for_selector(".fragment[aria-label='Data quality']:not([aria-busy])")
    assert "in quarantine" not in page.inner_text("main")
    page.goto(f"/families/{family}?view=advice")
    page.get_by_label(RATE).fill("0.05")
    page.click("text=Predict")
    page.wait_for_selector("#worth .result")
    assert "in a new task 95%" in page.inner_text("#worth")
    there.check()


def test_a_job_is_watched_as_it_goes_on(there: Watched, service: Service) -> None:
    page = there.page
    page.goto("/imports?what=verify")
    page.click("button:has-text('Verify')")
    page.wait_for_selector(".badge.queued")
    job = background_jobs.begin_job(service.store, worker="a test", lease_seconds=600.0, kinds=["verify"])
    assert job is not None
    background_jobs.keep_job(service.store, job, lease_seconds=600.0, done=1, total=4)
    page.wait_for_selector("[role=progressbar][aria-valuenow='1']")
    background_jobs.end_job(service.store, job, "done", result={"findings": [], "quarantine": {}})
    page.wait_for_selector("text=Everything in the history is whole")
    page.wait_for_selector("#job:not([data-refresh])")
    there.check()


def test_a_token_is_revoked_where_one_can_see_the_question(there: Watched) -> None:
    page = there.page
    page.goto("/access")
    page.fill("[name=owner]", "bob")
    page.click("text=Make a token")
    assert page.inner_text("[data-secret]").startswith("hpo_")
    row = page.locator("tr", has_text="bob").first
    row.locator("summary").click()
    button = row.locator("button:has-text('Revoke it')")
    box, scroll = button.bounding_box(), page.locator(".scroll").first.bounding_box()
    assert box is not None and scroll is not None and box["y"] + box["height"] <= scroll["y"] + scroll["height"]
    button.click()
    page.wait_for_selector("tr:has-text('bob') .badge.revoked")
    there.check()
