"""`hpo tune --server`: a study is launched on a real service, followed to its end, and looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from storage import tokens
from storage.schema import open_store
from tests.e2e.conftest import Hpo, answer
from tests.servers import hpo_serve

PROGRAM = """
def train(config, report):
    for epoch in range(2):
        report(loss=(config["lr"] - 0.01) ** 2)
"""


def test_a_study_is_launched_and_followed_on_a_service(
    hpo: Hpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    study = {
        "study": "far away",
        "task": {"name": "far", "metric": "loss", "direction": "minimize"},
        "trainer": {"function": "program.train"},
        "space": {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}},
        "pruner": "none",
        "budget": {"trials": 8},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    store = open_store(f"sqlite:///{tmp_path / 'far.db'}")
    secret, _ = tokens.create_token(store, owner="ann", role="operator", created_by="a test")
    tokens.create_token(store, owner="admin", role="admin", created_by="a test")
    store.dispose()
    monkeypatch.setenv("HPO_TOKEN", secret)
    monkeypatch.delenv("HPO_STORAGE")
    with hpo_serve(f"sqlite:///{tmp_path / 'far.db'}", tmp_path) as url:
        monkeypatch.setenv("HPO_SERVER", url)
        out, err = hpo("tune", "study.yaml", "--trials", "2")
        assert "best loss = " in out
        assert f"more: hpo show 'far away' --server {url}   |   hpo stats far --server {url}" in out
        assert "minimize loss over 1 hyperparameter" in err and "2/2 trials" in err
        assert "the first trials are training" not in err  # before the service says so
        (tmp_path / "typo.yaml").write_text(yaml.safe_dump(study | {"budget": {"trails": 2}}, sort_keys=False))
        assert "typo.yaml:" in (said := hpo("tune", "typo.yaml", code=2)[1]) and "did you mean `trials`?" in said
        shown = answer(hpo, "show", "far away")
        assert shown["trials"] == {"complete": 2}
        repeated = answer(hpo, "best", "far away", "--replicates", "2")["replication"]
        assert (repeated["study"], repeated["spent"]) == ("far away/replicates", 2)
        assert "is there already" in hpo("tune", "study.yaml", code=2)[1]
        assert "leave --trials" in hpo("tune", "study.yaml", "--trials", "9", "--resume", code=2)[1]
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(study | {"trainer": {"function": "os.system"}}))
        assert "'os.system' is not allowed" in hpo("tune", "wrong.yaml", "--study", "x", "--trials", "1", code=2)[1]
