"""Are the recipes what they say: related tasks, the same for every seed, divided as they should be?"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score, r2_score, recall_score, roc_auc_score

from hpo.studies.example import write_study_file
from hpo.studies.study_file import load_spec
from hpo.studies.trainer_settings import trainer_config
from trainers.errors import DataFileError, RecipeError
from trainers.executors.template import refusal
from trainers.job import TrainerConfig
from trainers.programs.build import check_names
from trainers.programs.imports import import_user_classes
from trainers.programs.loading import load_program
from trainers.recipes import RECIPES, Recipe, find_recipe
from trainers.recipes.arrays import Split
from trainers.recipes.digits import Digits, digits
from trainers.recipes.images import shift_at_random
from trainers.recipes.learner import Learner
from trainers.recipes.mnist import MNIST, mnist, read_idx
from trainers.recipes.recurrent import RNN
from trainers.recipes.regression import MLPRegressor
from trainers.recipes.tables import Diabetes, breast_cancer, diabetes, wine
from trainers.recipes.topics import CHARACTERS, LENGTH, Topics, next_characters
from trainers.recipes.transformer import CharTransformer

VARIANTS = [(recipe, variant) for recipe in RECIPES.values() for variant in recipe.variants]
N_MNIST = 300
LIGHTNINGS_OWN = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")


def idx(array: NDArray[Any]) -> bytes:
    """The bytes of an idx file."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes() + array.astype("u1").tobytes()


@pytest.fixture(scope="module")
def mnist_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in the form of MNIST, the images compressed; each image says which one it is."""
    folder = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(N_MNIST, 28, 28))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(N_MNIST) % 10))
    return folder


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_study_file_of_a_recipe_is_sound(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    write_study_file(path, recipe=recipe.name, model=None, data=None, force=False)
    spec = load_spec(path)
    assert (spec.task.metric, spec.trainer.max_epochs) == (recipe.metric, recipe.max_epochs)
    config = trainer_config(spec, folder=tmp_path)
    assert config.data_args == {"variant": recipe.variants[0], **recipe.needs}
    check_names(import_user_classes(config), config, spec.space)  # every parameter has a constructor


@pytest.mark.parametrize(
    ("recipe", "variant"), VARIANTS, ids=[f"{recipe.name}/{variant}" for recipe, variant in VARIANTS]
)
def test_every_variant_is_a_task(recipe: Recipe, variant: str, mnist_folder: Path) -> None:
    assert find_recipe(f"{recipe.name}/{variant}") == (recipe, variant)
    data_class = import_user_classes(TrainerConfig(model=recipe.model, data=recipe.data, max_epochs=1)).data
    assert data_class is not None
    needed = {name: str(mnist_folder) for name in recipe.needs}
    data: Any = data_class(variant=variant, batch_size=32, **needed)
    inputs, targets = next(iter(data.train_dataloader()))
    assert inputs.shape == (32, *data.input_shape)
    assert data.n_outputs == 1 or 0 <= targets.min() <= targets.max() < data.n_outputs
    (inputs, targets), *more = data.val_dataloader()
    assert len(inputs) == len(targets) > 40
    assert not more


def test_a_variant_differs_from_the_plain_task_in_what_it_says() -> None:
    plain, noisy, small = digits("all"), digits("noisy-20"), digits("small")
    assert 0.15 < np.mean(plain.train_targets != noisy.train_targets) < 0.25
    assert np.array_equal(plain.val_targets, noisy.val_targets)
    assert len(small.train_targets) == 300
    assert digits("odd").n_outputs == 5
    assert digits("curved-straight").n_outputs == 2
    assert digits("blurred").train_inputs.std() < plain.train_inputs.std() < digits("grainy").train_inputs.std()


TASKS: dict[str, Callable[..., Split]] = {
    "digits": partial(digits, "all"),
    "breast cancer": partial(breast_cancer, "all"),
    "wine": partial(wine, "all"),
    "diabetes": partial(diabetes, "all"),
    "topics": partial(next_characters, "statements"),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_no_training_example_is_validated_on(task: Callable[..., Split]) -> None:
    for data in (task(), task(fold=1, folds=3)):
        train = {row.tobytes() for row in data.train_inputs}
        assert not train & {row.tobytes() for row in data.val_inputs}
        assert data.train_inputs.dtype == data.val_inputs.dtype


@pytest.mark.parametrize("task", [TASKS["wine"], TASKS["diabetes"]], ids=["wine", "diabetes"])
def test_tables_are_standardised_by_their_training_examples(task: Callable[..., Split]) -> None:
    for data in (task(), task(fold=2, folds=5)):
        np.testing.assert_allclose(data.train_inputs.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(data.train_inputs.std(axis=0), 1, atol=1e-5)
        assert np.abs(data.val_inputs.mean(axis=0)).max() > 1e-3  # the validation set had no part in it
    assert abs(diabetes("all").train_targets.mean()) < 1e-5


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_disjoint_and_complete(folds: int) -> None:
    whole = sorted(row.tobytes() for data in [digits("all")] for row in (*data.train_inputs, *data.val_inputs))
    parts = [digits("all", fold=fold, folds=folds) for fold in range(folds)]
    assert sorted(row.tobytes() for part in parts for row in part.val_inputs) == whole
    for part in parts:
        assert sorted(row.tobytes() for row in (*part.train_inputs, *part.val_inputs)) == whole
    sizes = [len(part.val_targets) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("fold", "folds", "message"), [(3, 3, "between 0 and 2"), (0, 0, "between 1 and 1797")])
def test_a_fold_that_there_is_not(fold: int, folds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Digits(fold=fold, folds=folds)


def test_text_is_predicted_a_character_ahead() -> None:
    data = next_characters("debugger")
    np.testing.assert_array_equal(data.train_inputs[:, 1:], data.train_targets[:, :-1])
    read = "".join(CHARACTERS[number] for row in data.train_inputs for number in row)
    assert "command" in read and data.train_inputs.shape[1] == LENGTH


def test_a_shifted_image_keeps_what_stays_inside() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 4] = 1.0
    torch.manual_seed(0)
    shifted = shift_at_random(image.repeat(300, 1, 1, 1), 2)
    places = {tuple(torch.nonzero(one[0])[0].tolist()) for one in shifted}
    assert shifted.sum(dim=(1, 2, 3)).eq(1).all()
    assert places == {(row, column) for row in range(1, 6) for column in range(2, 7)}
    corner = torch.ones(50, 1, 8, 8)
    assert shift_at_random(corner, 1).sum(dim=(1, 2, 3)).min() == 49.0


# What a short fit logs


def train(model: Learner, data: Any, epochs: int = 1) -> dict[str, float]:
    """What was logged in the last epoch; the model stays as it is then."""
    lightning.seed_everything(1, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    model.eval()
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def predicted(model: Learner, data: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    batches = [(model.network(inputs).detach().numpy(), targets.numpy()) for inputs, targets in data.val_dataloader()]
    return np.concatenate([outputs for outputs, _ in batches]), np.concatenate([targets for _, targets in batches])


@LIGHTNINGS_OWN
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_scores_of_classes_are_those_of_scikit_learn(cell: str) -> None:
    model, data = RNN(cell=cell, depth=2, dropout=0.1, lr=0.02, label_smoothing=0.1), Digits(shift=1)
    logged = train(model, data, epochs=2)
    logits, labels = predicted(model, data)
    found = logits.argmax(axis=1)
    odds = np.exp(logits)
    chances = odds / odds.sum(axis=1, keepdims=True)
    assert logged["val_accuracy"] == pytest.approx((found == labels).mean(), abs=1e-6)
    assert logged["val_accuracy"] > 0.5
    assert logged["val_recall"] == pytest.approx(recall_score(labels, found, average="macro"), abs=1e-6)
    assert logged["val_f1"] == pytest.approx(f1_score(labels, found, average="macro"), abs=1e-6)
    area = roc_auc_score(labels, chances, multi_class="ovr", average="macro")
    assert logged["val_auroc"] == pytest.approx(area, abs=1e-5)
    assert logged["val_loss"] == pytest.approx(-np.log(chances[np.arange(len(labels)), labels]).mean(), abs=1e-4)


@LIGHTNINGS_OWN
def test_the_explained_variance_is_that_of_scikit_learn() -> None:
    model, data = MLPRegressor(lr=0.01), Diabetes()
    logged = train(model, data, epochs=3)
    assert logged["val_r2"] == pytest.approx(r2_score(*reversed(predicted(model, data))), abs=1e-5)
    assert logged["val_r2"] > 0.3


@LIGHTNINGS_OWN
def test_perplexity_is_that_of_the_loss_and_no_character_sees_the_next() -> None:
    model, data = CharTransformer(head_width=8, depth=1, dropout=0.1, lr=0.01), Topics(variant="debugger")
    logged = train(model, data)
    assert logged["val_perplexity"] == pytest.approx(np.exp(logged["val_loss"]), rel=1e-4)
    assert logged["val_perplexity"] < len(CHARACTERS) / 2
    text = next(iter(data.val_dataloader()))[0][:1]
    changed = text.clone()
    changed[0, 30:] = 0
    before, after = model.network(text), model.network(changed)
    torch.testing.assert_close(before[0, :30], after[0, :30])
    assert not torch.allclose(before[0, 30:], after[0, 30:])


def test_a_wrong_cell() -> None:
    with pytest.raises(ValueError, match="cell 'rnn' is not one of lstm, gru"):
        RNN(cell="rnn")


# Files that the user has


def test_mnist_is_read_from_the_users_files(mnist_folder: Path) -> None:
    data = MNIST(folder=str(mnist_folder), shift=2)
    assert data.input_shape == (1, 28, 28)
    images, labels = next(iter(data.val_dataloader()))
    assert len(labels) == N_MNIST / 6
    images, _ = data.on_after_batch_transfer((images, labels), 0)
    assert images.dtype == torch.float32 and 0.9 < images.max() <= 1.0
    split = mnist(mnist_folder, "all")
    written = read_idx(mnist_folder / "train-images-idx3-ubyte.gz", axes=3)
    row = int(np.flatnonzero((written == split.train_inputs[0, 0]).all(axis=(1, 2)))[0])
    assert split.train_targets[0] == row % 10


def test_folders_of_torchvision_are_known(mnist_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(mnist_folder)
    assert len(mnist(tmp_path, "all").val_targets) == N_MNIST / 6


def cut(content: bytes) -> bytes:
    return content[:-10]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-labels-idx1-ubyte", cut, "train-labels-idx1-ubyte should hold 300 bytes and holds 290: it is cut"),
        ("train-images-idx3-ubyte.gz", cut, "train-images-idx3-ubyte.gz is no whole gzip file"),
        ("train-images-idx3-ubyte.gz", lambda _: b"<html>no such file</html>", "is no whole gzip file: Not a gzipped"),
        (
            "train-labels-idx1-ubyte",
            lambda _: b"<html>",
            "begins with the magic number 0x3c68746d, and not with 0x0000",
        ),
        ("train-labels-idx1-ubyte", lambda _: b"", "begins with the magic number 0x, and not with 0x00000801"),
        ("train-labels-idx1-ubyte", lambda content: content[:6], "train-labels-idx1-ubyte .* is cut, or damaged"),
        ("train-labels-idx1-ubyte", lambda _: idx(np.zeros(299)), "has 300 images and .* 299 labels: not of one set"),
        ("train-labels-idx1-ubyte", lambda _: idx(np.zeros((300, 2))), "0x00000802, and not with 0x00000801"),
    ],
)
def test_damaged_files_are_told_what_is_wrong(
    mnist_folder: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    for file in mnist_folder.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(damage(content) if file.name == name else content)
    with pytest.raises(DataFileError, match=message):
        MNIST(folder=str(tmp_path))


def test_a_folder_without_the_files_or_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"has no file train-images-idx3-ubyte or train-images-idx3-ubyte.gz"):
        MNIST(folder=str(tmp_path))
    with pytest.raises(DataFileError, match=r"there is no folder .*/nowhere; `folder` is where your MNIST files are"):
        MNIST(folder=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit_mlp", "there is no recipe 'digit_mlp'; did you mean 'digits_mlp'?"),
        ("x", f"there is no recipe 'x'; choose from {', '.join(RECIPES)}"),
        ("wine_mlp/noisy", "recipe wine_mlp has no variant 'noisy'; did you mean 'noisy-20'?"),
    ],
)
def test_a_wrong_name_is_told_the_right_ones(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        find_recipe(text)
    assert str(caught.value) == message


def test_a_name_alone_is_its_plain_variant() -> None:
    assert find_recipe("wine_mlp") == (RECIPES["wine_mlp"], "all")


def test_a_study_without_the_users_files_is_refused_at_its_start(mnist_folder: Path, tmp_path: Path) -> None:
    def said(folder: Path, *names: str) -> str:
        recipe, variant = find_recipe("mnist_cnn")
        arguments = {"variant": variant, "folder": str(folder)}
        settings: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "data_args": arguments}
        config = TrainerConfig(model=recipe.model, data=recipe.data, **settings)
        return refusal(load_program(config), config, names=names)

    assert said(mnist_folder) == ""
    assert "`folder` is where your MNIST files are" in said(tmp_path / "nowhere", "lr")
    assert said(tmp_path / "nowhere", "data.folder") == ""  # it is searched over: each trial has another
