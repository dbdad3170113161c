"""The pages of studies and trials: do they say what is known, and do they let only those act who may?"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser

import optuna
import pytest
from fastapi import Request
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import update

from dashboards.app import create_app
from hpo.api.access import SESSION_COOKIE, Needs
from hpo.errors import SpecError
from hpo.service.state import Service
from hpo.tuning.stopping import Stopped, keep_reason
from storage import history, models, tokens
from storage.optuna_storage import HistoryStorage
from tests.integration.service.past_pages import EVIL, RATE, TRIALS, client, service_on_past, study
from tests.integration.test_late_results import late, lost, study_of

OPEN = {"/", "/login", "/logout", "/static/{name}"}  # without a token they tell nothing, and change nothing


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service_on_past(tmp_path_factory.mktemp("studies")) as service:
        yield service


@pytest.fixture(scope="module")
def viewer(service: Service) -> TestClient:
    return client(service, "viewer")


@pytest.fixture(scope="module")
def operator(service: Service) -> TestClient:
    return client(service, "operator")


@pytest.fixture(scope="module")
def root(service: Service) -> str:
    return f"/studies/{history.get_study(service.store, study(0)).study_id}"


def page(browser: TestClient, path: str, **query: str) -> str:
    answer = browser.get(path, params=query or None)
    assert answer.status_code == 200, answer.text[-1500:]
    assert_harmless(answer.text)
    return answer.text


def assert_harmless(html: str) -> None:
    for raw in ("<script>alert", "<img src=x", EVIL):
        assert raw not in html


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """Every tag with its attributes, as a browser reads them."""
    found: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(html)
    return found


def browser(service: Service, **cookies: str) -> TestClient:
    return TestClient(
        create_app(service),
        base_url="http://testserver",
        headers={"Accept": "text/html"},
        cookies=cookies,
        follow_redirects=False,
        raise_server_exceptions=False,
    )


# In and out


def test_who_has_not_logged_in_is_led_to_the_login_and_back(service: Service) -> None:
    visitor = browser(service)
    sent = visitor.get("/studies?search=a%20b")
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=%2Fstudies%3Fsearch%3Da%2520b")
    assert 'value="/studies?search=a%20b"' in page(visitor, sent.headers["location"])
    secret, _ = tokens.create_token(service.store, owner="ann", role="viewer", created_by="a test")
    origin = {"Origin": "http://testserver"}
    wrong = visitor.post("/login", data={"token": "hpo_wrong", "next": "/studies"}, headers=origin)
    assert wrong.status_code == 401 and "not known" in wrong.text
    right = visitor.post("/login", data={"token": secret, "next": "/studies?search=a%20b"}, headers=origin)
    assert (right.status_code, right.headers["location"]) == (303, "/studies?search=a%20b")
    assert "HttpOnly" in right.headers["set-cookie"]
    assert "ann" in page(visitor, "/studies")
    gone = visitor.post("/logout", headers=origin)
    assert gone.headers["location"] == "/login"
    assert visitor.get("/studies").status_code == 303


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", ""]
)
def test_a_login_leads_nowhere_else(service: Service, elsewhere: str) -> None:
    assert 'name="next" value="/studies"' in page(browser(service), "/login", next=elsewhere)


def test_another_site_can_neither_log_in_nor_act(service: Service, root: str) -> None:
    secret, token = tokens.create_token(service.store, owner="ann", role="admin", created_by="a test")
    foreign = {"Origin": "https://evil.example"}
    assert browser(service).post("/login", data={"token": secret}, headers=foreign).status_code == 403
    session, _ = tokens.create_token(
        service.store, owner="ann", role="admin", created_by="a test", session_of=token.token_id
    )
    visitor = browser(service, **{SESSION_COOKIE: session})
    for headers in (foreign, {}):
        refused = visitor.post(f"{root}/delete", data={"sure": "yes"}, headers=headers)
        assert (refused.status_code, "own pages" in refused.text) == (403, True)
    assert page(visitor, root)


def test_every_page_declares_its_permission(service: Service) -> None:
    for route in create_app(service).routes:
        if isinstance(route, APIRoute) and not route.path.startswith("/api/") and route.path not in OPEN:
            needs = [each.call for each in route.dependant.dependencies if isinstance(each.call, Needs)]
            is_operations = route.path in ("/healthz", "/readyz", "/metrics")
            assert is_operations or len(needs) == 1, f"{route.methods} {route.path} declares {len(needs)} permissions"


# What is shown


def test_studies_are_found_sorted_and_paged_by_their_url(viewer: TestClient) -> None:
    html = page(viewer, "/studies")
    assert "study/0 &lt;script&gt;" in html and 'class="spark"' in html
    found = page(viewer, "/studies", search="STUDY/3")
    assert found.count("data-row href") == 1
    assert "No study like that" in page(viewer, "/studies", search=f"nothing {EVIL}")
    by_name = re.findall(r"data-row href=\"/studies/(\d+)\"", page(viewer, "/studies", order="name"))
    backwards = re.findall(r"data-row href=\"/studies/(\d+)\"", page(viewer, "/studies", order="-name"))
    assert by_name == backwards[::-1] and len(by_name) > 5
    assert page(viewer, "/studies", state="queued").count("data-row href") == 2
    unknown = viewer.get("/studies", params={"order": "price"})
    assert (unknown.status_code, "use one of" in unknown.text) == (422, True)


def test_a_study_has_a_url_for_every_view(viewer: TestClient, root: str) -> None:
    html = page(viewer, root)
    assert html.count('<tr id="trial-') == TRIALS
    assert f'data-figure="{root}/figures/course"' in html
    assert f"{root}/figures/slice?of=lr" in page(viewer, f"{root}/parameters")
    assert "P(best)" in page(viewer, f"{root}/best/judgement")
    assert "best/judgement" in page(viewer, f"{root}/best")
    assert "study/0" in page(viewer, f"{root}/about")
    assert "…" in page(viewer, f"{root}/worth")


def test_trials_are_filtered_sorted_and_told_what_is_wrong_with_a_condition(viewer: TestClient, root: str) -> None:
    some = page(viewer, root, where="value < 0.2", order="value")
    numbers = re.findall(r'<tr id="trial-(\d+)"', some)
    assert 0 < len(numbers) < TRIALS
    values = [trial["value"] for trial in json.loads(viewer.get(f"{root}/trials.json?order=value").text)]
    assert values == sorted(values) and len(values) == TRIALS
    wrong = page(viewer, root, where="value <")
    assert "cannot be read" in wrong and '<tr id="trial-' not in wrong  # no trials as if they were the answer
    assert "Nothing meets" in page(viewer, root, where=f"task = '{EVIL.replace(chr(39), chr(39) * 2)}'")


def test_trials_come_as_csv_without_formulas(viewer: TestClient, root: str) -> None:
    answer = viewer.get(f"{root}/trials.csv", params={"where": "number < 3"})
    assert answer.headers["content-disposition"].startswith("attachment")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    assert f"params.{RATE}" in rows[0]
    assert not any((cell or "").startswith(("=", "@")) for row in rows for cell in row.values())


@pytest.mark.parametrize("figure", ["course", "curves", "parallel", "importance", "slice?of=optimizer"])
def test_figures_are_data_that_is_no_html(viewer: TestClient, root: str, figure: str) -> None:
    answer = viewer.get(f"{root}/figures/{figure}", headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert "<img" not in json.dumps([content["data"], content["layout"]])
    assert content["table"]["columns"]


def test_a_trial_says_why_it_was_proposed_and_how_it_went(viewer: TestClient, root: str) -> None:
    html = page(viewer, f"{root}/trials/3")
    assert "Why it was proposed" in html and "another sampler" in html
    assert f"{root}/trials/2" in html and f"{root}/trials/4" in html


def test_errors_are_pages_for_browsers_and_problems_for_programs(viewer: TestClient, root: str) -> None:
    missing = viewer.get("/studies/99999")
    assert missing.status_code == 404 and "There is no study with id 99999" in missing.text
    assert "<h1>" in missing.text
    program = viewer.get("/studies/99999", headers={"Accept": "application/json"})
    assert program.headers["content-type"] == "application/problem+json"
    said = f"study.yaml:3: stop: is --stop wanted? See `hpo tune --stop` {EVIL}"
    request = Request({"type": "http", "path": root, "headers": [], "app": viewer.app})
    part = asyncio.run(viewer.app.exception_handlers[SpecError](request, SpecError(said)))  # type: ignore[attr-defined]
    told = json.loads(part.body)
    assert told["errors"] == [{"place": "stop", "message": f"is stop wanted? See `hpo tune --stop` {EVIL}"}]
    assert told["detail"].startswith("study.yaml:3: stop: is stop wanted?")
    assert viewer.get(f"{root}/trials/999").status_code == 404
    assert viewer.get("/studies/none").status_code == 422
    assert viewer.get("/nowhere").status_code == 404


# What is done


def test_viewers_see_no_buttons_and_may_not_send_their_forms(viewer: TestClient, root: str) -> None:
    html = page(viewer, root)
    assert "/delete" not in html and 'href="/launch"' not in page(viewer, "/studies")
    for action in ("start", "pause", "resume", "stop", "delete", "promote"):
        assert viewer.post(f"{root}/{action}", data={"trial": "1"}).status_code == 403
    for path in ("/launch", f"{root}/promote?trial=0"):
        assert viewer.get(path).status_code == 403
    assert viewer.post("/launch", data={"file": "study: x"}).status_code == 403


def test_a_study_is_launched_paused_resumed_stopped_and_deleted_by_forms(
    operator: TestClient, service: Service
) -> None:
    form = page(operator, "/launch", recipe="wine_mlp/all")
    file = unescape(re.search(r"<textarea[^>]*>(.*?)</textarea>", form, re.S)[1])  # type: ignore[index]
    assert "wine_mlp/all" in file
    in_order = operator.post("/launch/check", data={"file": file})
    assert "In order: wine_mlp-all" in in_order.text
    made = operator.post("/launch", data={"file": file, "place": "workers", "priority": "3"})
    assert made.status_code == 303
    here = made.headers["location"]
    assert "running" in page(operator, here)
    for action, then in (("pause", "paused"), ("resume", "running"), ("stop", "stopped")):
        sent = operator.post(f"{here}/{action}")
        assert (sent.status_code, sent.headers["location"]) == (303, here)
        assert f'class="badge {then}"' in page(operator, here)
    said = "`hpo front wine` shows more, by --trial"
    told = update(models.launches).where(models.launches.c.study_id == int(here.rpartition("/")[2]))
    with service.store.write() as connection:
        connection.execute(told.values(message=said))
    reason = Stopped(
        rule="auto", finished=9, started=9, left=3, expected_gain=0.1, gain95=0.2, gain_of_next=0.1, threshold=0.3,
        reason=said,
    )  # fmt: skip
    stopped = optuna.load_study(study_name="wine_mlp-all", storage=HistoryStorage(service.store))
    keep_reason(stopped, reason)
    for path, times in ((here, 3), ("/machines", 1)):
        assert page(operator, path).count("“The front” of the study shows more, by trial") == times
    again = operator.post(f"{here}/resume")
    assert again.status_code == 409 and "stopped" in again.text
    unsure = operator.post(f"{here}/delete")
    assert unsure.status_code == 422 and "was not deleted" in unsure.text
    assert operator.post(f"{here}/delete", data={"sure": "yes"}).headers["location"] == "/studies"
    assert operator.get(here).status_code == 404


def test_a_late_value_is_let_count_by_a_form(viewer: TestClient, operator: TestClient, service: Service) -> None:
    study_id = study_of(service.store, "slow machines")
    late(service.store, lost(service.store, study_id, deaths=3), 0.5)
    here = f"/studies/{study_id}/trials"
    assert "Late results" in page(viewer, f"{here}/0") and "Let it count" not in page(viewer, f"{here}/0")
    assert viewer.post(f"{here}/0/accept-late", data={"result": "1"}).status_code == 403
    shown = page(operator, f"{here}/0")
    assert "Let it count" in shown and "No model came with it" in shown
    assert operator.post(f"{here}/0/accept-late", data={"result": "1"}).headers["location"] == f"{here}/1"
    shown = page(operator, f"{here}/0")
    assert f'it counts as <a href="{here}/1">trial 1</a>' in shown and "Let it count" not in shown
    assert "counts already" in operator.post(f"{here}/0/accept-late", data={"result": "1"}).text


def test_all_that_is_wrong_with_a_study_file_is_told_at_once_and_nothing_is_lost(
    operator: TestClient, service: Service
) -> None:
    file = (
        f"study: x {EVIL}\ntask: {{name: t, metric: loss}}\ntrainer: {{recipe: digits_mlp, folds: none}}\n"
        "space: {lr: {type: float, low: 3, high: 1}}\nbudget: {trials: many}\n"
    )
    before = len(history.list_studies(service.store))
    for path in ("/launch", "/launch/check"):
        answer = operator.post(path, data={"file": file, "jobs": "2"})
        assert_harmless(answer.text)
        told = re.search(r"(\d+) things to put right", answer.text)
        assert told is not None and int(told[1]) >= 3
        assert "space.lr" in answer.text
    assert answer.status_code == 200
    kept = operator.post("/launch", data={"file": file, "jobs": "2"})
    assert kept.status_code == 422
    assert "trials: many" in kept.text and 'name="jobs" value="2"' in kept.text
    assert len(history.list_studies(service.store)) == before


# What pages are made of


def test_assets_are_kept_by_browsers_as_long_as_they_are_the_same(service: Service) -> None:
    visitor = browser(service)
    html = page(visitor, "/login")
    for url in set(re.findall(r'(?:src|href|data-plotly)="(/static/[^"]+)"', html)):
        answer = visitor.get(url)
        assert answer.status_code == 200, url
        assert "immutable" in answer.headers["cache-control"]
    assert visitor.get("/static/pages.css?v=old").headers["cache-control"] == "no-cache"
    for name in ("nothing.css", "..%2Fframe.py", "pages.py", "plotly.js.map"):
        assert visitor.get(f"/static/{name}").status_code == 404


def test_pages_bring_no_script_of_their_own_and_ask_no_other_host(viewer: TestClient, root: str) -> None:
    for path in ("/studies", root, f"{root}/parameters", f"{root}/trials/1", "/login"):
        html = page(viewer, path)
        for tag, attributes in tags_of(html):
            assert tag != "script" or "src" in attributes or attributes.get("type") == "application/json"
            assert not any(name.startswith("on") for name in attributes)
            links = [attributes.get(name) or "" for name in ("src", "href", "action", "data-figure", "data-fragment")]
            assert not any(re.match(r"(https?:)?//|javascript:", link) for link in links)
