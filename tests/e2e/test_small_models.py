"""From a study of accuracy against size to the champion in the registry: the example, in a short form."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from trainers.compression.measure import loaded
from trainers.compression.steps import restore
from trainers.fitting.fit import fit
from trainers.job import FitJob, TrainerConfig
from trainers.programs.loading import load_program
from trainers.recipes.networks import CNN
from trainers.registry import Registration, register

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own
    import mlflow

EXAMPLE = Path(__file__).parents[1] / "examples" / "small_cnn.yaml"
USER_CODE = Path(__file__).parents[1] / "integration" / "user_code"


def shortened(project):
    """The example's study file with a smaller network and fewer epochs."""
    content = yaml.safe_load(EXAMPLE.read_text())
    trainer = content["trainer"]
    trainer["model"]["init_args"] |= {"channels": 8, "depth": 2}
    trainer |= {"max_epochs": 2, "compress": {"schedule_steps": 1}}
    path = project.work / "small_cnn.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_smallest_model_becomes_the_champion(project):
    done = project.hpo("tune", shortened(project), "--trials", "3", "--json")
    assert "maximize val_accuracy, minimize size_bytes" in done.stderr
    assert "on the front" in done.stderr
    found = json.loads(done.stdout)
    assert found["trials"] == {"complete": 3}
    smallest = min(found["front"], key=lambda point: point["values"]["size_bytes"])
    number = str(smallest["number"])
    done = project.json("promote", "small-cnn", "--trial", number, "--name", "digits", mlflow=project.mlflow)
    assert (done["name"], done["version"], done["serialization"], done["note"]) == ("digits", "1", "pt2", "")
    assert done["metrics"]["val_accuracy"] == smallest["values"]["val_accuracy"]
    check_the_registered_model(project.mlflow, done, smallest["params"])
    check_a_model_that_is_no_graph(project.mlflow, project.work / "branching")


def check_the_registered_model(uri, done, params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        mlflow.set_tracking_uri(uri)
        registered = mlflow.pytorch.load_model(done["model_uri"])
        served = mlflow.pyfunc.load_model(done["model_uri"])
        version = mlflow.MlflowClient().get_model_version_by_alias("digits", "champion")
        run = mlflow.get_run(version.run_id)
    assert (version.tags["hindsight.study"], version.tags["hindsight.trial"]) == ("small-cnn", str(done["trial"]))
    assert json.loads(version.tags["hindsight.params"]) == params
    assert (run.info.run_name, run.info.status) == ("promote digits", "FINISHED")  # the study was not sent to MLflow

    model = CNN(channels=8, depth=2)
    model.network = model.make_network((1, 8, 8), 10)
    checkpoint = Path(done["checkpoint"])
    compressed = checkpoint.with_name("compressed.ckpt.gz")
    if compressed.exists():
        assert compressed.stat().st_size == done["objectives"]["size_bytes"]
        kept = {name for name in loaded(compressed.read_bytes())["state_dict"] if name.startswith("network.")}
        assert kept == {name for name in model.state_dict() if name.startswith("network.")}
        restore(model, compressed)
    else:
        model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    images = torch.rand(5, 1, 8, 8)
    expected = model.eval()(images).detach()
    torch.testing.assert_close(registered(images).detach(), expected)
    np.testing.assert_allclose(served.predict(images.numpy()), expected.numpy(), rtol=1e-4, atol=1e-5)


def check_a_model_that_is_no_graph(uri, directory):
    """It goes into the run of its trial, as a pickle with its code, and says why."""
    sys.path.insert(0, str(USER_CODE))
    config = TrainerConfig(model="small_models.Branching", data="small_models.Clouds", max_epochs=1, accelerator="cpu")
    job = FitJob(params={}, seed=0, metric="val_loss", direction="minimize", directory=str(directory))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = fit(load_program(config), config, job, slot=0, report=lambda **_: False, pulse=lambda: None)
        client = mlflow.MlflowClient()
        run = client.create_run(client.get_experiment_by_name("small-cnn").experiment_id)
        client.set_terminated(run.info.run_id, "FINISHED", end_time=123_456)
        order = Registration(
            config=config.to_json(),
            job=job.to_json(),
            checkpoint=str(outcome.checkpoint),
            compressed=None,
            name="branching",
            mlflow_uri=uri,
            experiment="small-cnn",
            run_id=run.info.run_id,
            tags={"hindsight.study": "clouds"},
            description="a branch",
        )
        with pytest.raises(mlflow.MlflowException):
            register(replace(order, name="no:name"))
        assert client.get_run(run.info.run_id).info.status == "FINISHED"  # the trial went well, whatever became of this
        entry = register(order)
        version = client.get_model_version_by_alias("branching", "champion")
        found = mlflow.pytorch.load_model(entry.model_uri)
    assert (entry.serialization, entry.largest_difference) == ("pickle", 0.0)
    assert entry.note.startswith("torch.export does not take it: ")
    assert entry.metrics["val_loss"] == pytest.approx(outcome.value)
    assert (version.run_id, version.description, version.tags) == (run.info.run_id, "a branch", order.tags)
    assert client.get_run(run.info.run_id).info.end_time == 123_456  # it has ended when it had ended
    assert type(found).__name__ == "Branching"
