"""From a study of accuracy against size to the champion in the registry: the example, in a short form."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
import yaml

EXAMPLE = Path(__file__).parents[1] / "examples" / "small_cnn.yaml"


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
    done = project.hpo("tune", shortened(project), "--trials", "3", mlflow=project.mlflow)
    assert "maximize val_accuracy, minimize size_bytes" in done.stderr
    assert "on the front" in done.stderr
    assert "are beaten by no other in everything" in done.stdout

    found = project.json("front", "small-cnn")
    assert len(found["front"] + found["beaten"]) == 3
    smallest = min(found["front"], key=lambda point: point["values"]["size_bytes"])
    number = str(smallest["number"])
    done = project.json("promote", "small-cnn", "--trial", number, "--name", "digits", mlflow=project.mlflow)
    assert (done["name"], done["version"], done["serialization"], done["note"]) == ("digits", "1", "pt2", "")
    assert done["metrics"]["val_accuracy"] == smallest["values"]["val_accuracy"]
    check_the_registered_model(project.mlflow, done, smallest["params"])


def check_the_registered_model(uri, done, params):
    from trainers.compression.measure import loaded
    from trainers.compression.steps import restore
    from trainers.recipes.networks import CNN

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        import mlflow

        mlflow.set_tracking_uri(uri)
        registered = mlflow.pytorch.load_model(done["model_uri"])
        served = mlflow.pyfunc.load_model(done["model_uri"])
        version = mlflow.MlflowClient().get_model_version_by_alias("digits", "champion")
        run = mlflow.get_run(version.run_id)
    assert (version.tags["hindsight.study"], version.tags["hindsight.trial"]) == ("small-cnn", str(done["trial"]))
    assert json.loads(version.tags["hindsight.params"]) == params
    assert (run.info.run_name, run.info.status) == (str(done["trial"]), "FINISHED")
    assert run.data.metrics["size_bytes"] == done["objectives"]["size_bytes"]

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
