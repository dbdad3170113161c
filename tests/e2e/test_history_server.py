"""Does `hpo history --server` do to the history of a service what `hpo history` does to one's own?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from hpo.api.app import create_api
from hpo.client.client import Client
from hpo.replay.runs import read_runs, write_runs
from hpo.service.jobs import Jobs, folder_of
from hpo.service.state import Service
from storage import background_jobs, history, tokens
from storage.importers.flags import quarantine
from storage.optuna_storage import HistoryStorage
from storage.schema import Store
from tests.e2e.conftest import Hpo
from tests.e2e.test_stats_cli import fill
from tests.integration.test_late_results import late, lost, study_of
from tests.servers import served

FAMILY = "FAMILY"  # stands for the name of the family
QUESTIONS = (
    ("list",),
    ("show", FAMILY),
    ("show", "past 1"),
    ("show", "optuna"),
    ("query", "value < 0.5 and params.kind = b"),
    ("query", "--top", "3", "--curves"),
    ("query", "study = curved", "--curves"),
    ("query", "--desc", "--order-by", "params.lr", "--columns", "study,number,params.momentum"),
    ("query", "state = fail", "--count"),
    ("query", "params.lr < 0.1", "--totals"),
    ("query", "study = nobody"),
    ("spaces",),
)
MISTAKES = (
    ("show", "pats 1"),
    ("query", "params.lr <"),
    ("query", "--order-by", "nothing"),
    ("query", "--columns", "params.rl"),
    ("trust", "pats 1"),
    ("quarantine", "pats 1", "--reason", "odd"),
    ("forget", "nobody", "--yes"),
    ("delete", "nobody", "--yes"),
    ("export", "nothing", "tables"),
    ("import", "table", "nowhere.csv"),
)
ROWS = "lr,val_loss\n" + "".join(f"{10.0 ** -(1 + i / 10)},{0.3 + i / 100}\n" for i in range(20))


@pytest.fixture
def served_here(
    hpo: Hpo, sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """The URL of a service on the history of `hpo`, and the name of the family in it."""
    family = fill(sqlite_store, 3, runs=20, failing=1)
    curved = optuna.create_study(storage=HistoryStorage(sqlite_store), study_name="curved")
    for x in (0.1, 0.5):
        curved.add_trial(
            create_trial(
                params={"x": x},
                distributions={"x": FloatDistribution(0.0, 1.0)},
                value=x,
                intermediate_values={0: 2 * x, 1: float("nan"), 2: x},
                user_attrs={"tags": {"team": "vision"}},
            )
        )
    quarantine(sqlite_store, "past 2", "odd")
    service = Service(store=sqlite_store, mlflow_uri=None, runs=tmp_path / "runs", projects=tmp_path / "projects")
    service.projects.mkdir()
    secret, _ = tokens.create_token(sqlite_store, owner="ann", role="admin", created_by="a test")
    monkeypatch.setenv("HPO_TOKEN", secret)
    monkeypatch.delenv("HPO_SERVER", raising=False)
    monkeypatch.chdir(tmp_path)
    jobs = Jobs(service)
    jobs.start()
    with served(create_api(service)) as url:
        yield url, family
    jobs.stop()
    service.calculations.close()


def test_the_answers_and_the_errors_are_the_same(hpo: Hpo, served_here: tuple[str, str]) -> None:
    url, family = served_here
    for question in QUESTIONS:
        words = ["history", *(family if word == FAMILY else word for word in question)]
        here, there = hpo(*words, "--json")[0], hpo(*words, "--json", "--server", url)[0]
        assert json.loads(here) == json.loads(there), words
        assert hpo(*words)[0] == hpo(*words, "--server", url)[0], words
    for question in MISTAKES:
        here, there = hpo("history", *question, code=2)[1], hpo("history", *question, "--server", url, code=2)[1]
        assert here == there, question


def test_tables_of_trials_are_the_same_in_every_format(hpo: Hpo, served_here: tuple[str, str], tmp_path: Path) -> None:
    url, _ = served_here
    for name in ("trials.csv", "trials.jsonl", "trials.parquet"):
        hpo("history", "query", "value < 0.6", "--out", f"here-{name}", "--curves")
        hpo("history", "query", "value < 0.6", "--out", f"there-{name}", "--curves", "--server", url)
        assert (tmp_path / f"here-{name}").read_bytes() == (tmp_path / f"there-{name}").read_bytes(), name


def test_what_is_replayed_there_is_what_is_replayed_here(
    hpo: Hpo, served_here: tuple[str, str], sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, family = served_here
    asked = ("replay", "--methods", "random,portfolio", "--budget", "4", "--seeds", "2", "--family", family)
    here = json.loads(hpo(*asked, "--json", "--out", "here")[0])
    job = 1  # the first one
    begun_before = folder_of(tmp_path / "runs", job) / "runs.jsonl"
    begun_before.parent.mkdir(parents=True)
    write_runs(begun_before, [replace(run, data="older") for run in read_runs(tmp_path / "here.runs.jsonl")])
    there = json.loads(hpo(*asked, "--json", "--server", url)[0])
    for report in (here, there):
        for scores in report["overall"]:
            del scores["seconds"]  # that it took
        del report["date"], report["code"]  # of the checkout, where somebody may commit meanwhile
    assert here == there
    waiting = background_jobs.add_job(sqlite_store, kind="import", owner="ann", settings={}, is_held=True).job_id
    again = ("replay", "--job", str(job), "--out", str(tmp_path / "race"), "--server", url)
    out, err = hpo(*again)
    assert out.splitlines()[-1].startswith("On your 2 past tasks: random needed") and "wrote " in err
    assert {path.name for path in tmp_path.glob("race*")} == {"race.json", "race.md", "race.png", "race.runs.jsonl"}
    assert len((tmp_path / "race.runs.jsonl").read_text().splitlines()) == 8
    assert f"the runs of job {job} would take its place; --fresh overwrites it" in hpo(*again, code=2)[1]
    assert "a service begins anew; --fresh" in hpo(*asked, "--out", "race", "--server", url, code=2)[1]
    with monkeypatch.context() as patched:
        patched.setattr(Client, "finished_job", _interrupted)
        hint = hpo(*again, "--fresh", code=130)[1].partition("Look on again with: hpo ")[2]
        assert "of kind import" in hpo("replay", "--job", str(waiting), "--server", url, code=2)[1]
    assert "race.png" in hpo(*shlex.split(hint))[1]
    begun_before.unlink()  # as a week later
    err = hpo(*shlex.split(hint))[1]
    assert "left as it was: race.runs.jsonl, race.png" in err and err.endswith("race.json, race.md\n")
    assert len((tmp_path / "race.runs.jsonl").read_text().splitlines()) == 8
    for fresh in ((), ("--fresh",)):
        assert "the runs are gone there" in hpo(*again[:3], "--out", "late", "--server", url, *fresh)[1]
    assert json.loads((tmp_path / "late.json").read_text())["overall"] and not (tmp_path / "late.png").exists()
    for wrong, said in (
        (("--job", "99"), "no job 99"),
        (("--job", str(job), "--seeds", "3"), "leave out --seeds"),
        (("--methods", "random,mine:Method"), "runs no code of yours"),
        (("--jobs", "2"), "in one process"),
        (("--family", "nobody's", "--methods", "random"), "no family named"),
        (("sqlite:///none.db",), "give one of them"),
    ):
        assert said in hpo("replay", *wrong, "--server", url, code=1 if "nobody's" in wrong else 2)[1], wrong
    assert "name it by --server" in hpo("replay", "--job", "1", code=2)[1]


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_late_value_counts_there_as_here(hpo: Hpo, served_here: tuple[str, str], sqlite_store: Store) -> None:
    url, _ = served_here
    study = study_of(sqlite_store, "slow machines")
    for value in (0.5, 0.25):
        late(sqlite_store, lost(sqlite_store, study, deaths=3), value, teller="box")
    accept = ("history", "accept-late", "slow machines")
    there = json.loads(hpo(*accept, "0", "--json", "--server", url)[0])
    value = {"state": "complete", "value": 0.5, "teller": "box", "checkpoint": None}
    assert there == {"study": "slow machines", "trial": 0, "counts_as": 2, **value}
    said = "trial 1, 0.25 (complete), told by box, counts as trial 3; trial 1 stays failed; no model came with it"
    assert said in hpo(*accept, "1")[0]
    assert "less than or equal to 2147483647" in hpo(*accept, "9" * 20, code=2)[1]
    for wrong, said in ((("1",), "counts already, as trial 3"), (("2",), "no late value"), (("9",), "no trial 9")):
        assert said in hpo(*accept, *wrong, "--server", url, code=2)[1]
        assert said in hpo(*accept, *wrong, code=2)[1]


def test_what_is_changed_there_is_changed(
    hpo: Hpo, served_here: tuple[str, str], sqlite_store: Store, tmp_path: Path
) -> None:
    url, family = served_here
    assert "it was in quarantine for: odd" in hpo("history", "trust", "past 2", "--server", url)[0]
    assert "is not in quarantine" in hpo("history", "trust", "past 2")[0]
    told = json.loads(hpo("history", "quarantine", "past 2", "--reason", "leak", "--server", url, "--json")[0])
    assert told == {"study": "past 2", "reason": "leak", "before": None}
    assert "besides: ann: leak" in hpo("history", "quarantine", "past 2", "--reason", "again")[0]
    here = json.loads(hpo("history", "export", family, "here", "--json")[0])
    there = json.loads(hpo("history", "export", family, "there", "--json", "--server", url)[0])
    assert here["notes"] == there["notes"]
    assert [Path(file).relative_to("here") for file in here["files"]] == [
        Path(file).relative_to("there") for file in there["files"]
    ]
    for file in here["files"]:
        assert (tmp_path / file).read_bytes() == (tmp_path / file.replace("here", "there", 1)).read_bytes()
    assert "is not empty" in hpo("history", "export", family, "there", "--server", url, code=2)[1]

    (tmp_path / "runs.csv").write_text(ROWS)
    dry = json.loads(hpo("history", "import", "table", "runs.csv", "--dry-run", "--json", "--server", url)[0])
    assert (dry["taken"], dry["dry_run"]) == (20, True)
    sent = hpo("history", "import", "table", "runs.csv", "--source", "team", "--server", url)[0]
    assert "20 runs taken from team" in sent and "guessed" in sent
    assert "20 skipped" in hpo("history", "import", "table", "runs.csv", "--source", "team", "--server", url)[0]
    assert "20 trials" in hpo("history", "show", "team")[0]
    lost = hpo("history", "import", "lightning", "logs", "--server", url, code=2)[1]
    assert "projects" in lost
    again = ("history", "import", "table", "runs.csv", "--source", "team", "--report")
    hpo(*again, "there.jsonl", "--server", url)
    rows = [json.loads(line) for line in (tmp_path / "there.jsonl").read_text().splitlines()]
    assert [(row["row"], row["verdict"]) for row in rows[:1]] == [("runs.csv line 2", "skipped")]
    assert len(rows) == 20
    new = hpo("history", "import", "table", "runs.csv", "--dry-run", "--report", "new.jsonl", "--server", url)[1]
    assert "with --storage, it tells of every run" in new
    (tmp_path / "odd.csv").write_text("lr,a,b\n0.1,1,2\n0.2,2,3\n")
    here_odd = hpo("history", "import", "table", "odd.csv", code=2)[1]
    assert here_odd == hpo("history", "import", "table", "odd.csv", "--server", url, code=2)[1]

    would = json.loads(hpo("history", "forget", "team", "--dry-run", "--json", "--server", url)[0])
    assert would == {"source": "team", "studies": 1, "trials": 20, "dry_run": True}
    assert "say --yes" in hpo("history", "forget", "team", "--server", url, code=2)[1]
    assert "gone: 1 study with 20 trials" in hpo("history", "forget", "team", "--yes", "--server", url)[0]
    assert "no source" in hpo("history", "show", "team", code=2)[1]
    told = json.loads(hpo("history", "verify", "--json", "--server", url, code=1)[0])
    assert told == json.loads(hpo("history", "verify", "--json", code=1)[0])
    assert list(told["quarantine"]) == ["past 2"]

    assert "say --yes" in hpo("history", "delete", "past 1", "--server", url, code=2)[1]
    gone = json.loads(hpo("history", "delete", "past 1", "--yes", "--files", "--json", "--server", url)[0])
    assert (gone["study"], gone["trials"], gone["folders"], gone["mlflow_runs"]) == ("past 1", 20, [], 0)
    assert "its 20 trials" in hpo("history", "delete", "past 2", "--yes")[0]


def test_a_viewer_looks_and_changes_nothing(
    hpo: Hpo, served_here: tuple[str, str], sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, family = served_here
    secret, _ = tokens.create_token(sqlite_store, owner="vic", role="viewer", created_by="a test")
    monkeypatch.setenv("HPO_TOKEN", secret)
    assert "past 1" in hpo("history", "query", "--top", "100", "--server", url)[0]
    hpo("history", "export", family, "tables", "--server", url)
    for words in (("trust", "past 2"), ("quarantine", "past 1", "--reason", "x"), ("forget", "optuna", "--yes")):
        assert "operator" in hpo("history", *words, "--server", url, code=2)[1] or "admin" in words
    assert history.get_study(sqlite_store, "past 1").counts[TrialState.COMPLETE]
