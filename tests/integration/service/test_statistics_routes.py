"""`/api/v1/statistics`: the answers of the CLI, kept while they hold, worked out where nobody waits for them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import optuna
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from hpo.answers import questions
from hpo.answers.plain import jsonable
from hpo.api.app import create_api
from hpo.api.problems import install
from hpo.api.slow_answers import SlowRoute
from hpo.errors import BusyError, SettingsError
from hpo.service.calculations import WAITING, Calculations
from hpo.service.state import Service
from hpo.studies.study_file import parse_spec
from storage import history, tokens
from storage.database import Store
from storage.importers.flags import trust
from storage.optuna_storage import HistoryStorage
from storage.revisions import history_mark
from storage.studies import create_study
from tests.integration.service.described import checks_answers


@pytest.fixture(scope="module")
def service(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with three tasks of one family in its history."""
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(migrated_sqlite, folder / "history.db")
    store = Store(f"sqlite:///{folder / 'history.db'}")
    service = Service(store=store, mlflow_uri=None, runs=folder / "runs", projects=folder)
    for name in ("one", "two", "three"):
        _grow(store, name)
    yield service
    service.calculations.close()
    store.dispose()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    secret, _ = tokens.create_token(service.store, owner="ann", role="viewer", created_by="a test")
    with TestClient(
        create_api(service), headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False
    ) as client:
        yield checks_answers(client)


def _grow(store: Store, name: str, trials: int = 12) -> None:
    sampler = optuna.samplers.RandomSampler(seed=len(name) + trials)
    study = optuna.create_study(
        storage=HistoryStorage(store), study_name=name, sampler=sampler, load_if_exists=True, direction="maximize"
    )
    study.optimize(
        lambda trial: -((trial.suggest_float("x", -1, 1) - 0.2) ** 2) + 0.1 * trial.suggest_int("k", 0, 3),
        n_trials=trials,
    )


def _family(service: Service) -> str:
    return history.get_study(service.store, "one").family


def test_answers_are_those_of_the_functions(client: TestClient, service: Service) -> None:
    family = _family(service)
    url = service.store.url
    effects = client.get("/api/v1/statistics/effects", params={"target": family, "parameter": "x", "pairs": True})
    assert effects.json() == jsonable(questions.effects(url, target=family, parameters=["x"], pairs=True))
    importance = client.get("/api/v1/statistics/importance", params={"target": family})
    assert importance.json() == jsonable(questions.importance(url, target=family))
    best = client.get("/api/v1/statistics/best", params={"study": "one"})
    assert best.json() == jsonable(questions.best(url, study="one"))
    body = {"study": "one", "against": {"params": {"x": 0.9, "k": 0}}}
    against = client.post("/api/v1/statistics/best", json=body).json()
    assert against["against"]["number"] is None and against["against"]["gain"] > 0
    compared = client.get("/api/v1/statistics/compare", params={"first": "one", "other": ["two", "three"]})
    assert compared.json() == jsonable(questions.compare(url, first="one", others=["two", "three"]))
    advice = client.get("/api/v1/statistics/advise", params={"target": family})
    assert [each["name"] for each in advice.json()["parameters"]] == ["k", "x"]
    mapped = client.get("/api/v1/statistics/resemblance", params={"target": family})
    assert len(mapped.json()["tasks"]) == 3


def test_what_cannot_be_answered_says_why(client: TestClient, service: Service) -> None:
    def refused(path: str, **query: object) -> tuple[int, str, str]:
        answer = client.get(f"/api/v1/statistics/{path}", params=query)  # type: ignore[arg-type]
        return answer.status_code, answer.json()["code"], answer.json()["detail"]

    assert refused("effects", target="nobody's")[:2] == (404, "no-history")
    assert refused("effects", target=_family(service), where="value <")[:2] == (422, "query")
    status, code, detail = refused("effects", target=_family(service), parameter="y")
    assert (status, code) == (422, "settings") and "it has: k, x" in detail
    assert refused("best", study="on")[:2] == (404, "study-not-found")
    assert refused("best", study="one", against=99)[:2] == (404, "trial-not-found")
    assert refused("front", study="one")[:2] == (422, "settings")
    assert refused("compare", first="one")[:2] == (422, "invalid-request")
    twice = client.post("/api/v1/statistics/best", json={"study": "one", "against": {}})
    assert twice.status_code == 422


def test_a_plan_is_made_of_a_study_file_or_told_what_is_wrong_with_it(client: TestClient) -> None:
    text = "task: {name: t, metric: m, direction: maximize}\ntrainer: {recipe: digits_mlp/all}\nbudget: {trials: 3}\n"
    plan = client.post("/api/v1/statistics/plan", json={"yaml": text, "jobs": 2})
    assert plan.status_code == 200, plan.text
    assert plan.json()["jobs"] == 2 and "no past task" in plan.json()["statement"]
    wrong = client.post("/api/v1/statistics/plan", json={"file": {"task": {"name": "t"}, "space": 3}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "spec")
    assert len(wrong.json()["errors"]) > 1
    for yaml in ("[" * 5000, "task: &a [*a]", "when: 2026-99-99", "- 1", "", "? [1, 2]\n: 3"):
        assert client.post("/api/v1/statistics/plan", json={"yaml": yaml}).status_code == 422


def test_an_answer_is_kept_until_something_changes(client: TestClient, service: Service) -> None:
    family = _family(service)

    def ask() -> tuple[int, float]:
        began = time.perf_counter()
        answer = client.get("/api/v1/statistics/effects", params={"target": family})
        return answer.json()["trials"], time.perf_counter() - began

    before, _ = ask()
    assert min(ask()[1] for _ in range(3)) < 0.1
    _grow(service.store, "one", 5)
    assert ask()[0] == before + 5
    study = history.get_study(service.store, "one")
    mark = history_mark(service.store)
    assert trust(service.store, study.name) is None  # nothing to be done
    assert history_mark(service.store) == mark


def test_a_study_is_told_with_what_history_predicted_before_its_first_trial(
    client: TestClient, service: Service
) -> None:
    space = {
        "x": {"type": "float", "low": -1.0, "high": 1.0},
        "k": {"type": "int", "low": 0, "high": 3},
    }
    file = {
        "study": "new",
        "task": {"name": "new", "metric": "value", "direction": "maximize"},
        "trainer": {"function": "mine.train"},
        "space": space,
        "budget": {"trials": 8},
    }
    spec = parse_spec(file)
    made = create_study(
        service.store, name="new", task="new", metric="value", directions=("maximize",), space=space,
        spec=spec.model_dump(mode="json", exclude_none=True),
    )  # fmt: skip
    course = client.get(f"/api/v1/studies/{made}/course").json()
    assert course["finished"] == 0 and course["forecast"]["study"] == "new"
    assert [stage["trials"] for stage in course["forecast"]["stages"]][-1] == 8


def test_a_question_holds_up_no_other_request(client: TestClient, service: Service) -> None:
    slow = threading.Thread(
        target=lambda: service.calculations.say(_slow, store_url=service.store.url, as_of=0, seconds=1.5)
    )
    slow.start()
    began = time.perf_counter()
    assert client.get("/api/v1/studies").status_code == 200
    assert time.perf_counter() - began < 1.0
    slow.join()


def test_equal_questions_are_answered_once_and_too_many_are_sent_away(service: Service) -> None:
    calculations = service.calculations
    answers: list[object] = []

    def ask(number: int) -> None:
        try:
            answers.append(calculations.say(_slow, store_url="", as_of=1, seconds=1.0, number=number))
        except BusyError as error:
            answers.append(str(error))

    threads = [threading.Thread(target=ask, args=(0,)) for _ in range(20)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"slept": 1.0}] * 20
    assert time.perf_counter() - began < 15.0  # one after the other they take 20 s
    calculations._asked |= {str(number): None for number in range(WAITING)}  # type: ignore[dict-item]
    ask(1)
    assert "ask again" in str(answers[-1])
    calculations._asked.clear()


def test_however_many_wait_for_slow_answers_others_are_answered(service: Service) -> None:
    app = FastAPI()
    router = APIRouter(route_class=SlowRoute)

    @router.get("/slow/{number}")
    def slow(number: int) -> object:
        first = service.calculations.say(_slow, store_url="slow", as_of=0, seconds=0.3, number=number)
        return [first, service.calculations.say(_slow, store_url="slow", as_of=0, seconds=0.1, number=number + 9)]

    @router.get("/live")
    def live() -> object:  # what it depends on has changed whenever it is asked
        return service.calculations.say(_slow, store_url="slow", as_of=time.monotonic(), seconds=0.1)

    @router.get("/refused")
    def refused() -> object:
        return service.calculations.say(_refused, store_url="slow", as_of=0)

    @router.get("/quick")
    def quick() -> str:
        return "at once"

    app.include_router(router)
    install(app)

    async def asked() -> tuple[list[httpx2.Response], float]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here", timeout=60.0) as client:
            waiting = [asyncio.ensure_future(client.get(f"/slow/{number % 2}")) for number in range(60)]
            waiting += [asyncio.ensure_future(client.get(path)) for path in ("/live", "/refused")]
            await asyncio.sleep(0.2)  # all of them have asked: more than there are threads
            began = time.perf_counter()
            assert (await client.get("/quick")).json() == "at once"
            passed = time.perf_counter() - began
            assert not any(each.done() for each in waiting[:60])
            return await asyncio.gather(*waiting), passed

    answers, passed = asyncio.run(asked())
    assert passed < 0.25
    assert [answer.json() for answer in answers[:60]] == [[{"slept": 0.3}, {"slept": 0.1}]] * 60
    assert answers[60].json() == {"slept": 0.1}
    assert (answers[61].status_code, answers[61].json()["detail"]) == (422, "there is nothing to say")


def test_a_line_of_its_own_waits_for_no_other() -> None:
    calculations = Calculations()

    def ask() -> None:
        with pytest.raises(BusyError):  # the server ends before it is answered
            calculations.say(_slow, store_url="", as_of=0, seconds=60.0)

    first = threading.Thread(target=ask)
    first.start()
    assert calculations.say(_slow, store_url="", as_of=0, line="another", seconds=0.0) == {"slept": 0.0}
    assert first.is_alive()
    calculations.close()
    first.join(timeout=20)
    assert not first.is_alive()


def test_a_process_that_dies_is_replaced() -> None:
    calculations = Calculations()
    with pytest.raises(BusyError, match="has died"):
        calculations.say(_die, store_url="", as_of=0)
    assert calculations.say(_slow, store_url="", as_of=0, seconds=0.0) == {"slept": 0.0}
    calculations.close()


def test_a_server_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "import time\n"
        "from hpo.service.calculations import Calculations\n"
        "from tests.integration.service.test_statistics_routes import _whoami\n"
        "if __name__ == '__main__':\n"
        "    print(Calculations().say(_whoami, store_url='', as_of=0), flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root.as_posix()}
    ) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        server.kill()
    until = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def _whoami(_store_url: str) -> int:
    return os.getpid()


def _slow(_store_url: str, *, seconds: float, number: int = 0) -> dict[str, float]:
    time.sleep(seconds)
    return {"slept": seconds}


def _refused(_store_url: str) -> None:
    raise SettingsError("there is nothing to say")


def _die(_store_url: str) -> None:
    os._exit(3)
