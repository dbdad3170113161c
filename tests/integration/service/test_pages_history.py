"""The pages about the past: do they say what is known, to those who may see it, whatever names hold?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from hpo.api.wire_jobs import ReplayRequest
from hpo.service.state import Service
from storage import audit, background_jobs, history, launches, tokens
from storage.repairs import oddities
from tests.integration.service.past_pages import (
    CHOICE,
    EVIL,
    RATE,
    TASKS,
    TRIALS,
    client,
    family_of_tasks,
    service_on_past,
    study,
    task,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service_on_past(tmp_path_factory.mktemp("past")) as service:
        yield service


@pytest.fixture(scope="module")
def viewer(service: Service) -> TestClient:
    return client(service, "viewer")


@pytest.fixture(scope="module")
def family(service: Service) -> str:
    return family_of_tasks(service)


def page(browser: TestClient, path: str, **query: Any) -> str:
    answer = browser.get(path, params=query or None)
    assert answer.status_code == 200, answer.text[-2000:]
    assert_harmless(answer.text)
    return answer.text


def figure(browser: TestClient, path: str, **query: Any) -> dict[str, Any]:
    answer = browser.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert "<img" not in json.dumps([found["data"], found["layout"]])  # plotly reads tags in its texts
    assert found["title"] and found["table"]["columns"] and found["table"]["rows"]
    return found


def assert_harmless(html: str) -> None:
    for raw in ("<script>alert", "<img src=x", EVIL):
        assert raw not in html


# What is shown


def test_the_history_lists_families_tasks_and_sources(viewer: TestClient, family: str) -> None:
    html = page(viewer, "/history")
    assert f'href="/families/{quote(family)}"' in html
    assert "lr &lt;script&gt;alert(1)" in html
    assert "in quarantine" in html
    assert page(viewer, "/history", search="OPTIMIZER").count("data-row href") >= 2
    assert "No family fits" in page(viewer, "/history", search=f"nothing {EVIL}")
    tasks = page(viewer, "/history/parts/tasks", search="task/1", task_order="-trials")
    assert tasks.count("data-row href") == 1 and f"/tasks?name={quote(task(1))}" in tasks
    assert "http://mlflow:5000" in page(viewer, "/history/parts/sources")


def test_a_family_and_a_task_have_a_page_with_a_url_for_every_view(viewer: TestClient, family: str) -> None:
    for path in (f"/families/{quote(family)}", f"/tasks?name={quote(task(0))}"):
        joined = "&" if "?" in path else "?"
        html = page(viewer, path)
        assert "/history/parts/effects" in html and "/history/figures/importance" in html
        assert 'data-key="h" aria-current="page">History' in html
        assert "/history/figures/forest" in page(viewer, f"{path}{joined}parameter={quote(RATE)}&place=2")
        assert "/history/parts/advice" in page(viewer, f"{path}{joined}view=advice&together=true")
        assert "/history/figures/map" in page(viewer, f"{path}{joined}view=map")
    gone = viewer.get("/families/no/such family")
    assert (gone.status_code, "there is no family named" in gone.text) == (404, True)
    assert viewer.get("/tasks", params={"name": EVIL}).status_code == 404


def test_what_each_range_is_worth_is_that_of_hpo_stats(viewer: TestClient, family: str) -> None:
    from hpo.answers.questions import effects

    service: Service = viewer.app.state.service  # type: ignore[attr-defined]  # FastAPI's
    html = page(viewer, "/history/parts/effects", target=family, kind="family")
    found = effects(service.store.url, target=family)
    assert f"{TASKS} tasks, {TASKS * TRIALS} trials" in html  # the one in quarantine is left out
    for each in found["effects"]:
        assert f"{each['adjusted']['mean']:+.2f}" in html
    few = page(viewer, "/history/parts/effects", target=family, kind="family", where="value < 1", parameter="optimizer")
    assert "optimizer" in few and "lr &lt;" not in few


def test_figures_tell_the_same_as_their_tables(viewer: TestClient, family: str) -> None:
    curve = figure(viewer, "/history/figures/curve", target=family, parameter=RATE)
    assert [row[0] for row in curve["table"]["rows"]] == ["0.0001 … 0.001", "0.001 … 0.01", "0.01 … 0.1", "0.1 … 1"]
    choices = figure(viewer, "/history/figures/curve", target=family, parameter="optimizer")
    assert choices["layout"]["xaxis"]["ticktext"][0] == "sgd" and choices["table"]["rows"][1][0] == CHOICE
    forest = figure(viewer, "/history/figures/forest", target=family, parameter=RATE)
    assert {row[0] for row in forest["table"]["rows"]} == {task(place) for place in range(TASKS)}
    assert forest["layout"]["yaxis"]["ticktext"][:2] == ["a new task", "mean"]
    importance = figure(viewer, "/history/figures/importance", target=family)
    assert importance["table"]["rows"][0][0] == RATE
    mapped = figure(viewer, "/history/figures/map", target=family)
    assert len(mapped["table"]["rows"]) == TASKS
    good = figure(viewer, "/history/figures/advice", target=family, parameter=RATE)
    assert len(good["data"][0]["z"]) == TASKS and good["layout"]["shapes"]


def test_a_new_task_is_advised_and_predicted(viewer: TestClient, family: str) -> None:
    advice = page(viewer, "/history/parts/advice", target=family)
    assert "likely" in advice and "strip" in advice
    good = page(viewer, "/history/parts/worth", target=family, **{f"p.{RATE}": "0.05", "p.optimizer": ""})
    assert "standard deviations" in good and "in a new task 95%" in good
    wrong = viewer.get("/history/parts/worth", params={"target": family, f"p.{RATE}": "7"}, headers={"Accept": "*/*"})
    assert wrong.status_code == 422 and "outside" in wrong.json()["detail"]
    assert "task/0" in page(viewer, "/history/parts/map", target=family)


def test_past_trials_are_filtered_sorted_paged_and_downloaded(viewer: TestClient, family: str) -> None:
    path = f"/families/{quote(family)}"
    html = page(viewer, path, view="trials", where="value < 0.3", order="-value")
    assert 0 < html.count("data-row href") < TRIALS
    first = page(viewer, path, view="trials", order=f"params.`{RATE}`")
    assert first.count("data-row href") == 50 and "data-more" in first
    wrong = viewer.get(path, params={"view": "trials", "where": f"params.lr << {EVIL}"})
    assert wrong.status_code == 422 and "This condition cannot be read" in wrong.text
    assert_harmless(wrong.text)
    asked = {"target": family, "kind": "family", "where": "value < 0.3"}
    lines, rows = (viewer.get(f"/history/trials.{form}", params=asked) for form in ("csv", "json"))
    assert lines.headers["content-type"].startswith("text/csv")
    assert len(rows.json()) == html.count("data-row href") and all(row["value"] < 0.3 for row in rows.json())
    assert EVIL.replace('"', '""') in lines.text


def test_studies_and_configurations_are_compared(viewer: TestClient, service: Service) -> None:
    ids = history.ids_of_studies(service.store, [study(0), study(1)])
    html = page(viewer, "/compare", studies=[str(ids[study(0)]), study(1)])
    assert html.count('name="studies" value="study/') == 2 and "/compare/parts/result" in html
    courses = figure(viewer, "/compare/figures/courses", studies=[study(0), "study/*"])
    assert courses["table"]["columns"][1] == study(0) and len(courses["table"]["rows"]) == TRIALS
    apart = viewer.get("/compare/parts/result", params={"studies": [study(0), study(1)]}, headers={"Accept": "*/*"})
    assert apart.status_code == 404 and "share no task" in apart.json()["detail"]
    trials = [f"{study(0)}#1", f"{study(0)}#2"]
    html = page(viewer, "/compare", studies=trials)
    assert "Configurations" in html and html.count("lr &lt;script&gt;") >= 1
    said = page(viewer, "/compare/parts/result", studies=trials)
    assert "not enough to say" in said and "“The best” of its study trains contenders again" in said
    assert "hpo best" not in said
    assert viewer.get("/compare", params={"studies": f"{study(0)}#77"}).status_code == 404
    assert "name another" in page(viewer, "/compare", studies=[study(0)])
    figure(viewer, "/compare/figures/gains", studies=trials)


def test_machines_and_the_queue_say_what_waits_and_why(viewer: TestClient, service: Service) -> None:
    html = page(viewer, "/machines")
    assert "queued &lt;script&gt;" in html and "gpu &lt;script&gt;" in html and "it is its turn" in html
    assert "priority" not in html.replace("Priority", "")  # a viewer does not change it
    operator = client(service, "operator")
    queued = next(each for each in launches.list_launches(service.store) if each.owner.startswith("bob"))
    changed = operator.post(f"/machines/{queued.study_id}/priority", data={"priority": "7"})
    assert (changed.status_code, changed.headers["location"]) == (303, "/machines")
    assert launches.find_launch(service.store, queued.study_id).priority == 7  # type: ignore[union-attr]
    (entry,) = audit.list_entries(service.store, action="study.priority")
    assert entry.who == "operator" and entry.details == {"priority": 7}


def test_what_is_odd_is_told_with_its_remedy_and_mended_only_when_asked(service: Service, family: str) -> None:
    operator, odd = client(service, "operator"), study(TASKS)
    told = page(operator, "/history/parts/quality")
    assert told.count("<article") == 1 and f"/families/{quote(family)}?view=quality" in told
    assert "/history/parts/oddities" in page(operator, f"/families/{quote(family)}", view="quality")
    assert "/history/repair" not in page(client(service, "viewer"), "/history/parts/oddities", family=family)
    (remedy,) = [each.remedy for each in oddities(service.store, family) if each.study == odd]
    assert remedy is not None and remedy.sentence in page(operator, "/history/parts/oddities", family=family)
    first = _first_value(service, odd)
    answer = operator.post("/history/repair", data={"study": odd, "kind": "reversed direction", "next": "//evil/"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/history")
    assert _first_value(service, odd) == pytest.approx(remedy.offset + remedy.factor * first)
    assert "No study is in quarantine" in page(operator, "/history/parts/quality")
    again = operator.post("/history/repair", data={"study": odd, "kind": "reversed direction"})
    assert again.status_code == 422 and "There is no reversed direction to mend" in again.text
    assert_harmless(again.text)
    for action, more in (("quarantine", {"reason": EVIL}), ("trust", {})):
        done = operator.post(f"/history/{action}", data={"study": odd, "next": "/history?search=x", **more})
        assert done.headers["location"] == "/history?search=x"
    assert [entry.action for entry in audit.list_entries(service.store, limit=3)] == [
        "study.trust", "study.quarantine", "study.repair",
    ]  # fmt: skip


def _first_value(service: Service, name: str) -> float:
    return history.completed_values(service.store, history.ids_of_studies(service.store, [name])[name])[0]


def test_an_import_is_started_and_told_and_a_wrong_one_comes_back_as_it_was_written(service: Service) -> None:
    operator = client(service, "operator")
    given = {"what": "table", "place": "/etc/passwd", "metric": EVIL, "direction": "maximize", "dry_run": "true"}
    wrong = operator.post("/imports", data=given)
    assert wrong.status_code == 422 and "among the projects of this service" in wrong.text
    assert "&lt;script&gt;alert(1)" in wrong.text and wrong.text.count(" selected") == 1 and " checked" in wrong.text
    assert_harmless(wrong.text)
    (service.projects / "runs.csv").write_text("lr,loss\n0.1,2\n0.2,1\n")
    started = operator.post(
        "/imports", data={"what": "table", "place": "runs.csv", "source": EVIL, "mapping": "drop: [x]"}
    )
    assert started.status_code == 303
    sent = operator.post("/imports", data={"what": "table"}, files={"file": (f"{EVIL}.csv", b"lr,loss\n0.1,2\n")})
    replayed = operator.post("/imports/replay", data={"methods": ["random", "tpe"], "budget": "5", "family": EVIL})
    form = page(operator, "/imports?what=replay")
    assert f'name="seeds" type="number" min="1" max="100" value="{ReplayRequest().seeds}"' in form
    asked = [operator.post("/imports/verify"), operator.post("/imports/export", data={"target": study(0)})]
    for answer in (started, sent, replayed, *asked):  # beside the one that was there
        html = page(operator, answer.headers["location"])
        assert "queued" in html and "/cancel" in html and 'data-refresh="1"' in html
    listed = page(client(service, "viewer"), "/imports")
    assert listed.count("data-row href") == 6 and "Start" not in listed
    assert operator.post("/imports/replay", data={"methods": "grid search"}).status_code == 422
    assert operator.post("/imports/export", data={"target": EVIL}).status_code == 422
    assert operator.post(f"{started.headers['location']}/cancel").status_code == 303
    assert "cancelled" in page(operator, started.headers["location"])


def test_what_became_of_jobs_is_told(service: Service) -> None:
    viewer = client(service, "viewer")
    background_jobs.add_job(service.store, kind="promotion", owner="ann", settings={})
    while (job := background_jobs.begin_job(service.store, worker="a test", lease_seconds=60.0)) is not None:
        result = _RESULTS[job.kind]
        background_jobs.end_job(service.store, job, "done", result=result)
        html = page(viewer, f"/imports/{job.job_id}")
        assert _TOLD[job.kind] in html
        if job.kind == "replay":
            figure(viewer, f"/imports/{job.job_id}/figures/regret", kind="median")
            figure(viewer, f"/imports/{job.job_id}/figures/differences")
            assert f"/imports/{job.job_id}" in page(viewer, "/compare")
        else:
            assert viewer.get(f"/imports/{job.job_id}/figures/regret").status_code == 404


_TOLD = {
    "import": "no usable value",
    "replay": "tpe",
    "verify": "fits together",
    "export": "7",
    "promotion": "Trial 3: the best value; 6 could, or replicates.",
}
_REGRET = {kind: {"1": 0.5, "3": 0.2} for kind in ("minmax", "median")}
_RESULTS: dict[str, Any] = {
    "import": {
        "taken": 3, "number_skipped": 1, "number_rejected": 2, "dry_run": False, "skipped": {f"known {EVIL}": 1},
        "rejected": {"no usable value": 2}, "notes": [EVIL],
        "flags": [{"study": EVIL, "kind": "scale break", "evidence": EVIL, "quarantined": True}],
        "rows": [{"row": EVIL, "verdict": "rejected", "reason": EVIL, "task": None, "study": None, "trial": None}],
        "tasks": [
            {
                "task": EVIL, "study": EVIL, "family": EVIL, "metric": EVIL, "direction": "minimize",
                "space": {EVIL: {}}, "taken": 3, "skipped": 1, "rejected": 2,
            }
        ],
    },
    "replay": {
        "tasks": 2, "baseline": "random", "code": "c0ffee", "machine": EVIL, "close": 0.05, "families": {},
        "setting": {"regime": "full", "seeds": 1, "budget": 5, "skipped": [EVIL]},
        "overall": [
            {
                "method": method, "regret": _REGRET, "trials_to_close": {"minmax": 2.0, "median": 2.0},
                "reached": {"minmax": 1.0, "median": 1.0}, "rank": {"5": 1.5}, "seconds": {"p95": 0.1},
            }
            for method in ("random", "tpe")
        ],
        "comparisons": [
            {
                "method": "tpe", "baseline": "random", "trials_ratio": {"minmax": 1.0, "median": 1.0},
                "trials_ratio_interval95": {"minmax": [0.5, 2.0], "median": None},
                "differences": [
                    {"kind": "minmax", "at": 5, "mean": 0.1, "interval95": [0.0, 0.2], "p": 0.1, "p_holm": 0.1}
                ],
            }
        ],
    },
    "verify": {"findings": [], "quarantine": {EVIL: EVIL}},
    "export": {"target": EVIL, "file": "tables.zip", "bytes": 7, "notes": [EVIL]},
    "promotion": {
        "study": EVIL, "trial": 3, "why": "the best value; 6 could, or --replicates", "objectives": {EVIL: 0.5},
        "expected": None, "name": EVIL, "version": "1", "alias": "champion", "serialization": "pt2", "note": EVIL,
        "metrics": {EVIL: 0.5}, "largest_difference": 0.0,
    },
}  # fmt: skip


def test_a_token_is_made_shown_once_and_revoked(service: Service) -> None:
    admin = client(service, "admin")
    made = admin.post(
        "/access/tokens", data={"owner": f"eve {EVIL[:30].replace('/', '')}", "role": "worker", "days": ""}
    )
    assert made.status_code == 200 and "hpo_" in made.text
    assert_harmless(made.text)
    token = tokens.list_tokens(service.store)[-1]
    assert token.owner.startswith("eve") and token.expires_at is None
    again = page(admin, "/access", action="token.create")
    assert "hpo_" not in again and token.hint in again
    assert admin.post(f"/access/tokens/{token.token_id}/revoke").status_code == 303
    assert "token.revoke" in page(admin, "/access")
    assert admin.post("/access/tokens", data={"owner": "x", "role": "king"}).status_code == 422
    assert admin.post("/access/tokens", data={"owner": "x", "role": "viewer", "days": "-1"}).status_code == 422


def test_without_mlflow_there_are_no_champions(viewer: TestClient) -> None:
    assert "There is no MLflow here" in page(viewer, "/champions")
    assert "No champion yet" in page(viewer, "/champions/parts/list")


# Who may


READ = ("/history", "/history/parts/tasks", "/history/parts/sources", "/history/parts/quality", "/compare", "/machines")
READ += ("/champions", "/imports", "/imports/1")
CHANGES = {"/machines/1/priority": "operate", "/access/tokens": "administer", "/access/tokens/1/revoke": "administer"}
CHANGES |= dict.fromkeys(("/history/trust", "/history/repair", "/history/quarantine", "/imports"), "operate")
CHANGES |= dict.fromkeys(("/imports/replay", "/imports/export", "/imports/verify", "/imports/1/cancel"), "operate")


def test_each_page_is_for_those_who_may(service: Service) -> None:
    browsers = {role: client(service, role) for role in ("viewer", "operator", "admin", "worker")}
    for path in READ:
        seen = {role: browser.get(path).status_code for role, browser in browsers.items()}
        assert seen == {"viewer": 200, "operator": 200, "admin": 200, "worker": 403}, path
    assert {role: browser.get("/access").status_code for role, browser in browsers.items()} == {
        "viewer": 403, "operator": 403, "admin": 200, "worker": 403,
    }  # fmt: skip
    for path, permission in CHANGES.items():
        allowed = {"operate": {"operator", "admin"}, "administer": {"admin"}}[permission]
        for role, browser in browsers.items():
            assert (browser.post(path, data={}).status_code == 403) == (role not in allowed), (path, role)


def test_who_has_not_logged_in_is_sent_there_and_comes_back(service: Service) -> None:
    answer = client(service, None).get("/history?search=x")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fhistory%3Fsearch%3Dx")
    assert client(service, None).post("/machines/1/priority", data={"priority": "1"}).status_code == 401
